//! Layer tar → packed layer in one streaming pass, and directory tree → layer tar.
//!
//! A layer is read once: decompressed, hashed, parsed and written by [`pack_layer`], which gives
//! the metadata as a [`Tree`](crate::layer::tree::Tree) and leaves the contents in a staging
//! directory. The other way, [`TarWriter`] writes reproducible layers and [`write_directory`]
//! feeds it from a directory tree.
//!
//! # Invariants
//! * A name from an archive never reaches a system call: contents are stored under names of our
//!   own choosing (`pack`, `files/<n>`), everything else becomes rows of the tree. So no archive
//!   can write outside the staging directory, whatever its names, links and whiteouts say.
//! * Memory is bounded by [`Limits`] and a few fixed buffers, never by what a header claims.
//! * No input can cause a panic; each violation is an [`Error`] that names the entry.
//! * The result depends on the uncompressed bytes alone, so equal diffIDs give equal layers.

mod apply;
mod compress;
mod compression;
mod content;
mod directory;
mod entry;
mod error;
mod header;
mod limits;
mod path;
mod pax;
mod pipeline;
mod reader;
mod sink;
mod sparse;
mod tar_split;
#[cfg(test)]
mod tests;
mod unpack;
mod writer;

pub use compress::{Compressor, Uncompressed};
pub use compression::Compression;
pub use directory::{Skipped, write_directory};
pub use error::{Error, Escaped, Problem};
pub use limits::Limits;
pub use tar_split::write_tar_split;
pub use unpack::{Packed, Progress, Statistics, pack_archive, pack_layer, uncompressed_digest};
pub use writer::{TarEntry, TarKind, TarWriter};
