//! A blob on its way into the store.
//!
//! An ingest is a directory named after the blob's digest. Whoever holds its lock does the work;
//! others wait and then find the blob there. What was received stays when the work is interrupted,
//! so that the next one, in this or a later process, goes on where it stopped.
//!
//! ```text
//! ingest/sha256-<hex>/  lock, blob (a prefix of the blob), layer/ (a packed layer being made)
//! ```
//!
//! What can be had again at once is received as `copy` in place of `blob`, of which nothing stays.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use super::{Error, Result, Store, files};
use crate::oci::Digest;

/// A locked ingest.
#[derive(Debug)]
pub struct Ingest {
    directory: PathBuf,
    /// Held locked until dropped.
    lock: File,
    digest: Digest,
    /// The name of the file that receives the blob.
    blob: &'static str,
}

impl Store {
    /// How many bytes of a blob were received that is not complete yet.
    #[must_use]
    pub fn received_bytes(&self, digest: &Digest) -> u64 {
        let name = format!("ingest/{}-{}/blob", digest.algorithm(), digest.hex());
        std::fs::metadata(self.root().join(name)).map_or(0, |blob| blob.len())
    }

    /// Locks the ingest of a blob, waiting for whoever has it; `waiting` is called before that.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn ingest(&self, digest: &Digest, waiting: impl FnOnce()) -> Result<Ingest> {
        let name = format!("{}-{}", digest.algorithm(), digest.hex());
        let directory = self.root().join("ingest").join(name);
        let path = directory.join("lock");
        let mut waiting = Some(waiting);
        loop {
            match DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => {}
                // Perhaps not for long: another process may be removing it just now.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(error, "making", &directory)),
            }
            let file = match OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
            {
                Ok(file) => file,
                // Its owner has just finished and removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(error, "opening", &path)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    file.lock()
                        .map_err(|error| Error::io(error, "locking", &path))?;
                }
                Err(TryLockError::Error(error)) => {
                    return Err(Error::io(error, "locking", &path));
                }
            }
            let there = files::is_at(&file, &path);
            if there.map_err(|error| Error::io(error, "reading", &path))? {
                return Ok(Ingest {
                    directory,
                    lock: file,
                    digest: *digest,
                    blob: "blob",
                });
            }
        }
    }
}

impl Ingest {
    /// The blob being received.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The same, but what is received is of no use to others when the work is interrupted.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn not_resumable(mut self) -> Result<Ingest> {
        self.blob = "copy";
        files::remove_if_there(&self.blob_path())?;
        Ok(self)
    }

    /// Opens the file that receives the blob, for reading what is there and appending to it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_blob(&self) -> Result<File> {
        let path = self.blob_path();
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path);
        file.map_err(|error| Error::io(error, "opening", &path))
    }

    /// The file that receives the blob.
    #[must_use]
    pub fn blob_path(&self) -> PathBuf {
        self.directory.join(self.blob)
    }

    /// Makes an empty directory in which to pack the layer, removing an earlier attempt.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn fresh_layer(&self) -> Result<PathBuf> {
        let path = self.directory.join("layer");
        files::remove_tree_if_there(&path)?;
        files::make_directory(&path, 0o700, false)?;
        Ok(path)
    }

    /// Removes what was packed: it is of no use to who goes on with the blob.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn drop_layer(&self) -> Result<()> {
        files::remove_tree_if_there(&self.directory.join("layer"))
    }

    /// Moves the received blob, which must be complete, verified and synced, to its place.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit_blob(&self, store: &Store) -> Result<()> {
        store.commit_blob(&self.blob_path(), &self.digest)
    }

    /// Throws away what was received and packed; the lock stays.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn reset(&self) -> Result<()> {
        files::remove_if_there(&self.blob_path())?;
        self.drop_layer()
    }

    /// Ends the ingest: what is still in it is removed.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot leave its place.
    pub fn finish(self, store: &Store) -> Result<()> {
        // Out of the way in one step, while the lock is held: who comes now begins anew.
        store.trash(&self.directory)?;
        drop(self.lock);
        store.clear_trash();
        Ok(())
    }
}
