//! What one channel had in flight, as the payload of a section. A disk format, numbers little-endian:
//! ```text
//! number of elements (u32) · element · element ... · Arrow IPC stream of the batches, in order; absent without batches
//! element   kind (u8: 1 rows, 2 watermark) · microseconds (i64: when the oldest row entered the job; the watermark)
//! ```
//! Golden bytes are in the tests.

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, SchemaRef};
use bytes::{Buf, Bytes};
use weir_core::{Batch, EventTime, StreamElement};

use super::encode::STATE_ENCODING;
use crate::error::TaskError;
use crate::input::Carried;

/// Name of the sections that hold elements in flight. No table of an operator is named so.
pub const IN_FLIGHT_TABLE: &str = "~in-flight";

const ROWS: u8 = 1;
const WATERMARK: u8 = 2;
const ELEMENT_BYTES: usize = 9;

/// Writes the elements of a channel.
///
/// **Errors**: a frame that cannot be read, rows that Arrow cannot write.
pub fn encode(elements: Vec<Carried>, schema: &SchemaRef) -> Result<Vec<u8>, TaskError> {
    let count = u32::try_from(elements.len()).map_err(|_| wrong("too many elements"))?;
    let mut bytes = Vec::with_capacity(4 + elements.len() * ELEMENT_BYTES);
    bytes.extend(count.to_le_bytes());
    let mut batches = Vec::new();
    for element in elements {
        let (kind, time) = match element.read(schema)? {
            StreamElement::Batch(batch) => {
                batches.push(batch.records);
                (ROWS, batch.origin_us)
            }
            StreamElement::Watermark(watermark) => (WATERMARK, watermark.0),
            other => return Err(wrong(&format!("{other:?} is not kept"))),
        };
        bytes.push(kind);
        bytes.extend(time.to_le_bytes());
    }
    if let Some(first) = batches.first() {
        let mut stream = StreamWriter::try_new(bytes, first.schema_ref()).map_err(failed)?;
        for batch in &batches {
            stream.write(batch).map_err(failed)?;
        }
        bytes = stream.into_inner().map_err(failed)?;
    }
    Ok(bytes)
}

/// Reads what [`encode`] wrote; `schema` is that of the edge now.
///
/// **Errors**: other bytes, or rows of another schema.
pub fn decode(mut payload: Bytes, schema: &SchemaRef) -> Result<Vec<StreamElement>, TaskError> {
    let count = payload.try_get_u32_le().map_err(|_| wrong("it is cut"))? as usize;
    if count.saturating_mul(ELEMENT_BYTES) > payload.len() {
        return Err(wrong("it is cut"));
    }
    let mut heads = payload.split_to(count * ELEMENT_BYTES);
    let mut stream = match payload.is_empty() {
        true => None,
        false => Some(StreamReader::try_new(payload.as_ref(), None).map_err(failed)?),
    };
    if stream.as_ref().is_some_and(|stream| stream.schema().fields() != schema.fields()) {
        return Err(wrong("the columns of the edge are not those it was written with"));
    }
    let mut elements = Vec::with_capacity(count);
    for _ in 0..count {
        let (kind, time) = (heads.get_u8(), heads.get_i64_le());
        elements.push(match kind {
            ROWS => {
                let rows = stream.as_mut().and_then(Iterator::next).ok_or_else(|| wrong("rows are missing"))?;
                // The edge's own schema: what is said of columns beside their types is the plan's.
                let columns = rows.map_err(failed)?.columns().to_vec();
                let records = RecordBatch::try_new(SchemaRef::clone(schema), columns).map_err(failed)?;
                StreamElement::Batch(Batch::new(records, time))
            }
            WATERMARK => StreamElement::Watermark(EventTime(time)),
            kind => return Err(wrong(&format!("an element of kind {kind}"))),
        });
    }
    match stream.and_then(|mut stream| stream.next()) {
        None => Ok(elements),
        Some(_) => Err(wrong("there are more rows than it says")),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err calls")]
fn failed(error: ArrowError) -> TaskError {
    wrong(&error.to_string())
}

fn wrong(reason: &str) -> TaskError {
    TaskError::internal(STATE_ENCODING, format!("elements in flight: {reason}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array};
    use proptest::prelude::*;
    use weir_core::{EdgeId, SubtaskIndex};

    use super::*;
    use crate::exchange::{ChannelKey, frame};

    fn rows(numbers: &[i64]) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        RecordBatch::try_from_iter([("n", column)]).expect("one column")
    }

    fn shown(elements: &[StreamElement]) -> String {
        format!("{elements:?}")
    }

    #[test]
    fn bytes_stay_what_they_are() {
        let schema = rows(&[]).schema();
        let watermark = Carried::Element(StreamElement::Watermark(EventTime(-2)));
        let bytes = encode(vec![watermark], &schema).expect("it can be written");
        assert_eq!(bytes, [1, 0, 0, 0, 2, 254, 255, 255, 255, 255, 255, 255, 255]);
        let batch = Carried::Element(StreamElement::Batch(Batch::new(rows(&[1, 2]), 5)));
        let bytes = encode(vec![batch], &schema).expect("it can be written");
        assert_eq!(bytes[..13], [1, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[13..17], [255; 4], "an Arrow IPC stream follows");
    }

    #[test]
    fn rows_of_other_columns_are_refused() {
        let batch = Carried::Element(StreamElement::Batch(Batch::new(rows(&[1]), 0)));
        let bytes = encode(vec![batch], &rows(&[]).schema()).expect("it can be written");
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let other = RecordBatch::try_from_iter([("m", column)]).expect("one column").schema();
        assert!(decode(bytes.into(), &other).is_err());
    }

    proptest! {
        /// Carries c1 of the failure list: every element comes back, in order, from memory or from the wire.
        #[test]
        fn c1_elements_come_back_in_order(
            elements in prop::collection::vec((prop::option::of(prop::collection::vec(any::<i64>(), 1..20)), any::<i64>(), any::<bool>()), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let schema = rows(&[]).schema();
            let element = |(numbers, time, _): &(Option<Vec<i64>>, i64, bool)| match numbers {
                Some(numbers) => StreamElement::Batch(Batch::new(rows(numbers), *time)),
                None => StreamElement::Watermark(EventTime(*time)),
            };
            let expected: Vec<StreamElement> = elements.iter().map(element).collect();
            let key = ChannelKey { edge: EdgeId(0), source: SubtaskIndex(0), target: SubtaskIndex(0) };
            let carried = expected.iter().zip(&elements).map(|(element, (_, _, is_remote))| match is_remote {
                true => Carried::Encoded(Box::new(frame::encode(key, 0, element).expect("a frame"))),
                false => Carried::Element(element.clone()),
            });
            let bytes = encode(carried.collect(), &schema).expect("it can be written");
            let back = decode(Bytes::from(bytes.clone()), &schema).expect("it can be read");
            prop_assert_eq!(shown(&back), shown(&expected));
            // A section is verified before it comes here; what is cut all the same is an error, or says less, no panic.
            let _ = decode(Bytes::from(bytes).slice(..cut.index(4 + elements.len() * ELEMENT_BYTES)), &schema);
        }
    }
}
