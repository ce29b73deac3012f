//! What window operators put into checkpoints: the layouts of their tables, shared by whole windows and both phases.
//!
//! `slices` and `sessions` are keyed and belong to the whole operator or its final phase, `local` to the local phase.
//! `windows` says by which windows the others are cut. A job may gain or lose its local phase when its parallelism
//! changes, so each part leaves the tables of the other alone, and the local phase reads how far the windows had come.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{ArrayRef, BooleanArray, Int64Array, StringArray};
use arrow_buffer::ScalarBuffer;
use arrow_schema::DataType;
use weir_core::EventTime;
use weir_core::batch::event_time_type;
use weir_core::key_hash::hash_columns;
use weir_graph::WindowSpec;
use weir_graph::window_schema::{SESSION_LAST, SESSION_START, SLICE_START};
use weir_operator_api::{OperatorContext, OperatorError, Result};
use weir_state::{KeyTable, StateTable};

use super::groups::Shape;
use super::rows::{Rows, Values};
use crate::state_rows::{Column, Layout, Restored, STATE_INCOMPATIBLE, StateRows, group_of};

/// What an engine knows about its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    key_group_count: u32,
    /// When the operator was made: results of restored rows count as that old.
    pub(crate) created_us: i64,
}

impl Place {
    pub(crate) fn of(context: &OperatorContext) -> Self {
        Place { key_group_count: context.key_group_count, created_us: context.clock.wall_unix_us() }
    }

    /// The key groups of some keys of a table.
    pub(crate) fn key_groups(&self, keys: &KeyTable, ids: &[u32]) -> Vec<u32> {
        keys.map_hashes(ids, |hash| group_of(hash, self.key_group_count))
    }

    /// The key groups of keys as columns; without columns there is one key.
    pub(crate) fn key_groups_of(&self, keys: &[ArrayRef], row_count: usize) -> Result<Vec<u32>> {
        let mut hashes = Vec::new();
        hash_columns(keys, &mut hashes)?;
        hashes.resize(row_count, 0);
        Ok(hashes.into_iter().map(|hash| group_of(hash, self.key_group_count)).collect())
    }
}

/// Groups by slice: keys, `slice_start`, partials.
pub(crate) fn slices(shape: &Shape) -> Layout {
    let start = Column::new(SLICE_START, event_time_type());
    Layout::keyed("slices", shape.key_columns().chain([start]).chain(shape.partial_columns()).collect())
}

/// Groups by session: keys, `session_start`, `session_last`, `is_fired`, partials.
pub(crate) fn sessions(shape: &Shape) -> Layout {
    let bounds = [SESSION_START, SESSION_LAST].map(|name| Column::new(name, event_time_type()));
    let is_fired = Column::new("is_fired", DataType::Boolean);
    let columns = shape.key_columns().chain(bounds).chain([is_fired]).chain(shape.partial_columns());
    Layout::keyed("sessions", columns.collect())
}

fn windows() -> Layout {
    let columns = vec![
        Column::new("windows", DataType::Utf8),
        Column::new("allowed_lateness_us", DataType::Int64),
        Column::new("watermark_unix_us", DataType::Int64),
    ];
    Layout::shared("windows", columns)
}

fn local() -> Layout {
    Layout::shared("local", vec![Column::new("was_idle", DataType::Boolean)])
}

impl Shape {
    fn key_columns(&self) -> impl Iterator<Item = Column> {
        Column::keys(self.key_names.iter().map(String::as_str).zip(&self.key_types))
    }

    /// The columns of all partials. Their names hold the function: the least of something must not go on as its greatest.
    fn partial_columns(&self) -> impl Iterator<Item = Column> {
        self.calls.iter().flat_map(|call| {
            let function = call.function.to_string().replace(' ', "-");
            let column = move |field: &arrow_schema::Field| {
                Column::added(format!("agg.{function}.{}", field.name()), field.data_type().clone())
            };
            call.partial_fields().iter().map(column).collect::<Vec<_>>()
        })
    }
}

/// The windows that state was cut by, and how far they have come.
pub(crate) fn windows_table(window: WindowSpec, allowed_lateness: i64, watermark: i64) -> Result<StateTable> {
    let name = match window {
        WindowSpec::Tumble { size, offset } => format!("tumble size {size} us, offset {offset} us"),
        WindowSpec::Hop { size, slide, offset } => format!("hop size {size} us, slide {slide} us, offset {offset} us"),
        WindowSpec::Cumulate { size, step, offset } => {
            format!("cumulate size {size} us, step {step} us, offset {offset} us")
        }
        WindowSpec::Session { gap } => format!("session gap {gap} us"),
        WindowSpec::Same => "same".to_owned(),
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![name])),
        Arc::new(Int64Array::from(vec![allowed_lateness])),
        Arc::new(Int64Array::from(vec![watermark])),
    ];
    windows().shared_table(columns)
}

/// Holds the windows of a checkpoint against those of the job.
///
/// **Errors**: `state-incompatible` when they differ: rows of one slice cannot be told apart again.
pub(crate) fn check_windows(restored: &mut Restored, own: &StateTable) -> Result<()> {
    restored.ignore(&local());
    let own = &own.batches[0];
    for rows in restored.take(&windows())? {
        let (names, latenesses) = (rows.columns[0].as_string::<i32>(), rows.columns[1].as_primitive::<Int64Type>());
        let (name, lateness) = (own.column(0).as_string::<i32>().value(0), own.column(1).as_primitive::<Int64Type>());
        for row in 0..rows.row_count {
            if names.value(row) != name || latenesses.value(row) != lateness.value(0) {
                let message = format!(
                    "the windows of the checkpoint ({}, allowed lateness {} us) are not those of the job ({name}, allowed \
                     lateness {} us)",
                    names.value(row),
                    latenesses.value(row),
                    lateness.value(0)
                );
                return Err(OperatorError::user(STATE_INCOMPATIBLE, message));
            }
        }
    }
    Ok(())
}

/// Reads keys, times and partials. Gives the rows, whose times are the first time column, and the last time column.
pub(crate) fn read_groups(rows: &StateRows, shape: &Shape, time_columns: usize) -> Result<(Rows, ScalarBuffer<i64>)> {
    let key_count = shape.key_types.len();
    let partial_count: usize = shape.calls.iter().map(|call| call.partial_fields().len()).sum();
    let times =
        |index: usize| rows.columns[key_count + index].as_primitive::<TimestampMicrosecondType>().values().clone();
    let partials = Values::Partials(rows.columns[rows.columns.len() - partial_count..].to_vec());
    Ok((Rows::new(rows.columns[..key_count].to_vec(), times(0), partials)?, times(time_columns - 1)))
}

/// What a local phase knows about how far the final phase may have come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progressed {
    /// Rows that this time closes go on as rows.
    pub(crate) watermark: i64,
    /// The watermark here says nothing about the final phase any more: all rows go on as rows.
    pub(crate) was_idle: bool,
}

impl Progressed {
    /// At the beginning of a job.
    pub(crate) fn none() -> Self {
        Progressed { watermark: i64::MIN, was_idle: false }
    }

    /// The state of a local phase.
    pub(crate) fn snapshot(&self) -> Result<Vec<StateTable>> {
        let was_idle: ArrayRef = Arc::new(BooleanArray::from(vec![self.was_idle]));
        Ok(vec![local().shared_table(vec![was_idle])?])
    }

    /// Goes on from a checkpoint. The windows' own watermark, where it is given, tells all; without it the flags of the
    /// subtasks count, and without those (there was no local phase) nothing is known.
    pub(crate) fn restore(shape: &Shape, tables: Vec<StateTable>, watermark: EventTime) -> Result<Self> {
        let mut restored = Restored::new(tables);
        let is_known = restored.has(&windows());
        let had_local = restored.has(&local());
        let mut progressed = Progressed { watermark: watermark.0, was_idle: !is_known && !had_local };
        for rows in restored.take(&windows())? {
            let reached = rows.columns[2].as_primitive::<Int64Type>().values().iter().max();
            progressed.watermark = progressed.watermark.max(reached.copied().unwrap_or(i64::MIN));
        }
        for rows in restored.take(&local())? {
            progressed.was_idle |= !is_known && rows.columns[0].as_boolean().true_count() > 0;
        }
        restored.ignore(&slices(shape));
        restored.ignore(&sessions(shape));
        restored.finish()?;
        Ok(progressed)
    }

    /// The watermark here has come so far.
    pub(crate) fn advance(&mut self, watermark: EventTime) {
        self.watermark = self.watermark.max(watermark.0);
    }
}

/// A snapshot was asked for between the pieces of a result.
pub(crate) fn while_emitting() -> OperatorError {
    OperatorError::internal("a barrier came before everything was emitted")
}
