//! Telling the kernel what it cannot know: what changed without a request, or in spite of its failure.
//!
//! # Invariants
//! * Only workers send: a handler that did could wait for a lock that waits for a handler.
//! * A worker that a request waits for drops pages only: what drops names waits for the lock of a directory, which may
//!   be held by somebody who waits for the lock that such a request holds.
//! * Nothing that was noted is dropped while the connection lives.

use std::ffi::OsString;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};

use crate::overlay::NodeNumber;

/// What the kernel shall ask for again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// The attributes of a node.
    Attributes(NodeNumber),
    /// The attributes of a node and what is in it.
    Content(NodeNumber),
    /// What a name in a directory stands for.
    Name(NodeNumber, OsString),
}

/// A file of which the kernel shall send what it has collected, and what is done then.
struct Collected {
    node: NodeNumber,
    then: Box<dyn FnOnce(bool) + Send>,
}

/// The end of the handlers.
#[derive(Clone)]
pub(super) struct Notes {
    notes: Sender<Note>,
    collected: Sender<Collected>,
}

/// The threads that send, before they run.
pub(super) struct Workers {
    notes: Receiver<Note>,
    collected: Receiver<Collected>,
}

/// A pair of both ends.
pub(super) fn notes() -> (Notes, Workers) {
    let (notes, noted) = channel();
    let (collected, to_collect) = channel();
    let workers = Workers {
        notes: noted,
        collected: to_collect,
    };
    (Notes { notes, collected }, workers)
}

impl std::fmt::Debug for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notes").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

impl Notes {
    /// The kernel shall ask again.
    pub(super) fn add(&self, note: Note) {
        // The worker ends after the handlers, or with the connection.
        if let Err(lost) = self.notes.send(note) {
            log::debug!("nobody tells the kernel to ask for {:?}", lost.0);
        }
    }

    /// The kernel shall send what it has collected of a file; `then` is done afterwards, and told whether it was asked.
    pub(super) fn send_collected(
        &self,
        node: NodeNumber,
        then: impl FnOnce(bool) + Send + 'static,
    ) {
        let then = Box::new(then);
        if let Err(lost) = self.collected.send(Collected { node, then }) {
            (lost.0.then)(false);
        }
    }
}

impl Workers {
    /// Starts the threads. They end when the handlers are gone.
    pub(super) fn start(self, notifier: &Notifier) -> io::Result<[JoinHandle<()>; 2]> {
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(work)
        };
        let teller = notifier.clone();
        let notes = start(
            "plyfs-notify",
            Box::new(move || {
                while let Ok(note) = self.notes.recv() {
                    let told = match &note {
                        // An offset below 0 leaves the pages alone.
                        Note::Attributes(node) => teller.inval_inode(INodeNo(node.0), -1, 0),
                        Note::Content(node) => teller.inval_inode(INodeNo(node.0), 0, 0),
                        Note::Name(node, name) => teller.inval_entry(INodeNo(node.0), name),
                    };
                    if let Err(error) = told {
                        log::debug!("telling the kernel to ask for {note:?}: {error}");
                    }
                }
            }),
        )?;
        let teller = notifier.clone();
        let collected = start(
            "plyfs-collect",
            Box::new(move || {
                while let Ok(Collected { node, then }) = self.collected.recv() {
                    let teller = teller.clone();
                    let send = move || {
                        // What is to be dropped is written back.
                        let told = teller.inval_inode(INodeNo(node.0), 0, 0);
                        then(told.is_ok());
                    };
                    // Each for itself: one may have to wait for a copy.
                    let thread = std::thread::Builder::new().name("plyfs-collect".into());
                    if let Err(error) = thread.spawn(send) {
                        log::warn!("cannot have what was collected sent: {error}");
                    }
                }
            }),
        )?;
        Ok([notes, collected])
    }
}
