//! What can go wrong with images.

use std::io;

use thiserror::Error as ThisError;

use crate::layer::index::IndexError;
use crate::oci::{Digest, NoMatchingPlatform, ParseError, Platform};
use crate::union::flatten::FlattenError;
use crate::{pack, registry, store};

/// A failed operation on an image.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The source failed.
    #[error(transparent)]
    Source(#[from] registry::Error),
    /// A document is not what it should be.
    #[error(transparent)]
    Document(#[from] ParseError),
    /// The image is not made for the platform.
    #[error(transparent)]
    Platform(#[from] NoMatchingPlatform),
    /// No such image in the store.
    #[error("it is not in the store")]
    NotStored,
    /// No such image in the store, but some that are called nearly so.
    #[error("it is not in the store, which has {}", .closest.join(", "))]
    Misspelt {
        /// What they are called, best first; not empty.
        closest: Vec<String>,
    },
    /// The image is in the store, but not for this platform.
    #[error("it is in the store for other platforms only: {available}")]
    NotStoredFor {
        /// The platform that was asked for, or else this machine's.
        wanted: Box<Platform>,
        /// The platforms it is there for.
        available: String,
    },
    /// An index of which not all is in the store.
    #[error("it is made for further platforms that are not in the store: {}", .missing.join(", "))]
    PlatformsMissing {
        /// What is missing, as people call it.
        missing: Vec<String>,
    },
    /// Blobs that were removed from the store, and that the registry does not have.
    #[error("{} not in the store any more: {}", if .missing.len() == 1 { "a blob is" } else { "blobs are" }, list(.missing))]
    BlobsMissing {
        /// Which.
        missing: Vec<Digest>,
        /// Another name of the image, under which it can perhaps be pulled.
        from: Option<String>,
    },
    /// A short image ID that several images have.
    #[error("more than one image has an ID that starts so")]
    Ambiguous,
    /// Something that is no image: an artifact, for example.
    #[error("it is no image but of type {0}")]
    NotAnImage(String),
    /// What was to be imported as a root filesystem is an archive of images.
    #[error("it holds a saved image, not a root file system")]
    SavedImage(
        /// The kind of source that reads it: `docker-archive` or `oci-archive`.
        &'static str,
    ),
    /// The image is made for another platform.
    #[error("it is made for {found}, not for {wanted}")]
    OtherPlatform {
        /// The platform that was asked for.
        wanted: Platform,
        /// The one of the image.
        found: Platform,
    },
    /// Manifest and configuration disagree.
    #[error("its manifest has {layers} layers, but its configuration {diff_ids}")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// DiffIDs of the configuration.
        diff_ids: usize,
    },
    /// A layer failed.
    #[error("layer {digest}")]
    Layer {
        /// Digest of the blob.
        digest: Digest,
        /// The cause.
        #[source]
        source: Box<Error>,
    },
    /// A blob does not have its digest.
    #[error("the content received has digest {found}, not {expected}")]
    DigestMismatch {
        /// What the descriptor says.
        expected: Digest,
        /// What was received.
        found: Digest,
    },
    /// A layer does not have its diffID.
    #[error(
        "the uncompressed layer has digest {found}, not the diffID {expected} of the configuration"
    )]
    DiffIdMismatch {
        /// What the configuration says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A blob does not have its size.
    #[error("the content has {found} bytes, not {expected}")]
    SizeMismatch {
        /// What the descriptor says.
        expected: u64,
        /// What was received.
        found: u64,
    },
    /// The archive of a layer is wrong.
    #[error(transparent)]
    Pack(#[from] pack::Error),
    /// A layer could not be archived.
    #[error("cannot archive the layer")]
    Archive(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The layers do not fit together.
    #[error("its layers do not fit together")]
    Flatten(#[from] FlattenError),
    /// An index in the store is damaged.
    #[error("the index of {what} {digest} cannot be used")]
    Index {
        /// `layer` or `chain`.
        what: &'static str,
        /// DiffID or chainID.
        digest: Digest,
        /// The cause.
        source: IndexError,
    },
    /// An index could not be written.
    #[error("writing the index")]
    WriteIndex(#[from] crate::layer::WriteError),
    /// The image is mounted.
    #[error("it is mounted on {mount_point} (by process {pid})")]
    Mounted {
        /// Where.
        mount_point: String,
        /// The daemon.
        pid: u32,
    },
    /// A container needs the image.
    #[error("container {name} uses it")]
    UsedByContainer {
        /// Which.
        name: String,
    },
    /// A name that an image cannot be given.
    #[error("{name} has a digest, which only the image itself can have")]
    TagWithDigest {
        /// It.
        name: String,
    },
    /// An ID that several names have, where one had to be meant.
    #[error("it has several names: {names}")]
    SeveralNames {
        /// They.
        names: String,
    },
    /// A file could not be read or written.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io(source: io::Error, doing: impl Into<String>) -> Error {
        Error::Io {
            doing: doing.into(),
            source,
        }
    }

    /// Whether the source does not have what was asked for.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Error::Source(registry::Error::NotFound { .. }))
    }

    pub(super) fn of_layer(digest: Digest, source: Error) -> Error {
        Error::Layer {
            digest,
            source: Box::new(source),
        }
    }
}

fn list(digests: &[Digest]) -> String {
    let digests: Vec<String> = digests.iter().map(ToString::to_string).collect();
    digests.join(", ")
}
