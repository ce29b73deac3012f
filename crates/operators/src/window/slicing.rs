//! Sorts the rows of a batch into slices. Rows come nearly in order of event time, so a batch is mostly one slice, or a
//! few runs of rows; only then is nothing copied.

use arrow_array::UInt32Array;
use weir_graph::WindowSpec;
use weir_operator_api::Result;

use super::rows::Rows;

/// More runs than this in one batch, and the rows are put in order first.
const RUNS_MAX: usize = 16;

/// Rows of one slice.
pub(crate) struct SliceRows {
    pub(crate) slice_start: i64,
    pub(crate) rows: Rows,
    /// Where each row stands in its batch: from here on, or as listed.
    pub(crate) places: Places,
}

/// Places of rows in their batch.
pub(crate) enum Places {
    From(usize),
    Listed(Vec<u32>),
}

impl SliceRows {
    /// The places of all rows.
    pub(crate) fn places(&self) -> Vec<u32> {
        match &self.places {
            Places::From(first) => (*first as u32..(*first + self.rows.len()) as u32).collect(),
            Places::Listed(places) => places.clone(),
        }
    }
}

/// Cuts rows into pieces of one slice each; a slice may come in several pieces.
pub(crate) fn cut(rows: &Rows, window: WindowSpec) -> Result<Vec<SliceRows>> {
    let times = &rows.times[..];
    let runs = runs(times, window);
    if runs.len() <= RUNS_MAX {
        return Ok(runs
            .iter()
            .enumerate()
            .map(|(index, (slice_start, first))| {
                let end = runs.get(index + 1).map_or(times.len(), |next| next.1);
                let rows = rows.slice(*first, end - first);
                SliceRows { slice_start: *slice_start, rows, places: Places::From(*first) }
            })
            .collect());
    }
    let mut places: Vec<(i64, u32)> = Vec::with_capacity(times.len());
    for (index, (slice_start, first)) in runs.iter().enumerate() {
        let end = runs.get(index + 1).map_or(times.len(), |next| next.1);
        places.extend((*first..end).map(|row| (*slice_start, row as u32)));
    }
    places.sort_unstable();
    let ordered = rows.take(&UInt32Array::from_iter_values(places.iter().map(|place| place.1)))?;
    let mut first = 0;
    Ok(places
        .chunk_by(|a, b| a.0 == b.0)
        .map(|chunk| {
            let rows = ordered.slice(first, chunk.len());
            first += chunk.len();
            let listed = chunk.iter().map(|place| place.1).collect();
            SliceRows { slice_start: chunk[0].0, rows, places: Places::Listed(listed) }
        })
        .collect())
}

/// The slice and the first row of each run of rows that share a slice.
fn runs(times: &[i64], window: WindowSpec) -> Vec<(i64, usize)> {
    let length = window.slice().max(1);
    let mut runs = Vec::new();
    let (mut start, mut end) = (0, 0);
    for (row, time) in times.iter().enumerate() {
        if *time < start || *time >= end || runs.is_empty() {
            start = window.slice_start(*time);
            end = start + length;
            runs.push((start, row));
        }
    }
    runs
}
