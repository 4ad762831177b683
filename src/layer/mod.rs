//! Layers: what the union stacks, and the index format that packed layers and chains share.
//!
//! A *packed layer* is an index (all metadata) plus content under names of our own choosing; a
//! *chain index* is the layers of an image flattened into one index. Both are written from a
//! [`tree::Tree`] and read through an [`index::Index`]. A *directory layer* is any directory tree.
//!
//! # Invariants
//! An index depends on nothing but the layer's tar stream (its diffID); whatever needs the layers
//! below (hard links into them, entries below symlinked or implied parents) stays unresolved in
//! the layer's index and is resolved when a chain is built.

pub mod directory;
pub mod format;
pub mod index;
pub mod tree;
mod validate;
mod writer;

pub use writer::{LARGE, WriteError};

/// A point in time as the kernel's `timespec` has it: any `i64` second, before 1970 too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since the epoch; negative before it.
    pub seconds: i64,
    /// Nanoseconds within the second, 0 to 999,999,999, always counted forward.
    pub nanoseconds: u32,
}

/// The metadata that every kind of node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission, set-id and sticky bits (`07777`), without the file type.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification; images carry no other time.
    pub mtime: Timestamp,
}

/// Where the bytes of a regular file lie within its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: the file is empty.
    Empty,
    /// In the layer's `pack`, from this byte on.
    Pack(u64),
    /// In a file of its own, `files/<number>`, from its first byte on; holes are holes there too.
    File(u32),
}

/// The content of a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Where the bytes lie.
    pub place: Place,
    /// Length in bytes.
    pub size: u64,
    /// BLAKE3 of the bytes, for `check`.
    pub digest: [u8; 32],
}

/// The kind of a file, as `S_IFMT` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// `S_IFDIR`
    Directory,
    /// `S_IFREG`
    Regular,
    /// `S_IFLNK`
    Symlink,
    /// `S_IFCHR`
    CharDevice,
    /// `S_IFBLK`
    BlockDevice,
    /// `S_IFIFO`
    Fifo,
    /// `S_IFSOCK`
    Socket,
}

impl FileKind {
    /// The kind that the `S_IFMT` bits of `mode` name, if they name one.
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFREG => FileKind::Regular,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            _ => return None,
        })
    }

    /// The `S_IFMT` bits of this kind.
    #[must_use]
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::Directory => libc::S_IFDIR,
            FileKind::Regular => libc::S_IFREG,
            FileKind::Symlink => libc::S_IFLNK,
            FileKind::CharDevice => libc::S_IFCHR,
            FileKind::BlockDevice => libc::S_IFBLK,
            FileKind::Fifo => libc::S_IFIFO,
            FileKind::Socket => libc::S_IFSOCK,
        }
    }
}
