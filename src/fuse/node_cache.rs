//! What is kept for the nodes that were used last.
//!
//! # Locking
//! One lock per shard, held while the cache is looked at and never across a system call.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use crate::overlay::NodeNumber;

const SHARDS: usize = 16;
const KEPT_PER_SHARD: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// Values by node.
#[derive(Debug)]
pub(super) struct NodeCache<V> {
    shards: [Mutex<LruCache<NodeNumber, V>>; SHARDS],
}

impl<V: Clone> NodeCache<V> {
    pub(super) fn new() -> NodeCache<V> {
        NodeCache {
            shards: std::array::from_fn(|_| Mutex::new(LruCache::new(KEPT_PER_SHARD))),
        }
    }

    fn shard(&self, node: NodeNumber) -> &Mutex<LruCache<NodeNumber, V>> {
        let spread = node.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let [first, ..] = &self.shards;
        let number = usize::try_from(spread).unwrap_or(0) % SHARDS;
        self.shards.get(number).unwrap_or(first)
    }

    pub(super) fn get(&self, node: NodeNumber) -> Option<V> {
        self.shard(node).lock().get(&node).cloned()
    }

    pub(super) fn keep(&self, node: NodeNumber, value: V) {
        // What falls out may be closed by a system call, after the lock is gone.
        let displaced = self.shard(node).lock().push(node, value);
        drop(displaced);
    }

    pub(super) fn remove(&self, node: NodeNumber) {
        let removed = self.shard(node).lock().pop(&node);
        drop(removed);
    }

    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let removed = std::mem::replace(&mut *shard.lock(), LruCache::new(KEPT_PER_SHARD));
            drop(removed);
        }
    }
}
