//! Files of a writable connection whose opens the kernel does not tell us about.
//!
//! With the writeback cache all that OPEN would give is a descriptor of our own, and it costs two round trips a file.
//! So the kernel is not asked to send it: a file is opened at its first READ or WRITE, which is also when
//! it is copied up, and the files that were used last stay open. What loses its last name is kept by the engine
//! for as long as the kernel knows it.
//!
//! # Invariants
//! * A file that the kernel has dropped is closed, so that its room is free again.
//! * Contents that share a file with others are not kept: opening them costs nothing.
//!
//! # Locking
//! One lock per shard, held while the cache is looked at and never across a system call.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use nix::errno::Errno;
use parking_lot::Mutex;

use crate::overlay::{NodeNumber, OpenRequest, Opened, Overlay, OverlayFile, Result};

const SHARDS: usize = 16;
const OPEN_PER_SHARD: NonZeroUsize = NonZeroUsize::new(16).unwrap();

type Shard = Mutex<LruCache<NodeNumber, Arc<OverlayFile>>>;

/// Open files, by node.
#[derive(Debug)]
pub(super) struct ByNode {
    shards: [Shard; SHARDS],
}

impl ByNode {
    pub(super) fn new() -> ByNode {
        ByNode {
            shards: std::array::from_fn(|_| Mutex::new(LruCache::new(OPEN_PER_SHARD))),
        }
    }

    fn shard(&self, node: NodeNumber) -> &Shard {
        let spread = node.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let [first, ..] = &self.shards;
        let number = usize::try_from(spread).unwrap_or(0) % SHARDS;
        self.shards.get(number).unwrap_or(first)
    }

    /// The file of `node`, opened now or before; copied up if it is to be written to.
    pub(super) fn open(
        &self,
        overlay: &Overlay,
        node: NodeNumber,
        write: bool,
    ) -> Result<Arc<OverlayFile>> {
        let known = self.shard(node).lock().get(&node).cloned();
        if let Some(file) = known.filter(|file| !write || file.is_writable()) {
            return Ok(file);
        }
        let request = OpenRequest {
            write,
            ..OpenRequest::default()
        };
        let opened = match overlay.open_file(node, request) {
            Err(error) if matches!(error.errno, Errno::EMFILE | Errno::ENFILE) => {
                self.close_all();
                overlay.open_file(node, request)
            }
            opened => opened,
        };
        let Opened::File(file) = opened? else {
            // Nobody reads a lower file but by requests.
            return Err(Errno::EIO.into());
        };
        if file.is_writable() || file.content()?.whole {
            self.keep(node, Arc::clone(&file));
        }
        Ok(file)
    }

    /// Keeps a file open.
    pub(super) fn keep(&self, node: NodeNumber, file: Arc<OverlayFile>) {
        // What falls out is closed after the lock is gone.
        let displaced = self.shard(node).lock().push(node, file);
        drop(displaced);
    }

    /// The kernel has dropped `node`.
    pub(super) fn forget(&self, node: NodeNumber) {
        let closed = self.shard(node).lock().pop(&node);
        drop(closed);
    }

    fn close_all(&self) {
        for shard in &self.shards {
            let closed = std::mem::replace(&mut *shard.lock(), LruCache::new(OPEN_PER_SHARD));
            drop(closed);
        }
    }
}
