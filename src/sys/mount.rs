//! The mount system calls that neither std nor nix offers: fsopen(2) and its kin, and the mount
//! id from statx(2).
//!
//! A mount made this way exists before it has a place: it can be given its options one by one (a
//! comma in a value means nothing), be served and asked, and only then be put where everybody
//! sees it.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// `MOUNT_ATTR_RDONLY`
pub const ATTRIBUTE_READ_ONLY: u32 = 0x1;
/// `MOUNT_ATTR_NOSUID`
pub const ATTRIBUTE_NOSUID: u32 = 0x2;
/// `MOUNT_ATTR_NODEV`
pub const ATTRIBUTE_NODEV: u32 = 0x4;
/// `MOUNT_ATTR_NOEXEC`
pub const ATTRIBUTE_NOEXEC: u32 = 0x8;
/// `MOUNT_ATTR_NOATIME`
pub const ATTRIBUTE_NOATIME: u32 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`
pub const ATTRIBUTE_STRICTATIME: u32 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`
pub const ATTRIBUTE_NODIRATIME: u32 = 0x80;

/// Turns the result of a system call that returns a new descriptor into its owner.
fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let raw = RawFd::try_from(Errno::result(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn c_string(bytes: &OsStr) -> io::Result<CString> {
    CString::new(bytes.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// A file system that is being configured.
#[derive(Debug)]
pub struct Context(OwnedFd);

impl Context {
    /// Begins to configure a file system of type `kind`.
    ///
    /// # Errors
    /// What fsopen(2) reports: `EPERM` without the right to mount, `ENODEV` for an unknown type,
    /// `ENOSYS` on an old kernel.
    pub fn new(kind: &CStr) -> io::Result<Context> {
        // SAFETY: the pointer is a live NUL-terminated string, which the kernel only reads.
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
            .map(Context)
    }

    /// Sets an option with a value.
    ///
    /// # Errors
    /// What fsconfig(2) reports, with the kernel's own words where it gave any.
    pub fn set(&self, key: &CStr, value: &OsStr) -> io::Result<()> {
        let value = c_string(value)?;
        // SAFETY: both pointers are live NUL-terminated strings, which the kernel only reads.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        };
        self.explain(result)
    }

    /// Sets an option without a value.
    ///
    /// # Errors
    /// As [`Context::set`].
    pub fn set_flag(&self, key: &CStr) -> io::Result<()> {
        // SAFETY: the key is a live NUL-terminated string; this command takes no value.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_SET_FLAG,
                key.as_ptr(),
                std::ptr::null::<libc::c_void>(),
                0,
            )
        };
        self.explain(result)
    }

    /// Makes the super block.
    ///
    /// # Errors
    /// As [`Context::set`].
    pub fn create(&self) -> io::Result<()> {
        // SAFETY: this command takes neither key nor value.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_CMD_CREATE,
                std::ptr::null::<libc::c_char>(),
                std::ptr::null::<libc::c_void>(),
                0,
            )
        };
        self.explain(result)
    }

    /// Makes a mount that is not attached anywhere yet.
    ///
    /// # Errors
    /// As [`Context::set`].
    pub fn mount(self, attributes: u32) -> io::Result<DetachedMount> {
        // SAFETY: no pointer is passed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                attributes,
            )
        };
        if result < 0 {
            self.explain(result)?;
        }
        descriptor(result).map(DetachedMount)
    }

    /// Adds what the kernel logged to a failure.
    fn explain(&self, result: libc::c_long) -> io::Result<()> {
        let Err(errno) = Errno::result(result) else {
            return Ok(());
        };
        let mut message = [0_u8; 512];
        match nix::unistd::read(&self.0, &mut message) {
            Ok(length) if length > 2 => {
                // The first two bytes say how serious it is: "e ".
                let text = String::from_utf8_lossy(message.get(2..length).unwrap_or_default());
                let text = format!("{} ({})", errno.desc(), text.trim_end());
                Err(io::Error::new(io::Error::from(errno).kind(), text))
            }
            // Nothing was logged (ENODATA).
            _ => Err(errno.into()),
        }
    }
}

/// A mount without a place. Dropping it before [`DetachedMount::attach`] unmounts it.
#[derive(Debug)]
pub struct DetachedMount(OwnedFd);

impl DetachedMount {
    /// Puts the mount on the directory `target`.
    ///
    /// # Errors
    /// What move_mount(2) reports.
    pub fn attach(&self, target: BorrowedFd<'_>) -> io::Result<()> {
        let empty = c"";
        // SAFETY: both paths are live NUL-terminated strings, which the kernel only reads.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                empty.as_ptr(),
                target.as_raw_fd(),
                empty.as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
            )
        };
        Errno::result(result)?;
        Ok(())
    }
}

impl AsFd for DetachedMount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What tells one mount from every other, as long as the file system in it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountIdentity {
    /// The number in the first column of `/proc/self/mountinfo`.
    pub id: u64,
    /// Major and minor number of the super block.
    pub device: (u32, u32),
}

/// Tells the mount of the open `file`. With `ask` the file system itself is asked for the
/// attributes of the file, so that the answer shows that it is served; without, what is cached will
/// do, even that of a dead server.
///
/// # Errors
/// What statx(2) reports; `ENOSYS` where the kernel does not tell mount ids.
pub fn identity(file: BorrowedFd<'_>, ask: bool) -> io::Result<MountIdentity> {
    let sync = if ask {
        libc::AT_STATX_FORCE_SYNC
    } else {
        libc::AT_STATX_DONT_SYNC
    };
    // SAFETY: a statx buffer is plain numbers, for which zeroes are a valid value.
    let mut attributes: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a live empty string and the buffer is writable and of the right type.
    Errno::result(unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | sync,
            libc::STATX_BASIC_STATS | libc::STATX_MNT_ID,
            &raw mut attributes,
        )
    })?;
    if attributes.stx_mask & libc::STATX_MNT_ID == 0 {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    Ok(MountIdentity {
        id: attributes.stx_mnt_id,
        device: (attributes.stx_dev_major, attributes.stx_dev_minor),
    })
}
