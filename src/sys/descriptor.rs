//! Descriptors that come from other processes: by number, or over a socket.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Takes over a descriptor that somebody else opened for this process and passed by number.
///
/// # Errors
/// `EBADF` when there is no such descriptor, `EINVAL` for a standard stream.
pub fn adopt(raw: RawFd) -> io::Result<OwnedFd> {
    if raw <= 2 {
        return Err(Errno::EINVAL.into());
    }
    // SAFETY: fcntl with F_DUPFD_CLOEXEC touches no memory and fails on a bad number.
    let copy = Errno::result(unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the kernel has just returned this descriptor to us. The passed number itself stays
    // open until this process ends: it may be owned elsewhere.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Lets programs that this process starts inherit `file`.
///
/// # Errors
/// What fcntl(2) reports.
pub fn inherit(file: &impl AsFd) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Receives one descriptor; `None` when the other side has closed the socket without sending one.
///
/// # Errors
/// What recvmsg(2) reports.
pub fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0_u8; 1];
    let mut space = nix::cmsg_space!(RawFd);
    loop {
        let mut parts = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(Errno::EINTR) => continue,
            message => message?,
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(sent) = control
                && let Some(&raw) = sent.first()
            {
                // SAFETY: the kernel has just installed this descriptor for us; there is room for
                // one only.
                return Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) }));
            }
        }
        return Ok(None);
    }
}
