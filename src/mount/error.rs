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
    /// A name that no container can have.
    #[error("{0:?} cannot be the name of a container")]
    ContainerName(String),
    /// There is no such container.
    #[error("there is none of that name")]
    NoContainer,
    /// A container is there that would not be removed when it is unmounted.
    #[error("it is there already, and kept")]
    ContainerKept,
    /// A container is there that was made of another image: which, in words.
    #[error("{0}")]
    OtherImage(String),
    /// The program that serves the image of a container did not mount it.
    #[error("its image cannot be mounted: {0}")]
    Helper(String),
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
    /// No process to serve in.
    #[error("cannot start the daemon")]
    Start(#[source] io::Error),
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
    /// A thread that answers the kernel has ended by itself.
    #[error("a bug in plyfs ended the mount")]
    Bug,
    /// No server of the mount has lived for long.
    #[error("the process that serves the mount died again and again")]
    GaveUp,
    /// The mount ends with the process that serves it.
    #[error("it has no holder, as images have that are mounted in the background")]
    NotHeld,
    /// Another program does not serve the mount, for this reason.
    #[error("{0}")]
    Upgrade(String),
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
    /// The mount is somebody else's.
    #[error("{} was mounted by {}", .path.display(), user(*.user_id))]
    NotYours {
        /// The place.
        path: PathBuf,
        /// Who mounted it.
        user_id: u32,
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

fn user(id: u32) -> String {
    match id {
        0 => "root".into(),
        id => format!("user {id}"),
    }
}

impl From<crate::store::Error> for Error {
    fn from(error: crate::store::Error) -> Error {
        crate::image::Error::from(error).into()
    }
}

impl From<crate::image::Error> for Error {
    fn from(error: crate::image::Error) -> Error {
        Error::Image(Box::new(error))
    }
}

/// What a pull would bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// There is no store.
    Store,
    /// The store does not have the image.
    Image,
}

impl Error {
    /// What is missing, if that is why there is no mount.
    #[must_use]
    pub fn missing(&self) -> Option<Missing> {
        use crate::{image, store};
        match self {
            Error::Image(error) => match &**error {
                image::Error::NotStored | image::Error::NotStoredFor { .. } => Some(Missing::Image),
                image::Error::Store(store::Error::NoStore(_)) => Some(Missing::Store),
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { doing, source }
    }

    /// The error and its causes in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        crate::cause::chain(self)
    }
}
