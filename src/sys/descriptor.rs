//! Descriptors that come from other processes: by number, or over a socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

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

/// As many descriptors as a process has room for after [`make_room`], if its limit allows that.
const ROOM: u64 = 2048;

/// Makes room for many descriptors, to be called as long as there is one thread.
///
/// With several, each time the kernel enlarges the table of descriptors (at 64, 128, 256, ...) it waits until no thread
/// can see the old one (`synchronize_rcu` in `fs/file.c`), which takes ten milliseconds.
///
/// # Errors
/// What getrlimit(2) and fcntl(2) report.
pub fn make_room(any: &impl AsFd) -> io::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let highest = RawFd::try_from(limit.min(ROOM).saturating_sub(1)).map_err(io::Error::other)?;
    let copy = fcntl(any, FcntlArg::F_DUPFD_CLOEXEC(highest))?;
    // SAFETY: the kernel has just returned this descriptor to us.
    drop(unsafe { OwnedFd::from_raw_fd(copy) });
    Ok(())
}

/// Makes the number of `target` stand for what `source` is open on; what it stood for is closed.
///
/// # Errors
/// What dup3(2) reports.
pub fn replace(target: BorrowedFd<'_>, source: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: dup3 touches no memory. The number stays open and stays its owner's, to close.
    let replaced = unsafe { libc::dup3(source.as_raw_fd(), target.as_raw_fd(), libc::O_CLOEXEC) };
    Errno::result(replaced)?;
    Ok(())
}

/// Sends a descriptor to [`receive`] on the other side.
///
/// # Errors
/// What sendmsg(2) reports.
pub fn send(socket: &UnixStream, file: BorrowedFd<'_>) -> io::Result<()> {
    let parts = [IoSlice::new(&[0])];
    let (sent, flags) = ([file.as_raw_fd()], MsgFlags::MSG_NOSIGNAL);
    let control = [ControlMessage::ScmRights(&sent)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, &control, flags, None)?;
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
