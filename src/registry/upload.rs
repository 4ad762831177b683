//! Blobs and manifests on their way into a registry.
//!
//! # Invariants
//!
//! * No request that changes something is sent again without knowing what became of it: after a lost
//!   answer the registry is asked how far the upload has come, or whether the blob is there.
//! * Where an upload goes on is what the registry says, never what was sent.
//!
//! # See
//!
//! distribution-spec 1.1, "Push"

use std::fs::File;
use std::time::Instant;

use super::client::{Repository, content_digest, name_of};
use super::message::{Content, Method, Part, Request, Response};
use super::transport::may_pass_away;
use super::upload_session::{Session, Uploads, received};
use super::url::{Url, form};
use super::{Error, ManifestName};
use crate::cause::chain;
use crate::oci::{Descriptor, Digest, MediaType};

/// How a blob came to be in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upload {
    /// It was there.
    Exists,
    /// The registry took it over from this repository of its own.
    Mounted(String),
    /// It was sent.
    Sent,
}

/// A blob to be pushed.
#[derive(Clone, Copy)]
pub struct BlobSource<'a> {
    /// Its digest and size.
    pub descriptor: &'a Descriptor,
    /// Its content; without it the blob can only be found there, or be mounted.
    pub file: Option<&'a File>,
    /// Repositories of the same registry that may have it, the likeliest first.
    pub elsewhere: &'a [String],
    /// Is told how many bytes have been sent.
    pub sent: &'a (dyn Fn(u64) + Sync),
    /// Where an upload in parts is kept while it lasts.
    pub uploads: &'a dyn Uploads,
}

/// What a step of an upload came to.
enum Step {
    Done,
    /// There is more to send.
    More,
    /// The registry does not take parts of blobs.
    NoParts,
}

impl Repository {
    /// Sees to it that a blob is in the repository.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not there and was given without content; [`Error::Refused`] and
    /// [`Error::Denied`] if the registry does not want it; and whatever reaching it can bring.
    pub fn push_blob(&self, blob: &BlobSource<'_>) -> Result<Upload, Error> {
        let digest = &blob.descriptor.digest;
        if self.has_blob(digest)? {
            return Ok(Upload::Exists);
        }
        let mut session = None;
        for other in blob.elsewhere {
            match self.mount(digest, other) {
                Ok(None) => return Ok(Upload::Mounted(other.clone())),
                Ok(opened) => session = opened,
                // It was worth a try only.
                Err(error) => log::info!("{digest} is not mounted: {}", chain(&error)),
            }
        }
        let Some(file) = blob.file else {
            return Err(Error::NotFound {
                reference: format!("blob {digest} in {}", self.name()),
                closest: Vec::new(),
            });
        };
        self.send_blob(blob, file, session)?;
        Ok(Upload::Sent)
    }

    /// Stores a manifest or index under its tag or digest.
    ///
    /// # Errors
    /// As [`Repository::push_blob`]; [`Error::DigestMismatch`] if the registry takes it for something else.
    pub fn push_manifest(
        &self,
        which: &ManifestName,
        media_type: &MediaType,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let wanted = self.wanted(which)?;
        let url = self.address(&format!("manifests/{}", name_of(&wanted)))?;
        let headers = [("content-type", media_type.as_str().to_owned())];
        // To store the same twice changes nothing.
        let response = self.send(&Request {
            content: Content::Bytes(bytes),
            ..Request::new(Method::Put, &url, &headers)
        })?;
        let response = self.taken(response, &wanted.to_string())?;
        match content_digest(&response) {
            Some(found) => {
                let expected = Digest::with(found.algorithm(), bytes);
                match found == expected {
                    true => Ok(()),
                    false => Err(Error::digest_mismatch(expected, found)),
                }
            }
            None => Ok(()),
        }
    }

    /// Asks the registry to take a blob over from another repository; the upload that it opens
    /// instead if it does not.
    fn mount(&self, digest: &Digest, from: &str) -> Result<Option<Session>, Error> {
        let query = form(&[("mount", &digest.to_string()), ("from", from)]);
        let url = self.address(&format!("blobs/uploads/?{query}"))?;
        let response = self.send_reading(
            &Request {
                once: true,
                ..Request::new(Method::Post, &url, &[])
            },
            from,
        )?;
        let response = self.taken(response, &format!("repository {}", self.name()))?;
        match response.status() {
            201 => Ok(None),
            _ => self.session(&response).map(Some),
        }
    }

    /// Sends a blob, over as many connections as it takes.
    ///
    /// Attempts are counted since the registry has taken something.
    fn send_blob(
        &self,
        blob: &BlobSource<'_>,
        file: &File,
        session: Option<Session>,
    ) -> Result<(), Error> {
        let (digest, name) = (&blob.descriptor.digest, self.name());
        let (mut failures, mut furthest, mut in_parts) = (0, 0, true);
        let mut session = self.recalled(blob, &name).or(session);
        loop {
            let begun = Instant::now();
            let opened = match session.take() {
                Some(session) => Ok(session),
                None => self.start(),
            };
            let mut current = match opened {
                Ok(session) => session,
                Err(error) => {
                    failures = self.after(error, failures, begun)?;
                    continue;
                }
            };
            let before = current.offset;
            match self.step(blob, file, &mut current, in_parts) {
                Ok(Step::Done) => {
                    blob.uploads.keep(&name, digest, None);
                    return Ok(());
                }
                Ok(Step::NoParts) => {
                    log::info!("{} takes blobs as a whole only", self.name());
                    in_parts = false;
                }
                Ok(Step::More) => {
                    blob.uploads.keep(&name, digest, Some(&current.kept()));
                    if current.offset > furthest {
                        (furthest, failures) = (current.offset, 0);
                    } else if current.offset <= before {
                        let url = current.url.to_string();
                        let source = "it takes nothing of what it is sent".into();
                        failures = self.after(Error::Network { url, source }, failures, begun)?;
                    }
                    session = Some(current);
                }
                Err(error) => {
                    let error = match error {
                        // An upload that the registry has forgotten begins anew.
                        Error::NotFound { reference, .. } if current.offset > 0 => Error::Network {
                            url: current.url.to_string(),
                            source: format!("there is no {reference} any more").into(),
                        },
                        error => error,
                    };
                    failures = self.after(error, failures, begun)?;
                    if self.has_blob(digest)? {
                        return Ok(());
                    }
                    session = match in_parts {
                        true => self.resumed(current),
                        false => None,
                    };
                    let offset = session.as_ref().map_or(0, |session| session.offset);
                    log::info!("{digest}: going on at byte {offset}");
                    (blob.sent)(offset);
                }
            }
        }
    }

    /// Counts a failure and waits; the error itself if there have been too many, or if it would
    /// come again.
    fn after(&self, error: Error, failures: u32, begun: Instant) -> Result<u32, Error> {
        let failures = failures + 1;
        let transport = self.transport();
        let is_over = failures >= transport.settings().attempts;
        if is_over || !may_pass_away(&error) {
            return Err(error);
        }
        transport.tell_failure(chain(&error), failures, begun);
        transport.pause(failures, None);
        Ok(failures)
    }

    /// Sends the next part of a blob, or the last one, which ends the upload.
    fn step(
        &self,
        blob: &BlobSource<'_>,
        file: &File,
        session: &mut Session,
        in_parts: bool,
    ) -> Result<Step, Error> {
        let (size, offset) = (blob.descriptor.size, session.offset);
        let left = size.saturating_sub(offset);
        let is_last = !in_parts || left <= session.chunk && offset == 0 || left == 0;
        let length = if is_last {
            left
        } else {
            left.min(session.chunk)
        };
        let content = match length {
            0 => Content::Nothing,
            length => Content::Part(Part {
                file,
                start: offset,
                length,
                sent: blob.sent,
            }),
        };
        let kind = ("content-type", "application/octet-stream".to_owned());
        if is_last {
            let query = form(&[("digest", &blob.descriptor.digest.to_string())]);
            let url = session.url.with_query(&query);
            let url = url.map_err(|why| self.wrong(&session.url, why))?;
            let response = self.upload(Method::Put, &url, &[kind], content)?;
            let response = self.taken(response, &format!("blob {}", blob.descriptor.digest))?;
            return match content_digest(&response) {
                Some(found) if found != blob.descriptor.digest => {
                    Err(Error::digest_mismatch(blob.descriptor.digest, found))
                }
                _ => Ok(Step::Done),
            };
        }
        let range = format!("{offset}-{}", (offset + length).saturating_sub(1));
        let headers = [kind, ("content-range", range)];
        let response = self.upload(Method::Patch, &session.url, &headers, content)?;
        match response.status() {
            // What registries say that know no parts, or not this way to send them.
            400 | 404 | 405 | 415 | 416 | 501 if offset == 0 => return Ok(Step::NoParts),
            416 => return self.resumed_at(session).map(|()| Step::More),
            _ => {}
        }
        let response = self.taken(response, &format!("blob {}", blob.descriptor.digest))?;
        let next = self.session(&response)?;
        let offset = received(&response).unwrap_or(offset + length);
        if offset > size {
            let why = format!("says that it has {offset} bytes of a blob of {size}");
            return Err(self.wrong(&response.url, why));
        }
        (session.url, session.offset) = (next.url, offset);
        Ok(Step::More)
    }

    /// A request about an upload, whose address may be another server's: that one gets no credentials.
    pub(super) fn upload(
        &self,
        method: Method,
        url: &Url,
        headers: &[(&'static str, String)],
        content: Content<'_>,
    ) -> Result<Response, Error> {
        let base = self.base()?;
        let request = Request {
            content,
            once: method != Method::Get,
            ..Request::new(method, url, headers)
        };
        if url.same_origin(&base) {
            return self.send(&request);
        }
        self.transport().send(&Request {
            named_by: Some(&base),
            ..request
        })
    }

    pub(super) fn wrong(&self, url: &Url, why: String) -> Error {
        Error::Protocol {
            url: url.to_string(),
            why,
        }
    }

    /// Turns the status of a registry that does not take something into an error.
    pub(super) fn taken(&self, response: Response, what: &str) -> Result<Response, Error> {
        let why = match response.status() {
            405 => "it is read-only",
            413 => "it is too large, or more than the quota allows",
            _ => return self.check(response, what),
        };
        Err(Error::Refused {
            registry: self.reference().registry().to_owned(),
            why: why.to_owned(),
            detail: response.into_detail(),
        })
    }
}
