//! What was made in a container only for something to be mounted on, and is no change of the container.
//!
//! It is known by its inode number and ctime: whoever changes such an entry, or makes something in it, changes
//! that, and from then on it counts as any other.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Result, Store, files};
use crate::sys::at::{RootFd, Stat};

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
    /// Of a record that is damaged there is a warning only.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn mount_points(&self, container: &str) -> Result<BTreeSet<Vec<u8>>> {
        let path = self.mount_points_path(container);
        let all: Vec<Made> = match files::read_json(&path) {
            Ok(all) => all.unwrap_or_default(),
            // Nothing is lost: what is in it is a change then.
            Err(error @ Error::Json { .. }) => {
                log::warn!("{error}: what was made in {container} for mounts counts as changes");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
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

/// What is at `path` at present, if anything is. The container may have put symlinks on the way: none is followed.
fn look(upper: &Path, path: &[u8]) -> Result<Option<Made>> {
    match stat(upper, path) {
        Ok(found) => Ok(Some(Made {
            path: path.to_vec(),
            inode: found.ino,
            ctime: (found.ctime.0, i64::from(found.ctime.1)),
        })),
        // EINVAL: no name, so the record is damaged.
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES | libc::EINVAL) => {
                Ok(None)
            }
            _ => Err(Error::io(error, "reading", upper)),
        },
    }
}

fn stat(upper: &Path, path: &[u8]) -> io::Result<Stat> {
    let mut directory = RootFd::open(upper)?;
    let mut names = path.split(|byte| *byte == b'/');
    let last = names.next_back().unwrap_or_default();
    for name in names {
        directory = directory.directory(name)?;
    }
    directory.stat(last)
}
