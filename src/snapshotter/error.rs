//! What a call of the snapshotter can end with: containerd acts on the kind of error.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

use crate::{cause, image, mount, store, union};

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed call.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// A snapshot, or the parent of one, is not there.
    #[error("snapshot {0} does not exist")]
    NotFound(String),
    /// A snapshot of this key or name is there already.
    #[error("snapshot {0} exists already")]
    AlreadyExists(String),
    /// What is asked for makes no sense, whatever the state is.
    #[error("{0}")]
    InvalidArgument(String),
    /// The snapshot is not in a state that allows it.
    #[error("{0}")]
    FailedPrecondition(String),
    /// Another snapshotter serves this store.
    #[error("another snapshotter serves the store at {}", .0.display())]
    InUse(PathBuf),
    /// The metadata cannot be read or written.
    #[error("the metadata of the snapshots cannot be used")]
    Database(#[source] Box<redb::Error>),
    /// A record of the metadata is not what it should be.
    #[error("the record of snapshot {name} is damaged")]
    Record {
        /// The snapshot.
        name: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An image failed.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The tree of an image cannot be read.
    #[error("the tree of an image cannot be read")]
    Tree(#[source] union::Error),
    /// A mount failed.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// A system call failed.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io(source: io::Error, doing: &'static str, path: &Path) -> Error {
        Error::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// The error with its causes, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        cause::chain(self)
    }
}

/// Errors of the database, whichever of its many kinds.
pub(super) fn database(error: impl Into<redb::Error>) -> Error {
    Error::Database(Box::new(error.into()))
}
