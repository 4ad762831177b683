//! Small files are handed to the kernel with their first open: whoever opens one reads it, and a READ costs as
//! much as the open.
//!
//! # Invariants
//! * Handed over is only what nobody has open, while nobody can open it. Otherwise a page might belong to a READ that
//!   waits for the thread that stores, or the file might be written to between reading and storing.
//! * Once for each node that the kernel knows: it keeps what it has.
//!
//! # Locking
//! A lock for each shard of nodes, never held across a system call.

use std::cell::RefCell;
use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};

use super::sharded::Sharded;
use crate::overlay::{NodeNumber, OpenContent};

/// Bytes of the largest file that is handed over: of a larger one the beginning may be all that is wanted.
const LARGEST: usize = 32 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What has been handed over.
#[derive(Debug, Default)]
pub(super) struct FirstReads {
    /// There is none before the connection is served.
    notifier: Arc<OnceLock<Notifier>>,
    handed: Sharded<HashSet<NodeNumber>>,
}

impl FirstReads {
    pub(super) fn new(notifier: Arc<OnceLock<Notifier>>) -> FirstReads {
        FirstReads {
            notifier,
            ..FirstReads::default()
        }
    }

    /// Hands over what `node` contains, which is about to be opened. Whoever reads it asks for what cannot be had here,
    /// and is told why.
    pub(super) fn hand_over(&self, node: NodeNumber, content: &OpenContent) {
        let Some(notifier) = self.notifier.get() else {
            return;
        };
        let size = usize::try_from(content.size).unwrap_or(usize::MAX);
        if size == 0 || size > LARGEST || !self.handed.of(node).lock().insert(node) {
            return;
        }
        let stored = BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(LARGEST, 0);
            let bytes = buffer.get_mut(..size).unwrap_or_default();
            content.file.read_exact_at(bytes, content.start)?;
            notifier.store(INodeNo(node.0), 0, bytes)
        });
        if let Err(error) = stored {
            log::debug!("node {} is not handed over: {error}", node.0);
        }
    }

    /// The kernel has dropped what it had of `node`.
    pub(super) fn forget(&self, node: NodeNumber) {
        self.handed.of(node).lock().remove(&node);
    }
}
