//! Blobs of a registry, read over connections that may break.
//!
//! # See
//!
//! distribution-spec 1.1, "Pulling blobs"; RFC 9110, "Range Requests"

use std::io::{self, Read};
use std::time::Instant;

use super::client::Repository;
use super::message::Request;
use super::url::Url;
use super::{BlobReader, Error, Settings};
use crate::cause::chain;
use crate::oci::{Descriptor, quoted};

impl Repository {
    /// Opens a blob wherever it can be had.
    pub(super) fn open_blob(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BlobReader, Error> {
        let mut first_error = None;
        for address in self.addresses(descriptor)? {
            let url = &address.0;
            if offset > descriptor.size {
                return Err(Error::RangeNotSatisfiable {
                    url: url.to_string(),
                    offset,
                });
            }
            if offset == descriptor.size {
                return Ok(BlobReader {
                    start: offset,
                    reader: Box::new(io::empty()),
                });
            }
            match self.open(url, address.1, descriptor, offset) {
                Ok((start, inner)) => {
                    let body = Body::new(self.clone(), descriptor.clone(), address, inner, start);
                    return Ok(BlobReader {
                        start,
                        reader: Box::new(body),
                    });
                }
                Err(e) => {
                    log::debug!("{}", chain(&e));
                    first_error.get_or_insert(e);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| Error::NotFound {
            reference: format!("blob {}", descriptor.digest),
            closest: Vec::new(),
        }))
    }

    /// Opens a blob at an address; also says where in the blob the reader starts: at `offset` or 0.
    fn open(
        &self,
        url: &Url,
        own: bool,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<(u64, Box<dyn Read + Send>), Error> {
        let headers = [("range", format!("bytes={offset}-"))];
        let headers = if offset > 0 { &headers[..] } else { &[] };
        let response = if own {
            self.send(&Request::get(url, headers))?
        } else {
            let registry = self.base()?;
            self.transport().send(&Request {
                named_by: Some(&registry),
                ..Request::get(url, headers)
            })?
        };
        if response.status() == 416 {
            return Err(Error::RangeNotSatisfiable {
                url: url.to_string(),
                offset,
            });
        }
        let what = format!("blob {} in {}", descriptor.digest, self.name());
        let response = self.check(response, &what)?;
        let wrong = |why: String| Error::Protocol {
            url: response.url.to_string(),
            why,
        };
        let start = match response.status() {
            206 => {
                let range = response.header("content-range").unwrap_or_default();
                if !starts_at(range, offset) {
                    return Err(wrong(format!(
                        "was asked for the bytes from {offset} on and gives {}",
                        quoted(range)
                    )));
                }
                offset
            }
            200 => 0,
            status => return Err(wrong(format!("answered with status {status} for a blob"))),
        };
        let expected = descriptor.size - start;
        match response.header("content-length").map(str::parse::<u64>) {
            Some(Ok(length)) if length != expected => Err(wrong(format!(
                "sends {length} bytes of the blob instead of {expected}"
            ))),
            _ => Ok((start, response.into_body())),
        }
    }

    /// The addresses of a blob, and whether they are the registry's own.
    fn addresses(&self, descriptor: &Descriptor) -> Result<Vec<(Url, bool)>, Error> {
        let mut addresses = Vec::new();
        if descriptor.media_type.is_foreign() {
            for text in descriptor.urls.iter().take(8) {
                match Url::parse(text) {
                    Ok(url) => addresses.push((url, false)),
                    Err(why) => log::debug!("an address of {}: {why}", descriptor.digest),
                }
            }
        }
        // Some registries keep foreign layers in spite of their type.
        addresses.push((self.address(&format!("blobs/{}", descriptor.digest))?, true));
        Ok(addresses)
    }
}

/// Reads past what is known already of a blob.
pub(super) fn skip(reader: &mut dyn Read, known: u64) -> io::Result<()> {
    if known > 0 {
        log::debug!("reading past {known} bytes again");
    }
    match io::copy(&mut reader.take(known), &mut io::sink())? {
        skipped if skipped < known => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Whether a header `bytes FIRST-LAST/SIZE` starts at `offset`.
fn starts_at(header: &str, offset: u64) -> bool {
    header
        .trim()
        .strip_prefix(&format!("bytes {offset}-"))
        .is_some()
}

/// Reads a blob to its end, over as many connections as it takes.
///
/// Attempts are counted since the last byte came, so a bad line makes a pull slow but does not end it.
struct Body {
    repository: Repository,
    descriptor: Descriptor,
    url: Url,
    /// Whether the address is the registry's own, and so gets its credentials.
    own: bool,
    inner: Option<Box<dyn Read + Send>>,
    position: u64,
    failures: u32,
    /// When the last byte came.
    moved: Instant,
}

impl Body {
    /// Continues `inner`, which stands at `position` of the blob at `url`.
    fn new(
        repository: Repository,
        descriptor: Descriptor,
        (url, own): (Url, bool),
        inner: Box<dyn Read + Send>,
        position: u64,
    ) -> Self {
        Self {
            repository,
            descriptor,
            url,
            own,
            inner: Some(inner),
            position,
            failures: 0,
            moved: Instant::now(),
        }
    }

    fn settings(&self) -> &Settings {
        self.repository.transport().settings()
    }

    /// The connection, made anew if it was lost.
    fn connected(&mut self) -> io::Result<&mut Box<dyn Read + Send>> {
        let inner = match self.inner.take() {
            Some(inner) => inner,
            None => {
                let (start, mut inner) = self
                    .repository
                    .open(&self.url, self.own, &self.descriptor, self.position)
                    .map_err(io::Error::other)?;
                // A server without ranges starts over: what is known already is read past.
                skip(&mut inner, self.position - start)?;
                inner
            }
        };
        Ok(self.inner.insert(inner))
    }

    /// Notes a failure; an error if there have been too many, or if it is one that would come again.
    fn lost(&mut self, error: io::Error) -> io::Result<()> {
        self.inner = None;
        let error = self.repository.transport().explained(error);
        let is_final = error.get_ref().is_some_and(|inner| inner.is::<Error>());
        self.failures += 1;
        if is_final {
            return Err(error);
        }
        if self.failures >= self.settings().attempts {
            let url = self.url.to_string();
            return Err(io::Error::other(Error::Network {
                url,
                source: Box::new(error),
            }));
        }
        let what = format!(
            "lost {} at byte {}: {}",
            self.url,
            self.position,
            chain(&error)
        );
        let transport = self.repository.transport();
        transport.tell_failure(what, self.failures, self.moved);
        transport.pause(self.failures, None);
        Ok(())
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let left = self.descriptor.size - self.position;
        if left == 0 {
            // The end of the blob must be the end of the body too.
            let Some(mut inner) = self.inner.take() else {
                return Ok(0);
            };
            return match inner.read(&mut [0]) {
                Ok(0) => Ok(0),
                Ok(_) => Err(io::Error::other(Error::Protocol {
                    url: self.url.to_string(),
                    why: format!("the blob has more than its {} bytes", self.descriptor.size),
                })),
                Err(e) => {
                    log::debug!("after the last byte of {}: {e}", self.url);
                    Ok(0)
                }
            };
        }
        let length = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        loop {
            let read = match self.connected() {
                Ok(inner) => inner.read(&mut buffer[..length]),
                Err(e) => Err(e),
            };
            match read {
                Ok(0) => self.lost(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the connection ended {left} bytes too early"),
                ))?,
                Ok(count) => {
                    self.position += count as u64;
                    self.failures = 0;
                    self.moved = Instant::now();
                    return Ok(count);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
                Err(e) => self.lost(e)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_of_ranges() {
        for (header, offset, expected) in [
            ("bytes 5-9/10", 5, true),
            ("bytes 0-9/*", 0, true),
            ("bytes 5-9/10", 0, false),
            ("bytes 55-99/100", 5, false),
            ("bytes */10", 0, false),
            ("5-9", 5, false),
            ("", 0, false),
        ] {
            assert_eq!(starts_at(header, offset), expected, "{header}");
        }
    }
}
