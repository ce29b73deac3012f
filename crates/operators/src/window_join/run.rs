//! The join of one closed window: numbers the keys of both sides, groups the right side by key, and walks the left side.
//! Rows are named by (batch, row) and only put together in the pieces that are emitted.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::interleave::interleave;
use weir_core::batch::EventTimeArray;
use weir_core::key_hash::hash_columns;
use weir_graph::WindowSpec;
use weir_graph::descriptor;
use weir_graph::join_schema::{WINDOW_COLUMNS, right_columns};
use weir_graph::window_schema::{WINDOW_END, WINDOW_START};
use weir_operator_api::Result;
use weir_state::KeyTable;

use super::{Sides, key_types, may_lack};
use crate::window_rows::Bounds;

/// How results are laid out, and what rows are joined by: the same for all windows.
pub(super) struct Layout {
    key_columns: [Vec<usize>; 2],
    key_types: Vec<DataType>,
    columns: Vec<Column>,
    inputs: [SchemaRef; 2],
    may_lack_left: bool,
    may_lack_right: bool,
    output: SchemaRef,
}

/// Where a column of the result comes from.
enum Column {
    Left(usize),
    Right(usize),
    WindowStart,
    WindowEnd,
    WindowTime,
}

impl Column {
    fn of_window(name: &str) -> Self {
        match name {
            WINDOW_START => Column::WindowStart,
            WINDOW_END => Column::WindowEnd,
            _ => Column::WindowTime,
        }
    }
}

impl Layout {
    pub(super) fn new(
        join: &descriptor::WindowJoin,
        left: &SchemaRef,
        right: &SchemaRef,
        output: SchemaRef,
    ) -> Result<Self> {
        let find = |names: &[String], schema: &SchemaRef| -> Result<Vec<usize>> {
            names.iter().map(|name| Ok(schema.index_of(name)?)).collect()
        };
        let key_columns = [find(&join.left_key, left)?, find(&join.right_key, right)?];
        let is_same = join.window == WindowSpec::Same;
        let left_column = |index: usize| match left.field(index).name().as_str() {
            // Rows of one side alone get the window too, so it never comes from the rows.
            name if is_same && WINDOW_COLUMNS.contains(&name) => Column::of_window(name),
            _ => Column::Left(index),
        };
        let mut columns: Vec<Column> = (0..left.fields().len()).map(left_column).collect();
        columns.extend(right_columns(right, &join.window).into_iter().map(Column::Right));
        if !is_same {
            columns.extend(WINDOW_COLUMNS.map(Column::of_window));
        }
        let [may_lack_left, may_lack_right] = may_lack(join.join_type);
        Ok(Layout {
            key_types: key_types(&key_columns[0], left),
            key_columns,
            columns,
            inputs: [left.clone(), right.clone()],
            may_lack_left,
            may_lack_right,
            output,
        })
    }
}

impl Layout {
    /// Whether rows of these sides can give results.
    pub(super) fn gives(&self, [has_left, has_right]: [bool; 2]) -> bool {
        has_left && (has_right || self.may_lack_right) || has_right && self.may_lack_left
    }

    /// The key columns of one side.
    pub(super) fn key_columns(&self, side: usize) -> &[usize] {
        &self.key_columns[side]
    }
}

/// A row as (batch, row). The batch after the last one holds a single row of nulls.
type Place = (u32, u32);

/// The join of one window, in progress.
pub(super) struct Run {
    window: Bounds,
    sides: Sides,
    /// Key number of each left row, batch after batch; [`NO_KEY`] for keys with a null.
    left_keys: Vec<u32>,
    /// `right_rows[right_starts[key]..right_starts[key + 1]]` are the right rows with that key.
    right_starts: Vec<u32>,
    right_rows: Vec<Place>,
    /// Right rows without a partner that are to be emitted, last first.
    right_alone: Vec<Place>,
    next: Cursor,
}

/// How far the left side has been walked.
#[derive(Default)]
struct Cursor {
    batch: usize,
    row: usize,
    /// The same row, counted over all batches.
    left_row: usize,
    /// Partners of the row that have left already.
    partner: usize,
}

/// A key with a null equals nothing.
const NO_KEY: u32 = u32::MAX;

impl Run {
    pub(super) fn new(layout: &Layout, window: Bounds, sides: Sides) -> Result<Self> {
        let mut run = Run {
            window,
            sides,
            left_keys: Vec::new(),
            right_starts: vec![0],
            right_rows: Vec::new(),
            right_alone: Vec::new(),
            next: Cursor::default(),
        };
        if !layout.gives([0, 1].map(|side: usize| !run.sides[side].is_empty())) {
            run.sides = Sides::default();
            return Ok(run);
        }
        let mut table = KeyTable::new(&layout.key_types)?;
        let right_keys = number_keys(&mut table, &run.sides[1], &layout.key_columns[1])?;
        run.left_keys = number_keys(&mut table, &run.sides[0], &layout.key_columns[0])?;
        run.group_right(&right_keys, table.id_bound());
        if layout.may_lack_left {
            run.find_right_alone(&right_keys, table.id_bound());
        }
        Ok(run)
    }

    /// Sorts the right rows by key, by counting.
    fn group_right(&mut self, keys: &[u32], key_count: usize) {
        let mut starts = vec![0u32; key_count + 1];
        keys.iter().filter(|key| **key != NO_KEY).for_each(|key| starts[*key as usize + 1] += 1);
        for key in 0..key_count {
            starts[key + 1] += starts[key];
        }
        let mut next = starts.clone();
        self.right_rows = vec![(0, 0); starts[key_count] as usize];
        for (place, key) in places(&self.sides[1]).zip(keys) {
            if *key != NO_KEY {
                self.right_rows[next[*key as usize] as usize] = place;
                next[*key as usize] += 1;
            }
        }
        self.right_starts = starts;
    }

    fn find_right_alone(&mut self, right_keys: &[u32], key_count: usize) {
        let mut is_on_left = vec![false; key_count];
        self.left_keys.iter().filter(|key| **key != NO_KEY).for_each(|key| is_on_left[*key as usize] = true);
        let is_alone = |key: u32| key == NO_KEY || !is_on_left[key as usize];
        let alone = places(&self.sides[1]).zip(right_keys).filter(|(_, key)| is_alone(**key));
        self.right_alone = alone.map(|(place, _)| place).collect();
        self.right_alone.reverse();
    }

    fn partners(&self, left_row: usize) -> &[Place] {
        match self.left_keys[left_row] {
            NO_KEY => &[],
            key => {
                let key = key as usize;
                &self.right_rows[self.right_starts[key] as usize..self.right_starts[key + 1] as usize]
            }
        }
    }

    /// The next at most `row_count` rows of the result; `None` when there are no more.
    pub(super) fn next(&mut self, layout: &Layout, row_count: usize) -> Result<Option<RecordBatch>> {
        let nulls = [0, 1].map(|side: usize| (self.sides[side].len() as u32, 0));
        let (mut left, mut right): (Vec<Place>, Vec<Place>) = (Vec::new(), Vec::new());
        while left.len() < row_count && self.next.left_row < self.left_keys.len() {
            let place = (self.next.batch as u32, self.next.row as u32);
            let partners = self.partners(self.next.left_row);
            let taken = (partners.len() - self.next.partner).min(row_count - left.len());
            right.extend_from_slice(&partners[self.next.partner..self.next.partner + taken]);
            let is_done = self.next.partner + taken == partners.len();
            if partners.is_empty() && layout.may_lack_right {
                right.push(nulls[1]);
            }
            left.resize(right.len(), place);
            if is_done { self.step_left() } else { self.next.partner += taken }
        }
        while left.len() < row_count {
            let Some(place) = self.right_alone.pop() else { break };
            left.push(nulls[0]);
            right.push(place);
        }
        if left.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.put_together(layout, &left, &right)?))
    }

    fn step_left(&mut self) {
        self.next.left_row += 1;
        self.next.partner = 0;
        self.next.row += 1;
        if self.next.row == self.sides[0][self.next.batch].num_rows() {
            self.next.batch += 1;
            self.next.row = 0;
        }
    }

    fn put_together(&self, layout: &Layout, left: &[Place], right: &[Place]) -> Result<RecordBatch> {
        let indexes = |places: &[Place]| -> Vec<(usize, usize)> {
            places.iter().map(|(batch, row)| (*batch as usize, *row as usize)).collect()
        };
        let (left_indexes, right_indexes) = (indexes(left), indexes(right));
        let time =
            |time: i64| -> ArrayRef { Arc::new(EventTimeArray::from_value(time, left.len()).with_timezone("UTC")) };
        let column = |column: &Column| -> Result<ArrayRef> {
            Ok(match *column {
                Column::Left(index) => self.gather(layout, (0, index), &left_indexes)?,
                Column::Right(index) => self.gather(layout, (1, index), &right_indexes)?,
                Column::WindowStart => time(self.window.start),
                Column::WindowEnd => time(self.window.end),
                Column::WindowTime => time(self.window.end - 1),
            })
        };
        let columns = layout.columns.iter().map(column).collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(layout.output.clone(), columns)?)
    }

    fn gather(&self, layout: &Layout, (side, index): (usize, usize), rows: &[(usize, usize)]) -> Result<ArrayRef> {
        let no_row = new_null_array(layout.inputs[side].field(index).data_type(), 1);
        let batches = &self.sides[side];
        let mut columns: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(index).as_ref()).collect();
        columns.push(no_row.as_ref());
        Ok(interleave(&columns, rows)?)
    }
}

fn places(batches: &[RecordBatch]) -> impl Iterator<Item = Place> {
    let of_batch = |(batch, records): (usize, &RecordBatch)| {
        let rows = 0..records.num_rows() as u32;
        rows.map(move |row| (batch as u32, row))
    };
    batches.iter().enumerate().flat_map(of_batch)
}

fn number_keys(table: &mut KeyTable, batches: &[RecordBatch], columns: &[usize]) -> Result<Vec<u32>> {
    let mut numbers = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    let (mut hashes, mut ids) = (Vec::new(), Vec::new());
    for records in batches {
        let keys: Vec<ArrayRef> = columns.iter().map(|column| records.column(*column).clone()).collect();
        hash_columns(&keys, &mut hashes)?;
        table.intern(&keys, &hashes, &mut ids)?;
        for key in keys.iter().filter(|key| key.null_count() > 0) {
            (0..ids.len()).filter(|row| key.is_null(*row)).for_each(|row| ids[row] = NO_KEY);
        }
        numbers.extend_from_slice(&ids);
    }
    Ok(numbers)
}
