//! Where images come from: registries, OCI layouts and archives, behind one trait; and registries as
//! where they go to.
//!
//! It exists so that pulling is written once. A source hands out documents and blobs by name; it
//! knows nothing of layers, stores or mounts.
//!
//! # Invariants
//!
//! * Documents have the digest that was asked for. Blobs are not verified here: who reads one
//!   hashes it anyway. But a blob reader never gives more bytes than the descriptor says.
//! * Credentials go to the host they were given for, and to the token server that this host names,
//!   and nowhere else: not along redirects, not to the `urls` of foreign layers.
//! * Nothing here reads environment or home directory: [`Settings`] carries what was found there.
//!
//! # See
//!
//! distribution-spec 1.1, <https://distribution.github.io/distribution/spec/auth/>

mod archive;
mod auth;
mod auth_store;
mod closest;
mod docker_archive;
#[cfg(feature = "registry")]
mod document;
mod error;
mod exact;
mod helper;
mod layout;
mod location;
mod saved;

#[cfg(feature = "registry")]
mod access;
#[cfg(feature = "registry")]
mod agent;
#[cfg(feature = "registry")]
mod allowance;
#[cfg(feature = "registry")]
mod blob;
#[cfg(feature = "registry")]
mod certificates;
#[cfg(feature = "registry")]
mod client;
#[cfg(feature = "registry")]
mod login;
#[cfg(feature = "registry")]
mod message;
#[cfg(feature = "registry")]
mod mirrors;
#[cfg(feature = "registry")]
mod search;
#[cfg(feature = "registry")]
mod token;
#[cfg(feature = "registry")]
mod transport;
#[cfg(feature = "registry")]
mod upload;
#[cfg(feature = "registry")]
mod upload_session;
#[cfg(feature = "registry")]
mod url;

pub use auth::{AuthFiles, Credentials};
pub use auth_store::Keeper;
#[cfg(feature = "registry")]
pub use certificates::CertificateFiles;
#[cfg(feature = "registry")]
pub use client::{Registry, Repository};
pub use closest::closest;
pub use docker_archive::DockerArchive;
pub use error::{Error, RateLimit};
pub use layout::{IMAGE_NAME, Layout, REF_NAME};
pub use location::Location;
#[cfg(feature = "registry")]
pub use mirrors::{MirrorFiles, Mirrored};
pub use saved::{SavedImage, SavedImages};
#[cfg(feature = "registry")]
pub use search::Hit;
#[cfg(feature = "registry")]
pub use upload::{BlobSource, Upload};
#[cfg(feature = "registry")]
pub use upload_session::{KeptUpload, Uploads};

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::{Descriptor, Digest, Document, MediaType, ParseError, Reference};

/// Somewhere that images come from.
pub trait Source: Send + Sync {
    /// What is shown to people: `docker.io/library/alpine:latest`, `oci:/path:tag`.
    fn describe(&self) -> String;

    /// Reads a manifest or index.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::DigestMismatch`] if it does not have the digest that was asked for;
    /// and whatever reaching the source can bring.
    fn manifest(&self, which: &ManifestName) -> Result<Fetched, Error>;

    /// Opens a blob from byte `offset` on.
    ///
    /// The reader gives at most `descriptor.size` less its start, and fails if there would be more or
    /// fewer bytes. It does not verify the digest: the caller does.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::RangeNotSatisfiable`] if the source refuses this offset, after
    /// which the caller starts over; and whatever reaching the source can bring.
    fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader, Error>;
}

/// Which manifest or index of a source is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestName {
    /// The one that has this tag.
    Tag(String),
    /// The one that has this digest.
    Digest(Digest),
    /// The only one, or the first: for archives and layouts. In a registry, the tag `latest`.
    Default,
}

impl From<&Reference> for ManifestName {
    /// The digest decides if there is one.
    fn from(reference: &Reference) -> Self {
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Self::Digest(digest),
            (None, Some(tag)) => Self::Tag(tag.to_owned()),
            (None, None) => Self::Default,
        }
    }
}

impl fmt::Display for ManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
            Self::Default => f.write_str("default image"),
        }
    }
}

/// A manifest or index as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The raw bytes: these are what is stored.
    pub bytes: Vec<u8>,
    /// Its type, by its own words or the server's.
    pub media_type: MediaType,
    /// The digest of `bytes`.
    pub digest: Digest,
}

impl Fetched {
    /// Takes in a document: parses it to learn its type, and checks it against `expected`.
    pub(crate) fn new(
        bytes: Vec<u8>,
        content_type: Option<&str>,
        expected: Option<&Digest>,
    ) -> Result<Self, Error> {
        let digest = match expected {
            Some(expected) => Digest::with(expected.algorithm(), &bytes),
            None => Digest::of(&bytes),
        };
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(Error::digest_mismatch(*expected, digest));
        }
        let media_type = Document::parse(&bytes, content_type)?.media_type().clone();
        Ok(Self {
            bytes,
            media_type,
            digest,
        })
    }

    /// The document.
    ///
    /// # Errors
    ///
    /// None for a value that a [`Source`] gave, which has been parsed before.
    pub fn document(&self) -> Result<Document, ParseError> {
        Document::parse(&self.bytes, Some(self.media_type.as_str()))
    }

    /// A descriptor of it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(
            self.media_type.clone(),
            self.digest,
            self.bytes.len() as u64,
        )
    }
}

/// A blob being read.
pub struct BlobReader {
    /// Where in the blob the reader starts: the offset asked for, or 0 if the source cannot start elsewhere.
    pub start: u64,
    /// The bytes from `start` to the end of the blob.
    pub reader: Box<dyn Read + Send>,
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader")
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

/// How registries are reached. The defaults are those of a machine without any configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Do not verify certificates, and fall back to plain HTTP.
    pub insecure: bool,
    /// Certificate authorities to trust, PEM: the system's bundle, for example.
    ///
    /// All certificates of all these files are trusted; files that do not exist are passed over. If
    /// that leaves none, Mozilla's list that is built into the program is used.
    pub ca_files: Vec<PathBuf>,
    /// Certificate authorities to trust besides these, PEM; here a missing file is an error.
    pub extra_ca_files: Vec<PathBuf>,
    /// Certificates for single registries.
    #[cfg(feature = "registry")]
    pub certificates: CertificateFiles,
    /// What is particular about the API of the one registry that these settings are for.
    #[cfg(feature = "registry")]
    pub api: Api,
    /// The proxies to use.
    pub proxy: Proxies,
    /// Where credentials are looked for.
    pub auth: AuthFiles,
    /// Credentials for the registry that decide before any file.
    pub credentials: Option<Credentials>,
    /// Where it is written which mirrors registries have.
    #[cfg(feature = "registry")]
    pub mirrors: MirrorFiles,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long a server may send nothing at all.
    pub stall_timeout: Duration,
    /// How many times a request, or the rest of a body, is tried without any progress.
    pub attempts: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub back_off: Duration,
    /// The longest wait that a server may ask for with `Retry-After`.
    pub longest_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            insecure: false,
            ca_files: vec![
                PathBuf::from("/etc/ssl/certs/ca-certificates.crt"),
                PathBuf::from("/etc/pki/tls/certs/ca-bundle.crt"),
                PathBuf::from("/etc/ssl/cert.pem"),
            ],
            extra_ca_files: Vec::new(),
            #[cfg(feature = "registry")]
            certificates: CertificateFiles::default(),
            #[cfg(feature = "registry")]
            api: Api::default(),
            proxy: Proxies::default(),
            auth: AuthFiles::default(),
            credentials: None,
            #[cfg(feature = "registry")]
            mirrors: MirrorFiles::default(),
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            attempts: 5,
            back_off: Duration::from_secs(1),
            longest_wait: Duration::from_secs(120),
        }
    }
}

/// What is particular about the API of a registry.
#[cfg(feature = "registry")]
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Api {
    /// Where it is, if not at `/v2/`; with a slash at both ends.
    pub path: Option<String>,
    /// Names and values of headers that this registry gets with each request, and nobody else.
    pub headers: Vec<(String, String)>,
    /// The certificate that it is shown, PEM, and the file with the key, if that is another one.
    pub client_certificate: Option<(PathBuf, Option<PathBuf>)>,
    /// The registry that it is a mirror of, which it is told.
    pub mirror_of: Option<String>,
}

#[cfg(feature = "registry")]
impl fmt::Debug for Api {
    /// Without the values of headers, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Api")
            .field("path", &self.path)
            .field("headers", &headers)
            .field("client_certificate", &self.client_certificate)
            .field("mirror_of", &self.mirror_of)
            .finish()
    }
}

/// The proxies to use, each as in the environment variable of its name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `http_proxy`: for plain HTTP.
    pub http: Option<String>,
    /// `https_proxy`: for HTTPS.
    pub https: Option<String>,
    /// `no_proxy`: hosts and domains, separated by commas, that are reached without a proxy.
    pub no_proxy: Option<String>,
}

impl fmt::Debug for Proxies {
    /// Without the addresses, which may contain passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_nobody_waits_for_minutes_on_end() {
        let settings = Settings::default();
        let pauses = settings.back_off * (1 << (settings.attempts - 1));
        let worst = settings.stall_timeout * settings.attempts + pauses;
        assert!(worst <= Duration::from_secs(180), "{worst:?}");
    }
}
