//! Shaking hands between the kernel and the library, so that what they agreed on is known, and a later
//! server can take the connection over.
//!
//! The library begins every connection by waiting for the kernel's first message, which comes once. So
//! it is given one end of a socket on which that message lies: the one that the kernel has sent, or the one
//! that was kept. Afterwards the device takes the place of the socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use fuser::{Config, InitFlags, Session, SessionACL};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{read, write};
use serde::{Deserialize, Serialize};

use super::handler::Adapter;
use crate::sys::descriptor;

/// More than the kernel's first message has; it refuses buffers that a small write would not fit in.
const LONGEST: usize = 64 << 10;

/// Where the flags stand in `fuse_init_in` and `fuse_init_out`, with the headers before them.
const ASKED: [usize; 2] = [40 + 12, 40 + 16];
const ANSWERED: [usize; 2] = [16 + 12, 16 + 32];

/// `FUSE_NOTIFY_RESEND`: a header (length, code, no request) and nothing else.
const RESEND: i32 = 7;

/// What the kernel and a server have agreed on: the first message of the kernel, offering no more than was
/// accepted. Shown to another server it leads to the same agreement, whatever version that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms(Vec<u8>);

impl Terms {
    /// Whether the kernel hands requests that were never answered to the next server.
    #[must_use]
    pub fn allow_resending(&self) -> bool {
        let flags = flags(&self.0, ASKED).map(InitFlags::from_bits_retain);
        flags.is_some_and(|flags| flags.contains(InitFlags::FUSE_HAS_RESEND))
    }
}

/// Begins a connection over a device that nobody has used yet.
pub(super) fn begin(
    adapter: Adapter,
    device: &OwnedFd,
    config: Config,
) -> io::Result<(Session<Adapter>, Terms)> {
    let mut message = vec![0; LONGEST];
    let length = loop {
        match read(device, &mut message) {
            Err(Errno::EINTR | Errno::ENOENT | Errno::EAGAIN) => {}
            length => break length?,
        }
    };
    message.truncate(length);
    let (session, answer) = answer(adapter, &message, config)?;
    write(device, &answer)?;
    descriptor::replace(session.as_fd(), device.as_fd())?;
    let accepted = flags(&answer, ANSWERED).ok_or_else(not_understood)?;
    for (at, part) in ASKED.into_iter().zip([accepted, accepted >> 32]) {
        let bytes = u32::try_from(part & u64::from(u32::MAX)).map_err(io::Error::other)?;
        let target = message.get_mut(at..at + 4).ok_or_else(not_understood)?;
        target.copy_from_slice(&bytes.to_ne_bytes());
    }
    Ok((session, Terms(message)))
}

/// Takes a connection over whose server has ended. What that was asked and has not answered is asked again,
/// so it must not be there any more, and nobody may read from the device before this returns.
pub(super) fn take_over(
    adapter: Adapter,
    device: &OwnedFd,
    config: Config,
    terms: &Terms,
) -> io::Result<Session<Adapter>> {
    let (session, answer) = answer(adapter, &terms.0, config)?;
    if flags(&answer, ANSWERED) != flags(&terms.0, ASKED) {
        return Err(io::Error::other(
            "this version of plyfs cannot do all that was agreed on with the kernel",
        ));
    }
    descriptor::replace(session.as_fd(), device.as_fd())?;
    let mut resend = [0; 16];
    for (target, part) in resend.chunks_exact_mut(4).zip([16, RESEND]) {
        target.copy_from_slice(&part.to_ne_bytes());
    }
    write(device, &resend)?;
    Ok(session)
}

/// What the library answers to the first message.
fn answer(
    adapter: Adapter,
    message: &[u8],
    config: Config,
) -> io::Result<(Session<Adapter>, Vec<u8>)> {
    let (theirs, ours) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    write(&ours, message)?;
    // Who may come in is checked by the kernel; the library would compare raw user ids.
    let session = Session::from_fd(adapter, theirs, SessionACL::All, config)?;
    let mut answer = vec![0; LONGEST];
    let length = read(&ours, &mut answer)?;
    answer.truncate(length);
    Ok((session, answer))
}

/// Both words of flags of a message; none if it is too short to have them.
fn flags(message: &[u8], [low, high]: [usize; 2]) -> Option<u64> {
    let word = |at: usize| {
        let bytes = message.get(at..at.checked_add(4)?)?;
        bytes.try_into().ok().map(u32::from_ne_bytes)
    };
    Some(u64::from(word(low)?) | u64::from(word(high)?) << 32)
}

fn not_understood() -> io::Error {
    io::Error::from_raw_os_error(libc::EPROTO)
}
