//! The tables that operators put into checkpoints and take back. A table's layout is declared once and used both ways.
//!
//! Reading allows what keeps every meaning: numbers that became wider, columns that came to be nullable rows or new
//! aggregates (all null). Anything else is refused with the place and both types. Columns of the user's are named with a
//! prefix (`key.`, `row.`, `agg.`), so that they never meet the engine's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use weir_core::KeyGroup;
use weir_core::key_hash::hash_columns;
use weir_core::widening::is_widening;
use weir_operator_api::{OperatorError, Result};
use weir_state::state_table::KEY_GROUP_COLUMN;
use weir_state::{FrozenTable, StateScope, StateTable};

/// The state of a checkpoint does not fit the operator that is to go on with it.
pub(crate) const STATE_INCOMPATIBLE: &str = "state-incompatible";

/// Rows of one batch of a snapshot: bounds what one Arrow array of text may have to hold.
pub(crate) const BATCH_ROWS: usize = 128 * 1024;

/// The version of all tables; a table whose columns get another meaning gets another name or version.
const VERSION: u32 = 1;

/// One column of a table.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    name: String,
    data_type: DataType,
    /// Whether older tables may lack it; its rows are null then.
    may_lack: bool,
}

impl Column {
    /// A column that every table has.
    pub(crate) fn new(name: impl Into<String>, data_type: DataType) -> Self {
        Column { name: name.into(), data_type, may_lack: false }
    }

    /// A column that may have been added since the checkpoint.
    pub(crate) fn added(name: impl Into<String>, data_type: DataType) -> Self {
        Column { name: name.into(), data_type, may_lack: true }
    }

    /// The columns of keys.
    pub(crate) fn keys<'a>(keys: impl IntoIterator<Item = (&'a str, &'a DataType)>) -> impl Iterator<Item = Column> {
        keys.into_iter().map(|(name, data_type)| Column::new(format!("key.{name}"), data_type.clone()))
    }

    /// The columns of whole rows.
    pub(crate) fn rows(schema: &Schema) -> Vec<Column> {
        let column = |field: &Arc<Field>| Column {
            name: format!("row.{}", field.name()),
            data_type: field.data_type().clone(),
            may_lack: field.is_nullable(),
        };
        schema.fields().iter().map(column).collect()
    }
}

/// Name, scope and columns of a table.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    name: &'static str,
    scope: StateScope,
    columns: Vec<Column>,
    /// Columns that a table may have and that are passed over.
    spare: Vec<&'static str>,
    /// With the column of key groups in front, for keyed tables.
    schema: SchemaRef,
}

impl Layout {
    /// A table of which a subtask gets the rows of its key groups.
    pub(crate) fn keyed(name: &'static str, columns: Vec<Column>) -> Self {
        Self::new(name, StateScope::Keyed, columns)
    }

    /// A table of which every subtask gets all rows.
    pub(crate) fn shared(name: &'static str, columns: Vec<Column>) -> Self {
        Self::new(name, StateScope::Shared, columns)
    }

    fn new(name: &'static str, scope: StateScope, columns: Vec<Column>) -> Self {
        let key_group = (scope == StateScope::Keyed).then(|| Field::new(KEY_GROUP_COLUMN, DataType::UInt32, false));
        let fields = columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true));
        let schema = Arc::new(Schema::new(key_group.into_iter().chain(fields).collect::<Vec<_>>()));
        Layout { name, scope, columns, spare: Vec::new(), schema }
    }

    /// The same table, of which a column that it has in other jobs is passed over.
    pub(crate) fn passing_over(mut self, column: &'static str) -> Self {
        self.spare.push(column);
        self
    }

    /// One batch of a keyed table.
    ///
    /// **Shapes**: a key group per row; the columns of the layout in order.
    pub(crate) fn keyed_batch(&self, key_groups: Vec<u32>, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        let key_groups: ArrayRef = Arc::new(UInt32Array::from(key_groups));
        let columns = std::iter::once(key_groups).chain(columns).collect();
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    /// A shared table of one batch.
    pub(crate) fn shared_table(&self, columns: Vec<ArrayRef>) -> Result<StateTable> {
        Ok(self.table(vec![RecordBatch::try_new(self.schema.clone(), columns)?]))
    }

    /// The table of these batches.
    pub(crate) fn table(&self, batches: Vec<RecordBatch>) -> StateTable {
        StateTable { name: self.name.to_owned(), version: VERSION, scope: self.scope, batches }
    }

    /// The schema of its batches, with the column of key groups in front where it is keyed.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The type of the last column.
    pub(crate) fn last_type(&self) -> &DataType {
        &self.columns.last().expect("a table has columns").data_type
    }

    fn incompatible(&self, message: impl std::fmt::Display) -> OperatorError {
        let name = self.name;
        OperatorError::user(
            STATE_INCOMPATIBLE,
            format!("table '{name}' of the checkpoint cannot be taken over: {message}"),
        )
    }

    /// Brings a batch into this layout, without the key groups.
    pub(crate) fn read(&self, batch: &RecordBatch) -> Result<StateRows> {
        let found = batch.schema_ref();
        let is_spare = |name: &str| self.spare.contains(&name);
        let is_known = |name: &str| name == KEY_GROUP_COLUMN || self.columns.iter().any(|column| column.name == name);
        let mut names = found.fields().iter();
        if let Some(extra) = names.find(|field| !is_known(field.name()) && !is_spare(field.name())) {
            let (name, data_type) = (extra.name(), extra.data_type());
            return Err(self.incompatible(format_args!(
                "it holds the column '{name}' ({data_type}), which the operator no longer has"
            )));
        }
        let read = |column: &Column| match found.index_of(&column.name) {
            Ok(index) => self.convert(column, batch.column(index)),
            Err(_) if column.may_lack => Ok(new_null_array(&column.data_type, batch.num_rows())),
            Err(_) => Err(self.incompatible(format_args!(
                "it lacks the column '{}' ({}), which may not be null",
                column.name, column.data_type
            ))),
        };
        let columns = self.columns.iter().map(read).collect::<Result<_>>()?;
        let had_spare = found.fields().iter().any(|field| is_spare(field.name()));
        Ok(StateRows { columns, row_count: batch.num_rows(), had_spare })
    }

    fn convert(&self, column: &Column, found: &ArrayRef) -> Result<ArrayRef> {
        let (from, to) = (found.data_type(), &column.data_type);
        if from == to {
            return Ok(found.clone());
        }
        if is_widening(from, to) {
            return Ok(cast(found, to)?);
        }
        Err(self.incompatible(format_args!("column '{}' is {from} there and {to} in the job", column.name)))
    }
}

/// Rows of a table, in the columns of its layout.
pub(crate) struct StateRows {
    pub(crate) columns: Vec<ArrayRef>,
    pub(crate) row_count: usize,
    /// Whether they had a column that was passed over.
    pub(crate) had_spare: bool,
}

/// A keyed table of whole rows of an input, behind some columns of the operator's own.
pub(crate) struct RowTable {
    pub(crate) layout: Layout,
    schema: SchemaRef,
    own_columns: usize,
    /// The columns whose hash the rows are dealt by.
    key_columns: Vec<usize>,
    key_group_count: u32,
}

impl RowTable {
    /// A table of rows of this schema.
    pub(crate) fn new(
        name: &'static str,
        own: Vec<Column>,
        schema: &SchemaRef,
        key_columns: Vec<usize>,
        key_group_count: u32,
    ) -> Self {
        let own_columns = own.len();
        let columns = own.into_iter().chain(Column::rows(schema)).collect();
        let layout = Layout::keyed(name, columns);
        RowTable { layout, schema: schema.clone(), own_columns, key_columns, key_group_count }
    }

    /// The same table, of which a column that it has in other jobs is passed over.
    pub(crate) fn passing_over(mut self, column: &'static str) -> Self {
        self.layout = self.layout.passing_over(column);
        self
    }

    /// One batch: the operator's own columns, and the columns of the rows.
    pub(crate) fn batch(&self, own: Vec<ArrayRef>, rows: &[ArrayRef]) -> Result<RecordBatch> {
        let keys: Vec<ArrayRef> = self.key_columns.iter().map(|column| rows[*column].clone()).collect();
        let row_count = rows.first().map_or(0, |column| column.len());
        let key_groups = key_groups(&keys, row_count, self.key_group_count)?;
        self.layout.keyed_batch(key_groups, own.into_iter().chain(rows.iter().cloned()).collect())
    }

    /// The rows of a restored piece.
    pub(crate) fn records(&self, rows: &StateRows) -> Result<RecordBatch> {
        let columns = rows.columns[self.own_columns..].to_vec();
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| {
            self.layout.incompatible("a column that the job calls NOT NULL holds nulls").because(error)
        })
    }
}

/// The tables that an operator gets back.
pub(crate) struct Restored {
    tables: BTreeMap<String, Vec<StateTable>>,
}

impl Restored {
    /// Sorts tables by name; one may come in several pieces.
    pub(crate) fn new(tables: Vec<StateTable>) -> Self {
        let mut by_name: BTreeMap<String, Vec<StateTable>> = BTreeMap::new();
        tables.into_iter().for_each(|table| by_name.entry(table.name.clone()).or_default().push(table));
        Restored { tables: by_name }
    }

    /// Whether there is a table of this layout.
    pub(crate) fn has(&self, layout: &Layout) -> bool {
        self.tables.contains_key(layout.name)
    }

    /// The rows of one table, if any subtask had some.
    ///
    /// **Errors**: `state-incompatible`.
    pub(crate) fn take(&mut self, layout: &Layout) -> Result<Vec<StateRows>> {
        let mut rows = Vec::new();
        for table in self.tables.remove(layout.name).unwrap_or_default() {
            if table.version != VERSION {
                let version = table.version;
                let message = format!("it has version {version}, and this Weir knows version {VERSION} only");
                return Err(layout.incompatible(message));
            }
            if table.scope != layout.scope {
                return Err(layout.incompatible("its rows are dealt to subtasks another way"));
            }
            for batch in table.batches.iter().filter(|batch| batch.num_rows() > 0) {
                rows.push(layout.read(batch)?);
            }
        }
        Ok(rows)
    }

    /// Leaves out a table of another part of the same operator.
    pub(crate) fn ignore(&mut self, layout: &Layout) {
        self.tables.remove(layout.name);
    }

    /// Everything must have been taken: state that nobody reads would be lost unseen.
    pub(crate) fn finish(self) -> Result<()> {
        match self.tables.into_keys().next() {
            Some(name) => Err(OperatorError::user(
                STATE_INCOMPATIBLE,
                format!("the checkpoint holds the table '{name}', which this operator does not have"),
            )),
            None => Ok(()),
        }
    }
}

/// The tables with all their rows, for operators that give them in pieces.
///
/// **Errors**: rows that cannot be read from disk.
pub(crate) fn resolved(tables: Vec<FrozenTable>) -> Result<Vec<StateTable>> {
    let resolve = |table: FrozenTable| {
        table.resolve().map_err(|error| OperatorError::internal("state cannot be read").because(error))
    };
    tables.into_iter().map(resolve).collect()
}

/// The key groups of rows with these key columns; of group 0 without any.
pub(crate) fn key_groups(keys: &[ArrayRef], row_count: usize, key_group_count: u32) -> Result<Vec<u32>> {
    let mut hashes = Vec::new();
    hash_columns(keys, &mut hashes)?;
    hashes.resize(row_count, 0);
    Ok(hashes.into_iter().map(|hash| group_of(hash, key_group_count)).collect())
}

/// The key group of one hash, as tables hold it.
#[inline]
pub(crate) fn group_of(hash: u64, key_group_count: u32) -> u32 {
    u32::from(KeyGroup::of(hash, key_group_count).0)
}

#[cfg(test)]
mod tests;
