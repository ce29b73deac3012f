//! Groups of one slice that left memory: rows of the table `slices`, one value of the state store per key group, so that
//! a window too large for memory is emitted key group by key group.

use arrow_array::RecordBatch;
use weir_operator_api::Result;
use weir_state::{StateSpace, rows_codec};

use super::groups::{Groups, Shape};
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
    /// Values of each key group that has some: `(key group, count)`, in order.
    groups: Vec<(u32, u32)>,
}

/// What rows of slices look like.
#[derive(Clone)]
pub(super) struct SliceRowsLayout {
    pub(super) layout: Layout,
    pub(super) place: Place,
}

impl SliceRowsLayout {
    pub(super) fn new(shape: &Shape, place: Place) -> Self {
        SliceRowsLayout { layout: state::slices(shape), place }
    }

    /// Some groups as rows.
    pub(super) fn rows(&self, groups: &Groups, ids: &[u32], slice_start: i64) -> Result<RecordBatch> {
        let mut columns = groups.keys.columns(ids)?;
        columns.push(times(std::iter::repeat_n(slice_start, ids.len())));
        columns.extend(groups.accumulators.partials(ids)?);
        self.layout.keyed_batch(self.place.key_groups(&groups.keys, ids), columns)
    }
}

impl Run {
    /// Writes the groups of some layers, oldest first.
    pub(super) fn write(
        (space, number): (StateSpace, u64),
        layout: &SliceRowsLayout,
        slice_start: i64,
        layers: &[&Groups],
    ) -> Result<Run> {
        let sorted: Vec<Vec<(u32, u32)>> = layers.iter().map(|layer| by_key_group(layer, layout.place)).collect();
        let mut next = vec![0; layers.len()];
        let mut run = Run { space, number, groups: Vec::new() };
        while let Some(group) = sorted.iter().zip(&next).filter_map(|(ids, at)| ids.get(*at)).map(|id| id.0).min() {
            let mut count = 0;
            for ((layer, ids), at) in layers.iter().zip(&sorted).zip(&mut next) {
                let end = *at + ids[*at..].partition_point(|id| id.0 == group);
                for ids in ids[*at..end].chunks(VALUE_ROWS) {
                    let ids: Vec<u32> = ids.iter().map(|id| id.1).collect();
                    let value = rows_codec::encode(&layout.rows(layer, &ids, slice_start)?)?;
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

/// All groups as `(key group, id)`, by key group.
fn by_key_group(groups: &Groups, place: Place) -> Vec<(u32, u32)> {
    let ids: Vec<u32> = (0..groups.keys.id_bound() as u32).collect();
    let mut sorted: Vec<(u32, u32)> = place.key_groups(&groups.keys, &ids).into_iter().zip(ids).collect();
    sorted.sort_unstable();
    sorted
}
