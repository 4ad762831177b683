//! Space that is kept back, so that images can be removed, and mounted, when the disk is full.
//!
//! ```text
//! reserve/  index, lease-<n>
//! ```
//!
//! A reserved file becomes the file that there is no space for: it is renamed and written over,
//! which takes no new blocks. It is made again as soon as there is space.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::{Error, Result, Store, files};

/// More than the `index.json` of two thousand images, in bytes.
const INDEX_SIZE: u64 = 1 << 20;
/// More than a lease of any mount, in bytes.
const LEASE_SIZE: u64 = 4096;
/// Mounts that can be made while the disk is full.
const LEASES: usize = 8;

/// What a reserved file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    Index,
    Lease,
}

impl Reserved {
    fn files(self) -> impl Iterator<Item = String> {
        let names = match self {
            Reserved::Index => vec!["reserve/index".to_owned()],
            Reserved::Lease => (0..LEASES).map(|n| format!("reserve/lease-{n}")).collect(),
        };
        names.into_iter()
    }
}

impl Store {
    /// Makes what is missing of the reserve; on a full disk, what there is space for.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn keep_reserve(&self) -> Result<()> {
        let directory = self.root().join("reserve");
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory);
        let made = made.and_then(|()| {
            for (reserved, size) in [(Reserved::Index, INDEX_SIZE), (Reserved::Lease, LEASE_SIZE)] {
                for name in reserved.files() {
                    make(self.root(), &self.root().join(name), size)?;
                }
            }
            Ok(())
        });
        match made {
            Err(error) if is_full(&error) => {
                log::debug!("no space is kept back: the disk is full");
                Ok(())
            }
            made => made.map_err(|error| Error::io(error, "keeping space back in", &directory)),
        }
    }
}

/// A file of `size` bytes whose blocks are allocated, unless there is one.
fn make(root: &Path, path: &Path, size: u64) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let (temporary, file) = files::temporary_file(root)?;
    let length = i64::try_from(size).unwrap_or(i64::MAX);
    let made = nix::fcntl::posix_fallocate(&file, 0, length)
        .map_err(io::Error::from)
        .and_then(|()| std::fs::rename(&temporary, path));
    if made.is_err() {
        std::fs::remove_file(&temporary)?;
    }
    made
}

/// Moves a reserved file to `target` and opens it, locked; `None` if there is none left.
pub(super) fn take(root: &Path, what: Reserved, target: &Path) -> io::Result<Option<File>> {
    for name in what.files() {
        let path = root.join(name);
        let file = match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        file.lock()?;
        match std::fs::rename(&path, target) {
            Ok(()) => return Ok(Some(file)),
            // Somebody else took it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
