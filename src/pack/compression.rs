//! Decompression of layer blobs, with the format recognised by its first bytes.
//!
//! Names and media types lie, so neither is looked at. All bytes of the source are read, padding
//! after the end of the compressed stream included, so that a hash of the blob is complete.

use std::fmt;
use std::io::{self, BufRead, Read};

use flate2::{Decompress, FlushDecompress, Status};

use super::Error;

/// How a layer blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, of one or several members.
    Gzip,
    /// Zstandard, of one or several frames.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Plain => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        })
    }
}

const INPUT_BUFFER: usize = 128 * 1024;

/// The largest zstd window: what `zstd --ultra -22` uses and what decoders must accept.
const ZSTD_WINDOW_LOG: u32 = 27;

const UNSUPPORTED: [(&[u8], &str); 4] = [
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x1f\x9d", "compress"),
];

/// Reads compressed bytes and gives uncompressed ones.
pub(super) struct Decoder<R: Read> {
    inner: Inner<R>,
}

enum Inner<R: Read> {
    Plain(Input<R>),
    Gzip(Gzip<R>),
    Zstd(zstd::stream::read::Decoder<'static, Input<R>>),
}

impl<R: Read> Decoder<R> {
    /// Recognises the format of `source`.
    pub(super) fn new(source: R) -> Result<Decoder<R>, Error> {
        let mut input = Input::new(source);
        let start = input.peek(6).map_err(Error::Read)?;
        for (magic, name) in UNSUPPORTED {
            if start.starts_with(magic) {
                return Err(Error::UnsupportedCompression(name));
            }
        }
        let skippable = matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
        let inner = if start.starts_with(b"\x1f\x8b") {
            Inner::Gzip(Gzip {
                input,
                inflate: Decompress::new_gzip(15),
                state: Member::Inside,
            })
        } else if skippable || start.starts_with(b"\x28\xb5\x2f\xfd") {
            let decoder =
                zstd::stream::read::Decoder::with_buffer(input).and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                    Ok(decoder)
                });
            let wrap = |source| Error::Decompress {
                compression: Compression::Zstd,
                source,
            };
            Inner::Zstd(decoder.map_err(wrap)?)
        } else {
            Inner::Plain(input)
        };
        Ok(Decoder { inner })
    }

    /// Compressed bytes taken from the source and used.
    pub(super) fn consumed(&self) -> u64 {
        self.input().consumed
    }

    /// Fills `buffer`; less than all of it only at the end.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let result = match &mut self.inner {
            Inner::Plain(input) => read_full(input, buffer),
            Inner::Gzip(gzip) => gzip.fill(buffer),
            Inner::Zstd(decoder) => read_full(decoder, buffer),
        };
        result.map_err(|source| {
            if self.input().failed {
                return Error::Read(source);
            }
            Error::Decompress {
                compression: self.compression(),
                source,
            }
        })
    }

    fn input(&self) -> &Input<R> {
        match &self.inner {
            Inner::Plain(input) => input,
            Inner::Gzip(gzip) => &gzip.input,
            Inner::Zstd(decoder) => decoder.get_ref(),
        }
    }

    fn compression(&self) -> Compression {
        match self.inner {
            Inner::Plain(_) => Compression::Plain,
            Inner::Gzip(_) => Compression::Gzip,
            Inner::Zstd(_) => Compression::Zstd,
        }
    }
}

fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A buffered source that knows how much was used and whether the source itself failed.
struct Input<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    consumed: u64,
    failed: bool,
}

impl<R: Read> Input<R> {
    fn new(source: R) -> Input<R> {
        let buffer = vec![0; INPUT_BUFFER].into_boxed_slice();
        Input {
            source,
            buffer,
            start: 0,
            end: 0,
            consumed: 0,
            failed: false,
        }
    }

    /// The first `count` bytes, or fewer at the end of the source. Only before anything is used.
    fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        let wanted = self.buffer.get_mut(self.end..count).unwrap_or_default();
        self.end += read_full(&mut self.source, wanted)?;
        Ok(self.available())
    }

    fn available(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.start == self.end {
            match self.source.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => (self.start, self.end) = (0, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        }
        Ok(self.available())
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.end - self.start);
        self.start += count;
        self.consumed += count as u64;
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), available.get(..count)) {
            to.copy_from_slice(from);
        }
        self.consume(count);
        Ok(count)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    Inside,
    /// Behind a complete member: another one may follow, or zeros.
    Between,
    /// Behind zeros: only more of them may follow.
    Padding,
    End,
}

/// gzip with several members and zeros at the end, which flate2's own readers refuse.
struct Gzip<R> {
    input: Input<R>,
    inflate: Decompress,
    state: Member,
}

impl<R: Read> Gzip<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            if self.state == Member::End {
                break;
            }
            if self.state != Member::Inside {
                self.between()?;
                continue;
            }
            let input = self.input.fill_buf()?;
            if input.is_empty() {
                let message = "the stream ends too early";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, rest, FlushDecompress::None);
            let status = status.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            let read = (self.inflate.total_in() - read) as usize;
            let written = (self.inflate.total_out() - written) as usize;
            self.input.consume(read);
            filled += written;
            match status {
                Status::StreamEnd => self.state = Member::Between,
                Status::BufError if read == 0 && written == 0 => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "no progress"));
                }
                Status::Ok | Status::BufError => {}
            }
        }
        Ok(filled)
    }

    fn between(&mut self) -> io::Result<()> {
        let input = self.input.fill_buf()?;
        match input.first() {
            None => self.state = Member::End,
            Some(0) => {
                let zeros = input.iter().take_while(|byte| **byte == 0).count();
                self.input.consume(zeros);
                self.state = Member::Padding;
            }
            Some(0x1f) if self.state == Member::Between => {
                self.inflate = Decompress::new_gzip(15);
                self.state = Member::Inside;
            }
            Some(_) => {
                let message = "garbage follows the compressed stream";
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
        Ok(())
    }
}
