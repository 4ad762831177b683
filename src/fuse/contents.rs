//! Reading contents by node number, for opens that the kernel does not tell us about.
//!
//! A read-only connection without OPEN has no handles, so what is open is our own affair: contents
//! that are files of their own stay open in a bounded cache, and contents that share a pack need
//! no open at all.
//!
//! # Locking
//! One lock per shard, held while the cache is looked at and never across a system call.

use std::os::unix::fs::FileExt;

use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;

use crate::overlay::{Error, NodeNumber, OpenContent, Overlay, Result};

const SHARDS: usize = 16;
const OPEN_PER_SHARD: NonZeroUsize = NonZeroUsize::new(16).unwrap();

type Shard = Mutex<LruCache<NodeNumber, OpenContent>>;

/// Opened contents, by node.
#[derive(Debug)]
pub(super) struct Contents {
    shards: Box<[Shard]>,
}

impl Contents {
    pub(super) fn new() -> Contents {
        let shard = || Mutex::new(LruCache::new(OPEN_PER_SHARD));
        Contents {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
        }
    }

    fn shard(&self, node: NodeNumber) -> Option<&Shard> {
        let spread = node.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        self.shards
            .get(usize::try_from(spread).unwrap_or(0) % SHARDS)
    }

    /// The content of `node`, opened now or before.
    pub(super) fn open(&self, overlay: &Overlay, node: NodeNumber) -> Result<OpenContent> {
        let cached = self
            .shard(node)
            .and_then(|shard| shard.lock().get(&node).cloned());
        if let Some(content) = cached {
            return Ok(content);
        }
        let content = overlay.open(node)?;
        if content.whole
            && let Some(shard) = self.shard(node)
        {
            // The file that falls out is closed after the lock is gone.
            let displaced = shard.lock().push(node, content.clone());
            drop(displaced);
        }
        Ok(content)
    }

    /// Reads into `buffer`, which is made as long as what there is to read.
    pub(super) fn read(
        &self,
        overlay: &Overlay,
        node: NodeNumber,
        offset: u64,
        size: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<usize> {
        let content = self.open(overlay, node)?;
        let length = content.size.saturating_sub(offset).min(u64::from(size));
        let length = usize::try_from(length).unwrap_or(0);
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let target = buffer.get_mut(..length).unwrap_or_default();
        content
            .file
            .read_exact_at(target, content.start + offset)
            .map_err(|error| Error::io(error, format!("reading the content of node {}", node.0)))?;
        Ok(length)
    }
}
