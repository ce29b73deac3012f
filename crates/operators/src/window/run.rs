//! Groups of one slice that left memory: keys and partials, one value of the state store per key group, so that a window
//! too large for memory is emitted key group by key group. Slice and key group are known, so values do not hold them.
//!
//! Where single keys are looked for (late rows update windows), a key group has many small values, each of the keys whose
//! hashes lie between two others.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use weir_operator_api::Result;
use weir_state::store::Entries;
use weir_state::{StateSpace, rows_codec};

use super::groups::{Groups, Shape};
use super::rows::{Rows, Values};
use super::state::Place;
use super::{output::times, state};
use crate::state_rows::Layout;

/// Rows of one value, about: bounds the memory for reading it.
const VALUE_ROWS: usize = if cfg!(test) { 1 } else { 64 * 1024 };
/// Rows of one value where single keys are looked for: enough for a value to lie in a blob file.
const FINE_VALUE_ROWS: usize = if cfg!(test) { 2 } else { 256 };
/// Bytes of values that are written at once.
const WRITE_BYTES: usize = 1 << 20;

/// One run; its values are deleted with it.
#[derive(Debug)]
pub(super) struct Run {
    space: StateSpace,
    number: u64,
    slice_start: i64,
    /// All values, by key group, in the order of their layers.
    values: Vec<Value>,
}

/// One value: some rows of one key group.
#[derive(Clone, Copy, Debug)]
struct Value {
    group: u32,
    /// Its place among those of the group.
    index: u32,
    /// Least and greatest hash of its keys, where they are in order; otherwise all there are.
    hashes: (u64, u64),
}

/// What rows of slices look like.
#[derive(Clone)]
pub(super) struct SliceRowsLayout {
    pub(super) layout: Layout,
    pub(super) place: Place,
    value_schema: SchemaRef,
    key_count: usize,
    /// Single keys are looked for in runs.
    is_fine: bool,
}

impl SliceRowsLayout {
    pub(super) fn new(shape: &Shape, place: Place, is_fine: bool) -> Self {
        let layout = state::slices(shape);
        let key_count = shape.key_types.len();
        // Behind the key group stand the keys, the slice's start, and the partials.
        let fields = layout.schema().fields().iter().enumerate().skip(1).filter(|(index, _)| *index != 1 + key_count);
        let value_schema = Arc::new(Schema::new(fields.map(|(_, field)| field.clone()).collect::<Vec<_>>()));
        SliceRowsLayout { layout, place, value_schema, key_count, is_fine }
    }

    /// Some groups as rows of a checkpoint.
    pub(super) fn rows(&self, groups: &Groups, ids: &[u32], slice_start: i64) -> Result<RecordBatch> {
        let mut columns = groups.keys.columns(ids)?;
        columns.push(times(std::iter::repeat_n(slice_start, ids.len())));
        columns.extend(groups.accumulators.partials(ids)?);
        self.layout.keyed_batch(self.place.key_groups(&groups.keys, ids), columns)
    }

    /// Some groups as rows of a value.
    fn value_rows(&self, groups: &Groups, ids: &[u32]) -> Result<RecordBatch> {
        let columns = groups.keys.columns(ids)?.into_iter().chain(groups.accumulators.partials(ids)?).collect();
        Ok(RecordBatch::try_new_with_options(self.value_schema.clone(), columns, &self.row_count(ids.len()))?)
    }

    /// The ids of each value, with the range of their hashes, from the ids of one key group.
    fn cut_into_values(&self, groups: &Groups, of_group: &[(u32, u32)]) -> Vec<(Vec<u32>, (u64, u64))> {
        if !self.is_fine {
            let ids = |chunk: &[(u32, u32)]| chunk.iter().map(|id| id.1).collect();
            return of_group.chunks(VALUE_ROWS).map(|chunk| (ids(chunk), (0, u64::MAX))).collect();
        }
        let mut by_hash: Vec<(u64, u32)> = of_group.iter().map(|(_, id)| (groups.keys.hash_of(*id), *id)).collect();
        by_hash.sort_unstable();
        let range = |chunk: &[(u64, u32)]| (chunk[0].0, chunk[chunk.len() - 1].0);
        let ids = |chunk: &[(u64, u32)]| chunk.iter().map(|id| id.1).collect();
        by_hash.chunks(FINE_VALUE_ROWS).map(|chunk| (ids(chunk), range(chunk))).collect()
    }

    /// Without keys and aggregates a row has no columns.
    fn row_count(&self, rows: usize) -> RecordBatchOptions {
        RecordBatchOptions::new().with_row_count(Some(rows))
    }

    /// The rows of a value as those of a checkpoint.
    pub(super) fn to_checkpoint(&self, rows: &RecordBatch, group: u32, slice_start: i64) -> Result<RecordBatch> {
        let (keys, partials) = rows.columns().split_at(self.key_count);
        let start = [times(std::iter::repeat_n(slice_start, rows.num_rows()))];
        let columns = keys.iter().cloned().chain(start).chain(partials.iter().cloned()).collect();
        self.layout.keyed_batch(vec![group; rows.num_rows()], columns)
    }

    /// The rows of a value, to be added to groups.
    pub(super) fn to_rows(&self, rows: &RecordBatch, slice_start: i64) -> Result<Rows> {
        let (keys, partials) = rows.columns().split_at(self.key_count);
        let starts = vec![slice_start; rows.num_rows()];
        Rows::new(keys.to_vec(), starts.into(), Values::Partials(partials.to_vec()))
    }
}

impl Run {
    /// Writes the groups of some layers, each from an id on, oldest layer first.
    pub(super) fn write(
        (space, number): (StateSpace, u64),
        layout: &SliceRowsLayout,
        slice_start: i64,
        layers: &[(&Groups, u32)],
    ) -> Result<Run> {
        let by_group = |(layer, first): &(&Groups, u32)| by_key_group(layer, *first, layout.place);
        let sorted: Vec<Vec<(u32, u32)>> = layers.iter().map(by_group).collect();
        let mut next = vec![0; layers.len()];
        let mut run = Run { space, number, slice_start, values: Vec::new() };
        let mut unwritten = Unwritten::default();
        while let Some(group) = sorted.iter().zip(&next).filter_map(|(ids, at)| ids.get(*at)).map(|id| id.0).min() {
            let mut index = 0;
            for (((layer, _), ids), at) in layers.iter().zip(&sorted).zip(&mut next) {
                let end = *at + ids[*at..].partition_point(|id| id.0 == group);
                for (ids, hashes) in layout.cut_into_values(layer, &ids[*at..end]) {
                    let value = Value { group, index, hashes };
                    let bytes = rows_codec::encode(&layout.value_rows(layer, &ids)?)?;
                    // It is noted first, so that it is deleted with the run, whether the rest can be written or not.
                    run.values.push(value);
                    unwritten.push(&run, value, bytes)?;
                    index += 1;
                }
                *at = end;
            }
        }
        unwritten.write(&run)?;
        Ok(run)
    }

    /// Its number: no other run of the operator, and nothing else it numbers, has the same.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Start of the slice.
    pub(super) fn slice_start(&self) -> i64 {
        self.slice_start
    }

    /// The key groups that have rows here, in order.
    pub(super) fn key_groups(&self) -> impl Iterator<Item = u32> {
        self.values.chunk_by(|a, b| a.group == b.group).map(|values| values[0].group)
    }

    /// The rows of one key group, value by value.
    pub(super) fn read(&self, group: u32) -> impl Iterator<Item = Result<RecordBatch>> {
        self.values_of(group).iter().map(|value| self.read_value(value))
    }

    /// The rows of one key group, value by value, except values that have no key with one of these hashes.
    ///
    /// **Shapes**: hashes in order.
    pub(super) fn read_some(&self, group: u32, hashes: &[u64]) -> impl Iterator<Item = Result<RecordBatch>> {
        let has_some = move |value: &&Value| {
            let (least, greatest) = value.hashes;
            hashes.get(hashes.partition_point(|hash| *hash < least)).is_some_and(|hash| *hash <= greatest)
        };
        self.values_of(group).iter().filter(has_some).map(|value| self.read_value(value))
    }

    fn values_of(&self, group: u32) -> &[Value] {
        let start = self.values.partition_point(|value| value.group < group);
        let len = self.values[start..].partition_point(|value| value.group == group);
        &self.values[start..start + len]
    }

    fn key(&self, value: &Value) -> Vec<u8> {
        let mut key = self.number.to_be_bytes().to_vec();
        key.extend(value.group.to_be_bytes());
        key.extend(value.index.to_be_bytes());
        key
    }

    fn read_value(&self, value: &Value) -> Result<RecordBatch> {
        let lost = || {
            weir_operator_api::OperatorError::external("state-store", "state that was put on disk is no longer there")
        };
        let value = self.space.get(&[self.key(value)])?.pop().flatten().ok_or_else(lost)?;
        Ok(rows_codec::decode(&value)?)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let keys: Vec<_> = self.values.iter().map(|value| self.key(value)).collect();
        // The space goes with the operator at the latest, and everything in it.
        if let Err(error) = self.space.delete(&keys) {
            tracing::warn!("groups of a finished window stay on disk: {error}");
        }
    }
}

/// Values of a run on their way to the store.
#[derive(Default)]
struct Unwritten {
    entries: Entries,
    bytes: usize,
}

impl Unwritten {
    fn push(&mut self, run: &Run, value: Value, bytes: Vec<u8>) -> Result<()> {
        self.bytes += bytes.len();
        self.entries.push((run.key(&value), bytes));
        if self.bytes >= WRITE_BYTES { self.write(run) } else { Ok(()) }
    }

    fn write(&mut self, run: &Run) -> Result<()> {
        self.bytes = 0;
        if self.entries.is_empty() {
            return Ok(());
        }
        Ok(run.space.put(std::mem::take(&mut self.entries))?)
    }
}

/// The groups from `first` on as `(key group, id)`, by key group: a counting sort.
fn by_key_group(groups: &Groups, first: u32, place: Place) -> Vec<(u32, u32)> {
    let ids: Vec<u32> = (first..groups.keys.id_bound() as u32).collect();
    let of_id = place.key_groups(&groups.keys, &ids);
    let bound = of_id.iter().max().map_or(0, |greatest| *greatest as usize + 1);
    let mut next = vec![0usize; bound + 1];
    of_id.iter().for_each(|group| next[*group as usize + 1] += 1);
    (1..next.len()).for_each(|group| next[group] += next[group - 1]);
    let mut sorted = vec![(0, 0); ids.len()];
    for (id, group) in ids.iter().zip(of_id) {
        let place = &mut next[group as usize];
        sorted[*place] = (group, *id);
        *place += 1;
    }
    sorted
}
