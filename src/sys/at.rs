//! A directory that is only looked into, and the system calls that look.
//!
//! [`RootFd`] wraps a directory descriptor and offers nothing that changes anything below it: that
//! a tree is never modified is thereby a property of the type. It does not give its descriptor away
//! either, for with a descriptor every `*at` call could be made.
//!
//! # Invariants
//! * Names are single components; a symlink is never followed, so nothing outside the opened
//!   directory can be reached. Mount points below it are crossed.
//! * Where the caller may ask for it (he owns the file, or is privileged), reading leaves the time of
//!   last access alone.
//! * Opening never blocks and never becomes a controlling terminal; device nodes are not opened by
//!   callers that looked at [`Stat`] first.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::Mode;
use nix::sys::statfs::Statfs;

use super::{getdents, xattr_at};

/// What statx(2) tells of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Type and permission bits.
    pub mode: u32,
    /// Number of links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Inode number.
    pub ino: u64,
    /// Number of the device that holds the inode.
    pub dev: u64,
    /// Major and minor number of a device node.
    pub rdev: (u32, u32),
    /// Length in bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Last access: seconds, nanoseconds.
    pub atime: (i64, u32),
    /// Last modification: seconds, nanoseconds.
    pub mtime: (i64, u32),
    /// Last status change: seconds, nanoseconds.
    pub ctime: (i64, u32),
    /// Creation, if the file system knows it: seconds, nanoseconds.
    pub btime: (i64, u32),
    /// Whether it is the root of a mount.
    pub mount_root: bool,
}

/// A directory descriptor without mutators.
#[derive(Debug)]
pub struct RootFd {
    fd: OwnedFd,
}

impl RootFd {
    /// Opens the directory at `path`, following symlinks as the caller's path has them.
    ///
    /// # Errors
    /// What open(2) reports; `ENOTDIR` for anything else than a directory.
    pub fn open(path: &Path) -> io::Result<RootFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = openat(AT_FDCWD, path, flags, Mode::empty())?;
        Ok(RootFd { fd })
    }

    /// Opens the directory `name` to reach what is in it; search permission is enough.
    ///
    /// # Errors
    /// What openat(2) reports; `ENOTDIR` for anything else than a directory, symlinks included.
    pub fn directory(&self, name: &[u8]) -> io::Result<RootFd> {
        self.open_directory(component(name)?, OFlag::O_PATH)
    }

    /// Opens the directory `name` (empty: this one) such that it can be listed too.
    ///
    /// # Errors
    /// As [`RootFd::directory`].
    pub fn listable(&self, name: &[u8]) -> io::Result<RootFd> {
        self.open_directory(name, OFlag::O_RDONLY)
    }

    fn open_directory(&self, name: &[u8], how: OFlag) -> io::Result<RootFd> {
        let flags = how | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let name = if name.is_empty() {
            b"."
        } else {
            component(name)?
        };
        let open = |more| openat(&self.fd, name, flags | more, Mode::empty());
        let fd = if how == OFlag::O_PATH {
            open(OFlag::empty())?
        } else {
            keeping_atime(open)?
        };
        Ok(RootFd { fd })
    }

    /// Opens the file `name` for reading.
    ///
    /// # Errors
    /// What openat(2) reports; `ELOOP` for a symlink.
    pub fn open_file(&self, name: &[u8]) -> io::Result<File> {
        let name = component(name)?;
        let open = |more| openat(&self.fd, name, READ_FILE | more, Mode::empty());
        Ok(File::from(keeping_atime(open)?))
    }

    /// Opens the file at the relative `path` for reading; no component may be a symlink or `..`.
    ///
    /// # Errors
    /// What openat2(2) reports.
    pub fn open_file_beneath(&self, path: &[u8]) -> io::Result<File> {
        if path.split(|byte| *byte == b'/').any(|name| name == b"..") {
            return Err(Errno::EINVAL.into());
        }
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = |more| OpenHow::new().flags(READ_FILE | more).resolve(resolve);
        match keeping_atime(|more| openat2(&self.fd, path, how(more))) {
            Ok(fd) => Ok(File::from(fd)),
            // An old kernel, a seccomp filter that does not know the call, or a path that is too
            // long for one call.
            Err(Errno::ENOSYS | Errno::EPERM | Errno::ENAMETOOLONG) => self.walk_to_file(path),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the file at `path` for reading as a process would whose root this directory is: symlinks are
    /// followed, and none leads out.
    ///
    /// # Errors
    /// What openat2(2) reports.
    pub fn open_file_in_root(&self, path: &[u8]) -> io::Result<File> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let flags = (READ_FILE - OFlag::O_NOFOLLOW) | OFlag::O_NONBLOCK;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        Ok(File::from(openat2(&self.fd, path, how)?))
    }

    /// [`RootFd::open_file_beneath`], one component at a time.
    fn walk_to_file(&self, path: &[u8]) -> io::Result<File> {
        let mut components = path.split(|byte| *byte == b'/').filter(|c| !c.is_empty());
        let mut next = components.next().ok_or(Errno::ENOENT)?;
        let mut directory: Option<RootFd> = None;
        for after in components {
            directory = Some(directory.as_ref().unwrap_or(self).directory(next)?);
            next = after;
        }
        directory.as_ref().unwrap_or(self).open_file(next)
    }

    /// What `name` (empty: this directory) is, without following it.
    ///
    /// # Errors
    /// What statx(2) reports.
    pub fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        if !name.is_empty() {
            component(name)?;
        }
        statx(self.fd.as_fd(), name)
    }

    /// The target of the symlink `name`.
    ///
    /// # Errors
    /// What readlinkat(2) reports; `EINVAL` for another kind of object.
    pub fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        use std::os::unix::ffi::OsStringExt;
        Ok(readlinkat(&self.fd, component(name)?)?.into_vec())
    }

    /// The value of the extended attribute `attribute` of `name` (empty: this directory).
    ///
    /// # Errors
    /// What getxattr(2) reports, `ENODATA` included.
    pub fn xattr(&self, name: &[u8], attribute: &[u8]) -> io::Result<Vec<u8>> {
        if !name.is_empty() {
            component(name)?;
        }
        xattr_at::get(self.fd.as_fd(), name, attribute)
    }

    /// The names of the extended attributes of `name` (empty: this directory), each ended by a
    /// zero byte.
    ///
    /// # Errors
    /// What listxattr(2) reports.
    pub fn xattr_names(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        if !name.is_empty() {
            component(name)?;
        }
        xattr_at::list(self.fd.as_fd(), name)
    }

    /// Reads all entries but `.` and `..` of a directory opened by [`RootFd::listable`].
    ///
    /// # Errors
    /// What getdents64(2) reports.
    pub fn entries(
        &self,
        buffer: &mut Vec<u8>,
        emit: &mut dyn FnMut(getdents::Entry<'_>),
    ) -> io::Result<()> {
        getdents::read_all(self.fd.as_fd(), buffer, emit)
    }

    /// Device and inode number of this directory and of those above it, as far up as this process
    /// may look; stops, the directory included, where `seen` says that it knows it already.
    ///
    /// # Errors
    /// What statx(2) reports of this directory.
    pub fn ancestors(&self, seen: &dyn Fn((u64, u64)) -> bool) -> io::Result<Vec<(u64, u64)>> {
        let stat = self.stat(b"")?;
        let mut last = (stat.dev, stat.ino);
        let mut found = vec![last];
        let mut above: Option<OwnedFd> = None;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        loop {
            let from = above.as_ref().unwrap_or(&self.fd);
            let Ok(next) = openat(from, c"..", flags, Mode::empty()) else {
                return Ok(found);
            };
            let Ok(stat) = statx(next.as_fd(), b"") else {
                return Ok(found);
            };
            let id = (stat.dev, stat.ino);
            if id == last || seen(id) {
                return Ok(found);
            }
            found.push(id);
            (last, above) = (id, Some(next));
        }
    }

    /// Figures of the file system that holds this directory.
    ///
    /// # Errors
    /// What fstatfs(2) reports.
    pub fn statfs(&self) -> io::Result<Statfs> {
        Ok(nix::sys::statfs::fstatfs(&self.fd)?)
    }
}

const READ_FILE: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY);

/// Opens with O_NOATIME until that was refused once.
fn keeping_atime<T>(open: impl Fn(OFlag) -> nix::Result<T>) -> nix::Result<T> {
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if !REFUSED.load(Ordering::Relaxed) {
        match open(OFlag::O_NOATIME) {
            Err(Errno::EPERM) => REFUSED.store(true, Ordering::Relaxed),
            result => return result,
        }
    }
    open(OFlag::empty())
}

/// Refuses what would make a call leave the directory.
fn component(name: &[u8]) -> io::Result<&[u8]> {
    if name.is_empty() || name == b".." || name.contains(&b'/') {
        return Err(Errno::EINVAL.into());
    }
    Ok(name)
}

/// What an open file is.
///
/// # Errors
/// What statx(2) reports.
pub fn stat_file(file: &File) -> io::Result<Stat> {
    statx(file.as_fd(), b"")
}

pub(super) fn statx(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Stat> {
    let mut flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    if name.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    let mut raw = MaybeUninit::<libc::statx>::zeroed();
    let call = |path: &CStr| {
        // SAFETY: the descriptor is borrowed for the call, `path` ends with a zero byte, and the
        // result buffer is a whole `struct statx`.
        unsafe {
            libc::statx(
                directory.as_raw_fd(),
                path.as_ptr(),
                flags,
                libc::STATX_BASIC_STATS | libc::STATX_BTIME,
                raw.as_mut_ptr(),
            )
        }
    };
    Errno::result(name.with_nix_path(call)?)?;
    // SAFETY: all bytes were zeroed or written by the kernel, and every bit pattern is valid for
    // the integers of this struct.
    let raw = unsafe { raw.assume_init() };
    let time = |t: libc::statx_timestamp| (t.tv_sec, t.tv_nsec.min(999_999_999));
    #[allow(clippy::cast_sign_loss)] // a bit mask
    let mount_root = raw.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0;
    Ok(Stat {
        mode: u32::from(raw.stx_mode),
        nlink: raw.stx_nlink,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        ino: raw.stx_ino,
        dev: libc::makedev(raw.stx_dev_major, raw.stx_dev_minor),
        rdev: (raw.stx_rdev_major, raw.stx_rdev_minor),
        size: raw.stx_size,
        blocks: raw.stx_blocks,
        atime: time(raw.stx_atime),
        mtime: time(raw.stx_mtime),
        ctime: time(raw.stx_ctime),
        btime: time(raw.stx_btime),
        mount_root,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leaves_the_directory() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir_all(dir.path().join("a/b"))?;
        std::fs::write(dir.path().join("a/b/f"), "x")?;
        symlink("a", dir.path().join("link"))?;
        symlink("/etc/passwd", dir.path().join("file"))?;
        let root = RootFd::open(dir.path())?;
        for bad in [&b".."[..], b"a/b", b"", b"link"] {
            assert!(root.directory(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert!(root.open_file(b"file").is_err());
        for open in [RootFd::open_file_beneath, RootFd::walk_to_file] {
            let mut text = String::new();
            open(&root, b"a/b/f")?.read_to_string(&mut text)?;
            assert_eq!(text, "x");
            for bad in [&b"link/b/f"[..], b"a/../a/b/f", b"file", b"a/none", b""] {
                assert!(open(&root, bad).is_err(), "{}", bad.escape_ascii());
            }
        }
        Ok(())
    }

    #[test]
    fn long_links_and_paths() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let target = vec![b'x'; 4000];
        symlink(
            std::str::from_utf8(&target).map_err(io::Error::other)?,
            dir.path().join("l"),
        )?;
        let root = RootFd::open(dir.path())?;
        assert_eq!(root.read_link(b"l")?, target);
        assert_eq!(root.stat(b"l")?.size, 4000);
        assert!(root.stat(b"")?.nlink > 0);
        Ok(())
    }
}
