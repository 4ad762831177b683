//! Extended attributes of what is written to.

use std::ffi::CString;
use std::io;

use nix::errno::Errno;

use super::fault;
use super::writable::At;

impl At<'_> {
    /// The value of an extended attribute; `None` if there is none, or can be none, or if it is a capability
    /// for a user that this user namespace does not know.
    ///
    /// # Errors
    /// What getxattr(2) reports.
    pub fn xattr(&self, attribute: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let (path, follow) = self.path()?;
        let attribute = CString::new(attribute)?;
        let read = |value: *mut u8, room: usize| {
            let (path, attribute, value) = (path.as_ptr(), attribute.as_ptr(), value.cast());
            // SAFETY: both strings end with a zero byte; `room` bytes may be written.
            unsafe {
                if follow {
                    libc::getxattr(path, attribute, value, room)
                } else {
                    libc::lgetxattr(path, attribute, value, room)
                }
            }
        };
        match super::xattr::read_all(read) {
            Ok(value) => Ok(Some(value)),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENODATA | libc::EOPNOTSUPP | libc::EOVERFLOW) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Whether the file system has POSIX ACLs.
    #[must_use]
    pub fn has_acls(&self) -> bool {
        let Ok((path, _)) = self.path() else {
            return false;
        };
        let name = c"system.posix_acl_access".as_ptr();
        // SAFETY: both strings end with a zero byte; nothing is written.
        let size = unsafe { libc::getxattr(path.as_ptr(), name, std::ptr::null_mut(), 0) };
        Errno::result(size) != Err(Errno::EOPNOTSUPP)
    }

    /// The names of the extended attributes, each ended by a zero byte.
    ///
    /// # Errors
    /// What listxattr(2) reports.
    pub fn xattr_names(&self) -> io::Result<Vec<u8>> {
        let (path, follow) = self.path()?;
        let read = |names: *mut u8, room: usize| {
            let (path, names) = (path.as_ptr(), names.cast());
            // SAFETY: the path ends with a zero byte; `room` bytes may be written.
            unsafe {
                if follow {
                    libc::listxattr(path, names, room)
                } else {
                    libc::llistxattr(path, names, room)
                }
            }
        };
        match super::xattr::read_all(read) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
            names => names,
        }
    }

    /// setxattr(2) with `XATTR_*` flags.
    ///
    /// # Errors
    /// What it reports.
    pub fn set_xattr(&self, attribute: &[u8], value: &[u8], flags: i32) -> io::Result<()> {
        fault::point("setxattr")?;
        let attribute = CString::new(attribute)?;
        if let Some(fd) = self.open_fd() {
            let (name, data) = (attribute.as_ptr(), value.as_ptr().cast());
            // SAFETY: the name ends with a zero byte, and the value is as long as said.
            Errno::result(unsafe { libc::fsetxattr(fd, name, data, value.len(), flags) })?;
            return Ok(());
        }
        let (path, follow) = self.path()?;
        let (path, attribute) = (path.as_ptr(), attribute.as_ptr());
        let (value, length) = (value.as_ptr().cast(), value.len());
        // SAFETY: both strings end with a zero byte, and the value is as long as said.
        Errno::result(unsafe {
            if follow {
                libc::setxattr(path, attribute, value, length, flags)
            } else {
                libc::lsetxattr(path, attribute, value, length, flags)
            }
        })?;
        Ok(())
    }

    /// Removes the POSIX ACLs that a directory got from the one above it.
    ///
    /// # Errors
    /// What removexattr(2) reports, except that there are none, or can be none.
    pub fn remove_acls(&self) -> io::Result<()> {
        for name in ["system.posix_acl_default", "system.posix_acl_access"] {
            match self.remove_xattr(name.as_bytes()) {
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {}
                removed => removed?,
            }
        }
        Ok(())
    }

    /// removexattr(2)
    ///
    /// # Errors
    /// What it reports.
    pub fn remove_xattr(&self, attribute: &[u8]) -> io::Result<()> {
        fault::point("removexattr")?;
        let (path, follow) = self.path()?;
        let attribute = CString::new(attribute)?;
        let (path, attribute) = (path.as_ptr(), attribute.as_ptr());
        // SAFETY: both strings end with a zero byte.
        Errno::result(unsafe {
            if follow {
                libc::removexattr(path, attribute)
            } else {
                libc::lremovexattr(path, attribute)
            }
        })?;
        Ok(())
    }
}
