//! What can go wrong while mounting and unmounting.

use std::io;
use std::path::PathBuf;

/// The result of mounting and unmounting.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something was not mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The place cannot be mounted on.
    #[error("{} cannot be a mount point", .path.display())]
    MountPoint {
        /// The place.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A request that makes no sense, or not yet.
    #[error("{0}")]
    Unsupported(String),
    /// A layer directory cannot be used.
    #[error("cannot use {} as a layer", .path.display())]
    Layer {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: crate::union::Error,
    },
    /// An upper directory cannot be used.
    #[error("cannot use {} as the upper directory", .path.display())]
    Upper {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: crate::union::Error,
    },
    /// The image cannot be used.
    #[error(transparent)]
    Image(Box<crate::image::Error>),
    /// A system call of the way to a live mount failed.
    #[error("{doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// fusermount3 refused.
    #[error("{message}")]
    Fusermount {
        /// What it said.
        message: String,
    },
    /// The daemon failed before the mount was ready, for this reason.
    #[error("{0}")]
    Daemon(String),
    /// Serving was broken off by a second signal.
    #[error("broken off by a second signal while the file system was still in use")]
    BrokenOff,
    /// There is no mount of ours at that place.
    #[error("{} is not a plyfs mount", .path.display())]
    NotMounted {
        /// The place.
        path: PathBuf,
    },
    /// Something still uses the mount.
    #[error("{} is busy: files in it are open, or it is somebody's current directory", .path.display())]
    Busy {
        /// The place.
        path: PathBuf,
    },
    /// The mount cannot be detached.
    #[error("cannot unmount {}", .path.display())]
    Unmount {
        /// The place.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl From<crate::image::Error> for Error {
    fn from(error: crate::image::Error) -> Error {
        Error::Image(Box::new(error))
    }
}

impl Error {
    pub(super) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { doing, source }
    }

    /// The error and its causes in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        crate::cause::chain(self)
    }
}
