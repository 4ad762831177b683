//! Backing files: contents that the kernel reads by itself.
//!
//! While one open file of an inode is in passthrough, every other open of it must be, and on the
//! same backing file; while one is not, none may be. The kernel answers `EIO` otherwise. So how an
//! inode is read is decided at its first open and stays until its last close.
//!
//! # Invariants
//! * An inode has at most one backing id at a time. It lives as long as the inode is open, and a
//!   few more are kept for the next open, because registering one costs two system calls.
//!
//! # Locking
//! One lock per shard, held while the backing file is opened and registered: two first opens of
//! one inode must not decide differently.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use fuser::BackingId;
use lru::LruCache;
use parking_lot::Mutex;

use crate::overlay::{NodeNumber, Overlay, Result};

const SHARDS: usize = 16;
const IDLE_PER_SHARD: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// How an open inode is read.
#[derive(Clone, Debug)]
enum Way {
    Passthrough(Arc<BackingId>),
    PageCache,
}

#[derive(Debug)]
struct Opened {
    way: Way,
    count: u64,
}

#[derive(Debug)]
struct Shard {
    opened: HashMap<NodeNumber, Opened>,
    idle: LruCache<NodeNumber, Arc<BackingId>>,
}

/// The backing files of a connection.
#[derive(Debug)]
pub(super) struct Backings {
    shards: Box<[Mutex<Shard>]>,
}

impl Backings {
    pub(super) fn new() -> Backings {
        let shard = || {
            Mutex::new(Shard {
                opened: HashMap::new(),
                idle: LruCache::new(IDLE_PER_SHARD),
            })
        };
        Backings {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
        }
    }

    fn shard(&self, node: NodeNumber) -> Option<&Mutex<Shard>> {
        self.shards
            .get(usize::try_from(node.0).unwrap_or(0) % SHARDS)
    }

    /// Counts one open of `node` and tells its backing file; `None` means the page cache.
    pub(super) fn open(
        &self,
        overlay: &Overlay,
        node: NodeNumber,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Result<Option<Arc<BackingId>>> {
        let Some(shard) = self.shard(node) else {
            return Ok(None);
        };
        let mut shard = shard.lock();
        let shard = &mut *shard;
        let way = match shard.opened.get_mut(&node) {
            Some(opened) => {
                opened.count += 1;
                opened.way.clone()
            }
            None => {
                let way = match shard.idle.pop(&node) {
                    Some(id) => Way::Passthrough(id),
                    None => decide(overlay, node, register)?,
                };
                shard.opened.insert(
                    node,
                    Opened {
                        way: way.clone(),
                        count: 1,
                    },
                );
                way
            }
        };
        Ok(match way {
            Way::Passthrough(id) => Some(id),
            Way::PageCache => None,
        })
    }

    /// Takes one open back.
    pub(super) fn release(&self, node: NodeNumber) {
        let Some(shard) = self.shard(node) else {
            return;
        };
        let mut shard = shard.lock();
        let Some(opened) = shard.opened.get_mut(&node) else {
            return;
        };
        opened.count = opened.count.saturating_sub(1);
        if opened.count > 0 {
            return;
        }
        let closed = shard.opened.remove(&node).map(|opened| opened.way);
        let displaced = match closed {
            Some(Way::Passthrough(id)) => shard.idle.push(node, id),
            _ => None,
        };
        // An id that falls out is closed by a system call, after the lock is gone.
        drop(shard);
        drop(displaced);
    }
}

/// Chooses the way for an inode that nobody has open.
fn decide(
    overlay: &Overlay,
    node: NodeNumber,
    register: impl FnOnce(&File) -> io::Result<BackingId>,
) -> Result<Way> {
    let content = overlay.open(node)?;
    if !content.whole {
        return Ok(Way::PageCache);
    }
    match register(&content.file) {
        Ok(id) => Ok(Way::Passthrough(Arc::new(id))),
        // Too many files, or a file system below that is stacked too deep: read it ourselves.
        Err(error) => {
            log::debug!("no passthrough for node {}: {error}", node.0);
            Ok(Way::PageCache)
        }
    }
}
