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

use super::closest::closest;
use super::exact::read_limited;
use super::token::{Authorization, Challenge, TokenRequest, unauthorized};
use super::transport::{Request, Response, Transport};
use super::url::Url;
use super::{BlobReader, Credentials, Error, Fetched, ManifestName, Settings, Source};
use crate::cause::chain;
use crate::oci::{DEFAULT_TAG, Descriptor, Digest, MAX_DOCUMENT_SIZE, MediaType, Reference};

/// How many pages of tags are read; registries give some hundred tags on each.
const MOST_PAGES: usize = 10_000;
/// Of all pages together, in bytes.
const LARGEST_LIST: u64 = 64 << 20;
/// For a mere hint, fewer.
const PAGES_FOR_HINT: usize = 5;

/// The means to reach registries: connections, tokens and settings, shared by what uses them.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    transport: Transport,
    /// By registry and repository.
    authorizations: Mutex<HashMap<String, Authorization>>,
    /// The addresses of registries that had to be found out, by host.
    bases: Mutex<HashMap<String, Url>>,
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

    /// The repository that a reference names.
    pub fn repository(&self, reference: &Reference) -> Repository {
        Repository(Arc::new(Inner {
            registry: self.clone(),
            reference: reference.clone(),
            credentials: Mutex::new(None),
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
    registry: Registry,
    reference: Reference,
    /// What the auth files have; `None` until that was needed.
    credentials: Mutex<Option<Option<Credentials>>>,
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
        let mut size = 0;
        let mut url = self.address("tags/list?n=1000")?;
        for _ in 0..pages {
            let (bytes, response) = self.document(&url, &[], &self.name())?;
            size += bytes.len() as u64;
            if size > LARGEST_LIST {
                let what = format!("the list of tags of {}", self.name());
                return Err(Error::TooLarge {
                    what,
                    limit: LARGEST_LIST,
                });
            }
            let wrong = |why: String| Error::Protocol {
                url: url.to_string(),
                why,
            };
            let page: Tags = serde_json::from_slice(&bytes)
                .map_err(|e| wrong(format!("the list of tags is invalid: {e}")))?;
            tags.extend(page.tags.unwrap_or_default());
            let Some(next) = response.link else { break };
            let next = url
                .join(&next)
                .map_err(|why| wrong(format!("the next page is {why}")))?;
            if !next.same_origin(&url) {
                return Err(wrong(format!(
                    "the next page of tags is at {next}, another server"
                )));
            }
            url = next;
        }
        Ok(tags)
    }

    /// Registry and repository, for messages.
    pub(super) fn name(&self) -> String {
        self.0.reference.name()
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.0.registry.0.transport
    }

    /// The address of the registry, `scheme://host/`.
    pub(super) fn base(&self) -> Result<Url, Error> {
        let shared = &self.0.registry.0;
        let host = self.0.reference.api_host();
        if let Some(base) = shared.bases.lock().get(host) {
            return Ok(base.clone());
        }
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/")).map_err(|why| Error::Protocol {
                url: host.to_owned(),
                why: format!("the registry {why}"),
            })
        };
        let (plain, tls) = (parse("http")?, parse("https")?);
        let insecure = shared.transport.settings().insecure;
        let candidates = match (tls.is_loopback(), insecure) {
            (true, _) => [plain, tls],
            (false, true) => [tls, plain],
            (false, false) => return Ok(tls),
        };
        let base = self.first_that_answers(candidates)?;
        shared.bases.lock().insert(host.to_owned(), base.clone());
        Ok(base)
    }

    fn first_that_answers(&self, candidates: [Url; 2]) -> Result<Url, Error> {
        let mut attempts = 0;
        loop {
            let mut first_error = None;
            for base in &candidates {
                let api = base.join("/v2/").map_err(|why| Error::Protocol {
                    url: base.to_string(),
                    why,
                })?;
                match self.transport().probe(&api) {
                    Ok(true) => return Ok(base.clone()),
                    Ok(false) => {}
                    Err(e) => {
                        log::debug!("{}", chain(&e));
                        first_error.get_or_insert(e);
                    }
                }
            }
            attempts += 1;
            if attempts >= 2 {
                return Err(first_error.unwrap_or_else(|| Error::Protocol {
                    url: candidates[0].to_string(),
                    why: "answers neither HTTP nor HTTPS".to_owned(),
                }));
            }
            self.transport().pause(attempts, None);
        }
    }

    /// The address of something in the repository.
    pub(super) fn address(&self, what: &str) -> Result<Url, Error> {
        let base = self.base()?;
        let path = format!("/v2/{}/{what}", self.0.reference.repository());
        base.join(&path).map_err(|why| Error::Protocol {
            url: base.to_string(),
            why,
        })
    }

    fn credentials(&self) -> Result<Option<Credentials>, Error> {
        let mut known = self.0.credentials.lock();
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let settings = self.transport().settings();
        let found = match &settings.credentials {
            Some(explicit) => Some(explicit.clone()),
            None => settings.auth.find(&self.0.reference)?,
        };
        *known = Some(found.clone());
        Ok(found)
    }

    /// Sends a request to the registry, with the authorization that it asks for.
    pub(super) fn send(
        &self,
        url: &Url,
        headers: &[(&'static str, String)],
    ) -> Result<Response, Error> {
        let key = self.0.reference.name();
        let authorizations = &self.0.registry.0.authorizations;
        let mut fresh = false;
        loop {
            let known = authorizations
                .lock()
                .get(&key)
                .filter(|it| !it.has_expired())
                .cloned();
            let authorization = known.as_ref().map(|it| it.header.as_str());
            let response = self.transport().send(&Request {
                authorization,
                ..Request::get(url, headers)
            })?;
            if response.status() != 401 || response.elsewhere {
                return Ok(response);
            }
            // A known token may have been revoked; a new one will not get better by asking again.
            if fresh {
                authorizations.lock().remove(&key);
                let registry = self.0.reference.registry();
                return Err(unauthorized(registry, self.credentials()?.as_ref()));
            }
            let authorization = self.authorize(url, &response)?;
            authorizations.lock().insert(key.clone(), authorization);
            fresh = true;
        }
    }

    /// Gets what a registry asks for that answered with status 401.
    fn authorize(&self, url: &Url, response: &Response) -> Result<Authorization, Error> {
        let registry = self.0.reference.registry();
        let credentials = self.credentials()?;
        match Challenge::from_headers(response.headers("www-authenticate")) {
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let own_scope = format!("repository:{}:pull", self.0.reference.repository());
                let token = TokenRequest {
                    transport: self.transport(),
                    registry: url,
                    realm: &realm,
                    service: service.as_deref(),
                    scope: scope.as_deref().unwrap_or(&own_scope),
                    credentials: credentials.as_ref(),
                };
                token.send()
            }
            Some(Challenge::Basic) => match &credentials {
                Some(Credentials::Basic { username, password }) => {
                    Ok(Authorization::basic(username, password))
                }
                other => Err(unauthorized(registry, other.as_ref())),
            },
            None => Err(Error::Protocol {
                url: url.to_string(),
                why: "asks for an authentication that is not supported".to_owned(),
            }),
        }
    }

    /// Turns an error status into an error about `what`.
    pub(super) fn check(&self, response: Response, what: &str) -> Result<Response, Error> {
        let url = response.url.to_string();
        let registry = self.0.reference.registry().to_owned();
        match response.status() {
            200..=299 => Ok(response),
            403 if !response.elsewhere => Err(Error::Denied {
                registry,
                detail: response.into_detail(),
            }),
            404 => Err(Error::NotFound {
                reference: what.to_owned(),
                closest: Vec::new(),
            }),
            status => Err(Error::Server {
                url,
                status,
                detail: response.into_detail(),
            }),
        }
    }

    /// Reads a document of at most 4 MiB, again if the connection is lost.
    fn document(
        &self,
        url: &Url,
        headers: &[(&'static str, String)],
        what: &str,
    ) -> Result<(Vec<u8>, DocumentHeaders), Error> {
        let mut failures = 0;
        loop {
            let response = self.check(self.send(url, headers)?, what)?;
            let kept = DocumentHeaders::of(&response);
            match read_limited(response.into_body(), MAX_DOCUMENT_SIZE) {
                Ok(Some(bytes)) => return Ok((bytes, kept)),
                Ok(None) => {
                    return Err(Error::TooLarge {
                        what: url.to_string(),
                        limit: MAX_DOCUMENT_SIZE,
                    });
                }
                Err(e) => {
                    failures += 1;
                    if failures >= self.transport().settings().attempts {
                        return Err(Error::Network {
                            url: url.to_string(),
                            source: Box::new(e),
                        });
                    }
                    log::debug!("lost {url}: {e}");
                    self.transport().pause(failures, None);
                }
            }
        }
    }
}

/// What is of interest in the headers of a document.
struct DocumentHeaders {
    content_type: Option<String>,
    digest: Option<String>,
    /// The target of the link to the next page.
    link: Option<String>,
}

impl DocumentHeaders {
    fn of(response: &Response) -> Self {
        let text = |name: &str| response.header(name).map(str::to_owned);
        Self {
            content_type: text("content-type"),
            digest: text("docker-content-digest"),
            link: response
                .headers("link")
                .find_map(next_link)
                .map(str::to_owned),
        }
    }
}

/// The target of `<target>; rel="next"`.
fn next_link(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| matches!(parameter.trim(), r#"rel="next""# | "rel=next");
        parameters.split(';').any(is_next).then_some(target)
    })
}

impl Source for Repository {
    fn describe(&self) -> String {
        self.0.reference.to_string()
    }

    fn manifest(&self, which: &ManifestName) -> Result<Fetched, Error> {
        let reference = &self.0.reference;
        let wanted = match which {
            ManifestName::Digest(digest) => reference.with_digest(*digest),
            ManifestName::Tag(tag) => reference.with_tag(tag)?,
            ManifestName::Default => reference.with_tag(reference.tag().unwrap_or(DEFAULT_TAG))?,
        };
        let name = match (wanted.digest(), wanted.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or(DEFAULT_TAG).to_owned(),
        };
        let accepted = [
            MediaType::OciIndex,
            MediaType::DockerManifestList,
            MediaType::OciManifest,
            MediaType::DockerManifest,
        ];
        let accepted: Vec<&str> = accepted.iter().map(MediaType::as_str).collect();
        let url = self.address(&format!("manifests/{name}"))?;
        let headers = [("accept", accepted.join(", "))];
        let (bytes, headers) = match self.document(&url, &headers, &wanted.to_string()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        for (header, expected) in [
            (
                r#"</v2/x/tags/list?last=b&n=2>; rel="next""#,
                Some("/v2/x/tags/list?last=b&n=2"),
            ),
            (r#"<a>; rel="prev", <b>; x=y; rel=next"#, Some("b")),
            (r#"<a>; rel="prev""#, None),
            ("rubbish", None),
        ] {
            assert_eq!(next_link(header), expected, "{header}");
        }
    }
}
