//! Reads an index: all metadata of a layer or chain, from a mapped file.
//!
//! # Invariants
//! An [`Index`] exists only after [`Index::open`] has checked every offset, length, number and
//! ordering in it, so no later read can fail, panic or loop, whatever bytes the file held.

use std::fs::File;
use std::io;

use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;
use zerocopy::{FromBytes, IntoBytes};

use super::format::{self, Header, Section};
pub(super) use super::tree::check_name;
use super::{FileKind, Metadata, Place, Timestamp};
use crate::sys::mapping::Mapping;

/// Why a file is not an index.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another kind of file.
    #[error("not an index")]
    NotAnIndex,
    /// An index of another version.
    #[error("index format {0}, where this program reads {version}", version = format::VERSION)]
    Version(u32),
    /// A damaged index, and what is wrong with it.
    #[error("damaged index: {0}")]
    Damaged(&'static str),
}

/// What an index describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// One layer.
    Layer,
    /// The flattened layers of an image.
    Chain,
}

/// The bytes of an index.
#[derive(Debug)]
enum Bytes {
    Mapped(Mapping),
    Owned(Vec<u8>),
}

/// A validated index.
#[derive(Debug)]
pub struct Index {
    bytes: Bytes,
    header: Header,
}

/// What an entry of a directory names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A node.
    Node(u32),
    /// Nothing: the name hides what lower layers have.
    Whiteout,
}

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

/// What a detached row does at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachedRow {
    /// Puts this node there.
    Node(u32),
    /// Hides what lower layers have there.
    Whiteout,
    /// Makes the directory there opaque.
    Opaque,
}

impl Index {
    /// Number of the root directory.
    pub const ROOT: u32 = 0;

    /// Maps and validates an index.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn open(file: &File) -> Result<Index, IndexError> {
        let mapping = Mapping::new(file)?;
        let index = Index::validated(Bytes::Mapped(mapping))?;
        // Validation has touched every page; what is needed comes back from the page cache.
        if let Bytes::Mapped(mapping) = &index.bytes {
            mapping.release_pages();
        }
        Ok(index)
    }

    /// Validates an index in memory.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Index, IndexError> {
        Index::validated(Bytes::Owned(bytes))
    }

    fn validated(bytes: Bytes) -> Result<Index, IndexError> {
        let slice = bytes.as_slice();
        let (header, _) = Header::read_from_prefix(slice).map_err(|_| IndexError::NotAnIndex)?;
        if header.magic != format::MAGIC {
            return Err(IndexError::NotAnIndex);
        }
        if header.version.get() != format::VERSION {
            return Err(IndexError::Version(header.version.get()));
        }
        let index = Index { bytes, header };
        index.check_frame()?;
        super::validate::validate(&index)?;
        Ok(index)
    }

    /// Checks header, section bounds and checksum.
    fn check_frame(&self) -> Result<(), IndexError> {
        let slice = self.bytes.as_slice();
        let header = &self.header;
        if header.file_length.get() != slice.len() as u64 {
            return Err(IndexError::Damaged("its length"));
        }
        if ![format::KIND_LAYER, format::KIND_CHAIN].contains(&header.kind.get()) {
            return Err(IndexError::Damaged("its kind"));
        }
        let mut at = size_of::<Header>() as u64;
        for section in self.section_table() {
            if section.offset.get() != at {
                return Err(IndexError::Damaged("its section table"));
            }
            at = at
                .checked_add(section.length.get())
                .filter(|&end| end <= slice.len() as u64)
                .ok_or(IndexError::Damaged("a section beyond its end"))?;
        }
        if at != slice.len() as u64 {
            return Err(IndexError::Damaged("bytes after its last section"));
        }
        let mut checksum = Xxh3::new();
        checksum.update(
            Header {
                checksum: 0.into(),
                ..*header
            }
            .as_bytes(),
        );
        checksum.update(&slice[size_of::<Header>()..header.digests.offset.get() as usize]);
        if checksum.digest() != header.checksum.get() {
            return Err(IndexError::Damaged("its checksum does not match"));
        }
        Ok(())
    }

    fn section_table(&self) -> [Section; 8] {
        let header = &self.header;
        [
            header.nodes,
            header.entries,
            header.names,
            header.targets,
            header.xattrs,
            header.detached,
            header.layers,
            header.digests,
        ]
    }

    fn section(&self, section: Section) -> &[u8] {
        // In bounds: check_frame.
        let start = section.offset.get() as usize;
        self.bytes
            .as_slice()
            .get(start..start + section.length.get() as usize)
            .unwrap_or(&[])
    }

    fn records<T: FromBytes + zerocopy::Immutable + zerocopy::KnownLayout + zerocopy::Unaligned>(
        &self,
        section: Section,
    ) -> &[T] {
        // A section of odd length was refused by `validate`.
        <[T]>::ref_from_bytes(self.section(section)).unwrap_or(&[])
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn nodes(&self) -> &[format::Node] {
        self.records(self.header.nodes)
    }

    pub(super) fn entries(&self) -> &[format::Entry] {
        self.records(self.header.entries)
    }

    pub(super) fn names(&self) -> &[u8] {
        self.section(self.header.names)
    }

    pub(super) fn targets(&self) -> &[u8] {
        self.section(self.header.targets)
    }

    pub(super) fn xattr_bytes(&self) -> &[u8] {
        self.section(self.header.xattrs)
    }

    pub(super) fn detached_records(&self) -> &[format::Detached] {
        self.records(self.header.detached)
    }

    /// What this index describes.
    #[must_use]
    pub fn kind(&self) -> IndexKind {
        if self.header.kind.get() == format::KIND_CHAIN {
            IndexKind::Chain
        } else {
            IndexKind::Layer
        }
    }

    /// Number of nodes; they are numbered from 0, the root.
    #[must_use]
    pub fn node_count(&self) -> u32 {
        self.nodes().len() as u32
    }

    /// The record of a node, if there is such a number.
    #[must_use]
    pub fn node(&self, number: u32) -> Option<NodeRef<'_>> {
        self.nodes().get(number as usize).map(|record| NodeRef {
            index: self,
            record,
        })
    }

    /// Number of entries in a directory; 0 for anything else.
    #[must_use]
    pub fn entry_count(&self, directory: u32) -> u32 {
        self.directory_entries(directory).len() as u32
    }

    /// The entry at a position of a directory, in the order of name bytes.
    #[must_use]
    pub fn entry(&self, directory: u32, position: u32) -> Option<(&[u8], Named)> {
        self.directory_entries(directory)
            .get(position as usize)
            .map(|e| self.decode_entry(e))
    }

    /// The entries of a directory in the order of name bytes.
    pub fn children(&self, directory: u32) -> impl Iterator<Item = (&[u8], Named)> {
        self.directory_entries(directory)
            .iter()
            .map(|entry| self.decode_entry(entry))
    }

    /// What `name` stands for in a directory.
    #[must_use]
    pub fn lookup(&self, directory: u32, name: &[u8]) -> Option<Named> {
        let entries = self.directory_entries(directory);
        let position = entries
            .binary_search_by(|entry| self.entry_name(entry).cmp(name))
            .ok()?;
        entries
            .get(position)
            .map(|entry| self.decode_entry(entry).1)
    }

    /// Entries that lie below symlinked parents, in archive order.
    pub fn detached(&self) -> impl Iterator<Item = (&[u8], DetachedRow)> {
        self.detached_records().iter().map(|row| {
            let path = range(self.targets(), row.path.get(), row.length.get());
            let action = match row.node.get() {
                format::WHITEOUT => DetachedRow::Whiteout,
                format::OPAQUE => DetachedRow::Opaque,
                node => DetachedRow::Node(node),
            };
            (path, action)
        })
    }

    /// The diffIDs (SHA-256) of a chain's layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> &[[u8; 32]] {
        self.records(self.header.layers)
    }

    /// The BLAKE3 digests of the contents of regular files, by node number; not covered by the
    /// checksum that opening verifies.
    pub fn content_digests(&self) -> impl Iterator<Item = (u32, [u8; 32])> {
        self.records::<format::ContentDigest>(self.header.digests)
            .iter()
            .map(|row| (row.node.get(), row.digest))
    }

    /// Bytes of content of all nodes, and those of files of at least 32 MiB.
    #[must_use]
    pub fn content_bytes(&self) -> (u64, u64) {
        (
            self.header.content_bytes.get(),
            self.header.large_bytes.get(),
        )
    }

    /// Whether any node has extended attributes.
    #[must_use]
    pub fn has_xattrs(&self) -> bool {
        // The empty set alone takes four bytes.
        self.xattr_bytes().len() > 4
    }

    /// Whether any node has a POSIX ACL.
    #[must_use]
    pub fn has_acls(&self) -> bool {
        self.header.features.get() & format::FEATURE_ACLS != 0
    }

    fn directory_entries(&self, directory: u32) -> &[format::Entry] {
        let Some(record) = self.nodes().get(directory as usize) else {
            return &[];
        };
        if FileKind::from_mode(record.mode.get()) != Some(FileKind::Directory) {
            return &[];
        }
        let (first, count) = halves(record.payload.get());
        self.entries()
            .get(first as usize..first as usize + count as usize)
            .unwrap_or(&[])
    }

    fn entry_name(&self, entry: &format::Entry) -> &[u8] {
        range(self.names(), entry.name.get(), u32::from(entry.length))
    }

    fn decode_entry(&self, entry: &format::Entry) -> (&[u8], Named) {
        let named = match entry.node.get() {
            format::WHITEOUT => Named::Whiteout,
            node => Named::Node(node),
        };
        (self.entry_name(entry), named)
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(mapping) => mapping,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// A node of an index.
#[derive(Clone, Copy, Debug)]
pub struct NodeRef<'a> {
    index: &'a Index,
    record: &'a format::Node,
}

impl<'a> NodeRef<'a> {
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

/// The low and the high half.
pub(super) fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

fn range(bytes: &[u8], start: u32, length: u32) -> &[u8] {
    bytes
        .get(start as usize..start as usize + length as usize)
        .unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Detached, DetachedAction, Kind, Tree};
    use super::super::{Content, Metadata};
    use super::*;

    fn sample() -> Vec<u8> {
        let mut tree = Tree::new();
        let metadata = Metadata {
            permissions: 0o4755,
            uid: 3_000_000_000,
            gid: 5,
            mtime: Timestamp {
                seconds: -7,
                nanoseconds: 999_999_999,
            },
        };
        let xattrs = tree
            .xattr_set([(&b"user.a"[..], &b"\0\xff"[..]), (b"user.b", b"")])
            .unwrap();
        let content = Content {
            place: Place::Pack(4096),
            size: 17,
            digest: [9; 32],
        };
        let file = tree
            .new_node(metadata, Kind::Regular(content), xattrs)
            .unwrap();
        let directory = tree
            .new_node(metadata, Kind::Directory, Default::default())
            .unwrap();
        let symlink = Kind::Symlink(b"../target".as_slice().into());
        let symlink = tree.new_node(metadata, symlink, xattrs).unwrap();
        let device = Kind::CharDevice { major: 1, minor: 3 };
        let device = tree.new_node(metadata, device, Default::default()).unwrap();
        tree.put(Tree::ROOT, b"dir", directory).unwrap();
        tree.put(Tree::ROOT, b"file", file).unwrap();
        tree.put(directory, b"hard\xff", file).unwrap();
        tree.put(directory, b"symlink", symlink).unwrap();
        tree.put(directory, b"null", device).unwrap();
        tree.put_whiteout(directory, b"gone").unwrap();
        tree.detached.push(Detached {
            path: b"a/b".as_slice().into(),
            action: DetachedAction::Put(device),
        });
        let mut bytes = Vec::new();
        tree.write_layer(&mut bytes).unwrap();
        bytes
    }

    /// Calls everything that reads, so that a wrong offset would show.
    fn read_all(index: &Index) -> usize {
        let mut read = index.detached().count() + index.content_digests().count();
        for number in 0..index.node_count() {
            let node = index.node(number).unwrap();
            read += node
                .xattrs()
                .map(|(name, value)| name.len() + value.len())
                .sum::<usize>();
            if let NodeKind::Symlink(target) | NodeKind::UnresolvedLink(target) = node.kind() {
                read += target.len();
            }
            read += node.metadata().permissions as usize + node.parent() as usize;
            for (name, _) in index.children(number) {
                read += name.len() + usize::from(index.lookup(number, name).is_some());
            }
        }
        read
    }

    #[test]
    fn reads_back_what_was_written() {
        let index = Index::from_bytes(sample()).unwrap();
        let Some(Named::Node(directory)) = index.lookup(Index::ROOT, b"dir") else {
            panic!()
        };
        let Some(Named::Node(file)) = index.lookup(directory, b"hard\xff") else {
            panic!()
        };
        assert_eq!(index.lookup(Index::ROOT, b"file"), Some(Named::Node(file)));
        assert_eq!(index.lookup(directory, b"gone"), Some(Named::Whiteout));
        assert_eq!(index.lookup(directory, b"gon"), None);
        let node = index.node(file).unwrap();
        assert_eq!(node.nlink(), 2);
        assert_eq!(
            node.metadata().mtime,
            Timestamp {
                seconds: -7,
                nanoseconds: 999_999_999
            }
        );
        assert_eq!(node.metadata().uid, 3_000_000_000);
        assert_eq!(node.kind(), NodeKind::Regular(Place::Pack(4096)));
        let xattrs: Vec<_> = node.xattrs().collect();
        assert_eq!(xattrs, [(&b"user.a"[..], &b"\0\xff"[..]), (b"user.b", b"")]);
        assert_eq!(
            index.content_digests().collect::<Vec<_>>(),
            [(file, [9; 32])]
        );
        assert!(index.has_xattrs() && !index.has_acls());
        assert_eq!(sample(), sample());
    }

    #[test]
    fn every_flipped_bit_is_noticed_or_harmless() {
        let good = sample();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(index) = Index::from_bytes(bytes) {
                    read_all(&index);
                }
            }
        }
    }

    /// The checksum hides most damage from the validation behind it; here it is made to match.
    #[test]
    fn damage_with_a_valid_checksum_is_noticed_or_harmless() {
        let good = sample();
        for at in size_of::<Header>()..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let (mut header, _) = Header::read_from_prefix(&bytes).unwrap();
                header.checksum = 0.into();
                let mut checksum = Xxh3::new();
                checksum.update(header.as_bytes());
                let end = header.digests.offset.get() as usize;
                checksum.update(&bytes[size_of::<Header>()..end]);
                header.checksum = checksum.digest().into();
                bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
                if let Ok(index) = Index::from_bytes(bytes) {
                    read_all(&index);
                }
            }
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let good = sample();
        for length in 0..good.len() {
            assert!(
                Index::from_bytes(good[..length].to_vec()).is_err(),
                "{length} bytes"
            );
        }
    }
}
