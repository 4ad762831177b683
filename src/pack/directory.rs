//! A directory tree as a layer tar.
//!
//! # Invariants
//! * The walk goes from descriptor to descriptor and follows no symbolic link, so a tree that
//!   changes meanwhile cannot lead it elsewhere.
//! * The order is that of the name bytes, so equal trees give equal archives.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use super::{Error, Escaped, Problem, TarEntry, TarKind, TarWriter};
use crate::layer::{Metadata, Timestamp};
use crate::sys::xattr;

/// Something that [`write_directory`] left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// A socket, which tar cannot hold.
    Socket(Escaped),
    /// The directory that the caller excluded.
    Excluded(Escaped),
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Writes the tree below `root` with sorted names, the root itself included.
///
/// `exclude` (the store, if it lies inside) is left out, wherever it is met.
/// Gives what was left out.
///
/// # Errors
/// [`Error::ReadTree`]; [`Error::Unarchivable`] for a name that a layer would take for a whiteout;
/// what [`TarWriter::append`] reports.
pub fn write_directory<W: Write>(
    root: &Path,
    exclude: Option<&Path>,
    writer: &mut TarWriter<W>,
) -> Result<Vec<Skipped>, Error> {
    let of_root = |path: &Path| Escaped::new(path.as_os_str().as_bytes());
    let excluded = match exclude.map(|path| (path, std::fs::metadata(path))) {
        None => None,
        Some((_, Ok(metadata))) => Some((metadata.dev(), metadata.ino())),
        Some((_, Err(error))) if error.kind() == io::ErrorKind::NotFound => None,
        Some((path, Err(source))) => {
            return Err(Error::ReadTree {
                path: of_root(path),
                source,
            });
        }
    };
    let directory =
        File::open(root).map_err(|source| cannot_read(root.as_os_str().as_bytes(), source))?;
    let mut walk = Walk {
        writer,
        excluded,
        links: HashMap::new(),
        skipped: Vec::new(),
        path: Vec::new(),
    };
    let stat = fstat(&directory).map_err(|errno| walk.cannot_read(errno))?;
    walk.directory(directory.into(), &stat)?;
    Ok(walk.skipped)
}

struct Walk<'a, W> {
    writer: &'a mut TarWriter<W>,
    excluded: Option<(u64, u64)>,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    skipped: Vec<Skipped>,
    path: Vec<u8>,
}

struct Level {
    directory: Dir,
    /// Names that are left, the next one last.
    names: Vec<CString>,
    path_length: usize,
}

impl<W: Write> Walk<'_, W> {
    /// Writes the directory and everything below it, without recursion.
    fn directory(&mut self, directory: OwnedFd, stat: &FileStat) -> Result<(), Error> {
        let mut levels = vec![self.enter(directory, stat)?];
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path_length);
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            if name.to_bytes().starts_with(b".wh.") {
                let (path, problem) = (Escaped::new(&self.path), Problem::ReservedName);
                return Err(Error::Unarchivable { path, problem });
            }
            if let Some((directory, stat)) = self.child(&level.directory, &name)? {
                let level = self.enter(directory, &stat)?;
                levels.push(level);
            }
        }
        Ok(())
    }

    /// Writes the entry of a directory and lists it.
    fn enter(&mut self, directory: OwnedFd, stat: &FileStat) -> Result<Level, Error> {
        let xattrs = self.xattrs(directory.as_fd())?;
        self.append(stat, TarKind::Directory, &xattrs, &mut io::empty())?;
        let mut directory = Dir::from_fd(directory).map_err(|errno| self.cannot_read(errno))?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            let entry = entry.map_err(|errno| self.cannot_read(errno))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Level {
            directory,
            names,
            path_length: self.path.len(),
        })
    }

    /// Writes what is not a directory; gives a directory back to be entered.
    fn child(&mut self, parent: &Dir, name: &CStr) -> Result<Option<(OwnedFd, FileStat)>, Error> {
        let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|errno| self.cannot_read(errno))?;
        let identity = (stat.st_dev, stat.st_ino);
        let format = stat.st_mode & libc::S_IFMT;
        if format == libc::S_IFSOCK {
            self.skipped.push(Skipped::Socket(Escaped::new(&self.path)));
            return Ok(None);
        }
        if format == libc::S_IFDIR {
            if self.excluded == Some(identity) {
                self.skipped
                    .push(Skipped::Excluded(Escaped::new(&self.path)));
                return Ok(None);
            }
            let directory = self.open(parent, name, OFlag::O_DIRECTORY)?;
            let stat = fstat(&directory).map_err(|errno| self.cannot_read(errno))?;
            return Ok(Some((directory, stat)));
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&identity) {
                let first = first.clone();
                self.append(&stat, TarKind::HardLink(&first), &[], &mut io::empty())?;
                return Ok(None);
            }
            self.links.insert(identity, self.path.clone());
        }
        if format == libc::S_IFREG {
            let file = File::from(self.open(parent, name, OFlag::O_NONBLOCK)?);
            let stat = fstat(&file).map_err(|errno| self.cannot_read(errno))?;
            if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
                return Err(self.cannot_read(io::Error::other("it changed while it was read")));
            }
            let xattrs = self.xattrs(file.as_fd())?;
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            let allocated = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            let entry = TarEntry {
                path: &self.path,
                metadata: metadata(&stat),
                kind: TarKind::Regular(size),
                xattrs: &xattrs,
            };
            let appended = self.writer.append_file(&entry, &file, (0, size), allocated);
            return appended.map(|()| None);
        }
        let xattrs = self.xattrs_at(parent, name)?;
        let (major, minor) = (libc::major(stat.st_rdev), libc::minor(stat.st_rdev));
        let target;
        let kind = match format {
            libc::S_IFLNK => {
                target = readlinkat(parent, name).map_err(|errno| self.cannot_read(errno))?;
                TarKind::Symlink(target.as_bytes())
            }
            libc::S_IFCHR => TarKind::CharDevice(major, minor),
            libc::S_IFBLK => TarKind::BlockDevice(major, minor),
            libc::S_IFIFO => TarKind::Fifo,
            _ => return Err(self.cannot_read(io::Error::other("unknown file type"))),
        };
        self.append(&stat, kind, &xattrs, &mut io::empty())?;
        Ok(None)
    }

    fn append(
        &mut self,
        stat: &FileStat,
        kind: TarKind<'_>,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        content: &mut dyn io::Read,
    ) -> Result<(), Error> {
        let entry = TarEntry {
            path: &self.path,
            metadata: metadata(stat),
            kind,
            xattrs,
        };
        self.writer.append(&entry, content)
    }

    fn open(&self, parent: &Dir, name: &CStr, flags: OFlag) -> Result<OwnedFd, Error> {
        let flags = flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(parent, name, flags, Mode::empty()).map_err(|errno| self.cannot_read(errno))
    }

    fn xattrs(&self, file: BorrowedFd<'_>) -> Result<Xattrs, Error> {
        let names = xattr::list(file).map_err(|error| self.cannot_read(error))?;
        self.values(names, |name| xattr::get(file, name))
    }

    /// The attributes of what cannot be opened: links, devices, FIFOs.
    fn xattrs_at(&self, parent: &Dir, name: &CStr) -> Result<Xattrs, Error> {
        let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        let path = CString::new(path).map_err(|error| self.cannot_read(io::Error::other(error)))?;
        let names = xattr::list_path(&path).map_err(|error| self.cannot_read(error))?;
        self.values(names, |name| xattr::get_path(&path, name))
    }

    fn values(
        &self,
        names: Vec<CString>,
        get: impl Fn(&CStr) -> io::Result<Option<Vec<u8>>>,
    ) -> Result<Xattrs, Error> {
        let mut xattrs = Vec::with_capacity(names.len());
        for name in names {
            // It may have been removed since the names were listed.
            if let Some(value) = get(&name).map_err(|error| self.cannot_read(error))? {
                xattrs.push((name.into_bytes(), value));
            }
        }
        Ok(xattrs)
    }

    fn cannot_read(&self, error: impl Into<io::Error>) -> Error {
        cannot_read(&self.path, error.into())
    }
}

fn metadata(stat: &FileStat) -> Metadata {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Metadata {
        permissions: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp {
            seconds: stat.st_mtime,
            nanoseconds,
        },
    }
}

fn cannot_read(path: &[u8], source: io::Error) -> Error {
    Error::ReadTree {
        path: Escaped::new(path),
        source,
    }
}
