//! State tables as the sections of state objects: rows in the order they are kept in, cut into pieces, each an Arrow IPC
//! stream of its own, packed (see `packed`). Runs beside the stream.
//!
//! Rows are not sorted by key group. A subtask of the same parallelism takes all of them back; at another one it reads the
//! sections of the old subtasks it shares key groups with, and leaves out what is not its own.

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::ArrowError;
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use bytes::Bytes;
use weir_checkpoint::CheckpointError;
use weir_checkpoint::state_object::SectionHeader;
use weir_core::KeyGroupRange;
use weir_state::StateScope;
use weir_state::state_table::KEY_GROUP_COLUMN;

use super::objects::{Objects, Place};
use super::packed;
use crate::error::TaskError;

/// What a section takes beside its rows, about. **Units**: bytes.
const SCHEMA_BYTES: usize = 4096;
/// Code of state that cannot be written or read.
pub const STATE_ENCODING: &str = "state-encoding";

/// Appends rows of a table to objects; gives the places of their sections. Many small batches become few sections.
///
/// **Errors**: rows that Arrow cannot write, or an upload that has failed.
pub fn append(
    table: &str,
    scope: StateScope,
    batches: Vec<RecordBatch>,
    objects: &mut Objects,
) -> Result<Vec<Place>, TaskError> {
    let rows = match batches.as_slice() {
        [] => return Ok(Vec::new()),
        [rows] => rows.clone(),
        [first, ..] => concat_batches(first.schema_ref(), &batches).map_err(|error| encoding(table, &error))?,
    };
    drop(batches);
    let groups = match scope {
        StateScope::Keyed => Some(key_groups(table, &rows)?.values()),
        StateScope::Shared => None,
    };
    let row_bytes = rows.get_array_memory_size().div_ceil(rows.num_rows().max(1)).max(1);
    let piece_rows = (objects.section_bytes() / row_bytes).max(1);
    let mut sections = Vec::new();
    for start in (0..rows.num_rows()).step_by(piece_rows) {
        let count = piece_rows.min(rows.num_rows() - start);
        let of_piece = groups.map_or(&[][..], |groups| &groups[start..start + count]);
        let (least, greatest) =
            of_piece.iter().fold((u32::MAX, 0), |(least, greatest), group| (least.min(*group), greatest.max(*group)));
        let header = SectionHeader {
            table: table.to_owned(),
            rows: count as u64,
            first_key_group: least.min(greatest),
            last_key_group: greatest,
        };
        let piece = rows.slice(start, count);
        let write = |buffer: &mut Vec<u8>| packed::write(&piece, buffer).map_err(|error| encoding(table, &error));
        sections.push(objects.append(header, count * row_bytes + SCHEMA_BYTES, write)?);
    }
    Ok(sections)
}

/// The rows of one section that belong to these key groups; all of a shared table.
///
/// **Errors**: a payload that is no such stream.
pub fn read(
    table: &str,
    payload: &Bytes,
    scope: StateScope,
    range: KeyGroupRange,
) -> Result<Option<RecordBatch>, TaskError> {
    let failed = |error: ArrowError| encoding(table, &error);
    let Some(rows) = packed::read(payload).map_err(failed)? else { return Ok(None) };
    if scope == StateScope::Shared {
        return Ok(Some(rows));
    }
    let groups = key_groups(table, &rows)?;
    let is_own = |group: &u32| (range.start..range.end).contains(group);
    let own: UInt32Array =
        (0..).zip(groups.values()).filter(|(_, group)| is_own(group)).map(|(row, _): (u32, _)| row).collect();
    if own.len() == rows.num_rows() {
        return Ok(Some(rows));
    }
    if own.is_empty() {
        return Ok(None);
    }
    take_record_batch(&rows, &own).map(Some).map_err(failed)
}

fn key_groups<'a>(table: &str, rows: &'a RecordBatch) -> Result<&'a UInt32Array, TaskError> {
    let is_named = rows.schema_ref().fields().first().is_some_and(|field| field.name() == KEY_GROUP_COLUMN);
    let groups = is_named.then(|| rows.column(0).as_primitive_opt::<UInt32Type>()).flatten();
    groups.ok_or_else(|| TaskError::internal(STATE_ENCODING, format!("table '{table}' does not begin with key groups")))
}

/// State that Arrow cannot write or read.
pub fn encoding(table: &str, error: &ArrowError) -> TaskError {
    TaskError::internal(STATE_ENCODING, format!("state table '{table}': {error}"))
}

/// A failure of the checkpoint store as that of a task.
pub fn of_store(error: &CheckpointError) -> TaskError {
    TaskError {
        code: error.code(),
        domain: error.domain(),
        chain: weir_core::error::chain(error),
        operator: None,
        suspects: None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use proptest::prelude::*;
    use weir_checkpoint::state_object::read_object;
    use weir_state::StateTable;

    use super::*;
    use crate::snapshot::buffers::ObjectBuffers;

    fn table(groups: &[u32]) -> StateTable {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..groups.len() as i64));
        let texts: ArrayRef =
            Arc::new(StringArray::from_iter_values(groups.iter().map(|group| format!("of group {group}"))));
        StateTable::keyed("t", 1, groups.to_vec(), vec![("n", numbers), ("text", texts)]).expect("one length")
    }

    fn numbers(rows: &RecordBatch) -> Vec<i64> {
        rows.column(1).as_primitive::<arrow_array::types::Int64Type>().values().to_vec()
    }

    fn append_table(table: &StateTable, objects: &mut Objects) -> Vec<Place> {
        append(&table.name, table.scope, table.batches.clone(), objects).expect("it can be written")
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn large_tables_are_cut_into_sections_and_objects() {
        let groups: Vec<u32> = (0..200_000).map(|n| n * 7919 % 128).collect();
        let runtime = runtime();
        let (mut objects, mut full) = Objects::new(ObjectBuffers::new(2 << 20, 2), runtime.handle().clone());
        let (sections, seen) = std::thread::scope(|scope| {
            let uploads = scope.spawn(move || {
                let mut seen = Vec::new();
                while let Some(object) = full.blocking_recv() {
                    assert!(object.len_bytes() <= 2 << 20);
                    seen.push(object.finish("x").1);
                }
                seen
            });
            let sections = append_table(&table(&groups), &mut objects);
            objects.finish().expect("nothing failed");
            (sections, uploads.join().expect("the uploads end"))
        });
        assert!(sections.len() > 3 && seen.len() > 1);
        let sections: Vec<_> = sections.iter().map(|place| &seen[place.object][place.section]).collect();
        assert_eq!(sections.iter().map(|section| section.rows).sum::<u64>(), 200_000);
        assert!(sections.iter().all(|section| (section.first_key_group, section.last_key_group) == (0, 127)));
    }

    proptest! {
        /// Carries c4 of the failure list: at any parallelism every row comes back exactly once, to the owner of its
        /// key group.
        #[test]
        fn c4_every_row_comes_back_to_one_owner(groups in prop::collection::vec(0u32..16, 1..200), parallelism in 1u32..6) {
            let table = table(&groups);
            let runtime = runtime();
            let (mut objects, mut full) = Objects::new(ObjectBuffers::new(1 << 20, 2), runtime.handle().clone());
            append_table(&table, &mut objects);
            objects.finish().expect("nothing failed");
            let (bytes, _) = full.try_recv().expect("one object").finish("x");
            let mut seen = vec![0; groups.len()];
            for subtask in 0..parallelism {
                let range = KeyGroupRange::of_subtask(subtask, parallelism, 16);
                for (header, payload) in read_object(&bytes, "x").expect("it is whole") {
                    let rows = read(&header.table, &payload, StateScope::Keyed, range).expect("it can be read");
                    for n in rows.iter().flat_map(numbers) {
                        prop_assert!((range.start..range.end).contains(&groups[n as usize]));
                        seen[n as usize] += 1;
                    }
                }
            }
            prop_assert!(seen.iter().all(|count| *count == 1));
        }
    }
}
