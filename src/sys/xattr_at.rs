//! Extended attributes of a name in a directory, without opening what the name stands for.
//!
//! getxattrat(2) and listxattrat(2) exist since Linux 6.13; before, and where a seccomp filter does
//! not know them, the same is reached by way of `/proc/self/fd`.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::NixPath;
use nix::errno::Errno;

#[cfg(any(target_arch = "mips", target_arch = "mips64"))]
compile_error!("numbers of getxattrat(2) are not known for this architecture");
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;

/// Set once the kernel has said that it does not know the calls.
static ABSENT: AtomicBool = AtomicBool::new(false);

/// `struct xattr_args`
#[repr(C)]
struct Arguments {
    value: u64,
    size: u32,
    flags: u32,
}

/// The value of `attribute` of `name` in `directory`; an empty name is the directory itself.
pub(super) fn get(directory: BorrowedFd<'_>, name: &[u8], attribute: &[u8]) -> io::Result<Vec<u8>> {
    let attribute = CString::new(attribute)?;
    let call = |name: &CStr, value: &mut Vec<u8>, room: usize| {
        let arguments = Arguments {
            value: value.as_mut_ptr() as u64,
            size: u32::try_from(room).unwrap_or(u32::MAX),
            flags: 0,
        };
        // SAFETY: both strings end with a zero byte; the kernel writes at most `size` bytes, which
        // lie in the capacity of `value`.
        unsafe {
            libc::syscall(
                SYS_GETXATTRAT,
                directory.as_raw_fd(),
                name.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                attribute.as_ptr(),
                &raw const arguments,
                size_of::<Arguments>(),
            )
        }
    };
    let by_path = |path: &CStr, value: &mut Vec<u8>, room: usize| {
        // SAFETY: as above.
        let length = unsafe {
            let value = value.as_mut_ptr().cast();
            libc::lgetxattr(path.as_ptr(), attribute.as_ptr(), value, room)
        };
        length as libc::c_long
    };
    either(directory, name, &call, &by_path)
}

/// The names of the attributes of `name` in `directory`, each ended by a zero byte.
pub(super) fn list(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    let call = |name: &CStr, names: &mut Vec<u8>, room: usize| {
        // SAFETY: the name ends with a zero byte; the kernel writes at most `room` bytes, which lie
        // in the capacity of `names`.
        unsafe {
            libc::syscall(
                SYS_LISTXATTRAT,
                directory.as_raw_fd(),
                name.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                names.as_mut_ptr(),
                room,
            )
        }
    };
    let by_path = |path: &CStr, names: &mut Vec<u8>, room: usize| {
        // SAFETY: as above.
        let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), room) };
        length as libc::c_long
    };
    either(directory, name, &call, &by_path)
}

type Call<'a> = &'a dyn Fn(&CStr, &mut Vec<u8>, usize) -> libc::c_long;

fn either(
    directory: BorrowedFd<'_>,
    name: &[u8],
    call: Call<'_>,
    by_path: Call<'_>,
) -> io::Result<Vec<u8>> {
    // AT_EMPTY_PATH would not do for a descriptor opened with O_PATH.
    let name = if name.is_empty() { b"." } else { name };
    if !ABSENT.load(Ordering::Relaxed) {
        match grow(name, call) {
            // EPERM is what some seccomp filters say of unknown calls.
            Err(Errno::ENOSYS) => ABSENT.store(true, Ordering::Relaxed),
            Err(Errno::EPERM) => {}
            result => return Ok(result?),
        }
    }
    let mut path = format!("/proc/self/fd/{}", directory.as_raw_fd()).into_bytes();
    path.push(b'/');
    path.extend_from_slice(name);
    Ok(grow(&path, by_path)?)
}

/// Calls with a buffer that is usually enough, and with larger ones while it is not.
fn grow(path: &[u8], call: Call<'_>) -> Result<Vec<u8>, Errno> {
    let mut buffer: Vec<u8> = Vec::with_capacity(256);
    loop {
        let room = buffer.capacity().min(64 << 10);
        let length = path.with_nix_path(|path| call(path, &mut buffer, room))?;
        match Errno::result(length) {
            Ok(length) => {
                let length = usize::try_from(length).map_err(|_| Errno::EIO)?;
                if length > room {
                    return Err(Errno::EIO);
                }
                // SAFETY: the kernel has initialised `length` bytes, and they fit.
                unsafe { buffer.set_len(length) };
                return Ok(buffer);
            }
            // The kernel limits values and lists to 64 KiB.
            Err(Errno::ERANGE) if room < 64 << 10 => buffer.reserve(room * 4),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn both_ways_tell_the_same() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("f");
        std::fs::write(&file, "")?;
        let value = vec![7u8; 1500];
        let path = CString::new(file.as_os_str().as_encoded_bytes())?;
        // SAFETY: strings end with a zero byte, the value is as long as said.
        let set = unsafe {
            let name = c"user.test".as_ptr();
            libc::setxattr(path.as_ptr(), name, value.as_ptr().cast(), value.len(), 0)
        };
        if set != 0 {
            assert!(std::env::var_os("CI").is_none(), "user xattrs are needed");
            println!("SKIP: no user xattrs here");
            return Ok(());
        }
        let fd = std::fs::File::open(dir.path())?;
        for absent in [false, true] {
            ABSENT.store(absent, Ordering::Relaxed);
            assert_eq!(get(fd.as_fd(), b"f", b"user.test")?, value);
            let names = list(fd.as_fd(), b"f")?;
            assert!(names.split(|b| *b == 0).any(|n| n == b"user.test"));
            let missing = get(fd.as_fd(), b"", b"user.none").map_err(|e| e.raw_os_error());
            assert_eq!(missing, Err(Some(libc::ENODATA)));
        }
        ABSENT.store(false, Ordering::Relaxed);
        Ok(())
    }
}
