//! Reads one split as blocks of whole records. [`BlockReader`] blocks and knows bytes only; [`Blocks`] runs it away from
//! the data threads, one block ahead.
//!
//! A record belongs to the split in which its line starts, whoever cut the file where:
//! ```text
//! bytes      {"a":1}\n{"a":2}\n{"a":3}\n
//! cut at               ^ start = end = 10
//! split ..10  reads lines 1 and 2 (2 starts at 8, before 10)
//! split 10..  begins after the first newline at or after byte 9: line 3
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use tokio::task::JoinHandle;
use weir_operator_api::bad_record::ORIGINAL_BYTES_MAX;
use weir_operator_api::{OperatorError, Result};

use crate::files::compression::Compression;
use crate::files::enumerate::FilePiece;
use crate::files::position::{Stand, file_changed};
use crate::format::csv::last_record_end;

/// Bytes read at once, after decompression. Few in tests, so that small files have many blocks.
pub const CHUNK_BYTES: usize = if cfg!(test) { 4096 } else { 1024 * 1024 };

/// Where records end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// At every newline.
    Lines,
    /// At newlines outside quotes, fields being separated by `delimiter`.
    QuotedCsv {
        /// What stands between fields.
        delimiter: u8,
    },
}

/// What to read and how.
#[derive(Clone, Debug)]
pub struct BlockOptions {
    /// The split.
    pub piece: FilePiece,
    /// How the file is compressed.
    pub compression: Compression,
    /// Where records end.
    pub framing: Framing,
    /// Whether the file starts with a header, which is then also read for splits in mid-file.
    pub has_header: bool,
    /// Longest line that is kept whole.
    pub line_bytes_max: usize,
    /// Where to go on, for a split that was begun before the job was restored.
    pub resumed: Option<Stand>,
}

/// Whole records of a split, in order.
#[derive(Debug, Default)]
pub struct Block {
    /// The records; the last may lack its line end at the end of the file.
    pub bytes: Vec<u8>,
    /// Place of the first byte in the (decompressed) file.
    pub offset: u64,
    /// Size of the file when it was opened.
    pub size_bytes: u64,
    /// The beginning of the file, which holds its header, with the first block of a split that does not begin with it.
    pub header: Option<Vec<u8>>,
    /// A line that follows the records and was too long to be kept.
    pub oversized: Option<Oversized>,
}

/// A line that was too long to be kept.
#[derive(Debug)]
pub struct Oversized {
    /// Where it starts in the (decompressed) file.
    pub offset: u64,
    /// Its whole length, without the newline.
    pub len: u64,
    /// The place after it and its newline, if it has one.
    pub end: u64,
    /// Whether a carriage return stands before its newline.
    pub is_crlf: bool,
    /// Its beginning, as much as a dead letter holds.
    pub beginning: Vec<u8>,
}

/// Reads one split. Blocks the thread it runs on.
pub struct BlockReader {
    options: BlockOptions,
    input: Option<Box<dyn Read + Send>>,
    /// Place of the first byte of `tail` in the (decompressed) file.
    offset: u64,
    /// Read, but not yet given: the beginning of a record.
    tail: Vec<u8>,
    size_bytes: u64,
    is_finished: bool,
}

/// Why a block cannot be read.
enum ReadError {
    Io(io::Error),
    /// The file is another one than before, and how that shows.
    Changed(String),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        ReadError::Io(error)
    }
}

impl BlockReader {
    /// A reader that opens the file with the first block.
    pub fn new(options: BlockOptions) -> Self {
        BlockReader { options, input: None, offset: 0, tail: Vec::new(), size_bytes: 0, is_finished: false }
    }

    /// The next block, in the memory of an old one; `None` at the end of the split.
    ///
    /// **Errors**: `file-read`, or `file-changed` when it is not the file that was read before; naming the file.
    pub fn next(&mut self, memory: Vec<u8>) -> Result<Option<Block>> {
        self.try_next(memory).map_err(|error| {
            let path = &self.options.piece.path;
            let (message, error) = match error {
                ReadError::Changed(how) => return file_changed(path, &how),
                ReadError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    (format!("'{path}' ends in the middle of its compressed data"), error)
                }
                ReadError::Io(error) => (format!("cannot read '{path}'"), error),
            };
            OperatorError::external("file-read", message).because(error)
        })
    }

    fn try_next(&mut self, memory: Vec<u8>) -> std::result::Result<Option<Block>, ReadError> {
        let mut block = Block { bytes: memory, ..Block::default() };
        if self.is_finished {
            return Ok(None);
        }
        if self.input.is_none() {
            block.header = self.open()?;
        }
        block.offset = self.offset;
        block.size_bytes = self.size_bytes;
        block.bytes.clear();
        block.bytes.append(&mut self.tail);
        loop {
            if self.piece_end().is_some_and(|end| block.offset >= end) {
                self.is_finished = true;
                return Ok(None);
            }
            let is_at_end = self.fill(&mut block.bytes)? == 0;
            if let Some(cut) = self.cut(&block, is_at_end) {
                self.tail.extend_from_slice(&block.bytes[cut..]);
                block.bytes.truncate(cut);
                self.offset = block.offset + cut as u64;
                return Ok((!block.bytes.is_empty()).then_some(block));
            }
            if block.bytes.len() > self.options.line_bytes_max {
                self.skip_line(&mut block)?;
                return Ok(Some(block));
            }
        }
    }

    fn piece_end(&self) -> Option<u64> {
        self.options.piece.end
    }

    /// Where the records of this split end in the block so far; `None` when more must be read to know.
    fn cut(&mut self, block: &Block, is_at_end: bool) -> Option<usize> {
        let bytes = &block.bytes;
        if let Some(end) = self.piece_end() {
            // Our last line is the one that holds byte `end - 1`.
            let last = (end - 1 - block.offset).min(bytes.len() as u64) as usize;
            if let Some(len) = memchr::memchr(b'\n', &bytes[last..]) {
                self.is_finished = true;
                return Some(last + len + 1);
            }
        }
        if is_at_end {
            self.is_finished = true;
            return Some(bytes.len());
        }
        match self.options.framing {
            Framing::Lines => memchr::memrchr(b'\n', bytes).map(|at| at + 1),
            Framing::QuotedCsv { delimiter } => last_record_end(bytes, delimiter).or_else(|| {
                // A quote that is not closed for so long is a fault of its line: give that line alone.
                let is_long = bytes.len() > self.options.line_bytes_max;
                if is_long { memchr::memchr(b'\n', bytes).map(|at| at + 1) } else { None }
            }),
        }
    }

    fn fill(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let Some(input) = &mut self.input else { return Ok(0) };
        bytes.reserve(CHUNK_BYTES + 64);
        input.take(CHUNK_BYTES as u64).read_to_end(bytes)
    }

    /// Reads to the end of the line that fills the block, keeping only its beginning.
    fn skip_line(&mut self, block: &mut Block) -> io::Result<()> {
        let mut beginning = Vec::new();
        let (mut len, mut newline, mut last) = (0, 0, 0);
        loop {
            let end = memchr::memchr(b'\n', &block.bytes);
            let part = &block.bytes[..end.unwrap_or(block.bytes.len())];
            beginning.extend_from_slice(&part[..part.len().min(ORIGINAL_BYTES_MAX.saturating_sub(beginning.len()))]);
            len += part.len() as u64;
            last = part.last().copied().unwrap_or(last);
            if let Some(at) = end {
                self.tail.extend_from_slice(&block.bytes[at + 1..]);
                newline = 1;
                break;
            }
            block.bytes.clear();
            if self.fill(&mut block.bytes)? == 0 {
                self.is_finished = true;
                break;
            }
        }
        block.bytes.clear();
        self.offset = block.offset + len + newline;
        let is_crlf = newline == 1 && last == b'\r';
        block.oversized = Some(Oversized { offset: block.offset, len, end: self.offset, is_crlf, beginning });
        Ok(())
    }

    /// Opens the file and goes to the first record to be read; gives the front of the file if its header is there and
    /// will not be read.
    fn open(&mut self) -> std::result::Result<Option<Vec<u8>>, ReadError> {
        let piece = &self.options.piece;
        let file = File::open(&piece.path)?;
        self.size_bytes = file.metadata()?.len();
        if let Some(stand) = self.options.resumed.clone() {
            if self.size_bytes < stand.size_bytes {
                let (was, is) = (stand.size_bytes, self.size_bytes);
                return Err(ReadError::Changed(format!("it shrank from {was} to {is} bytes")));
            }
            if let Some(offset) = stand.offset {
                return self.resume(file, offset, &stand);
            }
        }
        if piece.start == 0 {
            self.input = Some(self.options.compression.reader(file)?);
            return Ok(None);
        }
        Ok(self.open_inside(file)?)
    }

    /// Goes on at a record whose place is known. Compressed files are read again from their beginning.
    fn resume(
        &mut self,
        mut file: File,
        offset: u64,
        stand: &Stand,
    ) -> std::result::Result<Option<Vec<u8>>, ReadError> {
        let check_bytes = stand.check.map_or(0, |check| check.len.min(offset));
        let front_bytes = if self.options.has_header { self.options.line_bytes_max } else { 0 };
        let mut front = Vec::new();
        let mut left = offset;
        if self.options.compression == Compression::None {
            (&mut file).take(front_bytes as u64).read_to_end(&mut front)?;
            left = check_bytes;
            file.seek(SeekFrom::Start(offset - check_bytes))?;
        }
        let mut input = self.options.compression.reader(file)?;
        let (mut chunk, mut seen) = (Vec::new(), Vec::new());
        while left > 0 {
            chunk.clear();
            let read = (&mut input).take(left.min(CHUNK_BYTES as u64)).read_to_end(&mut chunk)?;
            if read == 0 {
                return Err(ReadError::Changed(format!("it ends before byte {offset}, up to which it was read")));
            }
            left -= read as u64;
            if self.options.compression != Compression::None {
                front.extend_from_slice(&chunk[..read.min(front_bytes.saturating_sub(front.len()))]);
            }
            seen.extend_from_slice(&chunk);
            let forgotten = seen.len().saturating_sub(check_bytes as usize);
            seen.drain(..forgotten);
        }
        if stand.check.is_some_and(|check| !check.holds(&seen)) {
            return Err(ReadError::Changed(format!("the text before byte {offset} is another one")));
        }
        self.offset = offset;
        self.input = Some(input);
        Ok(self.options.has_header.then_some(front))
    }

    /// Goes to the first line of a split that starts in mid-file.
    fn open_inside(&mut self, mut file: File) -> io::Result<Option<Vec<u8>>> {
        let mut header = None;
        if self.options.has_header {
            let mut front = Vec::new();
            (&mut file).take(self.options.line_bytes_max as u64).read_to_end(&mut front)?;
            header = Some(front);
        }
        self.offset = self.options.piece.start - 1;
        file.seek(SeekFrom::Start(self.offset))?;
        self.input = Some(self.options.compression.reader(file)?);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if self.fill(&mut bytes)? == 0 {
                self.is_finished = self.options.piece.end.is_none();
                return Ok(header);
            }
            if let Some(at) = memchr::memchr(b'\n', &bytes) {
                self.tail.extend_from_slice(&bytes[at + 1..]);
                self.offset += at as u64 + 1;
                return Ok(header);
            }
            self.offset += bytes.len() as u64;
        }
    }
}

type ReadAhead = (BlockReader, Result<Option<Block>>);

/// The blocks of one split, read one ahead on threads that may block.
pub struct Blocks {
    pending: Option<JoinHandle<ReadAhead>>,
}

impl Blocks {
    /// Starts reading.
    pub fn start(options: BlockOptions) -> Self {
        Blocks { pending: Some(spawn(BlockReader::new(options), Vec::new())) }
    }

    /// The next block; `used` gives an old block's memory back. `None` at the end of the split.
    ///
    /// **Cancel safety**: a dropped call loses no block, only the memory in `used`.
    pub async fn next(&mut self, used: Vec<u8>) -> Result<Option<Block>> {
        let Some(pending) = &mut self.pending else { return Ok(None) };
        let joined = pending.await;
        self.pending = None;
        let (reader, result) =
            joined.map_err(|error| OperatorError::internal("a file reader stopped").because(error))?;
        let block = result?;
        if block.is_some() {
            self.pending = Some(spawn(reader, used));
        }
        Ok(block)
    }
}

fn spawn(mut reader: BlockReader, memory: Vec<u8>) -> JoinHandle<ReadAhead> {
    tokio::task::spawn_blocking(move || {
        let result = reader.next(memory);
        (reader, result)
    })
}
