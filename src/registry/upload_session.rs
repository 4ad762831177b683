//! An upload as the registry keeps it: opened, gone on with after a break, kept for a later push.
//!
//! # See
//!
//! distribution-spec 1.1, "Push": sessions

use super::Error;
use super::client::Repository;
use super::message::{Content, Method, Request, Response};
use super::upload::BlobSource;
use super::url::Url;
use crate::cause::chain;
use crate::oci::Digest;

/// What one request carries at most, unless the registry wants more: so much may be lost with a connection.
const CHUNK: u64 = 16 << 20;

/// An upload that was not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptUpload {
    /// Where it goes on.
    pub address: String,
    /// How much one request must carry, in bytes, but for the last.
    pub least: u64,
}

/// Where uploads are kept for who goes on with them later, after this process perhaps.
pub trait Uploads: Sync {
    /// The upload of a blob to a repository (`HOST/NAME`), if there is one.
    fn recall(&self, repository: &str, blob: &Digest) -> Option<KeptUpload>;
    /// Keeps it; `None` forgets it.
    fn keep(&self, repository: &str, blob: &Digest, upload: Option<&KeptUpload>);
}

impl Uploads for () {
    fn recall(&self, _repository: &str, _blob: &Digest) -> Option<KeptUpload> {
        None
    }

    fn keep(&self, _repository: &str, _blob: &Digest, _upload: Option<&KeptUpload>) {}
}

/// An upload that the registry keeps.
pub(super) struct Session {
    pub(super) url: Url,
    /// Bytes that the registry has.
    pub(super) offset: u64,
    /// The size of what one request carries.
    pub(super) chunk: u64,
}

impl Session {
    pub(super) fn kept(&self) -> KeptUpload {
        KeptUpload {
            address: self.url.uri().to_string(),
            least: self.chunk,
        }
    }
}

impl Repository {
    /// Opens an upload. If the answer is lost, one is left behind that the registry drops some day.
    pub(super) fn start(&self) -> Result<Session, Error> {
        let url = self.address("blobs/uploads/")?;
        let response = self.send(&Request {
            once: true,
            ..Request::new(Method::Post, &url, &[])
        })?;
        let response = self.taken(response, &format!("repository {}", self.name()))?;
        self.session(&response)
    }

    /// The upload that an earlier push did not finish, where the registry still has it.
    pub(super) fn recalled(&self, blob: &BlobSource<'_>, name: &str) -> Option<Session> {
        let digest = &blob.descriptor.digest;
        let kept = blob.uploads.recall(name, digest)?;
        let session = Url::parse(&kept.address).ok().map(|url| Session {
            url,
            offset: 0,
            chunk: CHUNK.max(kept.least),
        });
        let session = session.and_then(|session| self.resumed(session));
        let session = session.filter(|session| session.offset <= blob.descriptor.size);
        match &session {
            Some(session) => (blob.sent)(session.offset),
            None => blob.uploads.keep(name, digest, None),
        }
        session
    }

    /// The upload after a break, where it goes on; `None` if it is lost, and has to begin again.
    pub(super) fn resumed(&self, mut session: Session) -> Option<Session> {
        match self.resumed_at(&mut session) {
            Ok(()) => Some(session),
            Err(error) => {
                log::info!("the upload begins anew: {}", chain(&error));
                None
            }
        }
    }

    /// Asks how far an upload has come.
    pub(super) fn resumed_at(&self, session: &mut Session) -> Result<(), Error> {
        let response = self.upload(Method::Get, &session.url, &[], Content::Nothing)?;
        let response = self.check(response, "such upload")?;
        let Some(offset) = received(&response) else {
            return Err(self.wrong(
                &session.url,
                "does not tell how far the upload is".to_owned(),
            ));
        };
        if let Some(location) = response.header("location") {
            session.url = self.location(&response, location)?;
        }
        session.offset = offset;
        Ok(())
    }

    /// The upload that an answer has opened or gone on with.
    pub(super) fn session(&self, response: &Response) -> Result<Session, Error> {
        let Some(location) = response.header("location") else {
            return Err(self.wrong(&response.url, "names no place to upload to".to_owned()));
        };
        let least = response.header("oci-chunk-min-length");
        let least = least
            .and_then(|least| least.trim().parse().ok())
            .unwrap_or(0);
        Ok(Session {
            url: self.location(response, location)?,
            offset: 0,
            chunk: CHUNK.max(least),
        })
    }

    fn location(&self, response: &Response, location: &str) -> Result<Url, Error> {
        let joined = response.url.join(location);
        joined.map_err(|why| self.wrong(&response.url, format!("wants an upload to {why}")))
    }
}

/// How many bytes a header `Range: 0-LAST` says are there. Registries say `0-0` for none.
pub(super) fn received(response: &Response) -> Option<u64> {
    let header = response.header("range")?.trim();
    let range = header.strip_prefix("bytes=").unwrap_or(header);
    match range.strip_prefix("0-")?.parse().ok()? {
        0 => Some(0),
        last => u64::checked_add(last, 1),
    }
}
