//! What the methods of the adapter share: doing the work of a request, and taking notes.

use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fuser::{Errno, INodeNo, InitFlags, KernelConfig};

use super::ahead::Ahead;
use super::backing::Backings;
use super::contents::Contents;
use super::convert::{self, node};
use super::files::Files;
use super::notify::Note;
use super::session::catching;
use super::{Data, Settings};
use crate::overlay::{NodeNumber, Overlay, OverlayFile, Result};

const MAX_WRITE: u32 = 1 << 20;
const MAX_BACKGROUND: u16 = 128;
/// Where the kernel collects what is written: what waits for a copy must not keep it from asking for anything else.
const MAX_COLLECTED: u16 = 4096;

/// What answers the kernel.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) overlay: Arc<Overlay>,
    pub(super) settings: Settings,
    pub(super) contents: Contents,
    pub(super) files: Arc<Files>,
    /// Of a tree that never changes, in passthrough.
    pub(super) backings: Option<Backings>,
    pub(super) ahead: Option<Ahead>,
}

impl Adapter {
    /// Settles with the kernel what both will do.
    pub(super) fn configure(&self, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        config
            .add_capabilities(self.flags() & offered)
            .map_err(refused)?;
        config.set_max_write(MAX_WRITE).map_err(refused)?;
        let background = match self.settings.data {
            Data::WriteBack => MAX_COLLECTED,
            _ => MAX_BACKGROUND,
        };
        config.set_max_background(background).map_err(refused)?;
        if let Data::Passthrough { stack_depth } = self.settings.data {
            config.set_max_stack_depth(stack_depth).map_err(refused)?;
        }
        Ok(())
    }

    /// Does the work of one request, see [`answer`].
    pub(super) fn answer<T>(
        &self,
        what: &'static str,
        ino: INodeNo,
        work: impl FnOnce() -> Result<T>,
    ) -> std::result::Result<T, Errno> {
        answer(what, ino, work)
    }

    /// The same for what gives something a name. It may have been done in spite of `EIO`, and the kernel would
    /// go on to believe that there is no such name.
    pub(super) fn answer_at<T>(
        &self,
        what: &'static str,
        (parent, name): (INodeNo, &OsStr),
        work: impl FnOnce() -> Result<T>,
    ) -> std::result::Result<T, Errno> {
        let done = self.answer(what, parent, work);
        if matches!(done, Err(Errno::EIO)) {
            let note = Note::Name(node(parent), name.to_owned());
            self.files.notes.add(note);
        }
        done
    }

    /// The file of a node that somebody has open, see [`Files::file`].
    pub(super) fn file(&self, node: NodeNumber, write: bool) -> Result<Arc<OverlayFile>> {
        self.files.file(&self.overlay, node, write)
    }

    /// Notes that the kernel knows `ino` by a name from now on.
    pub(super) fn told(&self, (parent, name): (INodeNo, &OsStr), ino: INodeNo) {
        if let Some(ahead) = &self.ahead {
            ahead.told(node(ino));
        }
        if self.files.doubts.is_uncopied(node(ino)) {
            let note = Note::Name(node(parent), name.to_owned());
            self.files.notes.add(note);
        }
    }

    /// Notes that the kernel knows all entries of `ino`, which it does when it is told that no
    /// more follow.
    pub(super) fn listed(&self, ino: INodeNo, at_end: bool) {
        if at_end && let Some(ahead) = &self.ahead {
            ahead.listed(node(ino));
        }
    }

    /// Notes that the kernel has read a part of `ino`.
    pub(super) fn was_read(&self, ino: INodeNo, offset: u64) {
        if offset == 0
            && let Some(ahead) = &self.ahead
        {
            ahead.read(node(ino));
        }
    }

    pub(super) fn forgotten(&self, ino: INodeNo, count: u64) {
        self.files.forget(node(ino));
        if let Some(ahead) = &self.ahead {
            ahead.forgotten(node(ino));
        }
        self.overlay.forget(node(ino), count);
    }

    /// The flags of the connection; what the kernel does not offer is left out.
    pub(super) fn flags(&self) -> InitFlags {
        let mut flags = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_ABORT_ERROR
            | InitFlags::FUSE_HAS_RESEND;
        flags |= match self.settings.data {
            Data::Cached => InitFlags::FUSE_NO_OPEN_SUPPORT,
            Data::Passthrough { .. } => {
                InitFlags::FUSE_PASSTHROUGH | InitFlags::FUSE_ATOMIC_O_TRUNC
            }
            // Without OPEN the kernel has to truncate by itself.
            Data::WriteBack => InitFlags::FUSE_WRITEBACK_CACHE | InitFlags::FUSE_NO_OPEN_SUPPORT,
        };
        // Whether the umask counts depends on the default ACL of the directory, which the kernel may not know.
        flags |= InitFlags::FUSE_DONT_MASK;
        if self.settings.acl {
            flags |= InitFlags::FUSE_POSIX_ACL;
        }
        flags
    }
}

/// Does the work of one request. A failure is logged here, and a panic becomes one.
pub(super) fn answer<T>(
    what: &'static str,
    ino: INodeNo,
    work: impl FnOnce() -> Result<T>,
) -> std::result::Result<T, Errno> {
    match catching(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let serious = error.errno == nix::errno::Errno::EIO;
            let level = if serious {
                log::Level::Error
            } else {
                log::Level::Debug
            };
            log::log!(level, "{what} of node {}: {error}", ino.0);
            Err(convert::error(&error))
        }
        Err(_panic) => {
            log::error!("{what} of node {}: a bug in plyfs made this fail", ino.0);
            Err(Errno::EIO)
        }
    }
}

/// The library will not have a value; it tells the nearest one that it would have.
fn refused<T>(_nearest: T) -> io::Error {
    io::Error::from_raw_os_error(libc::EPROTO)
}
