//! Archives that attack: whatever they say, nothing outside the staging directory changes.
//!
//! Each archive is packed into a staging directory that lies in the middle of a small world of
//! files and links, which is recorded before and compared after.

use ::plyfs;

mod archive;
mod bombs;
mod breakouts;
mod differential;
mod random;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use plyfs::pack::{Error, Limits, Problem};

/// A directory full of what an attacker would like to reach, with a staging directory inside.
pub(crate) struct World {
    directory: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl World {
    pub(crate) fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/passwd"), "root:x:0:0").unwrap();
        std::fs::create_dir_all(root.join("store/ingest/1")).unwrap();
        std::fs::write(root.join("store/ingest/passwd"), "secret").unwrap();
        std::fs::write(root.join("store/pack"), "not yours").unwrap();
        std::fs::create_dir(root.join("store/files")).unwrap();
        std::fs::write(root.join("store/files/0"), "not yours").unwrap();
        symlink("../etc", root.join("store/etc")).unwrap();
        let before = record(root, &root.join("store/ingest/1"));
        World { directory, before }
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.directory.path().join("store/ingest/1")
    }

    /// Fails unless the world is as it was and the staging directory holds our own names only.
    pub(crate) fn check(&self) {
        assert_eq!(record(self.directory.path(), &self.staging()), self.before);
        for (path, _) in record(&self.staging(), Path::new("/nowhere")) {
            let path = path.strip_prefix(self.staging()).unwrap().to_str().unwrap();
            let number = path
                .strip_prefix("files/")
                .map(|name| name.parse::<u32>().is_ok());
            assert!(
                ["pack", "files", ""].contains(&path) || number == Some(true),
                "{path}"
            );
        }
    }

    /// Packs `bytes`, checks the world, and prints the tree.
    pub(crate) fn pack(&self, bytes: &[u8], limits: &Limits) -> Result<Vec<String>, Error> {
        let packed = archive::pack_into(bytes, &self.staging(), limits);
        self.check();
        Ok(archive::describe(&packed?.tree, &self.staging()))
    }
}

/// Everything about the tree at `root` except below `without`, whose own times change.
fn record(root: &Path, without: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        if path == without {
            continue;
        }
        let metadata = path.symlink_metadata().unwrap();
        let mut text = format!(
            "{:o} {} {} {} {} {}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.nlink(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        if metadata.is_dir() {
            left.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.is_file() {
            text += &std::fs::read(&path).unwrap().escape_ascii().to_string();
        } else if metadata.is_symlink() {
            text += path.read_link().unwrap().to_str().unwrap();
        }
        found.insert(path, text);
    }
    found
}

/// Packs an attack that must come out as this tree.
#[track_caller]
pub(crate) fn contained(archive: archive::Archive, expected: &[&str]) {
    let tree = World::new()
        .pack(&archive.end(), &Limits::default())
        .unwrap();
    assert_eq!(tree, expected);
}

/// Packs an attack that must be refused; gives the reason.
#[track_caller]
pub(crate) fn refused(bytes: &[u8], limits: &Limits) -> Error {
    World::new().pack(bytes, limits).unwrap_err()
}

#[track_caller]
pub(crate) fn problem(archive: archive::Archive) -> Problem {
    match refused(&archive.end(), &Limits::default()) {
        Error::Entry { problem, .. } | Error::Header { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}
