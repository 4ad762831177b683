//! Writes a [`Tree`] as an index.
//!
//! # Invariants
//! * Equal trees give equal bytes: nodes are numbered by a walk in name order, in which the
//!   entries of a directory get consecutive numbers, so that files read in directory order have
//!   consecutive numbers too.
//! * A directory's number is smaller than those of the directories in it.

use std::io::{self, Write};

use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;
use zerocopy::IntoBytes;

use super::format::{self, Header, Section};
use super::tree::{DetachedAction, Kind, NodeId, Target, Tree};
use super::{FileKind, Place};

/// Content in files of at least this size counts as large.
pub const LARGE: u64 = 32 << 20;

/// Why an index could not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A table would pass 4 GiB.
    #[error("the index is too large")]
    TooLarge,
    /// Writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

const UNNUMBERED: u32 = u32::MAX;

#[derive(Default)]
struct Sections {
    nodes: Vec<format::Node>,
    entries: Vec<format::Entry>,
    names: Vec<u8>,
    targets: Vec<u8>,
    xattrs: Vec<u8>,
    detached: Vec<format::Detached>,
    digests: Vec<format::ContentDigest>,
    features: u32,
    content_bytes: u64,
    large_bytes: u64,
}

impl Tree {
    /// Writes the index of a layer.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write_layer(&self, out: &mut impl Write) -> Result<(), WriteError> {
        self.sections()?.write(format::KIND_LAYER, &[], out)
    }

    /// Writes the index of a chain of layers with these diffIDs (SHA-256), lowest first.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write_chain(&self, layers: &[[u8; 32]], out: &mut impl Write) -> Result<(), WriteError> {
        self.sections()?.write(format::KIND_CHAIN, layers, out)
    }

    fn sections(&self) -> Result<Sections, WriteError> {
        let mut sections = Sections::default();
        let set_offsets = sections.take_xattrs(self)?;
        let mut order = vec![Tree::ROOT];
        let mut parents = vec![0];
        let mut numbers = vec![UNNUMBERED; self.nodes.len()];
        numbers[0] = 0;
        let mut ranges = vec![(0, 0)];
        let mut links = vec![0u32];
        let mut walk = vec![Tree::ROOT];
        while let Some(directory) = walk.pop() {
            let directory_number = numbers[directory.0 as usize];
            let first = offset(sections.entries.len())?;
            let mut subdirectories = Vec::new();
            for (name, target) in self.sorted_children(directory) {
                let node = match target {
                    Target::Whiteout => format::WHITEOUT,
                    Target::Node(node) => {
                        let number = &mut numbers[node.0 as usize];
                        if *number == UNNUMBERED {
                            *number = offset(order.len())?;
                            order.push(node);
                            parents.push(directory_number);
                            ranges.push((0, 0));
                            links.push(0);
                            if self.is_directory(node) {
                                subdirectories.push(node);
                            }
                        }
                        links[*number as usize] += 1;
                        *number
                    }
                };
                sections.entries.push(format::Entry {
                    name: offset(sections.names.len())?.into(),
                    node: node.into(),
                    length: name.len() as u8,
                    reserved: [0; 3],
                });
                sections.names.extend_from_slice(name);
            }
            let count = offset(sections.entries.len())? - first;
            ranges[directory_number as usize] = (first, count);
            links[directory_number as usize] = 2 + offset(subdirectories.len())?;
            walk.extend(subdirectories.into_iter().rev());
        }
        for row in &self.detached {
            if let DetachedAction::Put(node) = row.action
                && numbers[node.0 as usize] == UNNUMBERED
            {
                numbers[node.0 as usize] = offset(order.len())?;
                order.push(node);
                parents.push(0);
                ranges.push((0, 0));
                links.push(if self.is_directory(node) { 2 } else { 1 });
            }
        }
        for (number, &node) in order.iter().enumerate() {
            let xattrs = set_offsets[self.xattrs(node).0 as usize];
            let record = format::Node {
                nlink: links[number].into(),
                parent: parents[number].into(),
                xattrs: xattrs.into(),
                ..sections.node(self, node, number as u32, ranges[number])?
            };
            sections.nodes.push(record);
        }
        for row in &self.detached {
            let (path, length) = sections.target(&row.path)?;
            let node = match row.action {
                DetachedAction::Put(node) => numbers[node.0 as usize],
                DetachedAction::Whiteout => format::WHITEOUT,
                DetachedAction::Opaque => format::OPAQUE,
            };
            let (path, length, node) = (path.into(), length.into(), node.into());
            sections
                .detached
                .push(format::Detached { path, length, node });
        }
        Ok(sections)
    }
}

impl Sections {
    /// Lays out all xattr sets and returns the offset of each.
    fn take_xattrs(&mut self, tree: &Tree) -> Result<Vec<u32>, WriteError> {
        let mut offsets = Vec::new();
        for set in tree.xattr_sets() {
            offsets.push(offset(self.xattrs.len())?);
            self.xattrs
                .extend_from_slice(&offset(set.len())?.to_le_bytes());
            self.xattrs.extend_from_slice(set);
            if super::index::XattrIter::new(set)
                .any(|(name, _)| name.starts_with(b"system.posix_acl_"))
            {
                self.features |= format::FEATURE_ACLS;
            }
        }
        Ok(offsets)
    }

    fn target(&mut self, bytes: &[u8]) -> Result<(u32, u32), WriteError> {
        let start = offset(self.targets.len())?;
        self.targets.extend_from_slice(bytes);
        Ok((start, offset(bytes.len())?))
    }

    fn node(
        &mut self,
        tree: &Tree,
        id: NodeId,
        number: u32,
        (first, count): (u32, u32),
    ) -> Result<format::Node, WriteError> {
        let node = &tree.nodes[id.0 as usize];
        let device = |major: u32, minor: u32| (u64::from(major) << 32) | u64::from(minor);
        let mut flags = 0;
        let mut size = 0;
        let (kind, payload) = match &node.kind {
            Kind::Directory => {
                flags |= if node.opaque { format::NODE_OPAQUE } else { 0 };
                flags |= if node.implied {
                    format::NODE_IMPLIED
                } else {
                    0
                };
                (
                    Some(FileKind::Directory),
                    (u64::from(count) << 32) | u64::from(first),
                )
            }
            Kind::Regular(content) => {
                size = content.size;
                self.content_bytes = self.content_bytes.saturating_add(size);
                if size >= LARGE {
                    self.large_bytes = self.large_bytes.saturating_add(size);
                }
                self.digests.push(format::ContentDigest {
                    node: number.into(),
                    digest: content.digest,
                });
                let payload = match content.place {
                    Place::Empty => 0,
                    Place::Pack(offset) => {
                        flags |= format::NODE_IN_PACK;
                        offset
                    }
                    Place::File(number) => {
                        flags |= format::NODE_IN_FILE;
                        u64::from(number)
                    }
                };
                (Some(FileKind::Regular), payload)
            }
            Kind::Symlink(target) => {
                size = target.len() as u64;
                (Some(FileKind::Symlink), u64::from(self.target(target)?.0))
            }
            Kind::UnresolvedLink(target) => {
                size = target.len() as u64;
                (None, u64::from(self.target(target)?.0))
            }
            Kind::CharDevice { major, minor } => {
                (Some(FileKind::CharDevice), device(*major, *minor))
            }
            Kind::BlockDevice { major, minor } => {
                (Some(FileKind::BlockDevice), device(*major, *minor))
            }
            Kind::Fifo => (Some(FileKind::Fifo), 0),
            Kind::Socket => (Some(FileKind::Socket), 0),
        };
        let metadata = node.metadata;
        Ok(format::Node {
            mtime_seconds: metadata.mtime.seconds.into(),
            size: size.into(),
            payload: payload.into(),
            mtime_nanoseconds: metadata.mtime.nanoseconds.into(),
            mode: (kind.map_or(0, FileKind::mode_bits) | u32::from(metadata.permissions)).into(),
            uid: metadata.uid.into(),
            gid: metadata.gid.into(),
            layer: node.layer.into(),
            flags: flags.into(),
            ..format::Node::default()
        })
    }

    fn write(
        &self,
        kind: u32,
        layers: &[[u8; 32]],
        out: &mut impl Write,
    ) -> Result<(), WriteError> {
        let digests = if kind == format::KIND_LAYER {
            self.digests.as_bytes()
        } else {
            &[]
        };
        let parts: [&[u8]; 8] = [
            self.nodes.as_bytes(),
            self.entries.as_bytes(),
            &self.names,
            &self.targets,
            &self.xattrs,
            self.detached.as_bytes(),
            layers.as_bytes(),
            digests,
        ];
        let mut at = size_of::<Header>() as u64;
        let table = parts.map(|part| {
            let section = Section {
                offset: at.into(),
                length: (part.len() as u64).into(),
            };
            at += part.len() as u64;
            section
        });
        let [
            nodes,
            entries,
            names,
            targets,
            xattrs,
            detached,
            layer_ids,
            digest_rows,
        ] = table;
        let mut header = Header {
            magic: format::MAGIC,
            version: format::VERSION.into(),
            kind: kind.into(),
            checksum: 0.into(),
            file_length: at.into(),
            features: self.features.into(),
            reserved: 0.into(),
            content_bytes: self.content_bytes.into(),
            large_bytes: self.large_bytes.into(),
            nodes,
            entries,
            names,
            targets,
            xattrs,
            detached,
            layers: layer_ids,
            digests: digest_rows,
        };
        let mut checksum = Xxh3::new();
        checksum.update(header.as_bytes());
        for part in &parts[..7] {
            checksum.update(part);
        }
        header.checksum = checksum.digest().into();
        out.write_all(header.as_bytes())?;
        for part in parts {
            out.write_all(part)?;
        }
        Ok(())
    }
}

fn offset(length: usize) -> Result<u32, WriteError> {
    // The two highest numbers mark whiteouts and opaque rows.
    u32::try_from(length)
        .ok()
        .filter(|&n| n < format::OPAQUE)
        .ok_or(WriteError::TooLarge)
}
