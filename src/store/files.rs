//! Files that appear whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Error, Result};

/// Temporary files of [`write_file`] end so; those of killed processes are garbage.
pub(super) const TEMPORARY: &str = ".new";

/// Writes a file of the store durably under a temporary name and renames it into place.
///
/// # Errors
/// [`Error::Io`]; then `path` is as it was.
pub(super) fn write_file(root: &Path, path: &Path, content: &[u8]) -> Result<()> {
    let (temporary, mut file) = temporary_file(root)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    let renamed = written.and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = renamed {
        remove_if_there(&temporary)?;
        return Err(Error::io(error, "writing", path));
    }
    sync_parent(path)
}

/// A new file that is nobody else's: another process may have our number in its own PID namespace.
fn temporary_file(root: &Path) -> Result<(PathBuf, File)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        // Not beside the target: other tools read that directory too.
        let path = root.join(format!("ingest/{}-{count}{TEMPORARY}", std::process::id()));
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(error, "making", &path)),
        }
    }
}

/// Makes the name of `path` durable.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    let synced = File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Error::io(error, "syncing", parent))
}

/// Removes a file that may not be there.
pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(error, "removing", path))
        }
        _ => Ok(()),
    }
}

/// Removes a directory tree that may not be there.
pub(super) fn remove_tree_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(error, "removing", path))
        }
        _ => Ok(()),
    }
}
