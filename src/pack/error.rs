//! Why a layer cannot be packed or written.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error as ThisError;

use super::Compression;
use crate::layer::tree::TreeError;

/// Why a layer cannot be packed, or a directory tree not written as a layer.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The source of the compressed bytes failed.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The compressed bytes are damaged.
    #[error("cannot decompress the layer ({compression})")]
    Decompress {
        /// The format that was recognised.
        compression: Compression,
        /// What the decoder says.
        #[source]
        source: io::Error,
    },
    /// A compression format that layers do not have.
    #[error("the layer is compressed with {0}, but layers are plain, gzip or zstd")]
    UnsupportedCompression(&'static str),
    /// The archive ends within an entry or its content.
    #[error("the archive is truncated at byte {offset}")]
    Truncated {
        /// Bytes of archive that there were.
        offset: u64,
    },
    /// There is nothing at all.
    #[error("the archive is empty")]
    Empty,
    /// What should be an archive does not begin like one.
    #[error("it is not a tar archive")]
    NotAnArchive,
    /// The archive stops between two entries, so it may have been cut there.
    #[error("the archive ends without its end marker, so a part of it may be missing")]
    NoEndMarker,
    /// Something other than zeros follows the end of the archive.
    #[error("something follows the end of the archive, at byte {offset}")]
    Trailing {
        /// Where it begins.
        offset: u64,
    },
    /// A header that cannot be read; its entry has no name yet.
    #[error("header at byte {offset} of the archive: {problem}")]
    Header {
        /// Where the header begins.
        offset: u64,
        /// What is wrong with it.
        problem: Problem,
    },
    /// An entry that cannot be accepted.
    #[error("entry {path}: {problem}")]
    Entry {
        /// The name as the archive has it.
        path: Escaped,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The layer as a whole is larger than [`Limits`](super::Limits) allow.
    #[error("the layer has more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The staging directory cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The system has no thread for us.
    #[error("cannot start a thread to decompress the layer")]
    Thread(#[source] io::Error),
    /// The archive cannot be written.
    #[error("cannot write the layer archive")]
    WriteArchive(#[source] io::Error),
    /// An entry that a tar archive cannot hold.
    #[error("cannot archive {path}: {problem}")]
    Unarchivable {
        /// Its name in the archive.
        path: Escaped,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A directory tree cannot be read.
    #[error("cannot read {path}")]
    ReadTree {
        /// The path.
        path: Escaped,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// [`Progress::cancel`](super::Progress::cancel) was called.
    #[error("cancelled")]
    Cancelled,
}

/// What is wrong with an entry.
#[derive(Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum Problem {
    /// The header's checksum is wrong.
    #[error("the header checksum is wrong, so this is no tar archive or a damaged one")]
    Checksum,
    /// One zero block is followed by something else.
    #[error("a single zero block stands between entries")]
    LoneZeroBlock,
    /// A number that cannot be read or is out of range.
    #[error("the {0} is not a valid number")]
    Number(&'static str),
    /// An entry type that layers do not have.
    #[error("unknown entry type '{}'", .0.escape_ascii())]
    UnknownType(u8),
    /// A PAX record that cannot be read.
    #[error("malformed pax record: {0}")]
    Pax(&'static str),
    /// A sparse map that cannot be read or contradicts itself.
    #[error("malformed sparse map: {0}")]
    Sparse(&'static str),
    /// Something in one entry is larger than [`Limits`](super::Limits) allow.
    #[error("more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A path or link target with a NUL byte.
    #[error("the {0} contains a NUL byte")]
    Nul(&'static str),
    /// A component of more than 255 bytes.
    #[error("a name in the path is longer than 255 bytes")]
    NameTooLong,
    /// An entry for the root that is no directory.
    #[error("the root can only be a directory")]
    Root,
    /// A whiteout of nothing, of `.` or of `..`.
    #[error("a whiteout without a valid name")]
    Whiteout,
    /// A file whose name would make it a whiteout.
    #[error("a name that begins with .wh. would become a whiteout")]
    ReservedName,
    /// A symbolic link without a target.
    #[error("the symbolic link has no target")]
    EmptyTarget,
    /// A hard link to a directory, to the root, or to itself before it exists.
    #[error("the hard link to {target} {why}")]
    HardLink {
        /// The target as the archive has it.
        target: Escaped,
        /// Why it cannot be made.
        why: &'static str,
    },
    /// The content has another length than promised.
    #[error("the content is shorter than its size of {0} bytes")]
    Short(u64),
    /// What the tree under construction says.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Bytes of a name, printed with everything but printable ASCII escaped.
#[derive(Clone, PartialEq, Eq)]
pub struct Escaped(Box<[u8]>);

impl Escaped {
    /// Takes a copy of `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Escaped {
        Escaped(bytes.into())
    }

    /// The bytes themselves.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Escaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Debug for Escaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
