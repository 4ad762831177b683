//! Where an archive is written: standard output, or a file that appears whole or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::unistd::linkat;

use super::Result;
use super::failure::Failure;
use crate::pack::{Compression, Compressor};

/// A place for an archive.
pub struct OutFile {
    file: File,
    place: Place,
    /// What people called it.
    shown: String,
}

enum Place {
    /// What is written is there at once: a pipe, a device.
    Stream,
    /// It has no name yet; nothing is left of it when this process is killed.
    Unnamed { target: PathBuf },
    /// It has another name as yet, where the file system knows no nameless files.
    Temporary { path: PathBuf, target: PathBuf },
}

impl OutFile {
    /// Begins the file `path`, or standard output for `-` or nothing. `tried` says what for.
    pub fn create(path: Option<&OsStr>, tried: &str) -> Result<OutFile> {
        let Some(path) = path.filter(|path| *path != "-") else {
            if io::stdout().is_terminal() {
                return Err(
                    Failure::usage(format!("{tried}: standard output is a terminal"))
                        .or_hint("name a file with -o, or write into a pipe"),
                );
            }
            let file = nix::unistd::dup(io::stdout());
            let file = file.map_err(|errno| Failure::new(tried, io::Error::from(errno)))?;
            return Ok(OutFile {
                file: file.into(),
                place: Place::Stream,
                shown: "standard output".to_owned(),
            });
        };
        let shown = path.to_string_lossy().into_owned();
        let begun = begin(Path::new(path));
        let (file, place) =
            begun.map_err(|error| Failure::new(format!("{tried}: cannot write {shown}"), error))?;
        Ok(OutFile { file, place, shown })
    }

    /// Writes what `write` gives, compressed, and lets the file appear.
    ///
    /// The error of `write` comes back as it is; others are those of the file.
    pub fn fill<E>(
        &mut self,
        compression: Compression,
        write: impl FnOnce(&mut dyn Write) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E>
    where
        E: From<io::Error>,
    {
        let mut out = Compressor::new(compression, &self.file)?;
        write(&mut out)?;
        out.finish()?;
        self.appear()?;
        Ok(())
    }

    /// The failure of writing it, if that is what `error` is about.
    pub fn failure(&self, tried: &str, error: anyhow::Error) -> Failure {
        let cause = error.chain().find_map(|cause| cause.downcast_ref());
        match cause.map(|cause: &io::Error| (cause.kind(), cause)) {
            Some((ErrorKind::BrokenPipe, _)) => Failure::broken_pipe(),
            Some((ErrorKind::StorageFull | ErrorKind::QuotaExceeded, cause)) => {
                Failure::plain(format!("{tried}: cannot write {}: {cause}", self.shown))
                    .with_hint("choose another place with -o")
            }
            _ => Failure::new(tried, error),
        }
    }

    fn appear(&mut self) -> io::Result<()> {
        if !matches!(self.place, Place::Stream) {
            self.file.sync_all()?;
        }
        if let Place::Unnamed { target } = &self.place {
            match link(&self.file, target) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                linked => return linked.and_then(|()| sync_name(target)),
            }
            // Only renaming replaces a file.
            let target = target.clone();
            let path = loop {
                let path = beside(&target);
                match link(&self.file, &path) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    linked => break linked.map(|()| path)?,
                }
            };
            self.place = Place::Temporary { path, target };
        }
        if let Place::Temporary { path, target } = &self.place {
            std::fs::rename(path, target)?;
            let target = target.clone();
            self.place = Place::Stream;
            sync_name(&target)?;
        }
        Ok(())
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if let Place::Temporary { path, .. } = &self.place
            && let Err(error) = std::fs::remove_file(path)
        {
            log::warn!("{} stays: {error}", path.display());
        }
    }
}

/// How an archive is compressed that is called so.
pub fn compression_of(name: Option<&OsStr>) -> Compression {
    let name = name.map(OsStr::as_bytes).unwrap_or_default();
    let ends = |ends: &[&[u8]]| ends.iter().any(|end| name.ends_with(end));
    match () {
        () if ends(&[b".gz", b".tgz"]) => Compression::Gzip,
        () if ends(&[b".zst", b".tzst"]) => Compression::Zstd,
        () => Compression::Plain,
    }
}

/// A value of `--compress`.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Compress {
    Gzip,
    Zstd,
    None,
}

impl From<Compress> for Compression {
    fn from(compress: Compress) -> Compression {
        match compress {
            Compress::Gzip => Compression::Gzip,
            Compress::Zstd => Compression::Zstd,
            Compress::None => Compression::Plain,
        }
    }
}

fn begin(path: &Path) -> io::Result<(File, Place)> {
    // A link is written through: what it points to is replaced.
    let target = match std::fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let replaced = std::fs::metadata(&target).ok();
    match &replaced {
        Some(found) if found.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        Some(found) if !found.is_file() => {
            let file = OpenOptions::new().write(true).open(&target)?;
            return Ok((file, Place::Stream));
        }
        _ => {}
    }
    let (file, place) = begin_beside(target)?;
    if let Some(replaced) = replaced {
        let (uid, gid) = (Some(replaced.uid()), Some(replaced.gid()));
        // Only root gives files away; a group of one's own is kept.
        if let Err(error) = fchown(&file, uid, gid).or_else(|_| fchown(&file, None, gid)) {
            log::debug!("the owner of {} is not kept: {error}", path.display());
        }
        file.set_permissions(Permissions::from_mode(replaced.mode() & 0o777))?;
    }
    Ok((file, place))
}

/// Begins what will replace the file `target`, or be it.
fn begin_beside(target: PathBuf) -> io::Result<(File, Place)> {
    let directory = directory_of(&target);
    let mut nameless = OpenOptions::new();
    nameless
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE);
    match nameless.open(directory) {
        Ok(file) => return Ok((file, Place::Unnamed { target })),
        // The file system, or the kernel, knows no nameless files.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL | libc::ENOENT)
            ) => {}
        Err(error) => return Err(error),
    }
    loop {
        let path = beside(&target);
        match File::create_new(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            file => return Ok((file?, Place::Temporary { path, target })),
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the name of a file durable, where that can be done.
fn sync_name(path: &Path) -> io::Result<()> {
    let synced = File::open(directory_of(path)).and_then(|directory| directory.sync_all());
    match synced {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::InvalidInput
            ) =>
        {
            log::debug!("{} may not outlive a crash: {error}", path.display());
            Ok(())
        }
        synced => synced,
    }
}

/// Gives a nameless file a name.
fn link(file: &File, path: &Path) -> io::Result<()> {
    let from = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok(linkat(
        AT_FDCWD,
        &from,
        AT_FDCWD,
        path,
        AtFlags::AT_SYMLINK_FOLLOW,
    )?)
}

/// A name for what becomes the file `target`, in the same directory.
fn beside(target: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}-{count}", std::process::id()));
    target.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        for (content, before) in [("first", &[][..]), ("second", &["out".to_owned()])] {
            let mut out = OutFile::create(Some(path.as_os_str()), "cannot").unwrap();
            let failed = out.fill(Compression::Plain, |out| {
                out.write_all(b"half")?;
                Err(io::Error::other("no more"))
            });
            assert!(failed.is_err());
            drop(out);
            assert_eq!(names(directory.path()), before);
            let mut out = OutFile::create(Some(path.as_os_str()), "cannot").unwrap();
            let write = |out: &mut dyn Write| out.write_all(content.as_bytes());
            out.fill(Compression::Plain, write).unwrap();
            drop(out);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            assert_eq!(names(directory.path()), ["out"]);
        }
    }

    #[test]
    fn where_files_need_a_name_another_one_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("out");
        let path = beside(&target);
        let mut out = OutFile {
            file: File::create_new(&path).unwrap(),
            place: Place::Temporary { path, target },
            shown: String::new(),
        };
        let write = |out: &mut dyn Write| out.write_all(b"content");
        out.fill(Compression::Gzip, write).unwrap();
        drop(out);
        assert_eq!(names(directory.path()), ["out"]);
        let path = beside(&directory.path().join("other"));
        drop(OutFile {
            file: File::create_new(&path).unwrap(),
            place: Place::Temporary {
                path,
                target: directory.path().join("other"),
            },
            shown: String::new(),
        });
        assert_eq!(names(directory.path()), ["out"]);
    }
}
