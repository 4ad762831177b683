//! The one pass over a layer: compressed bytes in, tree and contents out.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::apply::Applier;
use super::content::Contents;
use super::pipeline::Stream;
use super::reader::Archive;
use super::{Error, Limits};
use crate::layer::tree::Tree;

/// A layer that has been packed.
#[derive(Debug)]
pub struct Packed {
    /// All metadata.
    pub tree: Tree,
    /// SHA-256 of the uncompressed archive, all of it.
    pub diff_id: [u8; 32],
    /// What was in it.
    pub statistics: Statistics,
}

/// Counts of what a layer held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Compressed bytes read.
    pub compressed: u64,
    /// Bytes of the uncompressed archive.
    pub uncompressed: u64,
    /// Entries of the archive, extension headers not counted.
    pub entries: u64,
    /// Bytes in `pack`.
    pub pack_bytes: u64,
    /// Files in `files`.
    pub large_files: u32,
    /// Apparent size of the files in `files`.
    pub large_bytes: u64,
}

/// Shared with whoever watches or stops a pass.
#[derive(Debug, Default)]
pub struct Progress {
    cancelled: AtomicBool,
    uncompressed: AtomicU64,
}

impl Progress {
    /// Makes the pass end soon with [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`Progress::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Uncompressed bytes so far.
    #[must_use]
    pub fn uncompressed(&self) -> u64 {
        self.uncompressed.load(Ordering::Relaxed)
    }

    pub(super) fn advance(&self, bytes: u64) {
        self.uncompressed.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Packs one layer.
///
/// `source` gives the layer blob: gzip, zstd or plain, recognised by its first bytes. It is read
/// to its end, so a wrapper may hash the blob. `staging` must be an empty directory of ours; the
/// files `pack` and `files/<n>` are written there, mostly past the page cache, but not synced.
/// After an error the directory holds leftovers, which are the caller's to remove.
///
/// # Errors
/// [`Error`].
pub fn pack_layer(
    source: impl Read + Send,
    staging: &Path,
    limits: &Limits,
    progress: &Progress,
) -> Result<Packed, Error> {
    std::thread::scope(|scope| {
        let stream = Stream::new(scope, source, limits, progress)?;
        let mut archive = Archive::new(stream, limits);
        let mut contents = Contents::new(staging, limits.holes)?;
        let mut applier = Applier::new(limits);
        while archive.next()? {
            applier.apply(&mut archive, &mut contents)?;
        }
        let mut statistics = Statistics {
            entries: archive.entries(),
            ..Statistics::default()
        };
        // Whatever follows the archive belongs to the diffID all the same.
        let (diff_id, uncompressed, compressed) = archive.into_stream().finish()?;
        contents.finish(&mut statistics)?;
        statistics.uncompressed = uncompressed;
        statistics.compressed = compressed;
        Ok(Packed {
            tree: applier.finish(),
            diff_id,
            statistics,
        })
    })
}
