//! Telling the kernel what it cannot know: attributes that changed without a request.
//!
//! # Invariants
//! * Only the worker sends: a handler that did could wait for a lock that waits for a handler.
//! * Nothing that was noted is dropped while the connection lives.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};

use crate::overlay::NodeNumber;

/// The end of the handlers.
#[derive(Clone, Debug)]
pub(super) struct Notes(Sender<NodeNumber>);

/// The thread that sends, before it runs.
#[derive(Debug)]
pub(super) struct Worker(Receiver<NodeNumber>);

/// A pair of both ends.
pub(super) fn notes() -> (Notes, Worker) {
    let (sender, receiver) = channel();
    (Notes(sender), Worker(receiver))
}

impl Notes {
    /// The kernel shall ask for the attributes of `node` again.
    pub(super) fn attributes(&self, node: NodeNumber) {
        // The worker ends after the handlers, or with the connection.
        if self.0.send(node).is_err() {
            log::debug!("nobody tells the kernel about node {}", node.0);
        }
    }
}

impl Worker {
    /// Starts the thread. It ends when the handlers are gone.
    pub(super) fn start(self, notifier: Notifier) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("plyfs-notify".into())
            .spawn(move || {
                while let Ok(node) = self.0.recv() {
                    // An offset below 0 leaves the pages alone.
                    if let Err(error) = notifier.inval_inode(INodeNo(node.0), -1, 0) {
                        log::debug!("invalidating node {}: {error}", node.0);
                    }
                }
            })
    }
}
