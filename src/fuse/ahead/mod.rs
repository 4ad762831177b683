//! Read-ahead across files: contents that will be read next are handed to the kernel unasked.
//!
//! A small file costs one READ, a round trip that is dearer than its contents. But trees are read
//! in order, directory by directory, and the nodes of a chain are numbered in that order. So when
//! reads follow it, a worker stores the files that come next in the page cache, many in one go,
//! and the reads never happen.
//!
//! The kernel does not tell which of the stored contents were used. So now and then one file is
//! left out: when it is read, the guess was good and the next window is larger; when others are
//! read instead, the guess was bad ([`pattern`]).
//!
//! # Invariants
//! * Only the worker stores. A handler that did would wait for a page that waits for a handler.
//! * Only contents that never change are stored, and always whole files from their first byte.
//! * A node that the kernel does not know is not stored: it would be thrown away unseen.
//!
//! # Locking
//! The pattern has a lock that handlers only try; what is known, done and left out are bits that
//! are changed one by one and may be wrong for a moment, which costs a read or a store too many.

mod bits;
mod pattern;
mod worker;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use parking_lot::Mutex;

use crate::overlay::{NodeNumber, Overlay};
use bits::Bits;
use pattern::{Pattern, Read};
pub(super) use worker::Worker;

/// Hints that may wait for the worker; more are dropped.
const QUEUE: usize = 64;
/// A read this close after another one goes on in its order.
const NEAR: u64 = 16;
/// How many nodes are given up as stored when reads show that the kernel has dropped them.
const FAR: u64 = 4096;

/// What is known about the nodes of the file system.
#[derive(Debug)]
pub(super) struct Shared {
    /// The kernel holds a reference.
    known: Bits,
    /// Read by the kernel, or stored, since it has known the node.
    done: Bits,
    /// Left out on purpose.
    left_out: Bits,
    pattern: Mutex<Pattern>,
}

/// What the worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    /// Store what follows this node.
    After { node: NodeNumber, budget: u64 },
    /// Store what is in this directory.
    In {
        directory: NodeNumber,
        budget: u64,
        leave_out: bool,
    },
}

/// The end of the handlers.
#[derive(Debug)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
    worker: SyncSender<Hint>,
}

impl Ahead {
    /// Read-ahead for `overlay`, if its nodes have an order.
    pub(super) fn new(overlay: &Arc<Overlay>) -> Option<(Ahead, Worker)> {
        let nodes = overlay.base().totals()?.nodes;
        let bits = || Bits::new(nodes.saturating_add(2));
        let shared = Arc::new(Shared {
            known: bits(),
            done: bits(),
            left_out: bits(),
            pattern: Mutex::new(Pattern::default()),
        });
        let (sender, receiver) = sync_channel(QUEUE);
        let worker = Worker::new(Arc::clone(overlay), Arc::clone(&shared), receiver);
        Some((
            Ahead {
                shared,
                worker: sender,
            },
            worker,
        ))
    }

    /// The kernel was told of `node`.
    pub(super) fn told(&self, node: NodeNumber) {
        self.shared.known.set(node.0);
    }

    /// The kernel has dropped `node` and what it kept of it.
    pub(super) fn forgotten(&self, node: NodeNumber) {
        self.shared.known.clear(node.0);
        self.shared.done.clear(node.0);
        self.shared.left_out.clear(node.0);
    }

    /// The kernel has read the beginning of `node`.
    pub(super) fn read(&self, node: NodeNumber) {
        let shared = &self.shared;
        let read = Read {
            in_order: (1..=NEAR).any(|back| shared.done.get(node.0.saturating_sub(back))),
            left_out: shared.left_out.clear(node.0),
            stored: shared.done.set(node.0),
        };
        let Some(mut pattern) = shared.pattern.try_lock() else {
            return;
        };
        let advice = pattern.read(read);
        drop(pattern);
        if advice.dropped {
            for node in (node.0 + 1)..(node.0 + FAR) {
                shared.done.clear(node);
            }
        }
        if advice.budget > 0 {
            self.send(Hint::After {
                node,
                budget: advice.budget,
            });
        }
    }

    /// The kernel has seen all of `directory`.
    pub(super) fn listed(&self, directory: NodeNumber) {
        let Some(mut pattern) = self.shared.pattern.try_lock() else {
            return;
        };
        let advice = pattern.listed();
        drop(pattern);
        if let Some((budget, leave_out)) = advice {
            self.send(Hint::In {
                directory,
                budget,
                leave_out,
            });
        }
    }

    fn send(&self, hint: Hint) {
        // A worker that is behind is not sent further: what it would store is read by then.
        if self.worker.try_send(hint).is_err() {
            log::trace!("the worker is busy");
        }
    }
}
