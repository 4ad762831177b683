//! What can be wrong with a store.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

use crate::oci::{Digest, ParseError};

/// How an ordinary user removes what was written in a user namespace of his.
pub const SUBORDINATE: &str =
    "unshare --map-auto -r plyfs check --repair removes what subordinate users own";

/// A failed operation on a store.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// There is no store.
    #[error("there is no store at {}", .0.display())]
    NoStore(PathBuf),
    /// What should hold the store is a file.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A store was to be made where something else is.
    #[error("{} is not empty, and no store", .0.display())]
    NotEmpty(PathBuf),
    /// A store of another version.
    #[error("the store at {} has version {found}, which this program does not know", root.display())]
    Version {
        /// The store.
        root: PathBuf,
        /// Its version.
        found: u32,
    },
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
    /// A file of the store is not the JSON it should be.
    #[error("{} is damaged", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// A stored document is not what it should be.
    #[error("{what} {digest} is damaged")]
    Document {
        /// What it should be.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// The cause.
        source: ParseError,
    },
    /// An object that something refers to is not there.
    #[error("{what} {digest} is missing from the store")]
    Missing {
        /// Kind of object.
        what: &'static str,
        /// Its digest.
        digest: Digest,
    },
    /// A container that another process mounts or removes.
    #[error("container {name} is in use{}", by(*.pid))]
    ContainerInUse {
        /// Its name.
        name: String,
        /// The process, if it may be looked at.
        pid: Option<u32>,
    },
    /// A container of this name is there already.
    #[error("there is a container {0} already")]
    ContainerExists(String),
    /// An object does not have its digest.
    #[error("{what} {digest} is damaged")]
    Damaged {
        /// Kind of object.
        what: &'static str,
        /// Its digest.
        digest: Digest,
    },
}

impl Error {
    /// A system call that failed on a file.
    #[must_use]
    pub fn io(source: io::Error, doing: &'static str, path: &Path) -> Error {
        Error::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether nothing can be written to the store, at all or by this user.
    #[must_use]
    pub fn is_write_protected(&self) -> bool {
        matches!(self, Error::Io { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
        ))
    }

    /// What helps against the error, in brackets, where it was met in the trash.
    pub(super) fn way_out(&self) -> String {
        match self {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                format!(" ({SUBORDINATE})")
            }
            _ => String::new(),
        }
    }

    pub(super) fn json(source: serde_json::Error, path: &Path) -> Error {
        Error::Json {
            path: path.to_owned(),
            source,
        }
    }
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}
