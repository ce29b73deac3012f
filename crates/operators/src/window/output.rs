//! Builds result batches in the schema of [`weir_graph::window_schema::output_schema`].

use std::sync::Arc;

use arrow_array::{ArrayRef, Int8Array, RecordBatch};
use arrow_schema::SchemaRef;
use weir_core::ChangeKind;
use weir_core::batch::{EventTimeArray, is_changing};
use weir_operator_api::Result;

/// The bounds of a window, `[start, end)`. **Units**: microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Window {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// How results are written.
pub(crate) struct Results<'a> {
    pub(crate) schema: &'a SchemaRef,
    /// What the rows mean, where the schema says so.
    pub(crate) change: ChangeKind,
}

impl Results<'_> {
    /// Joins keys, windows and aggregates, row by row.
    pub(crate) fn batch(
        &self,
        keys: Vec<ArrayRef>,
        windows: impl ExactSizeIterator<Item = Window> + Clone,
        aggregates: Vec<ArrayRef>,
    ) -> Result<RecordBatch> {
        let rows = windows.len();
        let mut columns = keys;
        columns.push(times(windows.clone().map(|window| window.start)));
        columns.push(times(windows.clone().map(|window| window.end)));
        columns.push(times(windows.map(|window| window.end - 1)));
        columns.extend(aggregates);
        if is_changing(self.schema) {
            columns.push(Arc::new(Int8Array::from_value(self.change as i8, rows)));
        }
        Ok(RecordBatch::try_new(Arc::clone(self.schema), columns)?)
    }
}

/// A column of event times.
pub(crate) fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(EventTimeArray::from_iter_values(values).with_timezone("UTC"))
}
