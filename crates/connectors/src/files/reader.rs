//! Reads the splits of one subtask, one after the other: blocks in, batches out. Runs in the task; reading and
//! decompressing happen elsewhere (`blocks.rs`), decoding happens here.

use std::collections::VecDeque;

use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch, cast::AsArray};
use arrow_schema::DataType;
use async_trait::async_trait;
use weir_core::{Batch, SplitIndex};
use weir_operator_api::{BadRecord, OperatorError, ReaderContext, Result, SourceEvent, SourceReader, Split};

use crate::files::blocks::{Block, BlockOptions, Blocks, Framing};
use crate::files::compression::Compression;
use crate::files::enumerate::FilePiece;
use crate::files::settings::{Format, SourceSettings, SplitDecoder};
use crate::format::{BAD_TEXTS_MAX, BadText, Place};
use crate::pace::Pacer;

/// Code of lines that are too long.
const CODE_TOO_LONG: &str = "bad-record-too-long";

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the splits of one subtask in their order.
pub struct Reader {
    settings: SourceSettings,
    context: ReaderContext,
    waiting: VecDeque<(SplitIndex, FilePiece)>,
    first_split: Option<SplitIndex>,
    current: Option<OpenSplit>,
    /// Decoded rows that wait for their time, from row `.2` on.
    paced: Option<(SplitIndex, RecordBatch, usize)>,
    ready: VecDeque<SourceEvent>,
    pacer: Pacer,
}

/// The split being read.
struct OpenSplit {
    index: SplitIndex,
    piece: FilePiece,
    blocks: Blocks,
    decoder: SplitDecoder,
    block: Block,
    place: Place,
    expects_header: bool,
    bad: Vec<BadRecord>,
}

impl Reader {
    /// A reader of the splits of `context`.
    ///
    /// **Errors**: internal only; files are opened when they are read.
    pub fn new(settings: SourceSettings, context: ReaderContext) -> Result<Self> {
        let pieces = context.splits.iter().map(|split| Ok((split.index, FilePiece::of_value(&split.description)?)));
        let mut waiting = pieces.collect::<Result<Vec<_>>>()?;
        waiting.sort_by_key(|(index, _)| *index);
        Ok(Reader {
            pacer: settings.pace.pacer(&context),
            first_split: waiting.first().map(|(index, _)| *index),
            waiting: waiting.into(),
            settings,
            context,
            current: None,
            paced: None,
            ready: VecDeque::new(),
        })
    }

    fn open(&self, index: SplitIndex, piece: FilePiece) -> Result<OpenSplit> {
        let framing = match &self.settings.format {
            Format::Csv { options, .. } if options.quoted_newlines => {
                Framing::QuotedCsv { delimiter: options.delimiter }
            }
            _ => Framing::Lines,
        };
        let compression: Compression = self.settings.compression_of(piece.path.as_ref());
        let options = BlockOptions {
            piece: piece.clone(),
            compression,
            framing,
            has_header: self.settings.format.has_header(),
            line_bytes_max: self.settings.line_bytes_max,
        };
        Ok(OpenSplit {
            index,
            blocks: Blocks::start(options),
            decoder: self.settings.decoder()?,
            block: Block::default(),
            place: Place::default(),
            expects_header: self.settings.format.has_header(),
            bad: Vec::new(),
            piece,
        })
    }

    /// Reads on in the current split until there is something to give.
    async fn advance(&mut self) -> Result<()> {
        let rows_max = self.context.batch_rows.max(1);
        let Some(split) = &mut self.current else { return Ok(()) };
        let is_finished = split.read(rows_max).await?;
        if !split.bad.is_empty() {
            self.ready.push_back(SourceEvent::Bad(std::mem::take(&mut split.bad)));
        }
        let index = split.index;
        let decoder = split.decoder.get();
        let rows = decoder.rows();
        if rows > 0 && (is_finished || rows >= rows_max || decoder.is_large()) {
            self.paced = Some((index, decoder.take()?, 0));
        }
        if is_finished {
            self.current = None;
            // The rows in `paced` go first: `next` looks there before it looks here.
            self.ready.push_back(SourceEvent::SplitFinished(index));
        }
        Ok(())
    }

    /// Gives the next rows of the batch at hand when they are due.
    async fn next_paced(&mut self) -> Option<Batch> {
        let (index, rows, start) = self.paced.as_ref()?;
        let (index, start) = (*index, *start);
        let left = rows.num_rows() - start;
        let count = if self.pacer.is_unlimited() {
            left
        } else {
            let column = self.settings.pace.event_time.as_ref().and_then(|pace| rows.column_by_name(&pace.column));
            let time = |row: usize| column.and_then(|column| event_time_us(column.as_ref(), start + row));
            self.pacer.next_piece(self.context.clock.as_ref(), left, time).await
        };
        let piece = if count == rows.num_rows() { rows.clone() } else { rows.slice(start, count) };
        match self.paced.as_mut() {
            Some(paced) if count < left => paced.2 = start + count,
            _ => self.paced = None,
        }
        let mut batch = Batch::new(piece, self.context.clock.wall_unix_us());
        batch.split = Some(index);
        Some(batch)
    }
}

#[async_trait]
impl SourceReader for Reader {
    async fn next(&mut self) -> Result<SourceEvent> {
        loop {
            // Bad records were met before the rows of the same batch were complete, and need no pacing.
            if let Some(SourceEvent::Bad(_)) = self.ready.front()
                && let Some(event) = self.ready.pop_front()
            {
                return Ok(event);
            }
            if let Some(batch) = self.next_paced().await {
                return Ok(SourceEvent::Batch(batch));
            }
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if self.current.is_none() {
                match self.waiting.pop_front() {
                    Some((index, piece)) => self.current = Some(self.open(index, piece)?),
                    None => return Ok(SourceEvent::EndOfInput),
                }
            }
            self.advance().await?;
        }
    }

    fn holds_watermark(&self, split: &Split) -> bool {
        // Files that follow each other in time: a split that has not begun holds only what is later anyway.
        !self.settings.is_time_ordered || self.first_split == Some(split.index)
    }
}

impl OpenSplit {
    /// Decodes until a batch is full, many records are bad, or the split ends; gives whether it ended.
    ///
    /// **Cancel safety**: a dropped call loses nothing: it only waits for the next block.
    async fn read(&mut self, rows_max: usize) -> Result<bool> {
        loop {
            while self.place.at < self.block.bytes.len() {
                let mut bad = Vec::new();
                let decoder = self.decoder.get();
                decoder.decode(&self.block.bytes, &mut self.place, rows_max, &mut bad)?;
                let is_full = decoder.rows() >= rows_max || decoder.is_large();
                for text in bad {
                    let record = self.bad_record(&text);
                    self.bad.push(record);
                }
                if is_full || self.bad.len() >= BAD_TEXTS_MAX {
                    return Ok(false);
                }
            }
            self.take_oversized();
            // Everything in the block is decoded, so a dropped call loses its memory and no more.
            let used = std::mem::take(&mut self.block.bytes);
            let Some(block) = self.blocks.next(used).await? else { return Ok(true) };
            self.block = block;
            self.place.at = 0;
            self.begin_block()?;
        }
    }

    fn begin_block(&mut self) -> Result<()> {
        if self.block.offset == 0 && self.block.bytes.starts_with(BYTE_ORDER_MARK) {
            self.place.at = BYTE_ORDER_MARK.len();
        }
        if !self.expects_header {
            return Ok(());
        }
        self.expects_header = false;
        let SplitDecoder::Csv(decoder) = &mut self.decoder else { return Ok(()) };
        let wrong = |reason: String| OperatorError::user("file-header", format!("'{}': {reason}", self.piece.path));
        match self.block.header.take() {
            Some(header) => {
                decoder.set_header(header.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&header)).map_err(wrong)?;
            }
            None => {
                let len = decoder.set_header(&self.block.bytes[self.place.at..]).map_err(wrong)?;
                self.place.at += len;
                self.place.lines += 1;
            }
        }
        Ok(())
    }

    /// Line numbers where they are known, byte offsets in splits that start in mid-file.
    fn bad_record(&self, text: &BadText) -> BadRecord {
        let bytes = &self.block.bytes[text.place.at..text.place.at + text.len];
        let offset = self.block.offset + text.place.at as u64;
        self.bad_at(text.code, &text.message, (text.place.lines, offset), BadRecord::original_text(bytes))
    }

    fn bad_at(&self, code: &'static str, reason: &str, (lines, offset): (u64, u64), original: String) -> BadRecord {
        let (position, message) = if self.piece.start == 0 {
            (lines + 1, format!("line {}: {reason}", lines + 1))
        } else {
            (offset, format!("line at byte offset {offset}: {reason}"))
        };
        BadRecord {
            code,
            message,
            source: Some(self.piece.path.clone()),
            position: Some(position as i64),
            original: Some(original),
        }
    }

    fn take_oversized(&mut self) {
        if let Some(line) = self.block.oversized.take() {
            let reason = format!("the line has {} bytes, more than max_line_bytes allows", line.len);
            let mut original = BadRecord::original_text(&line.beginning);
            original.push_str(&format!(" ... ({} bytes in all)", line.len));
            self.bad.push(self.bad_at(CODE_TOO_LONG, &reason, (self.place.lines, line.offset), original));
            self.place.lines += 1;
        }
    }
}

fn event_time_us(column: &dyn Array, row: usize) -> Option<i64> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Int64 => Some(column.as_primitive::<Int64Type>().value(row).saturating_mul(1000)),
        DataType::Timestamp(_, _) => Some(column.as_primitive::<TimestampMicrosecondType>().value(row)),
        _ => None,
    }
}
