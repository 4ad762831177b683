//! The index format: fixed-size little-endian records, found by the section table of the header.
//!
//! One format serves layers (with whiteouts and unresolved rows) and chains (without). It is a
//! contract with every store on disk and is described in `docs/STORE.md`: a change to any record
//! here needs a new [`VERSION`].

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of every index.
pub const MAGIC: [u8; 8] = *b"plyindex";
/// The version this program writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// [`Header::kind`] of a layer's index.
pub const KIND_LAYER: u32 = 1;
/// [`Header::kind`] of a chain's index.
pub const KIND_CHAIN: u32 = 2;

/// [`Header::features`]: some node has a POSIX ACL.
pub const FEATURE_ACLS: u32 = 1;

/// [`Entry::node`] of a whiteout.
pub const WHITEOUT: u32 = u32::MAX;
/// [`Detached::node`] of an opaque mark.
pub const OPAQUE: u32 = u32::MAX - 1;

/// [`Node::flags`]: a directory that hides what lower layers have in it.
pub const NODE_OPAQUE: u16 = 1;
/// [`Node::flags`]: a directory that no entry of the archive named.
pub const NODE_IMPLIED: u16 = 2;
/// [`Node::flags`]: content at [`Node::payload`] of the pack.
pub const NODE_IN_PACK: u16 = 4;
/// [`Node::flags`]: content in a file of its own with the number [`Node::payload`].
pub const NODE_IN_FILE: u16 = 8;

/// A range of bytes of the index.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Section {
    /// First byte.
    pub offset: U64,
    /// Number of bytes.
    pub length: U64,
}

/// The head of an index.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// [`KIND_LAYER`] or [`KIND_CHAIN`].
    pub kind: U32,
    /// XXH3-64 of the whole file but the digests section, with this field zero.
    pub checksum: U64,
    /// Length of the whole file.
    pub file_length: U64,
    /// `FEATURE_` bits.
    pub features: U32,
    /// Zero.
    pub reserved: U32,
    /// Bytes of content of all nodes.
    pub content_bytes: U64,
    /// Of these, bytes in files of at least 32 MiB.
    pub large_bytes: U64,
    /// Array of [`Node`].
    pub nodes: Section,
    /// Array of [`Entry`].
    pub entries: Section,
    /// Names of entries.
    pub names: Section,
    /// Targets of symlinks and unresolved links, and paths of detached entries.
    pub targets: Section,
    /// Extended attribute sets; the one at offset 0 is empty.
    pub xattrs: Section,
    /// Array of [`Detached`].
    pub detached: Section,
    /// SHA-256 diffIDs of the layers of a chain, lowest first, 32 bytes each.
    pub layers: Section,
    /// Array of [`ContentDigest`], last in the file; only `check` reads it.
    pub digests: Section,
}

/// A file, directory, link or device.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Node {
    /// Seconds of the modification time.
    pub mtime_seconds: I64,
    /// Content length; target length for symlinks and unresolved links.
    pub size: U64,
    /// Regular file: offset in the pack or number of the file. Symlink, unresolved link: offset in
    /// targets. Device: major in the high, minor in the low half. Directory: first entry in the
    /// low, number of entries in the high half.
    pub payload: U64,
    /// Nanoseconds of the modification time.
    pub mtime_nanoseconds: U32,
    /// `st_mode`; its type bits are zero for an unresolved link.
    pub mode: U32,
    /// Owner.
    pub uid: U32,
    /// Group.
    pub gid: U32,
    /// Number of names; of a directory 2 and its subdirectories.
    pub nlink: U32,
    /// The directory that holds the (first) name.
    pub parent: U32,
    /// Offset of the attribute set in xattrs.
    pub xattrs: U32,
    /// Number of the layer in layers (chains).
    pub layer: U16,
    /// `NODE_` bits.
    pub flags: U16,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Entry {
    /// Offset of the name in names.
    pub name: U32,
    /// The node, or [`WHITEOUT`].
    pub node: U32,
    /// Length of the name.
    pub length: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// An entry below a symlinked parent.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Detached {
    /// Offset of the path in targets.
    pub path: U32,
    /// Length of the path.
    pub length: U32,
    /// The node, [`WHITEOUT`] or [`OPAQUE`].
    pub node: U32,
}

/// The BLAKE3 digest of a regular file's content.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ContentDigest {
    /// The node.
    pub node: U32,
    /// BLAKE3 of its content.
    pub digest: [u8; 32],
}
