//! Keys with their accumulators: the content of one slice, or of one window that is being emitted.

use std::ops::Range;

use arrow_array::ArrayRef;
use arrow_schema::DataType;
use weir_core::AggregateFunction;
use weir_operator_api::{OperatorError, Result};
use weir_state::KeyTable;

use super::accumulator::{Accumulator, Call, Input};
use super::rows::{Rows, Values};

/// Groups merged in one step: their ids fit a core's first cache.
const MERGE_ROWS: usize = 4096;

/// What groups are made of.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) key_names: Vec<String>,
    pub(crate) key_types: Vec<DataType>,
    pub(crate) calls: Vec<Call>,
}

impl Shape {
    /// Whether it makes no difference in which order parts of a group are put together.
    pub(crate) fn is_order_free(&self) -> bool {
        use AggregateFunction::{Avg, Count, Max, Min, Sum};
        self.calls.iter().all(|call| matches!(call.function, Count | Sum | Avg | Min | Max))
    }

    pub(crate) fn accumulators(&self) -> Result<Accumulators> {
        let list = self.calls.iter().map(Call::accumulator).collect::<Result<_>>()?;
        Ok(Accumulators { list, widths: self.calls.iter().map(|call| call.partial_fields().len()).collect() })
    }

    pub(crate) fn key_table(&self) -> Result<KeyTable> {
        KeyTable::new(&self.key_types)
            .map_err(|error| OperatorError::internal("a key column has no table").because(error))
    }

    pub(crate) fn groups(&self) -> Result<Groups> {
        Ok(Groups { keys: self.key_table()?, accumulators: self.accumulators()?, pieces: Vec::new() })
    }
}

/// The accumulators of all calls, over the same ids.
pub(crate) struct Accumulators {
    list: Vec<Box<dyn Accumulator>>,
    /// How many columns the partial of each has.
    widths: Vec<usize>,
}

impl Accumulators {
    pub(crate) fn resize(&mut self, groups: usize) {
        self.list.iter_mut().for_each(|accumulator| accumulator.resize(groups));
    }

    pub(crate) fn update(&mut self, ids: &[u32], rows: &Rows) -> Result<()> {
        match &rows.values {
            Values::Inputs(inputs) => self.update_inputs(ids, inputs, &rows.times),
            Values::Partials(columns) => {
                let mut rest = &columns[..];
                for (accumulator, width) in self.list.iter_mut().zip(&self.widths) {
                    let (partial, others) = rest.split_at(*width);
                    accumulator.merge_partial(ids, partial)?;
                    rest = others;
                }
                Ok(())
            }
        }
    }

    fn update_inputs(&mut self, ids: &[u32], inputs: &[Input], times: &[i64]) -> Result<()> {
        self.list.iter_mut().zip(inputs).try_for_each(|(accumulator, input)| accumulator.update(ids, input, times))
    }

    pub(crate) fn merge(&mut self, ids: &[u32], other: &Accumulators, from: &[u32]) -> Result<()> {
        self.list.iter_mut().zip(&other.list).try_for_each(|(into, other)| into.merge(ids, other.as_ref(), from))
    }

    pub(crate) fn absorb(&mut self, into: u32, from: u32) -> Result<()> {
        self.list.iter_mut().try_for_each(|accumulator| accumulator.absorb(into, from))
    }

    pub(crate) fn reset(&mut self, id: u32) {
        self.list.iter_mut().for_each(|accumulator| accumulator.reset(id));
    }

    pub(crate) fn clear(&mut self) {
        self.list.iter_mut().for_each(|accumulator| accumulator.clear());
    }

    /// The columns of partials, in the order of the calls.
    pub(crate) fn partials(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        let mut columns = Vec::new();
        for accumulator in &self.list {
            columns.extend(accumulator.partial(ids)?);
        }
        Ok(columns)
    }

    /// The columns of results, in the order of the calls.
    pub(crate) fn results(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        self.list.iter().map(|accumulator| accumulator.evaluate(ids)).collect()
    }

    fn reset_range(&mut self, ids: Range<u32>) {
        self.list.iter_mut().for_each(|accumulator| accumulator.reset_range(ids.clone()));
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.list.iter().map(|accumulator| accumulator.size_bytes()).sum()
    }
}

/// Keys and, by their ids, what was accumulated.
pub(crate) struct Groups {
    pub(crate) keys: KeyTable,
    pub(crate) accumulators: Accumulators,
    /// By piece of ids: the number of its content.
    pieces: Vec<Piece>,
}

/// Content of some ids in a row.
#[derive(Clone, Copy, Default)]
struct Piece {
    number: u64,
    /// Something changed since it got its number, or it has none.
    has_changed: bool,
}

/// Ids of one piece: `1 << PIECE_BITS`.
pub(super) const PIECE_BITS: u32 = if cfg!(test) { 1 } else { 17 };

impl Groups {
    /// Adds rows; `ids` becomes the group of each.
    pub(crate) fn add(&mut self, rows: &Rows, ids: &mut Vec<u32>) -> Result<()> {
        self.keys.intern(&rows.keys, &rows.hashes, ids)?;
        self.accumulators.resize(self.keys.id_bound());
        self.mark(ids);
        self.accumulators.update(ids, rows)
    }

    /// Notes which pieces change.
    fn mark(&mut self, ids: &[u32]) {
        let count = self.keys.id_bound().div_ceil(1 << PIECE_BITS);
        if self.pieces.len() < count {
            self.pieces.resize(count, Piece::default());
        }
        if let [only] = &mut self.pieces[..] {
            only.has_changed = true;
            return;
        }
        ids.iter().for_each(|id| self.pieces[(id >> PIECE_BITS) as usize].has_changed = true);
    }

    /// Gives a number of its own to the content of every piece that has changed.
    pub(crate) fn number_pieces(&mut self, next: &mut u64) {
        for piece in self.pieces.iter_mut().filter(|piece| piece.has_changed) {
            *piece = Piece { number: *next, has_changed: false };
            *next += 1;
        }
    }

    /// The numbers of all pieces with their ids; right after [`Groups::number_pieces`].
    pub(crate) fn numbered_pieces(&self) -> impl Iterator<Item = (u64, std::ops::Range<u32>)> {
        let end = self.keys.id_bound() as u32;
        self.pieces.iter().enumerate().map(move |(index, piece)| {
            let start = (index as u32) << PIECE_BITS;
            (piece.number, start..end.min(start + (1 << PIECE_BITS)))
        })
    }

    /// Adds all of other groups of the same shape.
    pub(crate) fn merge(&mut self, other: &Groups) -> Result<()> {
        self.merge_some(other, 0..other.keys.id_bound() as u32)
    }

    /// Adds some of other groups of the same shape.
    pub(crate) fn merge_some(&mut self, other: &Groups, some: Range<u32>) -> Result<()> {
        self.merge_beside(&other.keys, &other.accumulators, some)
    }

    /// Adds some groups of which the accumulators do not lie beside their keys.
    pub(crate) fn merge_beside(&mut self, keys: &KeyTable, from_them: &Accumulators, some: Range<u32>) -> Result<()> {
        let (mut from, mut ids) = (Vec::with_capacity(MERGE_ROWS), Vec::with_capacity(MERGE_ROWS));
        for start in some.clone().step_by(MERGE_ROWS) {
            from.clear();
            from.extend(start..some.end.min(start + MERGE_ROWS as u32));
            self.keys.intern_table(keys, &from, &mut ids);
            self.accumulators.resize(self.keys.id_bound());
            self.mark(&ids);
            self.accumulators.merge(&ids, from_them, &from)?;
        }
        Ok(())
    }

    /// Moves what was accumulated for some ids of this table elsewhere to where it belongs.
    pub(crate) fn fold(&mut self, other: &mut Accumulators, some: Range<u32>) -> Result<()> {
        let mut ids = Vec::with_capacity(MERGE_ROWS);
        for start in some.clone().step_by(MERGE_ROWS) {
            let part = start..some.end.min(start + MERGE_ROWS as u32);
            ids.clear();
            ids.extend(part.clone());
            self.accumulators.merge(&ids, other, &ids)?;
            other.reset_range(part);
        }
        let pieces = (some.start >> PIECE_BITS) as usize..(some.end.div_ceil(1 << PIECE_BITS)) as usize;
        self.pieces[pieces].iter_mut().for_each(|piece| piece.has_changed = true);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// All ids in pieces of at most `rows`; groups are never taken out one by one, so there are no holes.
    pub(crate) fn id_pieces(&self, rows: usize) -> impl Iterator<Item = Vec<u32>> {
        let end = self.keys.id_bound() as u32;
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        (0..end).step_by(rows as usize).map(move |start| (start..end.min(start.saturating_add(rows))).collect())
    }

    /// Forgets everything and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.accumulators.clear();
        self.pieces.clear();
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.keys.size_bytes() + self.accumulators.size_bytes()
    }
}
