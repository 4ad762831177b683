//! Open files of a writable connection, and how the kernel reads and writes each: with the writeback cache see
//! [`super::by_node`]; everything else here is about passthrough.
//!
//! While one open file of an inode is in passthrough, every other open of it must be, and on the
//! same backing file; while one is not, none may be. The kernel answers `EIO` otherwise. So how an
//! inode is read and written is decided at its first open and stays until its last close.
//!
//! When a file is opened for writing while the kernel reads its lower file by itself, it cannot get
//! another backing file. The engine copies it up under another node number, and the open is answered
//! with `ESTALE`: the kernel looks the name up again and opens the new node, which the caller does
//! not see. The old node is *left*: whoever has it open keeps the lower file, and nobody else may
//! open it again.
//!
//! # Invariants
//! * An inode has at most one backing id at a time. It lives as long as the inode is open, and a
//!   few more are kept for the next open, because registering one costs two system calls.
//! * A backing file that is written to lies in the upper.
//! * Handles are kept by node, so that nothing of a connection is in its file handles.
//!
//! # Locking
//! A lock for each shard of nodes, never held across a system call, and one for each open node,
//! held while it is opened, copied up or resized: two opens must not decide differently.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use fuser::BackingId;
use lru::LruCache;
use nix::errno::Errno;
use parking_lot::Mutex;

use super::by_node::ByNode;
use super::doubts::Doubts;
use super::first_read::FirstReads;
use super::notify::{Note, Notes};
use super::sharded::Sharded;
use super::state::State;
use crate::overlay::{
    Attributes, Error, NodeNumber, OpenRequest, Opened, Overlay, OverlayFile, Result, SetAttributes,
};

const IDLE_PER_SHARD: NonZeroUsize = NonZeroUsize::new(8).unwrap();
/// Files of this size and above are read by the kernel itself: registering one costs as much as
/// two round trips, which must be worth it.
pub(super) const LARGE: u64 = 128 << 10;

/// What the kernel wants of a file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// To write.
    pub(super) write: bool,
    /// To begin with an empty file.
    pub(super) truncate: bool,
}

/// How an open inode is read and written.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// By the kernel, in this backing file.
    Passthrough(Arc<BackingId>),
    /// By requests, through the page cache of the mount.
    PageCache,
    /// The same, where what lies there is old.
    Anew,
}

/// A backing id, and whether its file lies in the upper.
#[derive(Clone, Debug)]
struct Backing {
    id: Arc<BackingId>,
    is_upper: bool,
}

/// An open node.
#[derive(Debug)]
struct Open {
    count: u64,
    backing: Option<Backing>,
    file: Arc<OverlayFile>,
    /// When it was first opened for writing, or last compared.
    before: Option<State>,
}

impl Open {
    fn reads_lower(&self) -> bool {
        self.backing
            .as_ref()
            .is_some_and(|backing| !backing.is_upper)
    }

    fn way(&self) -> Way {
        match &self.backing {
            Some(backing) => Way::Passthrough(Arc::clone(&backing.id)),
            None => Way::PageCache,
        }
    }
}

/// A node that is open, or about to be.
type Slot = Mutex<Option<Open>>;

#[derive(Debug)]
struct Shard {
    slots: HashMap<NodeNumber, Arc<Slot>>,
    idle: LruCache<NodeNumber, Backing>,
    /// Nodes that have been left for others.
    left: HashSet<NodeNumber>,
    /// Open nodes that are written through the page cache of the mount.
    written: HashSet<NodeNumber>,
}

/// The open files of a connection.
#[derive(Debug)]
pub(super) struct Files {
    shards: Sharded<Shard>,
    first_reads: FirstReads,
    /// Where the kernel does not tell of opens.
    pub(super) by_node: Option<ByNode>,
    pub(super) doubts: Doubts,
    pub(super) notes: Notes,
}

impl Files {
    pub(super) fn new(by_node: Option<ByNode>, first_reads: FirstReads, notes: Notes) -> Files {
        let shard = || Shard {
            slots: HashMap::new(),
            idle: LruCache::new(IDLE_PER_SHARD),
            left: HashSet::new(),
            written: HashSet::new(),
        };
        Files {
            shards: Sharded::new(shard),
            first_reads,
            by_node,
            doubts: Doubts::new(notes.clone()),
            notes,
        }
    }

    fn shard(&self, node: NodeNumber) -> &Mutex<Shard> {
        self.shards.of(node)
    }

    /// Does `work` with the node locked, open or not.
    fn with<T>(&self, node: NodeNumber, work: impl FnOnce(&mut Option<Open>) -> T) -> T {
        let shard = self.shard(node);
        let slot = Arc::clone(shard.lock().slots.entry(node).or_default());
        let mut open = slot.lock();
        let result = work(&mut open);
        let is_open = open.is_some();
        drop(open);
        if !is_open {
            let mut shard = shard.lock();
            // Ours and that of the table: nobody waits for it, and nobody can come now.
            if Arc::strong_count(&slot) == 2 && slot.try_lock().is_some_and(|open| open.is_none()) {
                shard.slots.remove(&node);
            }
        }
        result
    }

    /// Counts one open of `node` and tells how it is to be read and written.
    pub(super) fn open(
        &self,
        overlay: &Overlay,
        node: NodeNumber,
        wanted: Wanted,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Result<Way> {
        self.with(node, |slot| {
            if self.is_left(node) {
                return Err(Errno::ESTALE.into());
            }
            let way = match slot {
                Some(open) => {
                    self.widen(overlay, node, open, wanted)?;
                    open.count += 1;
                    open.way()
                }
                None => {
                    let file = self.file_of(overlay, node, wanted, false)?;
                    let backing = self.decide(node, &file, wanted, register)?;
                    let open = slot.insert(Open {
                        count: 1,
                        backing,
                        file,
                        before: None,
                    });
                    open.way()
                }
            };
            if let Some(open) = slot
                && wanted.write
            {
                match open.backing {
                    Some(_) if open.before.is_none() => open.before = State::of(overlay, node),
                    Some(_) => {}
                    None => self.writes(node),
                }
            }
            Ok(way)
        })
    }

    /// Opens for writing what is open for reading only, or empties what is open.
    fn widen(
        &self,
        overlay: &Overlay,
        node: NodeNumber,
        open: &mut Open,
        wanted: Wanted,
    ) -> Result<()> {
        let lower_is_live = open.reads_lower();
        if wanted.write && (lower_is_live || wanted.truncate || !open.file.is_writable()) {
            open.file = self.file_of(overlay, node, wanted, lower_is_live)?;
        }
        Ok(())
    }

    fn file_of(
        &self,
        overlay: &Overlay,
        node: NodeNumber,
        wanted: Wanted,
        lower_is_live: bool,
    ) -> Result<Arc<OverlayFile>> {
        let request = OpenRequest {
            write: wanted.write,
            truncate: wanted.truncate,
            lower_is_live,
        };
        let opened = overlay.open_file(node, request);
        match opened.inspect_err(|error| self.doubts.note_stale(node, error))? {
            Opened::File(_) if lower_is_live => {
                Err(Error::broken("a lower file would be written to"))
            }
            Opened::File(file) => Ok(file),
            Opened::MovedTo(new) => {
                log::debug!("node {} is left for {}", node.0, new.0);
                self.shard(node).lock().left.insert(node);
                self.notes.add(Note::Attributes(node));
                Err(Errno::ESTALE.into())
            }
        }
    }

    /// Chooses how a node that nobody has open is read and written.
    fn decide(
        &self,
        node: NodeNumber,
        file: &OverlayFile,
        wanted: Wanted,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Result<Option<Backing>> {
        let idle = self.shard(node).lock().idle.pop(&node);
        // In this order: a file that is copied up meanwhile is taken for a lower one, and moves
        // once more than it needs to; never the other way round.
        let is_upper = file.is_upper();
        let content = file.content()?;
        if wanted.write && !is_upper {
            return Err(Errno::EIO.into());
        }
        if !content.whole || (content.size < LARGE && !wanted.write) {
            if !wanted.write {
                self.first_reads.hand_over(node, &content);
            }
            return Ok(None);
        }
        // The kernel drops what it has read of what it opens like this.
        self.first_reads.forget(node);
        if let Some(idle) = idle.filter(|idle| idle.is_upper == is_upper) {
            return Ok(Some(idle));
        }
        match register(&content.file) {
            Ok(id) => Ok(Some(Backing {
                id: Arc::new(id),
                is_upper,
            })),
            // Too many files, or a file system below that is stacked too deep: by requests then.
            Err(error) => {
                log::debug!("no passthrough for node {}: {error}", node.0);
                Ok(None)
            }
        }
    }

    /// Counts the open file that comes with a new node, and tells how it is to be written. One that
    /// is made `exclusively` (by archivers and installers, mostly) is likely to be written once, by
    /// few requests, for which a backing file would not pay.
    pub(super) fn created(
        &self,
        node: NodeNumber,
        file: Arc<OverlayFile>,
        exclusively: bool,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Result<Way> {
        if let Some(by_node) = &self.by_node {
            by_node.keep(node, file);
            return Ok(Way::PageCache);
        }
        self.with(node, |slot| {
            let backing = if exclusively {
                None
            } else {
                let wanted = Wanted {
                    write: true,
                    truncate: false,
                };
                self.decide(node, &file, wanted, register)?
            };
            let open = slot.get_or_insert(Open {
                count: 0,
                backing,
                file,
                before: None,
            });
            open.count += 1;
            if open.backing.is_none() {
                self.writes(node);
            }
            Ok(open.way())
        })
    }

    /// The open file of a node, if it is open.
    pub(super) fn get(&self, node: NodeNumber) -> Option<Arc<OverlayFile>> {
        let slot = self.shard(node).lock().slots.get(&node).cloned()?;
        let open = slot.lock();
        open.as_ref().map(|open| Arc::clone(&open.file))
    }

    /// The file of a node that somebody has open; copied up if it is to be written to, which only whoever opened
    /// it for writing asks for.
    pub(super) fn file(
        &self,
        overlay: &Overlay,
        node: NodeNumber,
        write: bool,
    ) -> Result<Arc<OverlayFile>> {
        match &self.by_node {
            Some(by_node) => by_node.open(overlay, node, write),
            None => self.get(node).ok_or_else(|| Errno::EBADF.into()),
        }
    }

    /// Takes one open back. Stores through a mapping change a backing file without the kernel's
    /// noticing that attributes have changed, so it is told.
    pub(super) fn release(&self, overlay: &Overlay, node: NodeNumber, writable: bool) {
        let (closed, changed) = self.with(node, |slot| {
            let Some(open) = slot else {
                return (None, false);
            };
            let changed = writable && has_changed(overlay, node, open);
            open.count = open.count.saturating_sub(1);
            if open.count > 0 {
                return (None, changed);
            }
            self.shard(node).lock().written.remove(&node);
            self.doubts.take_lost(node);
            (slot.take(), changed)
        });
        let mut displaced = None;
        let mut left = false;
        if let Some(open) = &closed {
            let mut shard = self.shard(node).lock();
            left = shard.left.contains(&node);
            if let Some(backing) = open.backing.clone().filter(|_| !left) {
                displaced = shard.idle.push(node, backing);
            }
        }
        if changed || left {
            self.notes.add(Note::Attributes(node));
        }
        // An id or a file that falls out is closed by a system call, after the locks are gone.
        drop((closed, displaced));
    }

    /// Changes attributes of a node; a change of size may have to leave the node.
    pub(super) fn set_attributes(
        &self,
        overlay: &Overlay,
        node: NodeNumber,
        change: &SetAttributes,
    ) -> Result<Attributes> {
        let Some(size) = change.size else {
            return overlay.set_attributes(node, change);
        };
        self.with(node, |slot| {
            if slot.as_ref().is_some_and(Open::reads_lower) {
                let wanted = Wanted {
                    write: true,
                    truncate: size == 0,
                };
                self.file_of(overlay, node, wanted, true)?;
            }
            overlay.set_attributes(node, change)
        })
    }

    fn writes(&self, node: NodeNumber) {
        self.shard(node).lock().written.insert(node);
    }

    /// Whether the page cache of the mount may have data of `node` that nobody has sent yet. What
    /// the file below has of blocks, holes and length then says nothing.
    pub(super) fn may_be_dirty(&self, node: NodeNumber) -> bool {
        self.by_node.is_some() || self.shard(node).lock().written.contains(&node)
    }

    fn is_left(&self, node: NodeNumber) -> bool {
        self.shard(node).lock().left.contains(&node)
    }

    /// Whether nobody may know `node` any more: another one has taken its place, and it is closed.
    pub(super) fn is_gone(&self, node: NodeNumber) -> bool {
        // A slot alone does not make it open: whoever is refused an open has one for a moment.
        self.is_left(node) && self.get(node).is_none()
    }

    /// The kernel has dropped `node`.
    pub(super) fn forget(&self, node: NodeNumber) {
        let mut shard = self.shard(node).lock();
        let idle = shard.idle.pop(&node);
        shard.left.remove(&node);
        drop(shard);
        self.first_reads.forget(node);
        self.doubts.forget(node);
        if let Some(by_node) = &self.by_node {
            by_node.forget(node);
        }
        drop(idle);
    }
}

/// Whether the kernel may have changed the file in ways that it does not notice.
fn has_changed(overlay: &Overlay, node: NodeNumber, open: &mut Open) -> bool {
    if open.backing.is_none() {
        return false;
    }
    let now = State::of(overlay, node);
    let before = std::mem::replace(&mut open.before, now);
    now.is_none() || now != before
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Or the kernel would be told attributes of the old file, and believe them for ever.
    #[test]
    fn regression_a_node_that_was_left_stays_gone_while_its_open_is_refused() {
        let (notes, _worker) = super::super::notify::notes();
        let (files, node) = (
            Files::new(None, FirstReads::default(), notes),
            NodeNumber(7),
        );
        files.shard(node).lock().left.insert(node);
        std::thread::scope(|scope| {
            let asked = files.with(node, |_| {
                let asked = scope.spawn(|| files.is_gone(node));
                std::thread::sleep(Duration::from_millis(50));
                asked
            });
            assert!(asked.join().unwrap());
        });
    }
}
