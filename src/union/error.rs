//! Errors of the filesystem family: an errno for the caller, and what was being done for the log.

use std::borrow::Cow;
use std::io;

use nix::errno::Errno;

/// The result of an operation on a union or an overlay.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation.
#[derive(Debug)]
pub struct Error {
    /// What the caller of the file system is told.
    pub errno: Errno,
    /// What was being done, for the log; empty for errors that callers provoke on purpose.
    pub doing: Cow<'static, str>,
    /// The cause, where it is more than the errno.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error that says no more than its errno.
    #[must_use]
    pub fn plain(errno: Errno) -> Error {
        Error {
            errno,
            doing: Cow::Borrowed(""),
            source: None,
        }
    }

    /// A failed system call; an error without an errno becomes `EIO`.
    #[must_use]
    pub fn io(error: io::Error, doing: impl Into<Cow<'static, str>>) -> Error {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        Error {
            errno,
            doing: doing.into(),
            source: Some(Box::new(error)),
        }
    }

    /// An `EIO` with its cause.
    #[must_use]
    pub fn broken(doing: impl Into<Cow<'static, str>>) -> Error {
        Error {
            errno: Errno::EIO,
            doing: doing.into(),
            source: None,
        }
    }

    /// The same for something that may have been done, in spite of it: `EIO`, after which callers ask again
    /// what there is.
    #[must_use]
    pub fn in_doubt(self) -> Error {
        Error {
            errno: Errno::EIO,
            ..self
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.doing.is_empty() {
            write!(f, "{}: ", self.doing)?;
        }
        match &self.source {
            Some(source) => write!(f, "{source}"),
            None => f.write_str(self.errno.desc()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error::plain(errno)
    }
}
