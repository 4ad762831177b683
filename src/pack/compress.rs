//! Compressing what is written, and reading what may be compressed.

use std::io::{self, Read, Write};

use flate2::write::GzEncoder;

use super::compression::Decoder;
use super::{Compression, Error, Limits};

/// Compresses what is written to it.
///
/// The bytes depend on what is written alone: a gzip header holds neither name nor time.
pub struct Compressor<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    /// Writes to `out`.
    ///
    /// # Errors
    /// What zstd reports when it finds no memory.
    pub fn new(compression: Compression, out: W) -> io::Result<Compressor<W>> {
        Ok(Compressor(match compression {
            Compression::Plain => Inner::Plain(out),
            Compression::Gzip => Inner::Gzip(GzEncoder::new(out, flate2::Compression::default())),
            Compression::Zstd => {
                let level = zstd::DEFAULT_COMPRESSION_LEVEL;
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                encoder.include_checksum(true)?;
                Inner::Zstd(encoder)
            }
        }))
    }

    /// Ends the stream and gives back what it was written to.
    ///
    /// # Errors
    /// What writing reports.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::Plain(out) => Ok(out),
            Inner::Gzip(encoder) => encoder.finish(),
            Inner::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(out) => out.write(bytes),
            Inner::Gzip(encoder) => encoder.write(bytes),
            Inner::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(out) => out.flush(),
            Inner::Gzip(encoder) => encoder.flush(),
            Inner::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// What a stream holds that is plain, gzip or zstd, as its first bytes say.
pub struct Uncompressed<R: Read> {
    decoder: Decoder<R>,
    limits: Limits,
    given: u64,
}

impl<R: Read> Uncompressed<R> {
    /// Recognises the format of `source`.
    ///
    /// # Errors
    /// What reading reports, and for a format that is not understood.
    pub fn new(source: R, limits: &Limits) -> io::Result<Uncompressed<R>> {
        Ok(Uncompressed {
            decoder: Decoder::new(source).map_err(plain)?,
            limits: limits.clone(),
            given: 0,
        })
    }
}

impl<R: Read> Read for Uncompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.fill(buffer).map_err(plain)?;
        self.given += count as u64;
        let allowed = self
            .decoder
            .consumed()
            .saturating_mul(self.limits.expansion);
        if self.given > self.limits.expansion_floor && self.given > allowed {
            return Err(io::Error::other(
                "it grows too much when it is uncompressed",
            ));
        }
        Ok(count)
    }
}

/// The error without a word of layers.
fn plain(error: Error) -> io::Error {
    match error {
        Error::Read(error) => error,
        Error::Decompress {
            compression,
            source,
        } => io::Error::new(
            source.kind(),
            format!("it is damaged ({compression}): {source}"),
        ),
        Error::UnsupportedCompression(name) => io::Error::other(format!(
            "it is compressed with {name}, and only gzip and zstd are understood"
        )),
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_is_read_again() {
        let text = b"the same line again\n".repeat(5000);
        for compression in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
            let written = || {
                let mut out = Compressor::new(compression, Vec::new()).unwrap();
                out.write_all(&text).unwrap();
                out.finish().unwrap()
            };
            assert_eq!(written(), written(), "{compression}");
            let read = |bytes: &[u8]| {
                let mut all = Vec::new();
                let mut stream = Uncompressed::new(bytes, &Limits::default())?;
                stream.read_to_end(&mut all).map(|_| all)
            };
            assert_eq!(read(&written()).unwrap(), text, "{compression}");
            if compression != Compression::Plain {
                let error = read(&written()[..20]).unwrap_err().to_string();
                assert!(error.contains(&compression.to_string()), "{error}");
            }
        }
        let xz = Uncompressed::new(&b"\xfd7zXZ\0more"[..], &Limits::default());
        let error = xz.err().unwrap().to_string();
        assert!(error.contains("compressed with xz"), "{error}");
    }
}
