//! Telling the kernel what it cannot know: what changed without a request, or in spite of its failure.
//!
//! # Invariants
//! * Only the worker sends: a handler that did could wait for a lock that waits for a handler.
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

/// A note, and what is to be done when the kernel was told, or would not be.
pub(super) struct Task {
    pub(super) note: Note,
    then: Option<Then>,
}

type Then = Box<dyn FnOnce(bool) + Send>;

/// The end of the handlers.
#[derive(Clone, Debug)]
pub(super) struct Notes(Sender<Task>);

/// The thread that sends, before it runs.
#[derive(Debug)]
pub(super) struct Worker(pub(super) Receiver<Task>);

/// A pair of both ends.
pub(super) fn notes() -> (Notes, Worker) {
    let (sender, receiver) = channel();
    (Notes(sender), Worker(receiver))
}

impl Notes {
    /// The kernel shall ask again.
    pub(super) fn add(&self, note: Note) {
        self.send(note, None);
    }

    /// The kernel shall send what it has collected of a file; `then` is done afterwards, and told whether it has. (It
    /// writes back what is to be dropped.)
    pub(super) fn send_collected(
        &self,
        node: NodeNumber,
        then: impl FnOnce(bool) + Send + 'static,
    ) {
        self.send(Note::Content(node), Some(Box::new(then)));
    }

    fn send(&self, note: Note, then: Option<Then>) {
        // The worker ends after the handlers, or with the connection.
        if let Err(lost) = self.0.send(Task { note, then }) {
            log::debug!("nobody tells the kernel to ask for {:?}", lost.0.note);
        }
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.note.fmt(f)
    }
}

impl Worker {
    /// Starts the thread. It ends when the handlers are gone.
    pub(super) fn start(self, notifier: Notifier) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("plyfs-notify".into())
            .spawn(move || {
                while let Ok(Task { note, then }) = self.0.recv() {
                    let told = match &note {
                        // An offset below 0 leaves the pages alone.
                        Note::Attributes(node) => notifier.inval_inode(INodeNo(node.0), -1, 0),
                        Note::Content(node) => notifier.inval_inode(INodeNo(node.0), 0, 0),
                        Note::Name(node, name) => notifier.inval_entry(INodeNo(node.0), name),
                    };
                    if let Err(error) = &told {
                        log::debug!("telling the kernel to ask for {note:?}: {error}");
                    }
                    if let Some(then) = then {
                        then(told.is_ok());
                    }
                }
            })
    }
}
