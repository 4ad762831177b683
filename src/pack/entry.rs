//! What one entry of a tar stream says, headers and extensions taken together.

use super::pax::Extensions;
use super::sparse::Map;
use super::{Error, Escaped, Problem};
use crate::layer::Metadata;

/// What an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum EntryKind {
    #[default]
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry; the buffers are used again for the next.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// As the archive has it.
    pub(super) path: Vec<u8>,
    /// As the archive has it.
    pub(super) link: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) metadata: Metadata,
    /// Major and minor number.
    pub(super) device: (u32, u32),
    /// Bytes of data in the archive.
    pub(super) stored: u64,
    /// Size of the file.
    pub(super) size: u64,
    /// Whether `map` says where the data belongs.
    pub(super) sparse: bool,
    pub(super) map: Map,
    pub(super) extensions: Extensions,
}

impl Entry {
    pub(super) fn error(&self, problem: impl Into<Problem>) -> Error {
        Error::Entry {
            path: Escaped::new(&self.path),
            problem: problem.into(),
        }
    }
}
