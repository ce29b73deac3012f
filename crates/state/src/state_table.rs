//! What an operator hands to a checkpoint, and gets back from one: named tables of plain rows.
//!
//! Operators fill and read them; the worker cuts them into key groups, encodes and uploads them. A table is a format on
//! disk: its name, its version and its columns are never changed silently.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{ArrowError, DataType, Field, Schema};

/// Name of the first column of every keyed table: the key group of the row, UInt32, not null.
pub const KEY_GROUP_COLUMN: &str = "key_group";

/// Who gets which rows of a table when a job is restored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StateScope {
    /// The subtask that owns the row's key group; the first column is [`KEY_GROUP_COLUMN`].
    Keyed,
    /// Every subtask gets the rows of all subtasks, and takes what is its own (state of splits).
    Shared,
}

/// Rows of one state of one operator subtask.
#[derive(Clone, Debug)]
pub struct StateTable {
    /// Unique in the operator: lower case, digits and `-`.
    pub name: String,
    /// Version of the meaning of the columns; the operator that reads it knows all versions up to its own.
    pub version: u32,
    /// Who gets which rows.
    pub scope: StateScope,
    /// The rows; all batches have one schema. The order of rows means nothing.
    pub batches: Vec<RecordBatch>,
}

impl StateTable {
    /// A keyed table with one batch: the key groups in front of these columns.
    ///
    /// **Shapes**: one key group per row of the columns.
    /// **Errors**: columns of different lengths.
    pub fn keyed(
        name: &str,
        version: u32,
        key_groups: Vec<u32>,
        columns: Vec<(&str, ArrayRef)>,
    ) -> Result<StateTable, ArrowError> {
        let mut fields = vec![Field::new(KEY_GROUP_COLUMN, DataType::UInt32, false)];
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(key_groups))];
        for (column, array) in columns {
            fields.push(Field::new(column, array.data_type().clone(), true));
            arrays.push(array);
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
        Ok(StateTable { name: name.to_owned(), version, scope: StateScope::Keyed, batches: vec![batch] })
    }

    /// A shared table with one batch.
    ///
    /// **Errors**: columns of different lengths.
    pub fn shared(name: &str, version: u32, columns: Vec<(&str, ArrayRef)>) -> Result<StateTable, ArrowError> {
        let fields = columns.iter().map(|(column, array)| Field::new(*column, array.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(schema, columns.into_iter().map(|(_, array)| array).collect())?;
        Ok(StateTable { name: name.to_owned(), version, scope: StateScope::Shared, batches: vec![batch] })
    }

    /// How many rows there are.
    pub fn num_rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// A table at a barrier. Its rows may be put together later, beside the stream.
#[derive(Clone, Debug)]
pub struct FrozenTable {
    /// As [`StateTable::name`].
    pub name: String,
    /// As [`StateTable::version`].
    pub version: u32,
    /// As [`StateTable::scope`].
    pub scope: StateScope,
    /// The rows, in pieces that are written one by one.
    pub pieces: Vec<FrozenPiece>,
}

/// Why frozen rows cannot be put together.
pub type FreezeError = Box<dyn std::error::Error + Send + Sync>;

/// Some rows of a table at a barrier.
#[derive(Clone)]
pub enum FrozenPiece {
    /// Rows that are there.
    Ready(RecordBatch),
    /// Rows that are put together, or read from disk, when they are written; the same rows at every call.
    Later(LaterRows),
    /// As [`FrozenPiece::Later`], of rows that have a number: whenever one operator gives this number again, for this
    /// table, it means the same rows, so that what was written once need not be written again.
    Numbered(u64, LaterRows),
    /// As [`FrozenPiece::Numbered`], of more rows than are to be held at once: they come batch by batch.
    NumberedBatches(u64, LaterBatches),
}

/// Puts frozen rows together.
pub type LaterRows = Arc<dyn Fn() -> Result<Vec<RecordBatch>, FreezeError> + Send + Sync>;
/// Batches that come one by one; an error is the last.
pub type FrozenBatches = Box<dyn Iterator<Item = Result<RecordBatch, FreezeError>> + Send>;
/// Puts frozen rows together, batch by batch.
pub type LaterBatches = Arc<dyn Fn() -> FrozenBatches + Send + Sync>;

impl std::fmt::Debug for FrozenPiece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrozenPiece::Ready(rows) => f.debug_tuple("Ready").field(&rows.num_rows()).finish(),
            FrozenPiece::Later(_) => f.write_str("Later"),
            FrozenPiece::Numbered(number, _) | FrozenPiece::NumberedBatches(number, _) => {
                f.debug_tuple("Numbered").field(number).finish()
            }
        }
    }
}

impl FrozenPiece {
    /// The rows, which are put together as they are asked for.
    ///
    /// **Errors**: state that cannot be read from disk, or not be put together.
    pub fn rows(&self) -> FrozenBatches {
        match self {
            FrozenPiece::Ready(rows) => Box::new(std::iter::once(Ok(rows.clone()))),
            FrozenPiece::Later(rows) | FrozenPiece::Numbered(_, rows) => match rows() {
                Ok(batches) => Box::new(batches.into_iter().map(Ok)),
                Err(error) => Box::new(std::iter::once(Err(error))),
            },
            FrozenPiece::NumberedBatches(_, batches) => batches(),
        }
    }

    /// The rows, all at once.
    ///
    /// **Errors**: as [`FrozenPiece::rows`].
    pub fn batches(&self) -> Result<Vec<RecordBatch>, FreezeError> {
        self.rows().collect()
    }

    /// The number of the rows, if they have one.
    pub fn number(&self) -> Option<u64> {
        match self {
            FrozenPiece::Numbered(number, _) | FrozenPiece::NumberedBatches(number, _) => Some(*number),
            FrozenPiece::Ready(_) | FrozenPiece::Later(_) => None,
        }
    }
}

impl From<StateTable> for FrozenTable {
    fn from(table: StateTable) -> Self {
        let StateTable { name, version, scope, batches } = table;
        FrozenTable { name, version, scope, pieces: batches.into_iter().map(FrozenPiece::Ready).collect() }
    }
}

impl FrozenTable {
    /// The whole table.
    ///
    /// **Errors**: as [`FrozenPiece::batches`].
    pub fn resolve(self) -> Result<StateTable, FreezeError> {
        let mut batches = Vec::new();
        for piece in &self.pieces {
            batches.extend(piece.batches()?);
        }
        Ok(StateTable { name: self.name, version: self.version, scope: self.scope, batches })
    }
}
