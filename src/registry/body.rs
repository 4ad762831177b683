//! The body of a blob, which survives the loss of its connection.

use std::io::{self, Read};

use super::client::Repository;
use super::transport::chain;
use super::url::Url;
use super::{Error, Settings};
use crate::oci::Descriptor;

/// Reads a blob to its end, over as many connections as it takes.
///
/// Attempts are counted since the last byte came, so a bad line makes a pull slow but does not end it.
pub(super) struct Body {
    repository: Repository,
    descriptor: Descriptor,
    url: Url,
    /// Whether the address is the registry's own, and so gets its credentials.
    own: bool,
    inner: Option<Box<dyn Read + Send>>,
    position: u64,
    failures: u32,
}

impl Body {
    /// Continues `inner`, which stands at `position` of the blob at `url`.
    pub(super) fn new(
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
                let known = self.position - start;
                if known > 0 {
                    log::debug!("reading past {known} bytes of {} again", self.url);
                    let skipped = io::copy(&mut inner.by_ref().take(known), &mut io::sink())?;
                    if skipped < known {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                inner
            }
        };
        Ok(self.inner.insert(inner))
    }

    /// Notes a failure; an error if there have been too many, or if it is one that would come again.
    fn lost(&mut self, error: io::Error) -> io::Result<()> {
        self.inner = None;
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
        log::debug!(
            "lost {} at byte {}: {}",
            self.url,
            self.position,
            chain(&error)
        );
        self.repository.transport().pause(self.failures, None);
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
                    return Ok(count);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
                Err(e) => self.lost(e)?,
            }
        }
    }
}
