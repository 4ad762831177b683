//! Files that appear whole or not at all.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;

use super::reserve::{self, Reserved};
use super::{Error, Result};

/// Temporary files of [`write_file`] end so; those of killed processes are garbage.
pub(super) const TEMPORARY: &str = ".new";

/// Reads a JSON file of the store; `None` if there is none.
///
/// # Errors
/// [`Error::Io`] or [`Error::Json`].
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::json(error, path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(error, "reading", path)),
    }
}

/// Makes a directory of the store, if `recursive` with those above it, and then there may be one already.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn make_directory(path: &Path, mode: u32, recursive: bool) -> Result<()> {
    let made = DirBuilder::new()
        .recursive(recursive)
        .mode(mode)
        .create(path);
    made.map_err(|error| Error::io(error, "making", path))
}

/// Writes a file of the store durably under a temporary name and renames it into place.
///
/// # Errors
/// [`Error::Io`]; then `path` is as it was.
pub(super) fn write_file(root: &Path, path: &Path, content: &[u8]) -> Result<()> {
    replace(root, path, content).map_err(|error| Error::io(error, "writing", path))?;
    sync_parent(path)
}

/// As [`write_file`], with the space that was kept back if there is no other.
///
/// # Errors
/// As [`write_file`].
pub(super) fn write_file_always(root: &Path, path: &Path, content: &[u8]) -> Result<()> {
    let failed = |error| Error::io(error, "writing", path);
    match replace(root, path, content) {
        Err(error) if reserve::is_full(&error) => {
            let staged = temporary_path(root);
            let taken = reserve::take(root, Reserved::Index, &staged).map_err(failed)?;
            let Some(file) = taken else {
                return Err(failed(error));
            };
            finish(&staged, file, path, content).map_err(failed)?;
        }
        replaced => replaced.map_err(failed)?,
    }
    sync_parent(path)
}

/// Writes a file under a temporary name and renames it into place, without waiting for the disk.
pub(super) fn write_copy(root: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let (temporary, mut file) = temporary_file(root)?;
    let written = file
        .write_all(content)
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        std::fs::remove_file(&temporary)?;
    }
    written
}

fn replace(root: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let (temporary, file) = temporary_file(root)?;
    finish(&temporary, file, path, content)
}

fn finish(temporary: &Path, mut file: File, path: &Path, content: &[u8]) -> io::Result<()> {
    let written = file
        .write_all(content)
        .and_then(|()| file.set_len(content.len() as u64))
        .and_then(|()| file.sync_all());
    let renamed = written.and_then(|()| std::fs::rename(temporary, path));
    if renamed.is_err()
        && let Err(error) = std::fs::remove_file(temporary)
    {
        log::debug!("{}: {error}", temporary.display());
    }
    renamed
}

/// A new file that is nobody else's: another process may have our number in its own PID namespace.
/// It is locked: who sweeps knows by that that it is in use.
pub(super) fn temporary_file(root: &Path) -> io::Result<(PathBuf, File)> {
    loop {
        let path = temporary_path(root);
        match File::create_new(&path) {
            Ok(file) => {
                file.lock()?;
                // It may have been swept away before it was locked.
                if is_at(&file, &path)? {
                    return Ok((path, file));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn temporary_path(root: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Not beside the target: other tools read that directory too.
    root.join(format!("ingest/{}-{count}{TEMPORARY}", std::process::id()))
}

/// Whether an open file still has its name; who sweeps may have removed it meanwhile.
pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the name of `path` durable.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    sync_directory(path.parent().unwrap_or(path))
}

/// Makes the names in a directory durable, and that others are not there any more.
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Error::io(error, "syncing", path))
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

/// Removes a directory tree that may not be there. A process that had found the directory before
/// it was moved away may still put a file into it, so it is tried again a few times.
pub(super) fn remove_tree_if_there(path: &Path) -> Result<()> {
    let mut attempts = 0..16;
    loop {
        match std::fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => return Ok(()),
                io::ErrorKind::DirectoryNotEmpty if attempts.next().is_some() => {}
                _ => return Err(Error::io(error, "removing", path)),
            },
        }
    }
}

/// Removes a directory where it is. First goes what shows that it is whole, so that a crash does not
/// leave half of it to be taken for all; last its lock, so that nobody uses it meanwhile.
pub(super) fn remove_in_place(directory: &Path) -> Result<()> {
    for name in ["layer.json", "container.json", "image.json"] {
        remove_if_there(&directory.join(name))?;
    }
    let lock = directory.join("lock");
    if !lock.exists() {
        return remove_tree_if_there(directory);
    }
    let failed = |error| Error::io(error, "removing", directory);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match path.is_dir() && !path.is_symlink() {
            _ if path == lock => {}
            true => remove_tree_if_there(&path)?,
            false => remove_if_there(&path)?,
        }
    }
    remove_if_there(&lock)?;
    match std::fs::remove_dir(directory) {
        // Who waited for the lock has made a new one.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(failed(error))
        }
        _ => Ok(()),
    }
}

/// Makes a directory that nobody can remove, not even root, until the result is dropped.
#[cfg(test)]
pub(super) fn stuck_in_tests(directory: &Path) -> impl Drop + use<> {
    use std::os::unix::fs::PermissionsExt;
    struct Stuck(PathBuf, bool);
    impl Drop for Stuck {
        fn drop(&mut self) {
            if self.1 {
                nix::mount::umount(&self.0.join("stuck")).unwrap();
            } else {
                let writable = std::fs::Permissions::from_mode(0o700);
                std::fs::set_permissions(&self.0, writable).unwrap();
            }
        }
    }
    let inner = directory.join("stuck");
    std::fs::create_dir(&inner).unwrap();
    // Not by a program: while one is started, the locks of tests beside this one are held by it too.
    let kind = Some("tmpfs");
    let flags = nix::mount::MsFlags::empty();
    let mounted = nix::mount::mount(kind, &inner, kind, flags, Some("size=4k")).is_ok();
    if !mounted {
        let fixed = std::fs::Permissions::from_mode(0o500);
        std::fs::set_permissions(directory, fixed).unwrap();
    }
    Stuck(directory.to_owned(), mounted)
}
