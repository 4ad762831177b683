//! Reading contents by node number, for opens that the kernel does not tell us about.
//!
//! A read-only connection without OPEN has no handles, so what is open is our own affair: contents
//! that are files of their own stay open in a bounded cache, and contents that share a pack need
//! no open at all.

use std::os::unix::fs::FileExt;

use super::node_cache::NodeCache;
use crate::overlay::{Error, NodeNumber, OpenContent, Overlay, Result};

/// Opened contents, by node.
#[derive(Debug)]
pub(super) struct Contents(NodeCache<OpenContent>);

impl Contents {
    pub(super) fn new() -> Contents {
        Contents(NodeCache::new())
    }

    /// The content of `node`, opened now or before.
    pub(super) fn open(&self, overlay: &Overlay, node: NodeNumber) -> Result<OpenContent> {
        if let Some(content) = self.0.get(node) {
            return Ok(content);
        }
        let content = overlay.open(node)?;
        if content.whole {
            self.0.keep(node, content.clone());
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
