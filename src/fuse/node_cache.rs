//! What is kept for the nodes that were used last.
//!
//! # Locking
//! One lock per shard, held while the cache is looked at and never across a system call.

use std::num::NonZeroUsize;

use lru::LruCache;
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;

use crate::overlay::NodeNumber;

const SHARDS: usize = 16;
const MOST_PER_SHARD: u64 = 16;

/// Values by node, of which most are open files: no more are kept than an eighth of what the process may open.
#[derive(Debug)]
pub(super) struct NodeCache<V> {
    shards: [Mutex<LruCache<NodeNumber, V>>; SHARDS],
}

impl<V: Clone> NodeCache<V> {
    pub(super) fn new() -> NodeCache<V> {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(256, |(soft, _)| soft);
        let kept = (limit / 8 / SHARDS as u64).clamp(1, MOST_PER_SHARD);
        let kept = usize::try_from(kept).ok().and_then(NonZeroUsize::new);
        let capacity = kept.unwrap_or(NonZeroUsize::MIN);
        NodeCache {
            shards: std::array::from_fn(|_| Mutex::new(LruCache::new(capacity))),
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
            let mut removed = Vec::new();
            {
                let mut shard = shard.lock();
                removed.extend(std::iter::from_fn(|| shard.pop_lru()));
            }
            drop(removed);
        }
    }
}
