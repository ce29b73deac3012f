//! Rows as bytes for the state store: one batch as an Arrow IPC stream. Scratch of one process, no format that lasts.

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::ArrowError;

/// The bytes of a batch.
///
/// **Errors**: only types that Arrow cannot write.
pub fn encode(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut stream = StreamWriter::try_new(Vec::with_capacity(rows.get_array_memory_size()), rows.schema_ref())?;
    stream.write(rows)?;
    stream.into_inner()
}

/// The batch behind some bytes.
///
/// **Errors**: bytes that [`encode`] did not make.
pub fn decode(bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
    let mut stream = StreamReader::try_new(bytes, None)?;
    stream.next().unwrap_or_else(|| Err(ArrowError::IpcError("no rows where state was put".to_owned())))
}
