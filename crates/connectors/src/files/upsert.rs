//! The last row per key of a changing stream: what a sink with `upsert_key` keeps until it writes.
//!
//! Rows are kept as bytes in Arrow's row form, which compares like the values: a row that comes again costs no
//! allocation, and the result leaves in the order of its keys.

use std::sync::Arc;

use arrow_array::{BooleanArray, Int8Array, RecordBatch};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use hashbrown::HashTable;
use weir_core::ChangeKind;
use weir_core::key_hash::{hash_columns, is_key_type};
use weir_operator_api::{OperatorError, Result, StateScope, StateTable};
use xxhash_rust::xxh3::xxh3_64;

/// Name and version of the table in checkpoints.
const TABLE: (&str, u32) = ("last-rows", 1);

struct Entry {
    hash: u64,
    key: Box<[u8]>,
    row: Vec<u8>,
}

/// The last row per key.
pub struct LastRows {
    key_columns: Vec<usize>,
    keys: RowConverter,
    rows: RowConverter,
    schema: SchemaRef,
    table: HashTable<Entry>,
}

impl LastRows {
    /// An empty state for rows of `schema` (without the hidden change column) with these key columns.
    ///
    /// **Errors**: a key column that does not exist or a type that cannot be kept.
    pub fn new(schema: SchemaRef, key: &[String]) -> Result<Self> {
        let key_columns = key.iter().map(|name| schema.index_of(name)).collect::<std::result::Result<Vec<_>, _>>()?;
        let converter = |columns: &[usize]| -> std::result::Result<RowConverter, ArrowError> {
            let fields = columns.iter().map(|index| SortField::new(schema.field(*index).data_type().clone()));
            RowConverter::new(fields.collect())
        };
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        Ok(LastRows {
            keys: converter(&key_columns)?,
            rows: converter(&all)?,
            key_columns,
            schema,
            table: HashTable::new(),
        })
    }

    /// Whether such rows can be kept.
    pub fn supports(schema: &Schema) -> bool {
        let fields: Vec<_> = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        RowConverter::supports_fields(&fields)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Applies changes in order; without kinds every row is an upsert.
    ///
    /// A `-D` removes the row of its key. A `-U` removes it only if it is exactly that row: when the row of another
    /// group has meanwhile taken the key, it stays.
    pub fn apply(&mut self, rows: &RecordBatch, changes: Option<&Int8Array>) -> Result<()> {
        let key_columns: Vec<_> = self.key_columns.iter().map(|index| Arc::clone(rows.column(*index))).collect();
        let key_rows = self.keys.convert_columns(&key_columns)?;
        let value_rows = self.rows.convert_columns(rows.columns())?;
        for index in 0..rows.num_rows() {
            let (key, value) = (key_rows.row(index), value_rows.row(index));
            let (key, value): (&[u8], &[u8]) = (key.as_ref(), value.as_ref());
            let kind = changes.and_then(|kinds| ChangeKind::from_i8(kinds.value(index)));
            let hash = xxh3_64(key);
            let entry = self.table.entry(hash, |entry| entry.key.as_ref() == key, |entry| entry.hash);
            match (entry, kind) {
                (hashbrown::hash_table::Entry::Occupied(found), Some(ChangeKind::Delete)) => {
                    found.remove();
                }
                (hashbrown::hash_table::Entry::Occupied(found), Some(ChangeKind::UpdateBefore)) => {
                    if found.get().row == value {
                        found.remove();
                    }
                }
                (hashbrown::hash_table::Entry::Vacant(_), Some(ChangeKind::Delete | ChangeKind::UpdateBefore)) => {}
                (hashbrown::hash_table::Entry::Occupied(mut found), _) => {
                    let row = &mut found.get_mut().row;
                    row.clear();
                    row.extend_from_slice(value);
                }
                (hashbrown::hash_table::Entry::Vacant(place), _) => {
                    place.insert(Entry { hash, key: key.into(), row: value.to_vec() });
                }
            }
        }
        Ok(())
    }

    /// The rows in the order of their keys, in batches of at most `batch_rows`.
    pub fn in_order(&self, batch_rows: usize) -> Result<Vec<RecordBatch>> {
        let mut entries: Vec<&Entry> = self.table.iter().collect();
        entries.sort_unstable_by(|left, right| left.key.cmp(&right.key));
        self.batches(&entries, batch_rows)
    }

    /// The rows as state, in any order; `None` when there are none.
    pub fn snapshot(&self, batch_rows: usize) -> Result<Option<StateTable>> {
        let entries: Vec<&Entry> = self.table.iter().collect();
        let batches = self.batches(&entries, batch_rows)?;
        let (name, version) = TABLE;
        let table = StateTable { name: name.to_owned(), version, scope: StateScope::Shared, batches };
        Ok((!self.is_empty()).then_some(table))
    }

    /// Takes back the rows of a snapshot, those of which `is_own` says so of the hash of their key: a snapshot may hold
    /// what other subtasks are to go on with.
    ///
    /// **Errors**: `sink-state` when they are of another version or have other columns.
    pub fn restore(&mut self, table: &StateTable, is_own: impl Fn(u64) -> bool) -> Result<()> {
        let wrong = |reason: String| {
            Err(OperatorError::user("sink-state", format!("the last row per key cannot be restored: {reason}")))
        };
        if (table.name.as_str(), table.version) != TABLE {
            return wrong(format!("the checkpoint has the table '{}' of version {}", table.name, table.version));
        }
        let columns = |schema: &Schema| -> Vec<(String, DataType)> {
            schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
        };
        for rows in &table.batches {
            let (found, expected) = (columns(rows.schema_ref()), columns(&self.schema));
            if found != expected {
                return wrong(format!("its columns are {found:?}, and the input has {expected:?}"));
            }
            self.apply(&self.own(rows, &is_own)?, None)?;
        }
        Ok(())
    }

    fn own(&self, rows: &RecordBatch, is_own: &impl Fn(u64) -> bool) -> Result<RecordBatch> {
        let keys: Vec<_> = self.key_columns.iter().map(|index| Arc::clone(rows.column(*index))).collect();
        // Keys without a hash have one subtask.
        if !keys.iter().all(|column| is_key_type(column.data_type())) {
            return Ok(rows.clone());
        }
        let mut hashes = Vec::new();
        hash_columns(&keys, &mut hashes)?;
        let own = BooleanArray::from_iter(hashes.iter().map(|hash| Some(is_own(*hash))));
        Ok(filter_record_batch(rows, &own)?)
    }

    fn batches(&self, entries: &[&Entry], batch_rows: usize) -> Result<Vec<RecordBatch>> {
        let parser = self.rows.parser();
        let batches = entries.chunks(batch_rows.max(1)).map(|chunk| {
            let columns = self.rows.convert_rows(chunk.iter().map(|entry| parser.parse(&entry.row)))?;
            Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
        });
        batches.collect()
    }
}
