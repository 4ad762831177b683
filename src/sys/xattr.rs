//! Reading extended attributes, of open files and of paths whose last component is not followed.
//!
//! Neither std nor nix has them.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The names of the attributes of an open file; none where the file system has no attributes.
///
/// # Errors
/// What flistxattr(2) reports.
pub fn list(file: impl AsFd) -> io::Result<Vec<CString>> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: `read_all` passes a pointer and the length that may be written there.
    names(read_all(|buffer, length| unsafe {
        libc::flistxattr(fd, buffer.cast(), length)
    }))
}

/// The names of the attributes of `path` itself, which may be a symbolic link.
///
/// # Errors
/// What llistxattr(2) reports.
pub fn list_path(path: &CStr) -> io::Result<Vec<CString>> {
    let path = path.as_ptr();
    // SAFETY: the path is a C string; `read_all` passes a pointer and the length that may be
    // written there.
    names(read_all(|buffer, length| unsafe {
        libc::llistxattr(path, buffer.cast(), length)
    }))
}

/// The value of an attribute of an open file, or `None` if it has none of this name.
///
/// # Errors
/// What fgetxattr(2) reports.
pub fn get(file: impl AsFd, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let (fd, name) = (file.as_fd().as_raw_fd(), name.as_ptr());
    // SAFETY: the name is a C string; `read_all` passes a pointer and the length that may be
    // written there.
    value(read_all(|buffer, length| unsafe {
        libc::fgetxattr(fd, name, buffer.cast(), length)
    }))
}

/// The value of an attribute of `path` itself, or `None` if it has none of this name.
///
/// # Errors
/// What lgetxattr(2) reports.
pub fn get_path(path: &CStr, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let (path, name) = (path.as_ptr(), name.as_ptr());
    // SAFETY: both are C strings; `read_all` passes a pointer and the length that may be written
    // there.
    value(read_all(|buffer, length| unsafe {
        libc::lgetxattr(path, name, buffer.cast(), length)
    }))
}

/// Calls `call` with a buffer that is large enough, however the attributes change meanwhile.
pub(super) fn read_all(call: impl Fn(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 256];
    loop {
        let result = call(buffer.as_mut_ptr(), buffer.len());
        if let Ok(length) = usize::try_from(result) {
            buffer.truncate(length);
            return Ok(buffer);
        }
        let error = io::Error::last_os_error();
        // The kernel's own limit is 64 KiB for values and names alike.
        if error.raw_os_error() != Some(libc::ERANGE) || buffer.len() > 1 << 20 {
            return Err(error);
        }
        buffer.resize(buffer.len() * 4, 0);
    }
}

fn names(list: io::Result<Vec<u8>>) -> io::Result<Vec<CString>> {
    match list {
        Ok(list) => Ok(list
            .split_inclusive(|byte| *byte == 0)
            .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
            .map(CStr::to_owned)
            .collect()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn value(value: io::Result<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}
