//! The uncompressed stream: decompressed ahead by a thread, hashed, counted against the limits.
//!
//! # Invariants
//! * Every byte of the decompressed stream goes through the hash exactly once, in order.
//! * At most [`CHUNKS`] chunks exist per layer; they are recycled.

use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

use sha2::{Digest, Sha256};

use super::compression::Decoder;
use super::{Error, Limits, Progress};

const CHUNK: usize = 256 * 1024;
const CHUNKS: usize = 5;

/// Bytes at which a copy of what was consumed is given up: headers, and what nobody asks for, are as long as the
/// archive says.
const COPY: usize = 64 << 20;

/// Chunks after which a thread is worth its start: most layers are smaller.
const CHUNKS_BEFORE_THREAD: u32 = 8;

struct Chunk {
    bytes: Vec<u8>,
    length: usize,
    /// Compressed bytes used up to the end of this chunk.
    compressed: u64,
}

enum Source<R: Read> {
    Here {
        decoder: Decoder<R>,
        chunks: u32,
    },
    Thread {
        full: Receiver<Result<Chunk, Error>>,
        empty: Sender<Vec<u8>>,
    },
    Ended,
}

/// The uncompressed bytes of a layer.
pub(super) struct Stream<'scope, 'env, R: Read> {
    scope: &'scope Scope<'scope, 'env>,
    source: Source<R>,
    limits: &'env Limits,
    progress: &'env Progress,
    bytes: Vec<u8>,
    at: usize,
    end: usize,
    hash: Sha256,
    uncompressed: u64,
    compressed: u64,
    /// What was consumed, if that is wanted.
    copy: Option<Vec<u8>>,
}

impl<'scope, 'env, R: Read + Send + 'scope> Stream<'scope, 'env, R> {
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        source: R,
        limits: &'env Limits,
        progress: &'env Progress,
    ) -> Result<Self, Error> {
        Ok(Stream {
            scope,
            source: Source::Here {
                decoder: Decoder::new(source)?,
                chunks: 0,
            },
            limits,
            progress,
            bytes: vec![0; CHUNK],
            at: 0,
            end: 0,
            hash: Sha256::new(),
            uncompressed: 0,
            compressed: 0,
            copy: None,
        })
    }

    /// Keeps what is consumed, for [`Stream::copied`].
    pub(super) fn copying(mut self) -> Self {
        self.copy = Some(Vec::new());
        self
    }

    /// What was consumed since this was last called.
    pub(super) fn copied(&mut self) -> Vec<u8> {
        self.copy.replace(Vec::new()).unwrap_or_default()
    }

    /// How many bytes [`Stream::copied`] would give.
    pub(super) fn copied_length(&self) -> usize {
        self.copy.as_ref().map_or(0, Vec::len)
    }

    /// Goes past what is at hand; `false` at the end of the stream.
    pub(super) fn advance(&mut self) -> Result<bool, Error> {
        let count = self.fill()?.len();
        self.consume(count);
        Ok(count > 0)
    }

    /// Bytes of the stream before the next one.
    pub(super) fn offset(&self) -> u64 {
        self.uncompressed - (self.end - self.at) as u64
    }

    pub(super) fn progress(&self) -> &'env Progress {
        self.progress
    }

    /// The bytes at hand; empty only at the end of the stream.
    pub(super) fn fill(&mut self) -> Result<&[u8], Error> {
        if self.at == self.end {
            self.next_chunk()?;
        }
        Ok(self.bytes.get(self.at..self.end).unwrap_or_default())
    }

    /// Goes past `count` bytes of what [`Stream::fill`] gave.
    pub(super) fn consume(&mut self, count: usize) {
        let end = self.at + count.min(self.end - self.at);
        if let Some(copy) = &mut self.copy {
            copy.extend_from_slice(self.bytes.get(self.at..end).unwrap_or_default());
        }
        self.at = end;
    }

    /// Reads to the end, where there may be nothing but zeros.
    pub(super) fn only_zeros(&mut self) -> Result<(), Error> {
        loop {
            let offset = self.offset();
            let bytes = self.fill()?;
            if bytes.is_empty() {
                return Ok(());
            }
            if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
                let offset = offset + at as u64;
                return Err(Error::Trailing { offset });
            }
            let count = bytes.len();
            self.consume(count);
        }
    }

    /// Reads to the end; gives the hash, and the numbers of uncompressed and compressed bytes.
    pub(super) fn finish(mut self) -> Result<([u8; 32], u64, u64), Error> {
        loop {
            let count = self.fill()?.len();
            if count == 0 {
                return Ok((
                    self.hash.finalize().into(),
                    self.uncompressed,
                    self.compressed,
                ));
            }
            self.consume(count);
        }
    }

    fn next_chunk(&mut self) -> Result<(), Error> {
        if self.progress.is_cancelled() {
            return Err(Error::Cancelled);
        }
        (self.at, self.end) = (0, 0);
        if matches!(&self.source, Source::Here { chunks, .. } if *chunks >= CHUNKS_BEFORE_THREAD) {
            self.start_thread()?;
        }
        let length = match &mut self.source {
            Source::Ended => 0,
            Source::Here { decoder, chunks } => {
                *chunks += 1;
                let length = decoder.fill(&mut self.bytes)?;
                self.compressed = decoder.consumed();
                length
            }
            Source::Thread { full, empty } => {
                // A thread that has ended needs no more buffers, and its sender is gone then.
                drop(empty.send(std::mem::take(&mut self.bytes)));
                match full.recv() {
                    Ok(chunk) => {
                        let chunk = chunk?;
                        self.bytes = chunk.bytes;
                        self.compressed = chunk.compressed;
                        chunk.length
                    }
                    Err(_) => 0,
                }
            }
        };
        if length == 0 {
            self.source = Source::Ended;
            return Ok(());
        }
        self.end = length;
        self.uncompressed += length as u64;
        self.progress.advance(length as u64);
        self.check_limits()?;
        self.hash
            .update(self.bytes.get(..length).unwrap_or_default());
        Ok(())
    }

    fn check_limits(&self) -> Result<(), Error> {
        if self.copied_length() > COPY {
            return Err(Error::TooLarge {
                what: "bytes of headers in a row",
                limit: COPY as u64,
            });
        }
        if self.uncompressed > self.limits.uncompressed {
            let what = "uncompressed bytes";
            return Err(Error::TooLarge {
                what,
                limit: self.limits.uncompressed,
            });
        }
        let allowed = self.compressed.saturating_mul(self.limits.expansion);
        if self.uncompressed > self.limits.expansion_floor && self.uncompressed > allowed {
            let what = "uncompressed bytes per compressed byte";
            return Err(Error::TooLarge {
                what,
                limit: self.limits.expansion,
            });
        }
        Ok(())
    }

    fn start_thread(&mut self) -> Result<(), Error> {
        let Source::Here { decoder, .. } = std::mem::replace(&mut self.source, Source::Ended)
        else {
            return Ok(());
        };
        let (full_sender, full) = sync_channel(CHUNKS);
        let (empty, empty_receiver) = channel();
        for _ in 1..CHUNKS {
            drop(empty.send(vec![0; CHUNK]));
        }
        std::thread::Builder::new()
            .name("decompress".into())
            .spawn_scoped(self.scope, move || {
                decode(decoder, &empty_receiver, &full_sender)
            })
            .map_err(Error::Thread)?;
        self.source = Source::Thread { full, empty };
        Ok(())
    }
}

/// The thread that decompresses ahead: until the end, an error, or nobody listens any more.
fn decode<R: Read>(
    mut decoder: Decoder<R>,
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<Result<Chunk, Error>>,
) {
    while let Ok(mut bytes) = empty.recv() {
        let chunk = decoder.fill(&mut bytes).map(|length| {
            let compressed = decoder.consumed();
            Chunk {
                bytes,
                length,
                compressed,
            }
        });
        let last = !matches!(&chunk, Ok(chunk) if chunk.length > 0);
        if full.send(chunk).is_err() || last {
            return;
        }
    }
}
