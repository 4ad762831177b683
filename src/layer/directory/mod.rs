//! A layer that is an ordinary directory tree: what `lowerdir=` names, and what other unpackers make.
//!
//! How such a tree says that a name is gone, that a directory hides what lies below it, or that
//! something continues elsewhere, is read here in every dialect; the union above knows one.
//!
//! # Invariants
//! * A layer never changes and is never changed: it is held by a [`RootFd`], which has no mutators.
//! * Nothing outside the directory is reached: no symlink is followed, names are single components.

mod marks;
mod scan;

use std::io;
use std::path::Path;

use crate::sys::at::{RootFd, Stat};

pub use marks::{Marks, Opacity, Override, OverrideKey, Redirect, namespace_of_process};
pub use scan::{Scan, Scanned, What};

/// A directory layer.
#[derive(Debug)]
pub struct DirectoryLayer {
    root: RootFd,
    stat: Stat,
    override_key: Option<OverrideKey>,
    may_have_acls: bool,
}

impl DirectoryLayer {
    /// Opens the directory tree at `path`. The descriptor keeps the tree reachable even when
    /// something is mounted over it later.
    ///
    /// # Errors
    /// What open(2), statx(2) or getxattr(2) report.
    pub fn open(path: &Path) -> io::Result<DirectoryLayer> {
        let root = RootFd::open(path)?;
        let stat = root.stat(b"")?;
        let override_key = OverrideKey::detect(&root)?;
        let may_have_acls = match root.xattr(b"", b"system.posix_acl_access") {
            Err(error) => error.raw_os_error() != Some(libc::EOPNOTSUPP),
            Ok(_) => true,
        };
        Ok(DirectoryLayer {
            root,
            stat,
            override_key,
            may_have_acls,
        })
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> &RootFd {
        &self.root
    }

    /// What the root directory is.
    #[must_use]
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// The attribute in which this layer keeps owners and modes, if its root has one.
    #[must_use]
    pub fn override_key(&self) -> Option<OverrideKey> {
        self.override_key
    }

    /// Whether the file system of the root has POSIX ACLs.
    #[must_use]
    pub fn may_have_acls(&self) -> bool {
        self.may_have_acls
    }
}
