//! Stream elements as frames of the wire. Rows travel as Arrow IPC; the schema is the edge's and does not travel.
//! Frames come from the network: whatever they hold gives an error, never a panic or a huge allocation.

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::RecordBatchDecoder;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_ipc::{MessageHeader, root_as_message};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use weir_core::CheckpointId;
use weir_core::element::{Barrier, Passage};
use weir_core::{Batch, EdgeId, EventTime, StreamElement, SubtaskIndex};
use weir_proto::v1::{self, FencingToken, Frame, FrameKind};

use super::channel::ChannelKey;
use super::credit::ELEMENT_BYTES;
use crate::error::{EXCHANGE_FRAME, TaskError};

/// Most rows of one frame; far above what a writer sends, far below what would hurt.
pub const FRAME_ROWS_MAX: i64 = 16 * 1024 * 1024;
/// Largest message of the exchange. A batch is about 256 KiB; only rows of megabytes each come near.
pub const FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The first frame of a stream.
pub fn hello(token: FencingToken) -> Frame {
    Frame { kind: FrameKind::Hello as i32, token: Some(token), ..Frame::default() }
}

/// What a frame costs in credits; both sides count by it.
pub fn cost(frame: &Frame) -> usize {
    frame.header.len() + frame.body.len() + ELEMENT_BYTES
}

/// The channel a frame belongs to.
pub fn channel_of(frame: &Frame) -> ChannelKey {
    ChannelKey {
        edge: EdgeId(frame.edge_id),
        source: SubtaskIndex(frame.source_subtask_index),
        target: SubtaskIndex(frame.target_subtask_index),
    }
}

/// Writes an element as the frame number `sequence` of its channel.
///
/// **Errors**: a column type that Arrow cannot write; refused at submission, so a running job never sees it.
pub fn encode(channel: ChannelKey, sequence: u64, element: &StreamElement) -> Result<Frame, TaskError> {
    let mut frame = Frame {
        edge_id: channel.edge.0,
        source_subtask_index: channel.source.0,
        target_subtask_index: channel.target.0,
        sequence,
        ..Frame::default()
    };
    let kind = match element {
        StreamElement::Batch(batch) => {
            frame.time_unix_us = batch.origin_us;
            (frame.header, frame.body) = encode_rows(&batch.records)?;
            FrameKind::Batch
        }
        StreamElement::Watermark(watermark) => {
            frame.time_unix_us = watermark.0;
            FrameKind::Watermark
        }
        StreamElement::Barrier(barrier) => {
            frame.checkpoint_id = barrier.checkpoint.0;
            frame.passage = match barrier.passage {
                Passage::Waits => v1::Passage::Waits,
                Passage::MayOvertake => v1::Passage::MayOvertake,
                Passage::Overtakes => v1::Passage::Overtakes,
            }
            .into();
            FrameKind::Barrier
        }
        StreamElement::Idle => FrameKind::Idle,
        StreamElement::Active => FrameKind::Active,
        StreamElement::EndOfInput => FrameKind::EndOfInput,
    };
    frame.kind = kind as i32;
    Ok(frame)
}

fn encode_rows(records: &RecordBatch) -> Result<(Bytes, Bytes), TaskError> {
    // A fresh context per batch: its body is handed to the network and cannot be reused anyway.
    let (dictionaries, rows) = IpcDataGenerator::default()
        .encode(
            records,
            &mut DictionaryTracker::new(false),
            &IpcWriteOptions::default(),
            &mut IpcWriteContext::default(),
        )
        .map_err(|error| TaskError::internal(EXCHANGE_FRAME, format!("cannot write rows for the network: {error}")))?;
    if !dictionaries.is_empty() {
        return Err(TaskError::internal(EXCHANGE_FRAME, "dictionary columns cannot cross an exchange"));
    }
    Ok((Bytes::from(rows.ipc_message), Bytes::from(rows.arrow_data)))
}

/// Reads an element; `schema` is that of the channel's edge.
///
/// **Errors**: anything that is not what an equal worker would have sent.
pub fn decode(frame: Frame, schema: &SchemaRef) -> Result<StreamElement, TaskError> {
    match FrameKind::try_from(frame.kind) {
        Ok(FrameKind::Batch) => {
            let records = decode_rows(&frame.header, frame.body, schema)?;
            Ok(StreamElement::Batch(Batch::new(records, frame.time_unix_us)))
        }
        Ok(FrameKind::Watermark) => Ok(StreamElement::Watermark(EventTime(frame.time_unix_us))),
        Ok(FrameKind::Barrier) => barrier_of(&frame).map(StreamElement::Barrier),
        Ok(FrameKind::Idle) => Ok(StreamElement::Idle),
        Ok(FrameKind::Active) => Ok(StreamElement::Active),
        Ok(FrameKind::EndOfInput) => Ok(StreamElement::EndOfInput),
        Ok(FrameKind::Hello | FrameKind::Unspecified) | Err(_) => {
            Err(wrong(format!("a frame of kind {} within a stream", frame.kind)))
        }
    }
}

/// The barrier that a frame of that kind carries.
///
/// **Errors**: a passage that does not exist.
pub fn barrier_of(frame: &Frame) -> Result<Barrier, TaskError> {
    let passage = match v1::Passage::try_from(frame.passage) {
        Ok(v1::Passage::Waits) => Passage::Waits,
        Ok(v1::Passage::MayOvertake) => Passage::MayOvertake,
        Ok(v1::Passage::Overtakes) => Passage::Overtakes,
        Ok(v1::Passage::Unspecified) | Err(_) => {
            return Err(wrong(format!("a barrier of passage {}", frame.passage)));
        }
    };
    Ok(Barrier { checkpoint: CheckpointId(frame.checkpoint_id), passage })
}

fn wrong(reason: String) -> TaskError {
    TaskError::internal(EXCHANGE_FRAME, format!("data from another worker cannot be read: {reason}"))
}

fn decode_rows(header: &[u8], body: Bytes, schema: &SchemaRef) -> Result<RecordBatch, TaskError> {
    // Arrow's reader checks types, lengths and text, but slices buffers by their stated place without looking, and
    // panics on some impossible layouts; the places are checked here, and what is left of panics is caught.
    let read = std::panic::AssertUnwindSafe(|| read_rows(header, body, schema));
    match std::panic::catch_unwind(read) {
        Ok(result) => result,
        Err(_) => Err(wrong("its layout is impossible".to_owned())),
    }
}

fn read_rows(header: &[u8], body: Bytes, schema: &SchemaRef) -> Result<RecordBatch, TaskError> {
    let message = root_as_message(header).map_err(|error| wrong(format!("its header is broken: {error}")))?;
    if message.header_type() != MessageHeader::RecordBatch {
        return Err(wrong("it is not a record batch".to_owned()));
    }
    let rows = message.header_as_record_batch().ok_or_else(|| wrong("it holds no record batch".to_owned()))?;
    if rows.compression().is_some() {
        return Err(wrong("it is compressed".to_owned()));
    }
    if !(1..=FRAME_ROWS_MAX).contains(&rows.length()) {
        return Err(wrong(format!("it claims {} rows", rows.length())));
    }
    for node in rows.nodes().into_iter().flatten() {
        // A nested list holds more values than rows, yet never more than there are bits in the body, save for nulls.
        if node.length() < 0 || node.null_count() < 0 || node.null_count() > node.length() {
            return Err(wrong("it claims an impossible number of values".to_owned()));
        }
    }
    for buffer in rows.buffers().into_iter().flatten() {
        let end = buffer.offset().checked_add(buffer.length());
        if buffer.offset() < 0 || buffer.length() < 0 || end.is_none_or(|end| end as u64 > body.len() as u64) {
            return Err(wrong("a column lies outside of the frame".to_owned()));
        }
    }
    let body = Buffer::from(body);
    let dictionaries = Default::default();
    let version = message.version();
    RecordBatchDecoder::try_new(&body, rows, schema.clone(), &dictionaries, &version)
        .and_then(RecordBatchDecoder::read_record_batch)
        .map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};
    use arrow_schema::{DataType, Field, Schema};
    use proptest::prelude::*;

    use super::*;

    fn rows(count: i64) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8, true)]);
        let numbers: Int64Array = (0..count).map(|n| (n % 3 > 0).then_some(n)).collect();
        let texts: StringArray = (0..count).map(|n| (n % 5 > 0).then(|| format!("text {n}"))).collect();
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(numbers), Arc::new(texts)]).expect("columns fit")
    }

    fn channel() -> ChannelKey {
        ChannelKey { edge: EdgeId(1), source: SubtaskIndex(2), target: SubtaskIndex(3) }
    }

    #[test]
    fn rows_survive_the_wire_also_as_a_slice() {
        let records = rows(1000).slice(13, 500);
        let frame = encode(channel(), 7, &StreamElement::Batch(Batch::new(records.clone(), 42))).expect("encodes");
        assert_eq!((channel_of(&frame), frame.sequence), (channel(), 7));
        match decode(frame, &records.schema()).expect("decodes") {
            StreamElement::Batch(batch) => {
                assert_eq!(batch.records, records);
                assert_eq!(batch.origin_us, 42);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn control_elements_survive_the_wire() {
        for element in [
            StreamElement::Watermark(EventTime(-5)),
            StreamElement::Watermark(EventTime::MAX),
            StreamElement::Barrier(Barrier { checkpoint: CheckpointId(9), passage: Passage::Waits }),
            StreamElement::Barrier(Barrier { checkpoint: CheckpointId(9), passage: Passage::MayOvertake }),
            StreamElement::Barrier(Barrier { checkpoint: CheckpointId(10), passage: Passage::Overtakes }),
            StreamElement::Idle,
            StreamElement::Active,
            StreamElement::EndOfInput,
        ] {
            let frame = encode(channel(), 0, &element).expect("encodes");
            let back = decode(frame, &rows(0).schema()).expect("decodes");
            assert_eq!(format!("{back:?}"), format!("{element:?}"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Hostile frames: bytes flipped and cut anywhere give rows or an error, never a panic.
        #[test]
        fn broken_frames_are_errors(at in 0usize..2000, value in any::<u8>(), cut in 0usize..4000) {
            let records = rows(50);
            let frame = encode(channel(), 0, &StreamElement::Batch(Batch::new(records.clone(), 0))).expect("encodes");
            let (mut header, mut body) = (frame.header.to_vec(), frame.body.to_vec());
            if at < header.len() { header[at] = value } else if at - header.len() < body.len() { body[at - header.len()] = value }
            body.truncate(body.len().saturating_sub(cut.saturating_sub(2000)));
            let broken = Frame { header: header.into(), body: body.into(), ..frame };
            if let Ok(StreamElement::Batch(batch)) = decode(broken, &records.schema()) {
                prop_assert!(batch.num_rows() as i64 <= FRAME_ROWS_MAX);
            }
        }
    }

    #[test]
    fn wrong_schema_is_an_error() {
        let frame = encode(channel(), 0, &StreamElement::Batch(Batch::new(rows(5), 0))).expect("encodes");
        let other = Schema::new(vec![Field::new("a", DataType::Utf8, false), Field::new("b", DataType::Utf8, false)]);
        let error = decode(frame, &Arc::new(other)).expect_err("the columns do not fit");
        assert_eq!(error.code, EXCHANGE_FRAME);
    }
}
