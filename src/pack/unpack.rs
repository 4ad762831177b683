//! The one pass over a layer: compressed bytes in, tree and contents out.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::apply::Applier;
use super::content::Contents;
use super::pipeline::Stream;
use super::reader::Archive;
use super::{Error, Limits, Problem};
use crate::layer::tree::Tree;

/// Less than this is no archive, in bytes.
const BLOCK: u64 = super::header::BLOCK as u64;

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
    pack(source, staging, limits, progress, false)
}

/// Packs an archive that a person made: as [`pack_layer`], but what may have been cut short, or has
/// something behind its end, is refused. Container engines accept both in layers, so there these
/// cannot be errors.
///
/// # Errors
/// [`Error`].
pub fn pack_archive(
    source: impl Read + Send,
    staging: &Path,
    limits: &Limits,
    progress: &Progress,
) -> Result<Packed, Error> {
    pack(source, staging, limits, progress, true)
}

/// The SHA-256 of what a layer blob holds uncompressed.
///
/// # Errors
/// [`Error`].
pub fn uncompressed_digest(
    source: impl Read + Send,
    limits: &Limits,
    progress: &Progress,
) -> Result<[u8; 32], Error> {
    std::thread::scope(|scope| {
        let stream = Stream::new(scope, source, limits, progress)?;
        let (digest, _, _) = stream.finish()?;
        Ok(digest)
    })
}

fn pack(
    source: impl Read + Send,
    staging: &Path,
    limits: &Limits,
    progress: &Progress,
    strict: bool,
) -> Result<Packed, Error> {
    std::thread::scope(|scope| {
        let stream = Stream::new(scope, source, limits, progress)?;
        let mut archive = Archive::new(stream, limits, strict);
        let mut contents = Contents::new(staging, limits.holes)?;
        let mut applier = Applier::new(limits);
        while archive.next().map_err(|error| match error {
            Error::Header {
                offset: 0,
                problem: Problem::Checksum | Problem::Number("checksum"),
            }
            | Error::Truncated { offset: ..BLOCK }
                if strict =>
            {
                Error::NotAnArchive
            }
            error => error,
        })? {
            applier.apply(&mut archive, &mut contents)?;
        }
        let mut statistics = Statistics {
            entries: archive.entries(),
            ..Statistics::default()
        };
        let marked = archive.marked;
        let mut stream = archive.into_stream();
        if strict {
            match (marked, stream.offset()) {
                (true, _) => stream.only_zeros()?,
                (false, 0) => return Err(Error::Empty),
                (false, _) => return Err(Error::NoEndMarker),
            }
        }
        // Whatever follows the archive belongs to the diffID all the same.
        let (diff_id, uncompressed, compressed) = stream.finish()?;
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
