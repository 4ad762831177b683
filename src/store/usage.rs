//! What a directory tree takes of the disk.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// What a file or a directory tree takes of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Usage {
    /// That of a tree, each file counted once. What comes and goes below `root` meanwhile is counted as far as it is
    /// met.
    ///
    /// # Errors
    /// [`Error::Io`], also if there is nothing at `root`.
    pub fn of_tree(root: &Path) -> Result<Usage> {
        let mut usage = Usage::default();
        let mut linked = HashSet::new();
        let mut pending = vec![root.to_owned()];
        while let Some(path) = pending.pop() {
            let failed = |error| Error::io(error, "reading", &path);
            let metadata = match std::fs::symlink_metadata(&path) {
                Err(error) if is_gone(&error) && path != root => continue,
                metadata => metadata.map_err(failed)?,
            };
            let identity = (metadata.dev(), metadata.ino());
            if !metadata.is_dir() && metadata.nlink() > 1 && !linked.insert(identity) {
                continue;
            }
            usage.bytes += metadata.blocks() * 512;
            usage.inodes += 1;
            if metadata.is_dir() {
                match std::fs::read_dir(&path) {
                    Err(error) if is_gone(&error) && path != root => {}
                    entries => {
                        for entry in entries.map_err(failed)? {
                            pending.push(entry.map_err(failed)?.path());
                        }
                    }
                }
            }
        }
        Ok(usage)
    }

    /// The same for a tree that may be gone, which takes nothing then.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of_tree_if_there(root: &Path) -> Result<Usage> {
        match Usage::of_tree(root) {
            Err(Error::Io { path, source, .. }) if is_gone(&source) && path == root => {
                Ok(Usage::default())
            }
            usage => usage,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn hard_links_count_once_and_holes_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), vec![1; 100_000]).unwrap();
        fs::hard_link(path("file"), path("link")).unwrap();
        let sparse = fs::File::create(path("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        fs::create_dir(path("directory")).unwrap();
        std::os::unix::fs::symlink("/", path("directory/root")).unwrap();
        let usage = Usage::of_tree(directory.path()).unwrap();
        assert_eq!(usage.inodes, 5);
        assert!((100_000..1_000_000).contains(&usage.bytes), "{usage:?}");
        assert!(Usage::of_tree(&path("nothing")).is_err());
        let nothing = Usage::of_tree_if_there(&path("nothing")).unwrap();
        assert_eq!(nothing, Usage::default());
    }
}
