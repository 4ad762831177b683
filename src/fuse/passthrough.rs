//! Finding out whether passthrough works, before a connection depends on it.
//!
//! The kernel offers passthrough even to those whom it then refuses every backing file (inside
//! user namespaces), and it cannot be tried on the real connection, because it excludes the
//! writeback cache from the first message on. So it is tried on a connection that is thrown away.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use fuser::{BackingId, Config, Filesystem, InitFlags, KernelConfig, Request, Session, SessionACL};

/// A file system that is asked nothing.
#[derive(Debug)]
struct Probe {
    stack_depth: u32,
}

impl Filesystem for Probe {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |_| io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        config
            .add_capabilities(InitFlags::FUSE_PASSTHROUGH)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        config
            .set_max_stack_depth(self.stack_depth)
            .map_err(refused)?;
        Ok(())
    }
}

/// Tries to give `file` to the kernel as a backing file on the connection of `device`, which must
/// be mounted but need not be attached, and is of no use afterwards.
///
/// # Errors
/// `EOPNOTSUPP` on a kernel without passthrough, `EPERM` without privilege, `ELOOP` when `file`
/// lies on too deep a stack of file systems.
pub fn probe(device: OwnedFd, file: &File, stack_depth: u32) -> io::Result<()> {
    let probe = Probe { stack_depth };
    let session = Session::from_fd(probe, device, SessionACL::All, Config::default())?;
    // The id goes away with the connection.
    BackingId::create_raw(&session, file).map(drop)
}
