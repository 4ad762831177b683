//! What the kernel believes of files, and should not any more.
//!
//! # Locking
//! One lock for each of the sets, which are empty nearly always; neither is held across anything.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::Mutex;

use super::notify::{Note, Notes};
use crate::overlay::{Error, NodeNumber};

/// How long a loss is told to who goes on writing; later it may be somebody else, who has lost nothing.
const TOLD: Duration = Duration::from_secs(1);

/// Nodes of which the kernel knows something wrong.
#[derive(Debug)]
pub(super) struct Doubts {
    /// Their file was changed in its layer, and they have not been opened since.
    stale: Mutex<HashSet<NodeNumber>>,
    /// There was no room for data that the kernel had collected; and what was said of it.
    lost: Mutex<HashMap<NodeNumber, (Errno, Instant)>>,
    /// Lower files that could not be copied up when the kernel sent what it had collected.
    uncopied: Mutex<HashSet<NodeNumber>>,
    notes: Notes,
}

impl Doubts {
    pub(super) fn new(notes: Notes) -> Doubts {
        Doubts {
            stale: Mutex::default(),
            lost: Mutex::default(),
            uncopied: Mutex::default(),
            notes,
        }
    }

    /// After `ESTALE` the kernel looks the name up again and opens what it finds, but goes on to believe what it has
    /// read: where the file was changed in its layer that is old.
    pub(super) fn note_stale(&self, node: NodeNumber, error: &Error) {
        if error.errno == Errno::ESTALE {
            self.stale.lock().insert(node);
            self.notes.add(Note::Content(node));
        }
    }

    /// Whether what the kernel has read of a node is old; asked when it was opened.
    pub(super) fn take_stale(&self, node: NodeNumber) -> bool {
        self.stale.lock().remove(&node)
    }

    /// Notes that data which the kernel had collected could not be written. It remembers that for fsync(2) and
    /// close(2) only, and would take more without end; so it shall ask for attributes before the next write.
    pub(super) fn note_lost(&self, node: NodeNumber, errno: Errno) {
        self.lost.lock().insert(node, (errno, Instant::now()));
        self.notes.add(Note::Attributes(node));
    }

    /// Notes that the kernel believes of a lower file what is not so; says whether that is new.
    pub(super) fn note_uncopied(&self, node: NodeNumber) -> bool {
        self.uncopied.lock().insert(node)
    }

    /// Whether the kernel believes of a lower file what is not so.
    pub(super) fn is_uncopied(&self, node: NodeNumber) -> bool {
        self.uncopied.lock().contains(&node)
    }

    /// Whether there is an answer that nobody has got yet.
    pub(super) fn is_lost(&self, node: NodeNumber) -> bool {
        let lost = self.lost.lock();
        lost.get(&node)
            .is_some_and(|(_, when)| when.elapsed() < TOLD)
    }

    /// What the kernel has written to a node is there.
    pub(super) fn settle(&self, node: NodeNumber) {
        self.take_lost(node);
        self.uncopied.lock().remove(&node);
    }

    /// The kernel has dropped a node.
    pub(super) fn forget(&self, node: NodeNumber) {
        self.take_stale(node);
        self.settle(node);
    }

    /// The answer to that question, once.
    pub(super) fn take_lost(&self, node: NodeNumber) -> Option<Errno> {
        let lost = self.lost.lock().remove(&node);
        lost.filter(|(_, when)| when.elapsed() < TOLD)
            .map(|(errno, _)| errno)
    }
}
