//! The words of the OCI specifications as values: digest, reference, descriptor, manifest, platform.
//!
//! Everything here parses and prints. It exists so that bytes from outside are checked once, at the
//! edge, and the rooms above pass types around that cannot be wrong.
//!
//! # Invariants
//!
//! * No input or output, no clock, no environment: the same bytes always give the same value.
//! * Nothing panics on input, and error messages quote a bounded part of it, escaped.
//! * Documents from outside are never serialised again: their raw bytes are what has the digest.
//!
//! # See
//!
//! <https://github.com/opencontainers/image-spec>, <https://github.com/opencontainers/distribution-spec>,
//! <https://github.com/distribution/reference>

mod change;
mod config;
mod digest;
mod manifest;
mod media_type;
mod platform;
mod reference;
mod registry_name;
mod runtime;
mod runtime_default;
mod user;

pub use change::Changes;
pub use config::{Config, History, ImageConfig, RootFs};
pub use digest::{Algorithm, ChainId, DiffId, Digest, Hasher};
pub use manifest::{Descriptor, Document, Index, MAX_DOCUMENT_SIZE, Manifest};
pub use media_type::{Compression, MediaType};
pub use platform::{NoMatchingPlatform, Platform, attested};
pub use reference::{DEFAULT_REGISTRY, DEFAULT_TAG, Reference};
pub use registry_name::RegistryName;
pub use runtime::{
    Capabilities, DeviceRule, IdMapping, Linux, Mount, Namespace, Process, Resources, Root,
    RuntimeSpec, RuntimeUser,
};
pub use runtime_default::Rights;
pub use user::ContainerUser;

use serde::{Deserialize, Deserializer};

/// Why a text or document from outside is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Not a digest of a supported algorithm.
    #[error("invalid digest {text}: {why}")]
    Digest {
        /// The offending text, quoted and shortened.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not an instruction that changes a configuration.
    #[error("invalid instruction {text}: {why}")]
    Instruction {
        /// The offending text, quoted and shortened.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not an image reference.
    #[error("invalid image reference {text}: {why}")]
    Reference {
        /// The offending text, quoted and shortened.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not a platform.
    #[error("invalid platform {text}: {why}")]
    Platform {
        /// The offending text, quoted and shortened.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A user or group that a container does not have.
    #[error("no such user {text}: {why}")]
    User {
        /// The offending text, quoted and shortened.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A manifest, index or configuration that is not one.
    #[error("invalid {what}: {why}")]
    Document {
        /// Which kind of document was expected.
        what: &'static str,
        /// What is wrong with it, with the position where that is known.
        why: String,
    },
    /// A document larger than any honest one.
    #[error("{what} of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Which kind of document it is.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The manifest has the schema that Docker gave up in 2017.
    #[error(
        "the image has a manifest of Docker schema 1, which is not supported; push it again with a current tool"
    )]
    Schema1,
}

/// Text from outside as it may appear in an error message: quoted, escaped, at most 80 characters.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Reads a field that writers leave out or set to `null` when it is empty (Go marshals a nil slice so).
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
