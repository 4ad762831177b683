//! What is kept for the nodes that were used last.
//!
//! # Locking
//! One lock per shard, held while the cache is looked at and never across a system call.

use std::num::NonZeroUsize;

use lru::LruCache;
use nix::sys::resource::{Resource, getrlimit};

use super::sharded::{SHARDS, Sharded};
use crate::overlay::NodeNumber;

const MOST_PER_SHARD: u64 = 16;

/// Values by node, of which most are open files: no more are kept than an eighth of what the process may open.
#[derive(Debug)]
pub(super) struct NodeCache<V> {
    shards: Sharded<LruCache<NodeNumber, V>>,
}

impl<V: Clone> NodeCache<V> {
    pub(super) fn new() -> NodeCache<V> {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(256, |(soft, _)| soft);
        let kept = (limit / 8 / SHARDS as u64).clamp(1, MOST_PER_SHARD);
        let kept = usize::try_from(kept).ok().and_then(NonZeroUsize::new);
        let capacity = kept.unwrap_or(NonZeroUsize::MIN);
        NodeCache {
            shards: Sharded::new(|| LruCache::new(capacity)),
        }
    }

    pub(super) fn get(&self, node: NodeNumber) -> Option<V> {
        self.shards.of(node).lock().get(&node).cloned()
    }

    pub(super) fn keep(&self, node: NodeNumber, value: V) {
        // What falls out may be closed by a system call, after the lock is gone.
        let displaced = self.shards.of(node).lock().push(node, value);
        drop(displaced);
    }

    pub(super) fn remove(&self, node: NodeNumber) {
        let removed = self.shards.of(node).lock().pop(&node);
        drop(removed);
    }

    pub(super) fn clear(&self) {
        for shard in self.shards.all() {
            let mut removed = Vec::new();
            {
                let mut shard = shard.lock();
                removed.extend(std::iter::from_fn(|| shard.pop_lru()));
            }
            drop(removed);
        }
    }
}
