//! A directory tree that is written to: the system calls behind the upper.
//!
//! # Invariants
//! * Names are single components and no symlink is followed, so nothing outside the opened
//!   directory is reached.
//! * Every call that changes something passes [`fault::point`].
//! * Nothing here depends on the umask: what is made has its mode set where that matters.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use super::at::{Stat, statx};
use super::{fault, getdents};

/// An object of a tree that may be changed, mostly a directory, opened to be reached.
#[derive(Debug)]
pub struct WritableDir {
    fd: OwnedFd,
}

/// A name in an open directory; an empty name is the open object itself.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    fd: BorrowedFd<'a>,
    name: &'a [u8],
    /// The descriptor is no mere place (`O_PATH`): calls that want an open file take it.
    is_open: bool,
}

/// A new time for [`At::set_times`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// As it is.
    Keep,
    /// The present.
    Now,
    /// Seconds and nanoseconds.
    Set(i64, u32),
}

fn component(name: &[u8]) -> io::Result<&[u8]> {
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(Errno::EINVAL.into());
    }
    Ok(name)
}

impl WritableDir {
    /// Opens the directory at `path`, following symlinks as the caller's path has them.
    ///
    /// # Errors
    /// What open(2) reports.
    pub fn open(path: &Path) -> io::Result<WritableDir> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = openat(AT_FDCWD, path, flags, Mode::empty())?;
        Ok(WritableDir { fd })
    }

    /// Opens the directory `name`.
    ///
    /// # Errors
    /// What openat(2) reports.
    pub fn directory(&self, name: &[u8]) -> io::Result<WritableDir> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, component(name)?, flags, Mode::empty())?;
        Ok(WritableDir { fd })
    }

    /// Opens this directory as a file: to list, lock or sync it.
    ///
    /// # Errors
    /// What openat(2) reports.
    pub fn listable(&self) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, c".", flags, Mode::empty())?))
    }

    /// Reads all entries but `.` and `..`.
    ///
    /// # Errors
    /// What getdents64(2) reports.
    pub fn entries(&self, emit: &mut dyn FnMut(getdents::Entry<'_>)) -> io::Result<()> {
        let directory = self.listable()?;
        getdents::read_all(directory.as_fd(), &mut Vec::new(), emit)
    }

    /// What `name` is, or this object itself if it is empty.
    #[must_use]
    pub fn at<'a>(&'a self, name: &'a [u8]) -> At<'a> {
        At {
            fd: self.fd.as_fd(),
            name,
            is_open: false,
        }
    }

    /// Makes an unnamed file, open for reading and writing.
    ///
    /// # Errors
    /// What open(2) with O_TMPFILE reports.
    pub fn unnamed_file(&self, mode: u32) -> io::Result<File> {
        fault::point("O_TMPFILE")?;
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(mode);
        Ok(File::from(openat(&self.fd, c".", flags, mode)?))
    }

    /// Makes the file `name`, open for reading and writing.
    ///
    /// # Errors
    /// What openat(2) reports.
    pub fn create_file(&self, name: &[u8], mode: u32) -> io::Result<File> {
        fault::point("create")?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(mode);
        Ok(File::from(openat(&self.fd, component(name)?, flags, mode)?))
    }

    /// mkdirat(2)
    ///
    /// # Errors
    /// What it reports.
    pub fn make_directory(&self, name: &[u8], mode: u32) -> io::Result<()> {
        fault::point("mkdir")?;
        Ok(mkdirat(
            &self.fd,
            component(name)?,
            Mode::from_bits_truncate(mode),
        )?)
    }

    /// mknodat(2); `mode` includes the type.
    ///
    /// # Errors
    /// What it reports.
    pub fn make_node(&self, name: &[u8], mode: u32, device: (u32, u32)) -> io::Result<()> {
        fault::point("mknod")?;
        let kind = SFlag::from_bits_truncate(mode & libc::S_IFMT);
        let permissions = Mode::from_bits_truncate(mode & 0o7777);
        let device = makedev(u64::from(device.0), u64::from(device.1));
        Ok(mknodat(
            &self.fd,
            component(name)?,
            kind,
            permissions,
            device,
        )?)
    }

    /// symlinkat(2)
    ///
    /// # Errors
    /// What it reports.
    pub fn make_symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        fault::point("symlink")?;
        Ok(symlinkat(target, &self.fd, component(name)?)?)
    }

    /// unlinkat(2) of something that is no directory.
    ///
    /// # Errors
    /// What it reports.
    pub fn unlink(&self, name: &[u8]) -> io::Result<()> {
        fault::point("unlink")?;
        Ok(unlinkat(
            &self.fd,
            component(name)?,
            UnlinkatFlags::NoRemoveDir,
        )?)
    }

    /// unlinkat(2) of an empty directory.
    ///
    /// # Errors
    /// What it reports.
    pub fn remove_directory(&self, name: &[u8]) -> io::Result<()> {
        fault::point("rmdir")?;
        Ok(unlinkat(
            &self.fd,
            component(name)?,
            UnlinkatFlags::RemoveDir,
        )?)
    }

    /// renameat2(2) with `RENAME_*` flags.
    ///
    /// # Errors
    /// What it reports.
    pub fn rename(&self, name: &[u8], to: &WritableDir, new: &[u8], flags: u32) -> io::Result<()> {
        fault::point("rename")?;
        let (name, new) = (
            CString::new(component(name)?)?,
            CString::new(component(new)?)?,
        );
        // SAFETY: both names end with a zero byte, both descriptors are open.
        let result = unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                self.fd.as_raw_fd(),
                name.as_ptr(),
                to.fd.as_raw_fd(),
                new.as_ptr(),
                flags,
            )
        };
        Errno::result(result)?;
        Ok(())
    }

    /// Gives an open file, unnamed until now perhaps, the name `name`.
    ///
    /// # Errors
    /// What linkat(2) reports.
    pub fn link_file(&self, file: &File, name: &[u8]) -> io::Result<()> {
        self.link_descriptor(file.as_raw_fd(), name)
    }

    fn link_descriptor(&self, fd: i32, name: &[u8]) -> io::Result<()> {
        fault::point("linkat")?;
        let to = CString::new(component(name)?)?;
        // SAFETY: both strings end with a zero byte, both descriptors are open.
        let linked = unsafe {
            let (from, into) = (c"".as_ptr(), self.fd.as_raw_fd());
            libc::linkat(fd, from, into, to.as_ptr(), libc::AT_EMPTY_PATH)
        };
        match Errno::result(linked) {
            // What only the privileged may, or whoever opened the file; by way of /proc all may.
            Err(Errno::ENOENT) => {}
            result => return Ok(result.map(drop)?),
        }
        let from = format!("/proc/self/fd/{fd}");
        let flags = AtFlags::AT_SYMLINK_FOLLOW;
        Ok(linkat(
            AT_FDCWD,
            from.as_str(),
            &self.fd,
            component(name)?,
            flags,
        )?)
    }

    /// Figures of the file system.
    ///
    /// # Errors
    /// What fstatvfs(3) reports.
    pub fn statvfs(&self) -> io::Result<nix::sys::statvfs::Statvfs> {
        Ok(nix::sys::statvfs::fstatvfs(&self.fd)?)
    }
}

impl<'a> At<'a> {
    /// An open file itself.
    #[must_use]
    pub fn file(file: &'a File) -> At<'a> {
        At {
            fd: file.as_fd(),
            name: b"",
            is_open: true,
        }
    }

    /// The descriptor, if it is an open file.
    pub(super) fn open_fd(&self) -> Option<i32> {
        self.is_open.then(|| self.fd.as_raw_fd())
    }

    fn checked(&self) -> io::Result<&'a [u8]> {
        if self.name.is_empty() {
            Ok(self.name)
        } else {
            component(self.name)
        }
    }

    /// A path that leads to the object; the flag says whether its last component must be followed.
    pub(super) fn path(&self) -> io::Result<(CString, bool)> {
        let mut path = format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into_bytes();
        let name = self.checked()?;
        if !name.is_empty() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        Ok((CString::new(path)?, name.is_empty()))
    }

    fn flags(&self) -> i32 {
        let empty = if self.name.is_empty() {
            libc::AT_EMPTY_PATH
        } else {
            0
        };
        libc::AT_SYMLINK_NOFOLLOW | empty
    }

    /// What it is.
    ///
    /// # Errors
    /// What statx(2) reports.
    pub fn stat(&self) -> io::Result<Stat> {
        fault::point("statx")?;
        statx(self.fd, self.checked()?)
    }

    /// Keeps the object reachable, whatever becomes of its name.
    ///
    /// # Errors
    /// What openat(2) reports.
    pub fn pin(&self) -> io::Result<WritableDir> {
        fault::point("open")?;
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let fd = if self.name.is_empty() {
            openat(AT_FDCWD, self.path()?.0.as_c_str(), flags, Mode::empty())?
        } else {
            openat(
                self.fd,
                component(self.name)?,
                flags | OFlag::O_NOFOLLOW,
                Mode::empty(),
            )?
        };
        Ok(WritableDir { fd })
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// What openat(2) reports.
    pub fn open(&self, write: bool) -> io::Result<File> {
        let how = if write {
            OFlag::O_RDWR
        } else {
            OFlag::O_RDONLY
        };
        let flags = how | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = if self.name.is_empty() {
            openat(AT_FDCWD, self.path()?.0.as_c_str(), flags, Mode::empty())?
        } else {
            openat(
                self.fd,
                component(self.name)?,
                flags | OFlag::O_NOFOLLOW,
                Mode::empty(),
            )?
        };
        Ok(File::from(fd))
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// What readlinkat(2) reports; `EINVAL` for another kind of object.
    pub fn read_link(&self) -> io::Result<Vec<u8>> {
        use std::os::unix::ffi::OsStringExt;
        match readlinkat(self.fd, self.checked()?) {
            // What it says of a descriptor.
            Err(Errno::ENOENT) if self.name.is_empty() => Err(Errno::EINVAL.into()),
            target => Ok(target?.into_vec()),
        }
    }

    /// Gives the object another name.
    ///
    /// # Errors
    /// What linkat(2) reports.
    pub fn link(&self, to: &WritableDir, new: &[u8]) -> io::Result<()> {
        if self.name.is_empty() {
            return to.link_descriptor(self.fd.as_raw_fd(), new);
        }
        fault::point("link")?;
        let name = component(self.name)?;
        Ok(linkat(
            self.fd,
            name,
            &to.fd,
            component(new)?,
            AtFlags::empty(),
        )?)
    }

    /// fchownat(2); `None` leaves an id as it is.
    ///
    /// # Errors
    /// What it reports.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        fault::point("chown")?;
        let flags = AtFlags::from_bits_truncate(self.flags());
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        Ok(fchownat(self.fd, self.checked()?, uid, gid, flags)?)
    }

    /// chmod(2); the object must not be a symlink, and a name none that others may put one at: it is followed.
    ///
    /// # Errors
    /// What it reports.
    pub fn set_mode(&self, permissions: u32) -> io::Result<()> {
        fault::point("chmod")?;
        if let Some(fd) = self.open_fd() {
            // SAFETY: no memory is passed.
            Errno::result(unsafe { libc::fchmod(fd, permissions) })?;
            return Ok(());
        }
        let (path, _) = self.path()?;
        // SAFETY: the path ends with a zero byte.
        Errno::result(unsafe { libc::chmod(path.as_ptr(), permissions) })?;
        Ok(())
    }

    /// utimensat(2)
    ///
    /// # Errors
    /// What it reports.
    pub fn set_times(&self, atime: NewTime, mtime: NewTime) -> io::Result<()> {
        fault::point("utimens")?;
        let time = |time| match time {
            NewTime::Keep => libc::timespec {
                tv_sec: 0,
                tv_nsec: libc::UTIME_OMIT,
            },
            NewTime::Now => libc::timespec {
                tv_sec: 0,
                tv_nsec: libc::UTIME_NOW,
            },
            NewTime::Set(seconds, nanoseconds) => libc::timespec {
                tv_sec: seconds,
                tv_nsec: i64::from(nanoseconds),
            },
        };
        let times = [time(atime), time(mtime)];
        let fd = self.fd.as_raw_fd();
        let set = |path: &std::ffi::CStr| {
            // SAFETY: the path ends with a zero byte, and there are two times.
            unsafe { libc::utimensat(fd, path.as_ptr(), times.as_ptr(), self.flags()) }
        };
        Errno::result(self.checked()?.with_nix_path(set)?)?;
        Ok(())
    }
}
