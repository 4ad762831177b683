//! Space that is kept back, so that images can be removed, and mounted, when the disk is full.
//!
//! ```text
//! reserve/  index, lease-<n>
//! ```
//!
//! A reserved file becomes the file that there is no space for: it is renamed and written over,
//! which takes no new blocks. It is made again as soon as there is space.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
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
        let failed = |error| Error::io(error, "keeping space back in", &directory);
        match made {
            Err(error) if is_full(&error) => return Ok(()),
            made => made.map_err(failed)?,
        }
        for (reserved, size) in [(Reserved::Index, INDEX_SIZE), (Reserved::Lease, LEASE_SIZE)] {
            for name in reserved.files() {
                match make(self.root(), &self.root().join(&name), size) {
                    // What is smaller may fit still.
                    Err(error) if is_full(&error) => log::debug!("no space for {name}"),
                    made => made.map_err(failed)?,
                }
            }
        }
        Ok(())
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
        .and_then(|()| place(&temporary, path));
    if made.is_err()
        && let Err(error) = std::fs::remove_file(&temporary)
    {
        log::debug!("{}: {error}", temporary.display());
    }
    match made {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Gives a file another name unless there is one of that name.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::hard_link(from, to) {
        Ok(()) => std::fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Not every file system has links.
        Err(_) => std::fs::rename(from, to),
    }
}

/// Moves a reserved file to `target` and opens it, locked; `None` if there is none left.
pub(super) fn take(root: &Path, what: Reserved, target: &Path) -> io::Result<Option<File>> {
    for name in what.files() {
        let path = root.join(name);
        // Locked before it has its new name: without that a sweep would take it for a leftover.
        let Some(file) = open_locked(&path)? else {
            continue;
        };
        match std::fs::rename(&path, target) {
            Ok(()) => {}
            // Somebody else took it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        if files::is_at(&file, target)? {
            return Ok(Some(file));
        }
        // Somebody else took it and a new one was made, which was moved now.
        if let Some(file) = open_locked(target)?
            && files::is_at(&file, target)?
        {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Opens a file and locks it; `None` if it is not there or somebody else's.
fn open_locked(path: &Path) -> io::Result<Option<File>> {
    let file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn regression_a_reserved_file_that_is_in_use_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        store.keep_reserve().unwrap();
        let root = store.root();
        // Another process has it, and is about to rename it.
        let theirs = File::open(root.join("reserve/lease-0")).unwrap();
        theirs.lock().unwrap();
        let target = root.join("leases/ours.json");
        let ours = take(root, Reserved::Lease, &target).unwrap().unwrap();
        assert!(files::is_at(&ours, &target).unwrap());
        assert!(root.join("reserve/lease-0").exists());
        assert!(!root.join("reserve/lease-1").exists());
    }

    #[test]
    fn regression_nobody_gets_the_same_reserved_file_twice() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        store.keep_reserve().unwrap();
        let root = store.root();
        let take = |worker: usize| {
            let mut held = Vec::new();
            for n in 0..100 {
                let target = root.join(format!("leases/{worker}-{n}.json"));
                if let Some(file) = take(root, Reserved::Lease, &target).unwrap() {
                    assert!(files::is_at(&file, &target).unwrap());
                    held.push(file);
                }
                store.keep_reserve().unwrap();
            }
            held
        };
        let taken: Vec<File> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3).map(|n| scope.spawn(move || take(n))).collect();
            let all = workers.into_iter().map(|it| it.join().unwrap());
            all.flatten().collect()
        });
        let inodes: HashSet<u64> = taken
            .iter()
            .map(|file| file.metadata().unwrap().ino())
            .collect();
        assert_eq!(inodes.len(), taken.len());
    }
}
