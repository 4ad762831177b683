//! A private directory in which an object is made whose digest is not known yet.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Error, Result, Store, files};
use crate::oci::Digest;

/// A staging directory; removed with what is left in it when dropped.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// The directory, locked: who sweeps knows by that that it is in use.
    _lock: File,
}

impl Store {
    /// Makes a staging directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn staging(&self) -> Result<Staging> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!(
                "ingest/{}-{count}-staging{}",
                std::process::id(),
                files::TEMPORARY
            );
            let path = self.root().join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let lock = File::open(&path).and_then(|file| file.lock().map(|()| file));
                    let lock = match lock {
                        Ok(lock) => lock,
                        // Swept away before it was locked.
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(Error::io(error, "locking", &path)),
                    };
                    let there = files::is_at(&lock, &path);
                    if there.map_err(|error| Error::io(error, "reading", &path))? {
                        return Ok(Staging { path, _lock: lock });
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(error, "making", &path)),
            }
        }
    }

    /// Moves a blob, which must be complete, verified and synced, to its place.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit_blob(&self, staged: &Path, digest: &Digest) -> Result<()> {
        let target = self.blob_path(digest);
        if let Some(parent) = target.parent() {
            let made = std::fs::create_dir_all(parent);
            made.map_err(|error| Error::io(error, "making", parent))?;
        }
        let renamed = std::fs::rename(staged, &target);
        renamed.map_err(|error| Error::io(error, "storing", &target))?;
        files::sync_parent(&target)
    }
}

impl Staging {
    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = files::remove_tree_if_there(&self.path) {
            log::warn!("{error}");
        }
    }
}
