//! Joins the rows of a batch into runs: rows of one key no further than a gap apart. Session windows work on runs, so
//! the rows of a hot key cost a comparison each, whatever the number of sessions (pure).

use arrow_buffer::ScalarBuffer;

/// No run.
const NONE: u32 = u32::MAX;
/// How many runs of its key a row is offered to. A row that fits none begins a new run; runs that touch are joined
/// where they meet in the session store, so this bounds work and changes no result.
const OFFERS_MAX: usize = 4;

/// One run, `[start, last]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) key: u32,
    pub(crate) start: i64,
    pub(crate) last: i64,
    /// The run of the same key that began before.
    previous: u32,
}

impl Run {
    /// A run that stands alone.
    pub(crate) fn alone(key: u32, start: i64, last: i64) -> Self {
        Run { key, start, last, previous: NONE }
    }
}

/// Finds the runs of batch after batch; keeps its memory.
#[derive(Default)]
pub(crate) struct RunFinder {
    /// By key id: its newest run.
    newest: Vec<u32>,
    pub(crate) runs: Vec<Run>,
    /// The run of each row.
    pub(crate) of_row: Vec<u32>,
}

impl RunFinder {
    /// Finds the runs of rows with these keys (ids below `key_bound`) that last from `starts` to `lasts`.
    pub(crate) fn find(
        &mut self,
        (key_ids, key_bound): (&[u32], usize),
        starts: &ScalarBuffer<i64>,
        lasts: &ScalarBuffer<i64>,
        gap: i64,
    ) {
        self.runs.clear();
        self.of_row.clear();
        self.of_row.reserve(key_ids.len());
        if self.newest.len() < key_bound {
            self.newest.resize(key_bound, NONE);
        }
        for ((key, start), last) in key_ids.iter().zip(starts.iter()).zip(lasts.iter()) {
            let newest = self.newest[*key as usize];
            let mut at = newest;
            let mut offers = 0;
            let run = loop {
                if at == NONE || offers == OFFERS_MAX {
                    let run = self.runs.len() as u32;
                    self.runs.push(Run { key: *key, start: *start, last: *last, previous: newest });
                    self.newest[*key as usize] = run;
                    break run;
                }
                let run = &mut self.runs[at as usize];
                if *start <= run.last + gap && run.start <= *last + gap {
                    run.start = run.start.min(*start);
                    run.last = run.last.max(*last);
                    break at;
                }
                at = run.previous;
                offers += 1;
            };
            self.of_row.push(run);
        }
        for run in &self.runs {
            self.newest[run.key as usize] = NONE;
        }
    }

    /// Bytes of memory held.
    pub(crate) fn size_bytes(&self) -> usize {
        (self.newest.capacity() + self.of_row.capacity()) * size_of::<u32>() + self.runs.capacity() * size_of::<Run>()
    }
}
