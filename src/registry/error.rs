//! What can go wrong on the way to an image.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::{Digest, ParseError};

/// Why something could not be had from a source.
///
/// Messages read well after `cannot pull alpine:3.2: `; causes are not repeated in them but chained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source does not have it.
    #[error("there is no {reference}{}", closest_text(.closest))]
    NotFound {
        /// What was looked for.
        reference: String,
        /// The tags nearest to the one that was asked for, best first; possibly none.
        closest: Vec<String>,
    },
    /// There are several images, and none was chosen.
    #[error("{} has several images: {}", .path.display(), .images.join(", "))]
    SeveralImages {
        /// The file or directory.
        path: PathBuf,
        /// What they are called there, or else their digests.
        images: Vec<String>,
    },
    /// The registry wants credentials, or others.
    #[error("{registry} requires authentication: {hint}")]
    Unauthorized {
        /// The registry's host.
        registry: String,
        /// What was tried and what could help.
        hint: String,
    },
    /// The registry knows who asks, and says no.
    #[error("{registry} denies access{}", detail_text(.detail))]
    Denied {
        /// The registry's host.
        registry: String,
        /// What the registry says; may be empty.
        detail: String,
    },
    /// The registry does not take what it is given.
    #[error("{registry} does not take it: {why}{}", detail_text(.detail))]
    Refused {
        /// The registry's host.
        registry: String,
        /// What its answer means.
        why: String,
        /// What the registry says; may be empty.
        detail: String,
    },
    /// The registry has answered too many requests.
    #[error(transparent)]
    RateLimited(Box<RateLimit>),
    /// The content is not what its name says.
    #[error("the content has digest {found} instead of {expected}")]
    DigestMismatch {
        /// The digest that was asked for.
        expected: Box<Digest>,
        /// The digest of what came.
        found: Box<Digest>,
    },
    /// More than any honest server would send.
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was being read.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The source cannot start reading there; start over from 0.
    #[error("cannot continue {url} at byte {offset}")]
    RangeNotSatisfiable {
        /// What was being read.
        url: String,
        /// The offset that was asked for.
        offset: u64,
    },
    /// The server could not be reached, or the connection broke too often.
    #[error("cannot reach {url}")]
    Network {
        /// What was asked for, without its query.
        url: String,
        /// The last failure.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server answered with an error of its own.
    #[error("{url} answered with status {status}{}", detail_text(.detail))]
    Server {
        /// What was asked for, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server says; may be empty.
        detail: String,
    },
    /// The server answered something that makes no sense or is not safe to follow.
    #[error("{url}: {why}")]
    Protocol {
        /// What was asked for, without its query.
        url: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A document that is not what it should be.
    #[error(transparent)]
    Document(#[from] ParseError),
    /// A file or directory could not be read.
    #[error("cannot read {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// An archive or layout that is not one.
    #[error("{}: {why}", .path.display())]
    Archive {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Credentials could not be had, kept or forgotten.
    #[error("cannot {doing} credentials for {registry}: {why}")]
    Credentials {
        /// What was tried: `get`.
        doing: &'static str,
        /// The registry's host.
        registry: String,
        /// What went wrong.
        why: String,
    },
    /// A setting that cannot be used: a proxy address, a file of certificates.
    #[error("{what}: {why}")]
    Settings {
        /// The setting.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// This program was built without the means to reach registries.
    #[error("this program was built without support for registries")]
    NotBuilt,
}

impl Error {
    /// The error for content that has `found` as its digest.
    pub fn digest_mismatch(expected: Digest, found: Digest) -> Self {
        Self::DigestMismatch {
            expected: Box::new(expected),
            found: Box::new(found),
        }
    }
}

fn closest_text(closest: &[String]) -> String {
    match closest {
        [] => String::new(),
        [one] => format!("; the closest tag is {one}"),
        many => format!("; the closest tags are {}", many.join(", ")),
    }
}

fn detail_text(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(": {detail}")
    }
}

/// What a registry says that has answered too many requests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{registry} refuses further requests for now{}{}{}", detail_text(.detail), some_text(.allowance), wait_text(*.retry_after))]
pub struct RateLimit {
    /// The registry's host.
    pub registry: String,
    /// What the registry says; may be empty.
    pub detail: String,
    /// How many requests it answers, in words: `100 requests in 6 h`.
    pub allowance: Option<String>,
    /// How long it asks to wait.
    pub retry_after: Option<Duration>,
    /// Whether it does not know who asks.
    pub anonymous: bool,
}

fn some_text(allowance: &Option<String>) -> String {
    allowance
        .as_ref()
        .map_or_else(String::new, |allowance| format!("; it answers {allowance}"))
}

fn wait_text(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| {
        format!("; it asks to wait for {} seconds", wait.as_secs())
    })
}
