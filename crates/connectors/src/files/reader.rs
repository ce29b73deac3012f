//! Reads the splits of one subtask, one after the other: blocks in, batches out. Runs in the task; reading and
//! decompressing happen elsewhere (`blocks.rs`), decoding happens here.

use std::collections::{BTreeMap, VecDeque};

use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch, cast::AsArray};
use arrow_schema::DataType;
use async_trait::async_trait;
use weir_core::{Batch, SplitIndex};
use weir_operator_api::{
    BadRecord, OperatorError, ReaderContext, Result, SourceEvent, SourceReader, Split, SplitPosition,
};

use crate::files::blocks::{Block, BlockOptions, Blocks, Framing, Oversized};
use crate::files::compression::Compression;
use crate::files::enumerate::FilePiece;
use crate::files::position::{CHECK_BYTES, Check, FilePosition, Stand, file_changed};
use crate::files::settings::{Format, SourceSettings, SplitDecoder};
use crate::format::{BAD_TEXTS_MAX, BadText, Place, too_long};
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
    paced: Option<Paced>,
    ready: VecDeque<Ready>,
    pacer: Pacer,
    /// What was given of each split; whatever was read ahead is not in it.
    given: BTreeMap<SplitIndex, Given>,
}

#[derive(Default)]
struct Given {
    position: FilePosition,
    is_finished: bool,
}

/// Decoded rows that wait for their time.
struct Paced {
    index: SplitIndex,
    rows: RecordBatch,
    /// The first row that was not given.
    start: usize,
    begin: Stand,
    end: Stand,
}

/// An event that is to be given, and where the reader stands then.
enum Ready {
    Bad { index: SplitIndex, bad: Vec<BadRecord>, until: u64, stand: Stand, rows: u64 },
    Finished(SplitIndex),
}

/// The split being read.
struct OpenSplit {
    index: SplitIndex,
    piece: FilePiece,
    blocks: Blocks,
    decoder: SplitDecoder,
    block: Block,
    place: Place,
    /// The byte up to which records are decoded.
    here: u64,
    /// Where the rows in the decoder begin.
    stand: Stand,
    /// Rows behind the stand that were given before the job was restored, and the byte up to which bad records were.
    skip_rows: u64,
    bad_until: u64,
    line_bytes_max: usize,
    expects_header: bool,
    /// No block has come yet.
    is_unread: bool,
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
        let mut given = BTreeMap::new();
        for split in &context.splits {
            let position = FilePosition::of_split(split)?;
            given.insert(split.index, Given { position, is_finished: false });
        }
        let newest_us = given.values().filter_map(|given| given.position.newest_us).max();
        Ok(Reader {
            pacer: settings.pace.pacer(&context).resumed_at(newest_us),
            first_split: waiting.first().map(|(index, _)| *index),
            waiting: waiting.into(),
            settings,
            context,
            current: None,
            paced: None,
            ready: VecDeque::new(),
            given,
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
        let position = self.given.get(&index).map(|given| given.position.clone()).unwrap_or_default();
        let FilePosition { stand, rows, bad_until, .. } = position;
        let options = BlockOptions {
            piece: piece.clone(),
            compression,
            framing,
            has_header: self.settings.format.has_header(),
            line_bytes_max: self.settings.line_bytes_max,
            resumed: (stand != Stand::default()).then(|| stand.clone()),
        };
        Ok(OpenSplit {
            index,
            blocks: Blocks::start(options),
            decoder: self.settings.decoder()?,
            block: Block::default(),
            place: Place { at: 0, lines: stand.lines },
            here: stand.offset.unwrap_or_default(),
            stand,
            skip_rows: rows,
            bad_until,
            line_bytes_max: self.settings.line_bytes_max,
            expects_header: self.settings.format.has_header(),
            is_unread: true,
            bad: Vec::new(),
            piece,
        })
    }

    /// Reads on in the current split until there is something to give.
    async fn advance(&mut self) -> Result<()> {
        let rows_max = self.context.batch_rows.max(1);
        let Some(split) = &mut self.current else { return Ok(()) };
        let is_finished = split.read(rows_max).await?;
        let index = split.index;
        if !split.bad.is_empty() {
            let bad = std::mem::take(&mut split.bad);
            let (stand, rows) = (split.stand.clone(), split.skip_rows);
            self.ready.push_back(Ready::Bad { index, bad, until: split.here, stand, rows });
        }
        let decoder = split.decoder.get();
        let rows = decoder.rows();
        if rows > 0 && (is_finished || rows >= rows_max || decoder.is_large()) {
            let rows = decoder.take()?;
            let end = split.stand_here();
            let begin = std::mem::replace(&mut split.stand, end.clone());
            let start = split.skip_rows.min(rows.num_rows() as u64) as usize;
            split.skip_rows -= start as u64;
            if start < rows.num_rows() {
                self.paced = Some(Paced { index, rows, start, begin, end });
            }
        }
        if is_finished {
            self.current = None;
            // The rows in `paced` go first: `next` looks there before it looks here.
            self.ready.push_back(Ready::Finished(index));
        }
        Ok(())
    }

    /// Gives the next rows of the batch at hand when they are due.
    async fn next_paced(&mut self) -> Option<Batch> {
        let paced = self.paced.as_ref()?;
        let (index, start, rows) = (paced.index, paced.start, &paced.rows);
        let left = rows.num_rows() - start;
        let count = if self.pacer.is_unlimited() {
            left
        } else {
            let column = self.settings.pace.event_time.as_ref().and_then(|pace| rows.column_by_name(&pace.column));
            let time = |row: usize| column.and_then(|column| event_time_us(column.as_ref(), start + row));
            self.pacer.next_piece(self.context.clock.as_ref(), left, time).await
        };
        let piece = if count == rows.num_rows() { rows.clone() } else { rows.slice(start, count) };
        let position = &mut self.given.entry(index).or_default().position;
        match self.paced.take() {
            Some(paced) if count < left => {
                position.stand.clone_from(&paced.begin);
                position.rows = (start + count) as u64;
                self.paced = Some(Paced { start: start + count, ..paced });
            }
            Some(paced) => {
                position.stand = paced.end;
                position.rows = 0;
            }
            None => {}
        }
        let mut batch = Batch::new(piece, self.context.clock.wall_unix_us());
        batch.split = Some(index);
        Some(batch)
    }

    /// Gives an event that is ready.
    fn give(&mut self, ready: Ready) -> SourceEvent {
        match ready {
            Ready::Bad { index, bad, until, stand, rows } => {
                let position = &mut self.given.entry(index).or_default().position;
                position.bad_until = position.bad_until.max(until);
                (position.stand, position.rows) = (stand, rows);
                SourceEvent::Bad(bad)
            }
            Ready::Finished(index) => {
                self.given.entry(index).or_default().is_finished = true;
                SourceEvent::SplitFinished(index)
            }
        }
    }
}

#[async_trait]
impl SourceReader for Reader {
    async fn next(&mut self) -> Result<SourceEvent> {
        loop {
            // Bad records were met before the rows of the same batch were complete, and need no pacing.
            if let Some(ready) = self.ready.pop_front_if(|ready| matches!(ready, Ready::Bad { .. })) {
                return Ok(self.give(ready));
            }
            if let Some(batch) = self.next_paced().await {
                return Ok(SourceEvent::Batch(batch));
            }
            if let Some(ready) = self.ready.pop_front() {
                return Ok(self.give(ready));
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

    fn positions(&self) -> Result<Vec<SplitPosition>> {
        let newest_us = self.pacer.newest_us();
        let position = |(split, given): (&SplitIndex, &Given)| {
            let has_begun = given.position != FilePosition::default();
            let position = has_begun.then(|| FilePosition { newest_us, ..given.position.clone() }.to_value());
            SplitPosition { split: *split, position, is_finished: given.is_finished }
        };
        Ok(self.given.iter().map(position).collect())
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
                self.here = self.block.offset + self.place.at as u64;
                for text in bad {
                    if self.block.offset + text.place.at as u64 >= self.bad_until {
                        let record = self.bad_record(&text);
                        self.bad.push(record);
                    }
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
        if std::mem::take(&mut self.is_unread) {
            self.know_again()?;
        }
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

    /// Looks at the first block: a split that is read from its beginning again must begin as it did.
    fn know_again(&mut self) -> Result<()> {
        self.stand.size_bytes = self.block.size_bytes;
        if self.stand.offset.is_some() {
            return Ok(());
        }
        let bytes = &self.block.bytes;
        let front = |len: usize| &bytes[..len.min(bytes.len())];
        if self.stand.check.is_some_and(|check| !check.holds(front(check.len as usize))) {
            return Err(file_changed(&self.piece.path, "it begins with another text"));
        }
        self.stand.check = self.stand.check.or_else(|| Check::of(front(CHECK_BYTES)));
        Ok(())
    }

    /// The place up to which records are decoded.
    fn stand_here(&self) -> Stand {
        let at = self.place.at;
        let seen = self.block.bytes.get(at.saturating_sub(CHECK_BYTES)..at);
        Stand {
            offset: Some(self.here),
            lines: self.place.lines,
            size_bytes: self.stand.size_bytes,
            check: seen.and_then(Check::of),
        }
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
            if line.offset >= self.bad_until {
                self.push_oversized(&line);
            }
            self.place.lines += 1;
            self.here = line.end;
        }
    }

    /// The same dead letter as that of a line which fits into a block and is too long for the decoder.
    fn push_oversized(&mut self, line: &Oversized) {
        let (mut beginning, mut len) = (line.beginning.as_slice(), line.len);
        if line.is_crlf && matches!(self.decoder, SplitDecoder::Csv(_)) {
            len -= 1;
            beginning = &beginning[..beginning.len().min(len as usize)];
        }
        let mut original = BadRecord::original_text(beginning);
        if len > beginning.len() as u64 {
            original.push_str(&format!(" ... ({len} bytes in all)"));
        }
        let reason = too_long(len, self.line_bytes_max);
        let bad = self.bad_at(CODE_TOO_LONG, &reason, (self.place.lines, line.offset), original);
        self.bad.push(bad);
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
