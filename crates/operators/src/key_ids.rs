//! Dense numbers for the keys of an operator's rows: the bridge between key columns and plain vectors of state.

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use weir_core::key_hash::hash_columns;
use weir_operator_api::Result;
use weir_state::KeyTable;

use crate::state_rows::{Column, group_of};

/// Numbers below this are never too many.
const SPARSE_MIN: usize = if cfg!(test) { 8 } else { 16 * 1024 };

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
        self.intern_keys(&keys, records.num_rows())
    }

    /// The number of each key, given as columns.
    pub(crate) fn intern_keys(&mut self, keys: &[ArrayRef], row_count: usize) -> Result<&[u32]> {
        hash_columns(keys, &mut self.hashes)?;
        // Without key columns there is one key, and its hash is that of its key group.
        self.hashes.resize(row_count, 0);
        self.table.intern(keys, &self.hashes, &mut self.ids)?;
        Ok(&self.ids)
    }

    /// The numbers that were given last.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The hash of a key.
    #[inline]
    pub(crate) fn hash_of(&self, id: u32) -> u64 {
        self.table.hash_of(id)
    }

    /// Some keys as columns.
    pub(crate) fn columns_of(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(self.table.columns(ids)?)
    }

    /// Where the keys stand in a row.
    pub(crate) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// All numbers are below this.
    pub(crate) fn id_bound(&self) -> usize {
        self.table.id_bound()
    }

    /// The columns of keys in a table of a checkpoint.
    pub(crate) fn state_columns<'a>(&self, schema: &'a Schema) -> impl Iterator<Item = Column> {
        let fields: Vec<&'a Field> = self.columns.iter().map(|column| schema.field(*column)).collect();
        Column::keys(fields.into_iter().map(|field| (field.name().as_str(), field.data_type())))
    }

    /// Some keys as columns, and their key groups.
    pub(crate) fn keys(&self, ids: &[u32], key_group_count: u32) -> Result<(Vec<u32>, Vec<ArrayRef>)> {
        let groups = ids.iter().map(|id| group_of(self.table.hash_of(*id), key_group_count)).collect();
        Ok((groups, self.table.columns(ids)?))
    }

    /// Forgets a key; its number will be another's.
    pub(crate) fn remove(&mut self, id: u32) {
        self.table.remove(id);
    }

    /// Number of keys held.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether far more memory is held than the keys need, because most have been forgotten.
    pub(crate) fn is_sparse(&self) -> bool {
        self.id_bound() >= SPARSE_MIN && self.len() < self.id_bound() / 4
    }

    /// Numbers the keys anew without gaps: those of `live`, all that are held, in that order.
    pub(crate) fn renumber(&mut self, live: &[u32]) {
        let mut table = self.table.new_like();
        table.intern_table(&self.table, live, &mut self.ids);
        self.table = table;
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
