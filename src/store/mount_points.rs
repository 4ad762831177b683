//! What was made in a container only for something to be mounted on, and is no change of the container.
//!
//! It is known by its inode number and ctime: whoever changes such an entry, or makes something in it, changes
//! that, and from then on it counts as any other.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Result, Store, files};

/// An entry of an upper directory, as it was when it was made.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    /// From the root, without a leading slash.
    path: Vec<u8>,
    inode: u64,
    /// Seconds and nanoseconds.
    ctime: (i64, i64),
}

impl Store {
    /// What was made in a container for mounts only, and nobody has changed since: paths without a leading slash.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`].
    pub fn mount_points(&self, container: &str) -> Result<BTreeSet<Vec<u8>>> {
        let path = self.mount_points_path(container);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(Error::io(error, "reading", &path)),
        };
        let all: Vec<Made> = serde_json::from_slice(&bytes).map_err(|e| Error::json(e, &path))?;
        let upper = self.container_upper(container);
        let mut found = BTreeSet::new();
        for made in all {
            if look(&upper, &made.path)?.as_ref() == Some(&made) {
                found.insert(made.path);
            }
        }
        Ok(found)
    }

    /// Records what [`Store::mount_points`] tells from now on. The caller has the container mounted.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`].
    pub fn record_mount_points(&self, container: &str, paths: &BTreeSet<Vec<u8>>) -> Result<()> {
        let upper = self.container_upper(container);
        let mut all = Vec::new();
        for path in paths {
            all.extend(look(&upper, path)?);
        }
        let path = self.mount_points_path(container);
        let bytes = serde_json::to_vec(&all).map_err(|error| Error::json(error, &path))?;
        files::write_file(self.root(), &path, &bytes)
    }

    fn mount_points_path(&self, container: &str) -> PathBuf {
        let upper = self.container_upper(container);
        upper.with_file_name("mount-points.json")
    }
}

/// What is at `path` at present, if anything is.
fn look(upper: &Path, path: &[u8]) -> Result<Option<Made>> {
    let at = upper.join(OsStr::from_bytes(path));
    match std::fs::symlink_metadata(&at) {
        Ok(found) => Ok(Some(Made {
            path: path.to_vec(),
            inode: found.ino(),
            ctime: (found.ctime(), found.ctime_nsec()),
        })),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(Error::io(error, "reading", &at)),
    }
}
