//! Groups of one slice that left memory: keys and partials, one value of the state store per key group, so that a window
//! too large for memory is emitted key group by key group. Slice and key group are known, so values do not hold them.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use weir_operator_api::Result;
use weir_state::{StateSpace, rows_codec};

use super::groups::{Groups, Shape};
use super::rows::{Rows, Values};
use super::state::Place;
use super::{output::times, state};
use crate::state_rows::Layout;

/// Rows of one value, about: bounds the memory for reading it.
const VALUE_ROWS: usize = if cfg!(test) { 1 } else { 64 * 1024 };

/// One run; its values are deleted with it.
#[derive(Debug)]
pub(super) struct Run {
    space: StateSpace,
    number: u64,
    slice_start: i64,
    /// Values of each key group that has some: `(key group, count)`, in order.
    groups: Vec<(u32, u32)>,
}

/// What rows of slices look like.
#[derive(Clone)]
pub(super) struct SliceRowsLayout {
    pub(super) layout: Layout,
    pub(super) place: Place,
    value_schema: SchemaRef,
    key_count: usize,
}

impl SliceRowsLayout {
    pub(super) fn new(shape: &Shape, place: Place) -> Self {
        let layout = state::slices(shape);
        let key_count = shape.key_types.len();
        // Behind the key group stand the keys, the slice's start, and the partials.
        let fields = layout.schema().fields().iter().enumerate().skip(1).filter(|(index, _)| *index != 1 + key_count);
        let value_schema = Arc::new(Schema::new(fields.map(|(_, field)| field.clone()).collect::<Vec<_>>()));
        SliceRowsLayout { layout, place, value_schema, key_count }
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
        let mut run = Run { space, number, slice_start, groups: Vec::new() };
        while let Some(group) = sorted.iter().zip(&next).filter_map(|(ids, at)| ids.get(*at)).map(|id| id.0).min() {
            let mut count = 0;
            for (((layer, _), ids), at) in layers.iter().zip(&sorted).zip(&mut next) {
                let end = *at + ids[*at..].partition_point(|id| id.0 == group);
                for ids in ids[*at..end].chunks(VALUE_ROWS) {
                    let ids: Vec<u32> = ids.iter().map(|id| id.1).collect();
                    let value = rows_codec::encode(&layout.value_rows(layer, &ids)?)?;
                    run.space.put(vec![(key(number, group, count).to_vec(), value)])?;
                    count += 1;
                }
                *at = end;
            }
            run.groups.push((group, count));
        }
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
        self.groups.iter().map(|(group, _)| *group)
    }

    /// The rows of one key group, value by value.
    pub(super) fn read(&self, group: u32) -> impl Iterator<Item = Result<RecordBatch>> {
        let found = self.groups.binary_search_by_key(&group, |(group, _)| *group);
        let count = found.map_or(0, |at| self.groups[at].1);
        (0..count).map(move |index| self.read_value(group, index))
    }

    fn read_value(&self, group: u32, index: u32) -> Result<RecordBatch> {
        let lost = || {
            weir_operator_api::OperatorError::external("state-store", "state that was put on disk is no longer there")
        };
        let value = self.space.get(&[key(self.number, group, index)])?.pop().flatten().ok_or_else(lost)?;
        Ok(rows_codec::decode(&value)?)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let values = self.groups.iter().flat_map(|(group, count)| (0..*count).map(|index| (*group, index)));
        let keys: Vec<_> = values.map(|(group, index)| key(self.number, group, index)).collect();
        // The space goes with the operator at the latest, and everything in it.
        if let Err(error) = self.space.delete(&keys) {
            tracing::warn!("groups of a finished window stay on disk: {error}");
        }
    }
}

fn key(number: u64, group: u32, index: u32) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..12].copy_from_slice(&group.to_be_bytes());
    key[12..].copy_from_slice(&index.to_be_bytes());
    key
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
