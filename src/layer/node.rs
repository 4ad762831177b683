//! One node of an index, and its extended attributes.

use super::format;
use super::index::{Index, halves, range};
use super::{FileKind, Metadata, Place, Timestamp};

/// What a node is, beyond its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind<'a> {
    /// A directory.
    Directory {
        /// It hides what lower layers have in it.
        opaque: bool,
        /// No entry of the archive named it.
        implied: bool,
    },
    /// A regular file.
    Regular(Place),
    /// A symlink with its target.
    Symlink(&'a [u8]),
    /// A device, FIFO or socket.
    Special {
        /// Which.
        kind: FileKind,
        /// Major and minor number of a device.
        device: (u32, u32),
    },
    /// A hard link to a path in lower layers.
    UnresolvedLink(&'a [u8]),
}

/// A node of an index.
#[derive(Clone, Copy, Debug)]
pub struct NodeRef<'a> {
    index: &'a Index,
    record: &'a format::Node,
}

impl<'a> NodeRef<'a> {
    pub(super) fn new(index: &'a Index, record: &'a format::Node) -> NodeRef<'a> {
        NodeRef { index, record }
    }

    /// What the node is.
    #[must_use]
    pub fn kind(&self) -> NodeKind<'a> {
        let record = self.record;
        let flags = record.flags.get();
        let target = || {
            range(
                self.index.targets(),
                record.payload.get() as u32,
                record.size.get() as u32,
            )
        };
        match FileKind::from_mode(record.mode.get()) {
            None => NodeKind::UnresolvedLink(target()),
            Some(FileKind::Directory) => NodeKind::Directory {
                opaque: flags & format::NODE_OPAQUE != 0,
                implied: flags & format::NODE_IMPLIED != 0,
            },
            Some(FileKind::Regular) if flags & format::NODE_IN_PACK != 0 => {
                NodeKind::Regular(Place::Pack(record.payload.get()))
            }
            Some(FileKind::Regular) if flags & format::NODE_IN_FILE != 0 => {
                NodeKind::Regular(Place::File(record.payload.get() as u32))
            }
            Some(FileKind::Regular) => NodeKind::Regular(Place::Empty),
            Some(FileKind::Symlink) => NodeKind::Symlink(target()),
            Some(kind) => {
                let (minor, major) = halves(record.payload.get());
                NodeKind::Special {
                    kind,
                    device: (major, minor),
                }
            }
        }
    }

    /// Kind of file; `None` for an unresolved link.
    #[must_use]
    pub fn file_kind(&self) -> Option<FileKind> {
        FileKind::from_mode(self.record.mode.get())
    }

    /// Permissions, owner and time.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        Metadata {
            permissions: (self.record.mode.get() & 0o7777) as u16,
            uid: self.record.uid.get(),
            gid: self.record.gid.get(),
            mtime: Timestamp {
                seconds: self.record.mtime_seconds.get(),
                nanoseconds: self.record.mtime_nanoseconds.get(),
            },
        }
    }

    /// Content length of a regular file, target length of a symlink, otherwise 0.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.record.size.get()
    }

    /// Number of names; of a directory 2 and its subdirectories.
    #[must_use]
    pub fn nlink(&self) -> u32 {
        self.record.nlink.get()
    }

    /// The directory that holds the (first) name; the root is its own.
    #[must_use]
    pub fn parent(&self) -> u32 {
        self.record.parent.get()
    }

    /// Number of the layer it came from, within [`Index::layers`].
    #[must_use]
    pub fn layer(&self) -> u16 {
        self.record.layer.get()
    }

    /// The extended attributes, in the order of their names.
    #[must_use]
    pub fn xattrs(&self) -> XattrIter<'a> {
        XattrIter::new(self.xattr_set())
    }

    /// The attribute set as it is encoded.
    #[must_use]
    pub fn xattr_set(&self) -> &'a [u8] {
        let bytes = self.index.xattr_bytes();
        let start = self.record.xattrs.get();
        let length = range(bytes, start, 4)
            .first_chunk()
            .map_or(0, |l| u32::from_le_bytes(*l));
        range(bytes, start + 4, length)
    }
}

/// The attributes of a set, as (name, value).
#[derive(Clone, Debug)]
pub struct XattrIter<'a> {
    rest: &'a [u8],
}

impl<'a> XattrIter<'a> {
    /// The attributes of an encoded set: for each the lengths of name and value, then both.
    #[must_use]
    pub fn new(set: &'a [u8]) -> XattrIter<'a> {
        XattrIter { rest: set }
    }

    /// What is left undecoded; empty at the end of a valid set.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for XattrIter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name_length, rest) = self.rest.split_first_chunk()?;
        let (value_length, rest) = rest.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(u32::from_le_bytes(*name_length) as usize)?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_length) as usize)?;
        self.rest = rest;
        Some((name, value))
    }
}
