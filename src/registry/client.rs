//! Registries over HTTP: manifests, blobs and tags of a repository.
//!
//! # See
//!
//! distribution-spec 1.1, "Pull" and "Content discovery"

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;

use super::access::{Access, Scope};
use super::closest::closest;
use super::document::{List, MOST_PAGES};
use super::message::{Method, Request, Response};
use super::token::Authorization;
use super::transport::Transport;
use super::url::Url;
use super::{BlobReader, Error, Fetched, ManifestName, Settings, Source};
use crate::cause::chain;
use crate::oci::{DEFAULT_TAG, Descriptor, Digest, MediaType, Reference, quoted};

/// For a mere hint, fewer.
const PAGES_FOR_HINT: usize = 5;

/// The means to reach registries: connections, tokens and settings, shared by what uses them.
#[derive(Debug, Clone)]
pub struct Registry(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) transport: Transport,
    /// By what is accessed, and what for.
    pub(super) authorizations: Mutex<HashMap<String, Authorization>>,
    /// The addresses of registries that had to be found out, by host.
    pub(super) bases: Mutex<HashMap<String, Url>>,
}

impl Registry {
    /// Prepares to reach registries; nothing is sent yet.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Shared {
            transport: Transport::new(settings),
            authorizations: Mutex::default(),
            bases: Mutex::default(),
        }))
    }

    /// The repository that a reference names, to be read.
    pub fn repository(&self, reference: &Reference) -> Repository {
        self.repository_for(reference, "pull")
    }

    /// The repository that a reference names, to be read and written.
    pub fn writable(&self, reference: &Reference) -> Repository {
        self.repository_for(reference, "pull,push")
    }

    fn repository_for(&self, reference: &Reference, actions: &str) -> Repository {
        Repository(Arc::new(Inner {
            access: Access::new(self, reference.registry_name(), reference.name()),
            scope: format!("repository:{}:{actions}", reference.repository()),
            is_written: actions != "pull",
            reference: reference.clone(),
        }))
    }
}

/// A repository of a registry, as a source of images.
///
/// A registry on this machine (`localhost`, `127.0.0.0/8`, `::1`) is asked by plain HTTP first and by HTTPS if that
/// fails, and its certificate is not verified. Others are asked by HTTPS only; if the settings say
/// `insecure`, by HTTPS without verification and then by plain HTTP.
#[derive(Clone)]
pub struct Repository(Arc<Inner>);

struct Inner {
    access: Access,
    reference: Reference,
    /// What tokens are asked for.
    scope: String,
    is_written: bool,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Repository")
            .field(&self.0.reference.name())
            .finish()
    }
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Repository {
    /// The tags of the repository, in the registry's order, which need not be alphabetical.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such repository; and whatever reaching it can bring.
    pub fn tags(&self) -> Result<Vec<String>, Error> {
        self.tags_of(MOST_PAGES)
    }

    fn tags_of(&self, pages: usize) -> Result<Vec<String>, Error> {
        let mut tags = Vec::new();
        let first = self.address("tags/list?n=1000")?;
        let list = List {
            what: "the list of tags",
            of: &self.name(),
            pages,
        };
        self.0
            .access
            .pages(first, &list, self.scope(), &mut |page: Tags| {
                tags.extend(page.tags.unwrap_or_default());
            })?;
        Ok(tags)
    }

    /// Whether the blob is there.
    ///
    /// # Errors
    /// Whatever reaching the registry can bring.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, Error> {
        let url = self.address(&format!("blobs/{digest}"))?;
        let response = self.send(&Request::new(Method::Head, &url, &[]))?;
        match response.status() {
            404 => Ok(false),
            _ => self
                .check(response, &format!("blob {digest}"))
                .map(|_| true),
        }
    }

    /// The digest of a manifest or index as the registry tells it; `None` where there is none.
    ///
    /// # Errors
    /// Whatever reaching the registry can bring; [`Error::Protocol`] if it does not tell the digest.
    pub fn digest_of(&self, which: &ManifestName) -> Result<Option<Digest>, Error> {
        let wanted = self.wanted(which)?;
        let url = self.address(&format!("manifests/{}", name_of(&wanted)))?;
        let headers = [("accept", accepted_documents())];
        let response = self.send(&Request::new(Method::Head, &url, &headers))?;
        let response = match response.status() {
            404 => return Ok(None),
            _ => self.check(response, &wanted.to_string())?,
        };
        match (content_digest(&response), wanted.digest()) {
            (Some(digest), _) | (None, Some(digest)) => Ok(Some(digest)),
            (None, None) => Err(Error::Protocol {
                url: url.to_string(),
                why: "does not tell the digest".to_owned(),
            }),
        }
    }

    /// What is meant in this repository, by tag or digest.
    pub(super) fn wanted(&self, which: &ManifestName) -> Result<Reference, Error> {
        let reference = &self.0.reference;
        Ok(match which {
            ManifestName::Digest(digest) => reference.with_digest(*digest),
            ManifestName::Tag(tag) => reference.with_tag(tag)?,
            ManifestName::Default => reference.with_tag(reference.tag().unwrap_or(DEFAULT_TAG))?,
        })
    }

    /// Registry and repository, for messages.
    pub(super) fn name(&self) -> String {
        self.0.reference.name()
    }

    pub(super) fn reference(&self) -> &Reference {
        &self.0.reference
    }

    pub(super) fn transport(&self) -> &Transport {
        self.0.access.transport()
    }

    /// The address of the registry, `scheme://host/`.
    pub(super) fn base(&self) -> Result<Url, Error> {
        self.0.access.base()
    }

    /// The address of something in the repository.
    pub(super) fn address(&self, what: &str) -> Result<Url, Error> {
        let repository = self.0.reference.repository();
        self.0.access.address(&format!("{repository}/{what}"))
    }

    /// Sends a request to the registry, with the authorization that it asks for.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Response, Error> {
        self.0.access.send(request, self.scope())
    }

    fn scope(&self) -> Scope<'_> {
        match self.0.is_written {
            true => Scope::Exactly(&self.0.scope),
            false => Scope::Usual(&self.0.scope),
        }
    }

    /// As [`Repository::send`], for what takes content of another repository.
    pub(super) fn send_reading(
        &self,
        request: &Request<'_>,
        other: &str,
    ) -> Result<Response, Error> {
        let scope = format!("{} repository:{other}:pull", self.0.scope);
        self.0.access.send(request, Scope::Exactly(&scope))
    }

    /// Turns an error status into an error about `what`.
    pub(super) fn check(&self, response: Response, what: &str) -> Result<Response, Error> {
        self.0.access.check(response, what)
    }
}

/// The tag or digest of a reference, as it stands in addresses.
pub(super) fn name_of(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or(DEFAULT_TAG).to_owned(),
    }
}

/// The `Accept` header of requests for manifests and indexes.
pub(super) fn accepted_documents() -> String {
    let accepted = [
        MediaType::OciIndex,
        MediaType::DockerManifestList,
        MediaType::OciManifest,
        MediaType::DockerManifest,
    ];
    let accepted: Vec<&str> = accepted.iter().map(MediaType::as_str).collect();
    accepted.join(", ")
}

/// What the registry says that the digest of its content is.
pub(super) fn content_digest(response: &Response) -> Option<Digest> {
    let header = response.header("docker-content-digest")?;
    match header.trim().parse() {
        Ok(digest) => Some(digest),
        Err(error) => {
            log::debug!("{}: a digest {}: {error}", response.url, quoted(header));
            None
        }
    }
}

impl Source for Repository {
    fn describe(&self) -> String {
        self.0.reference.to_string()
    }

    fn manifest(&self, which: &ManifestName) -> Result<Fetched, Error> {
        let wanted = self.wanted(which)?;
        let name = name_of(&wanted);
        let url = self.address(&format!("manifests/{name}"))?;
        let headers = [("accept", accepted_documents())];
        let asked = wanted.to_string();
        let document = self.0.access.document(&url, &headers, &asked, self.scope());
        let (bytes, headers) = match document {
            Err(Error::NotFound { reference, .. }) if wanted.digest().is_none() => {
                let tags = match self.tags_of(PAGES_FOR_HINT) {
                    Ok(tags) => tags,
                    Err(Error::NotFound { .. }) => {
                        return Err(Error::NotFound {
                            reference: format!("repository {}", wanted.name()),
                            closest: Vec::new(),
                        });
                    }
                    Err(e) => {
                        log::debug!("no tags to suggest: {}", chain(&e));
                        Vec::new()
                    }
                };
                let closest = closest(&name, tags.iter().map(String::as_str));
                return Err(Error::NotFound { reference, closest });
            }
            other => other?,
        };
        if wanted.digest().is_none()
            && let Some(Ok(expected)) = headers.digest.as_deref().map(str::parse::<Digest>)
        {
            let found = Digest::with(expected.algorithm(), &bytes);
            if found != expected {
                return Err(Error::digest_mismatch(expected, found));
            }
        }
        Fetched::new(
            bytes,
            headers.content_type.as_deref(),
            wanted.digest().as_ref(),
        )
    }

    fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader, Error> {
        self.open_blob(descriptor, offset)
    }
}
