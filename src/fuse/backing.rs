//! Backing files of a tree that never changes.
//!
//! The kernel refuses an open of an inode that others have open with another backing file, and the ids of
//! backing files belong to the connection, which lives on when its server dies. So what was decided
//! about a file is noted where the next server finds it, and holds as long as the connection: each
//! large file is registered once, however often it is opened and whoever serves it.
//!
//! # Invariants
//! * An id that was handed to the kernel with an open is noted. (A server that dies in between leaves
//!   an id that nobody uses.)
//! * At most one id for each file of the tree.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use fuser::{BackingId, FopenFlags, ReplyOpen, Request};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use parking_lot::Mutex;

use super::contents::Contents;
use super::files::{LARGE, Wanted};
use crate::overlay::{Error, NodeNumber, Overlay, Result};

/// Noted of a file that was not decided about yet, and of one that the kernel would not have.
const UNDECIDED: u32 = 0;
const REFUSED: u32 = u32::MAX;

/// The ids of the backing files of a connection.
#[derive(Debug)]
pub(super) struct Backings {
    /// One number for each node, in memory that servers hand on.
    notes: File,
    device: Arc<OwnedFd>,
    registering: Mutex<()>,
}

/// Memory for the notes on a tree with that many nodes.
pub(super) fn notes(nodes: u64) -> io::Result<File> {
    let notes = File::from(memfd_create("plyfs-backing-files", MFdFlags::MFD_CLOEXEC)?);
    notes.set_len(nodes.saturating_add(2).saturating_mul(4))?;
    Ok(notes)
}

impl Backings {
    pub(super) fn new(notes: File, device: Arc<OwnedFd>) -> Backings {
        Backings {
            notes,
            device,
            registering: Mutex::new(()),
        }
    }

    /// The backing file that `node` is opened with; none if it is read through the page cache of the mount.
    pub(super) fn open(
        &self,
        overlay: &Overlay,
        contents: &Contents,
        node: NodeNumber,
        wanted: Wanted,
    ) -> Result<Option<u32>> {
        if wanted.write || wanted.truncate {
            return Err(Errno::EROFS.into());
        }
        let noted = match self.noted(node)? {
            UNDECIDED => self.decide(overlay, contents, node)?,
            noted => noted,
        };
        Ok(Some(noted).filter(|id| !matches!(*id, UNDECIDED | REFUSED)))
    }

    fn decide(&self, overlay: &Overlay, contents: &Contents, node: NodeNumber) -> Result<u32> {
        if overlay.attributes(node)?.size < LARGE {
            return Ok(UNDECIDED);
        }
        let content = contents.open(overlay, node)?;
        if !content.whole {
            return Ok(UNDECIDED);
        }
        let _one = self.registering.lock();
        match self.noted(node)? {
            UNDECIDED => {}
            noted => return Ok(noted),
        }
        let id = match BackingId::create_raw(&*self.device, &*content.file) {
            Ok(id) => id,
            // A file system below that is stacked too deep: by requests then, and by whoever is next too.
            Err(error) => {
                log::debug!("no passthrough for node {}: {error}", node.0);
                REFUSED
            }
        };
        let noted = self.notes.write_all_at(&id.to_ne_bytes(), at(node));
        noted.map_err(|error| Error::io(error, "noting a backing file"))?;
        Ok(id)
    }

    fn noted(&self, node: NodeNumber) -> Result<u32> {
        let mut id = [0; 4];
        let read = self.notes.read_exact_at(&mut id, at(node));
        read.map_err(|error| Error::io(error, "reading what backing files there are"))?;
        Ok(u32::from_ne_bytes(id))
    }

    /// Answers an open with a backing file that this process may not have registered itself, which the
    /// library has no safe way to say.
    pub(super) fn reply(&self, request: &Request, reply: ReplyOpen, id: u32) {
        let answer = [
            &32_u32.to_ne_bytes()[..],
            &0_u32.to_ne_bytes(),
            &request.unique().0.to_ne_bytes(),
            &0_u64.to_ne_bytes(),
            &FopenFlags::FOPEN_PASSTHROUGH.bits().to_ne_bytes(),
            &id.to_ne_bytes(),
        ];
        let written = nix::unistd::write(&*self.device, &answer.concat());
        // It would answer a second time.
        std::mem::forget(reply);
        match written {
            Ok(_) => {}
            // Who asked was interrupted.
            Err(Errno::ENOENT) => {}
            Err(errno) => log::error!("cannot answer an open: {errno}"),
        }
    }
}

fn at(node: NodeNumber) -> u64 {
    node.0.saturating_mul(4)
}
