//! Documents of a registry: manifests, and lists that come in pages.

use std::time::Instant;

use serde::de::DeserializeOwned;

use super::Error;
use super::access::{Access, Scope};
use super::exact::read_limited;
use super::message::{Request, Response};
use super::url::Url;
use crate::cause::chain;
use crate::oci::MAX_DOCUMENT_SIZE;

/// How many pages of a list are read; registries give some hundred entries on each.
pub(super) const MOST_PAGES: usize = 10_000;
/// Of all pages together, in bytes.
const LARGEST_LIST: u64 = 64 << 20;

/// A list that comes in pages.
pub(super) struct List<'a> {
    /// `the list of tags`
    pub(super) what: &'a str,
    /// What it is a list of.
    pub(super) of: &'a str,
    /// How many pages are read.
    pub(super) pages: usize,
}

impl Access {
    /// Reads a document of at most 4 MiB, again if the connection is lost.
    pub(super) fn document(
        &self,
        url: &Url,
        headers: &[(&'static str, String)],
        what: &str,
        scope: Scope<'_>,
    ) -> Result<(Vec<u8>, DocumentHeaders), Error> {
        let mut failures = 0;
        loop {
            let response = self.send(&Request::get(url, headers), scope)?;
            let response = self.check(response, what)?;
            let begun = Instant::now();
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
                    let what = format!("lost {url}: {}", chain(&e));
                    self.transport().tell_failure(what, failures, begun);
                    self.transport().pause(failures, None);
                }
            }
        }
    }

    /// Reads the pages of a list, from the first on, each of which `take` is given.
    pub(super) fn pages<T: DeserializeOwned>(
        &self,
        first: Url,
        list: &List<'_>,
        scope: Scope<'_>,
        take: &mut dyn FnMut(T),
    ) -> Result<(), Error> {
        let what = list.what;
        let (mut url, mut size) = (first, 0);
        for _ in 0..list.pages {
            let (bytes, headers) = self.document(&url, &[], list.of, scope)?;
            size += bytes.len() as u64;
            if size > LARGEST_LIST {
                return Err(Error::TooLarge {
                    what: format!("{what} of {}", list.of),
                    limit: LARGEST_LIST,
                });
            }
            let wrong = |why: String| Error::Protocol {
                url: url.to_string(),
                why,
            };
            take(
                serde_json::from_slice(&bytes)
                    .map_err(|e| wrong(format!("{what} is invalid: {e}")))?,
            );
            let Some(next) = headers.link else { break };
            let next = url
                .join(&next)
                .map_err(|why| wrong(format!("the next page is {why}")))?;
            if !next.same_origin(&url) {
                return Err(wrong(format!(
                    "the next page of {what} is at {next}, another server"
                )));
            }
            url = next;
        }
        Ok(())
    }
}

/// What is of interest in the headers of a document.
pub(super) struct DocumentHeaders {
    pub(super) content_type: Option<String>,
    pub(super) digest: Option<String>,
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
