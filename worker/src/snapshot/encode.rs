//! State tables as the sections of state objects: rows sorted by key group, cut into pieces, each an Arrow IPC stream of
//! its own. Runs beside the stream. A disk format: a section's payload is an IPC stream with one batch, its schema the
//! table's; golden bytes are in the tests.

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{RecordBatch, UInt32Array};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::ArrowError;
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use bytes::Bytes;
use weir_checkpoint::state_object::SectionHeader;
use weir_checkpoint::{CheckpointError, StateObjectWriter};
use weir_core::KeyGroupRange;
use weir_state::state_table::KEY_GROUP_COLUMN;
use weir_state::{StateScope, StateTable};

use crate::error::TaskError;

/// Bytes of rows in one section, about.
const SECTION_BYTES: usize = 2 << 20;
/// Code of state that cannot be written or read.
pub const STATE_ENCODING: &str = "state-encoding";

/// Appends the rows of a table; gives the numbers of its sections.
///
/// **Errors**: rows that Arrow cannot write.
pub fn append(table: &StateTable, object: &mut StateObjectWriter) -> Result<Vec<usize>, TaskError> {
    let Some(first) = table.batches.first() else { return Ok(Vec::new()) };
    let rows = concat_batches(first.schema_ref(), &table.batches).map_err(|error| encoding(&table.name, &error))?;
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let groups = match table.scope {
        StateScope::Keyed => Some(key_groups(&table.name, &rows)?),
        StateScope::Shared => None,
    };
    let order = groups.map(sorted);
    let row_bytes = rows.get_array_memory_size().div_ceil(rows.num_rows()).max(1);
    let piece_rows = (SECTION_BYTES / row_bytes).max(1);
    let mut sections = Vec::new();
    for start in (0..rows.num_rows()).step_by(piece_rows) {
        let count = piece_rows.min(rows.num_rows() - start);
        let (piece, first_key_group, last_key_group) = match (&order, groups) {
            (Some(order), Some(groups)) => {
                let indexes = order.slice(start, count);
                let (first, last) = (indexes.value(0) as usize, indexes.value(count - 1) as usize);
                let piece = take_record_batch(&rows, &indexes).map_err(|error| encoding(&table.name, &error))?;
                (piece, groups.value(first), groups.value(last))
            }
            _ => (rows.slice(start, count), 0, 0),
        };
        let payload = to_ipc(&piece).map_err(|error| encoding(&table.name, &error))?;
        let header = SectionHeader { table: table.name.clone(), rows: count as u64, first_key_group, last_key_group };
        sections.push(object.append(header, &payload).map_err(|error| of_store(&error))?);
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
    let mut stream = StreamReader::try_new(payload.as_ref(), None).map_err(failed)?;
    let Some(rows) = stream.next().transpose().map_err(failed)? else { return Ok(None) };
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

/// Row numbers in the order of key groups, stable: a counting sort.
fn sorted(groups: &UInt32Array) -> UInt32Array {
    let values = groups.values();
    let count = values.iter().max().map_or(0, |greatest| *greatest as usize + 1);
    let mut starts = vec![0u32; count + 1];
    values.iter().for_each(|group| starts[*group as usize + 1] += 1);
    (1..starts.len()).for_each(|group| starts[group] += starts[group - 1]);
    let mut order = vec![0u32; values.len()];
    for (row, group) in (0u32..).zip(values.iter()) {
        let place = &mut starts[*group as usize];
        order[*place as usize] = row;
        *place += 1;
    }
    order.into()
}

fn to_ipc(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut stream = StreamWriter::try_new(Vec::new(), rows.schema_ref())?;
    stream.write(rows)?;
    stream.into_inner()
}

fn encoding(table: &str, error: &ArrowError) -> TaskError {
    TaskError::internal(STATE_ENCODING, format!("state table '{table}': {error}"))
}

/// A failure of the checkpoint store as that of a task.
pub fn of_store(error: &CheckpointError) -> TaskError {
    TaskError { code: error.code(), domain: error.domain(), chain: weir_core::error::chain(error), operator: None }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use proptest::prelude::*;
    use weir_checkpoint::state_object::read_object;

    use super::*;

    fn table(groups: &[u32]) -> StateTable {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..groups.len() as i64));
        let texts: ArrayRef =
            Arc::new(StringArray::from_iter_values(groups.iter().map(|group| format!("of group {group}"))));
        StateTable::keyed("t", 1, groups.to_vec(), vec![("n", numbers), ("text", texts)]).expect("one length")
    }

    fn numbers(rows: &RecordBatch) -> Vec<i64> {
        rows.column(1).as_primitive::<arrow_array::types::Int64Type>().values().to_vec()
    }

    #[test]
    fn large_tables_are_cut_into_sections_by_key_group() {
        let groups: Vec<u32> = (0..200_000).map(|n| n * 7919 % 128).collect();
        let mut object = StateObjectWriter::new();
        let sections = append(&table(&groups), &mut object).expect("it can be written");
        let (_, references) = object.finish("x");
        assert!(sections.len() > 3 && sections == (0..references.len()).collect::<Vec<_>>());
        assert!(references.windows(2).all(|pair| pair[0].last_key_group <= pair[1].first_key_group));
        assert_eq!((references[0].first_key_group, references[sections.len() - 1].last_key_group), (0, 127));
    }

    proptest! {
        /// Carries c4 of the failure list: at any parallelism every row comes back exactly once, to the owner of its
        /// key group.
        #[test]
        fn c4_every_row_comes_back_to_one_owner(groups in prop::collection::vec(0u32..16, 1..200), parallelism in 1u32..6) {
            let table = table(&groups);
            let mut object = StateObjectWriter::new();
            append(&table, &mut object).expect("it can be written");
            let (bytes, _) = object.finish("x");
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
