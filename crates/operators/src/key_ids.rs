//! Dense numbers for the keys of an operator's rows: the bridge between key columns and plain vectors of state.

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema};
use weir_core::key_hash::hash_columns;
use weir_operator_api::Result;
use weir_state::KeyTable;

/// Numbers the keys of one stream from 0 in the order in which they first came.
pub(crate) struct KeyIds {
    columns: Vec<usize>,
    table: KeyTable,
    hashes: Vec<u64>,
    ids: Vec<u32>,
}

impl KeyIds {
    /// Numbers by the named columns; without any, every row has number 0.
    pub(crate) fn new(names: &[String], schema: &Schema) -> Result<Self> {
        let columns: Vec<usize> = names.iter().map(|name| Ok(schema.index_of(name)?)).collect::<Result<_>>()?;
        let types: Vec<DataType> = columns.iter().map(|column| schema.field(*column).data_type().clone()).collect();
        let table = KeyTable::new(&types)?;
        Ok(KeyIds { columns, table, hashes: Vec::new(), ids: Vec::new() })
    }

    /// The number of each row's key. Null is a key like any other.
    pub(crate) fn intern(&mut self, records: &RecordBatch) -> Result<&[u32]> {
        let keys: Vec<ArrayRef> = self.columns.iter().map(|column| records.column(*column).clone()).collect();
        hash_columns(&keys, &mut self.hashes)?;
        // Without key columns there is one key, and its hash is any word.
        self.hashes.resize(records.num_rows(), 0);
        self.table.intern(&keys, &self.hashes, &mut self.ids)?;
        Ok(&self.ids)
    }

    /// An empty numbering by the same columns.
    pub(crate) fn new_like(&self) -> Self {
        KeyIds { columns: self.columns.clone(), table: self.table.new_like(), hashes: Vec::new(), ids: Vec::new() }
    }

    /// Bytes held, roughly.
    pub(crate) fn size_bytes(&self) -> usize {
        self.table.size_bytes()
    }
}
