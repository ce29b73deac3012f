//! Compression of files: which one a path or setting means, and streams that read and write it.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::files::home::Out;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip; several members one after the other are one stream.
    Gzip,
    /// Zstandard; several frames one after the other are one stream.
    Zstd,
}

/// Bytes read from a compressed file at once.
const INPUT_BUFFER_BYTES: usize = 256 * 1024;

impl Compression {
    /// What the last extension of a path means.
    pub fn of_path(path: &Path) -> Compression {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz" | "gzip") => Compression::Gzip,
            Some("zst" | "zstd") => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// Reads a setting; `auto` goes by the path.
    pub fn of_setting(word: &str, path: &Path) -> Compression {
        match word {
            "none" => Compression::None,
            "gzip" => Compression::Gzip,
            "zstd" => Compression::Zstd,
            _ => Compression::of_path(path),
        }
    }

    /// The extension that names it, with its point.
    pub fn extension(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
        }
    }

    /// Reads a file of this compression. A file that ends in the middle of its compressed data gives an error.
    pub fn reader(self, file: File) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(INPUT_BUFFER_BYTES, file))),
            Compression::Zstd => Box::new(zstd::Decoder::new(BufReader::with_capacity(INPUT_BUFFER_BYTES, file))?),
        })
    }

    /// Writes a file of this compression.
    pub fn writer(self, file: Out) -> io::Result<CompressedWriter> {
        Ok(match self {
            Compression::None => CompressedWriter::Plain(file),
            Compression::Gzip => CompressedWriter::Gzip(GzEncoder::new(file, flate2::Compression::new(6))),
            Compression::Zstd => CompressedWriter::Zstd(Box::new(zstd::Encoder::new(file, 3)?)),
        })
    }
}

/// A file that is written compressed.
pub enum CompressedWriter {
    /// As it is.
    Plain(Out),
    /// gzip, level 6.
    Gzip(GzEncoder<Out>),
    /// Zstandard, level 3.
    Zstd(Box<zstd::Encoder<'static, Out>>),
}

impl CompressedWriter {
    /// Writes the end of the stream and gives the file back.
    pub fn finish(self) -> io::Result<Out> {
        match self {
            CompressedWriter::Plain(file) => Ok(file),
            CompressedWriter::Gzip(encoder) => encoder.finish(),
            CompressedWriter::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for CompressedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            CompressedWriter::Plain(file) => file.write(bytes),
            CompressedWriter::Gzip(encoder) => encoder.write(bytes),
            CompressedWriter::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            CompressedWriter::Plain(file) => file.flush(),
            CompressedWriter::Gzip(encoder) => encoder.flush(),
            CompressedWriter::Zstd(encoder) => encoder.flush(),
        }
    }
}
