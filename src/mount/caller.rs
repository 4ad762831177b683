//! Who waits for a mount to be there.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};

use super::error::{Error, Result};
use super::{Mounted, syslog};
use crate::sys::process;

const READY: u8 = b'r';
const FAILED: u8 = b'f';

/// The end of the process that mounts.
///
/// Whoever waits reads until the pipe is closed, so every process that has a copy of this end has to
/// take part: by telling something, or by [`Caller::leave_alone`].
pub(super) struct Caller {
    status: Cell<Option<File>>,
    is_another: bool,
}

impl Caller {
    /// One who waits at the other end of a pipe.
    pub(super) fn waiting(status: File) -> Caller {
        Caller {
            status: Cell::new(Some(status)),
            is_another: true,
        }
    }

    /// This process itself.
    pub(super) fn none() -> Caller {
        Caller {
            status: Cell::new(None),
            is_another: false,
        }
    }

    /// Keeps no directory of the caller in use.
    pub(super) fn leave_directory(&self) -> Result<()> {
        if !self.is_another {
            return Ok(());
        }
        nix::unistd::chdir("/")
            .map_err(io::Error::from)
            .map_err(Error::system("cannot leave the directory"))
    }

    /// Keeps no stream of the caller in use; what is to be said goes to the system's log from now on.
    pub(super) fn leave_streams(&self) -> Result<()> {
        if !self.is_another {
            return Ok(());
        }
        process::detach_standard_streams().map_err(Error::system("cannot close the streams"))?;
        syslog::detached();
        Ok(())
    }

    /// The mount is there, and served by this process.
    pub(super) fn ready(&self) {
        self.tell(READY, &std::process::id().to_le_bytes());
    }

    /// There is no mount; whether somebody was there to be told.
    pub(super) fn failed(&self, error: &Error) -> bool {
        self.tell(FAILED, error.chain().as_bytes())
    }

    /// Another process tells how it ends.
    pub(super) fn leave_alone(&self) {
        drop(self.status.take());
    }

    fn tell(&self, kind: u8, text: &[u8]) -> bool {
        let Some(mut status) = self.status.take() else {
            return false;
        };
        if let Err(error) = status.write_all(&[&[kind], text].concat()) {
            // That does not end the mount.
            log::debug!("nobody waits for the mount: {error}");
        }
        true
    }
}

/// Waits for a process that mounts to tell how it ended.
pub(super) fn wait(mut status: File) -> Result<Mounted> {
    let mut message = Vec::new();
    status
        .read_to_end(&mut message)
        .map_err(Error::system("cannot hear from the daemon"))?;
    match message.split_first() {
        Some((&READY, pid)) => {
            let pid = pid.try_into().map(u32::from_le_bytes).unwrap_or(0);
            Ok(Mounted { pid })
        }
        Some((_, reason)) => Err(Error::Daemon(String::from_utf8_lossy(reason).into_owned())),
        None => Err(Error::Daemon(
            "the daemon died before the mount was ready".into(),
        )),
    }
}
