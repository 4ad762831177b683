//! A layer or chain under construction: a compact mutable tree that becomes an index.
//!
//! It exists because a tar stream names things in any order (children before parents, the same
//! path twice, links to what comes later), while an index is sorted and complete.
//!
//! # Invariants
//! * Node 0 is the root directory and is never removed.
//! * A name appears at most once in a directory.
//! * Names are 1 to 255 bytes without NUL or `/`, and neither `.` nor `..`.
//! * What a removed subtree held is unreachable and does not come into the index.

use std::collections::HashMap;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use thiserror::Error;

use super::Metadata;
pub use super::kind::{Detached, DetachedAction, Kind};

/// The largest number of nodes, names, and bytes of names in one index.
///
/// A hundred times the largest images seen; beyond it an archive is taken for an attack.
pub const MAX_NODES: usize = 10_000_000;
const MAX_NAME_BYTES: usize = 1 << 30;

/// Why a tree cannot take an entry.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TreeError {
    /// More nodes or longer names than an index holds.
    #[error("more than {MAX_NODES} entries, or more than 1 GiB of names")]
    TooLarge,
    /// A name that no directory can hold.
    #[error("the name {0:?} cannot stand in a directory")]
    InvalidName(String),
    /// A parent that is not a directory.
    #[error("a parent is not a directory")]
    NotADirectory,
}

/// A node of a [`Tree`]: an index into it, meaningless elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

/// An extended attribute set; equal sets are stored once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct XattrSet(pub(crate) u32);

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) metadata: Metadata,
    pub(crate) kind: Kind,
    pub(crate) xattrs: XattrSet,
    /// Directories: hides what lower layers have here.
    pub(crate) opaque: bool,
    /// Directories: no entry of the archive named it, only entries below it.
    pub(crate) implied: bool,
    /// Number of the layer it came from (chains only).
    pub(crate) layer: u16,
    /// Directories: head of the list of entries.
    first_entry: u32,
}

/// What an [`Entry`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A node.
    Node(NodeId),
    /// Nothing: the name hides what lower layers have.
    Whiteout,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    parent: u32,
    name: u32,
    length: u8,
    next: u32,
    target: u32,
}

const NONE: u32 = u32::MAX;
const WHITEOUT: u32 = u32::MAX - 1;
const REMOVED: u32 = u32::MAX - 2;

/// A layer or chain under construction.
#[derive(Clone, Debug)]
pub struct Tree {
    pub(crate) nodes: Vec<Node>,
    entries: Vec<Entry>,
    names: Vec<u8>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    xattr_sets: Vec<Box<[u8]>>,
    xattr_numbers: HashMap<Box<[u8]>, u32>,
    /// Entries below symlinked parents, in archive order.
    pub detached: Vec<Detached>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Tree {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// An empty tree: a root directory that is implied, 0755 and owned by root.
    #[must_use]
    pub fn new() -> Tree {
        let root = Node {
            metadata: Metadata {
                permissions: 0o755,
                ..Metadata::default()
            },
            kind: Kind::Directory,
            xattrs: XattrSet::default(),
            opaque: false,
            implied: true,
            layer: 0,
            first_entry: NONE,
        };
        Tree {
            nodes: vec![root],
            entries: Vec::new(),
            names: Vec::new(),
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            xattr_sets: vec![Box::default()],
            xattr_numbers: HashMap::new(),
            detached: Vec::new(),
        }
    }

    /// Number of nodes ever made, removed ones included.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// What `name` stands for in `directory`.
    #[must_use]
    pub fn get(&self, directory: NodeId, name: &[u8]) -> Option<Target> {
        self.find(directory, name)
            .map(|entry| self.entry_target(entry))
    }

    /// The node named `name` in `directory`; a whiteout is no node.
    #[must_use]
    pub fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        match self.get(directory, name) {
            Some(Target::Node(node)) => Some(node),
            _ => None,
        }
    }

    /// The kind of a node.
    #[must_use]
    pub fn kind(&self, node: NodeId) -> &Kind {
        &self.nodes[node.0 as usize].kind
    }

    /// The metadata of a node.
    #[must_use]
    pub fn metadata(&self, node: NodeId) -> Metadata {
        self.nodes[node.0 as usize].metadata
    }

    /// The xattr set of a node.
    #[must_use]
    pub fn xattrs(&self, node: NodeId) -> XattrSet {
        self.nodes[node.0 as usize].xattrs
    }

    /// Whether a node is a directory.
    #[must_use]
    pub fn is_directory(&self, node: NodeId) -> bool {
        matches!(self.kind(node), Kind::Directory)
    }

    /// Whether a directory hides what lower layers have.
    #[must_use]
    pub fn is_opaque(&self, directory: NodeId) -> bool {
        self.nodes[directory.0 as usize].opaque
    }

    /// Whether a directory has no entry of its own in the archive.
    #[must_use]
    pub fn is_implied(&self, directory: NodeId) -> bool {
        self.nodes[directory.0 as usize].implied
    }

    /// The layer a node came from.
    #[must_use]
    pub fn layer(&self, node: NodeId) -> u16 {
        self.nodes[node.0 as usize].layer
    }

    /// Makes a node without a name.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`].
    pub fn new_node(
        &mut self,
        metadata: Metadata,
        kind: Kind,
        xattrs: XattrSet,
    ) -> Result<NodeId, TreeError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(TreeError::TooLarge);
        }
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node {
            metadata,
            kind,
            xattrs,
            opaque: false,
            implied: false,
            layer: 0,
            first_entry: NONE,
        });
        Ok(id)
    }

    /// Names `node` in `directory`, replacing what the name stood for.
    ///
    /// Naming one node twice makes a hard link; directories have one name.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn put(&mut self, directory: NodeId, name: &[u8], node: NodeId) -> Result<(), TreeError> {
        self.set(directory, name, node.0)
    }

    /// Makes `name` in `directory` a whiteout, replacing what the name stood for.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn put_whiteout(&mut self, directory: NodeId, name: &[u8]) -> Result<(), TreeError> {
        self.set(directory, name, WHITEOUT)
    }

    /// Takes `name` out of `directory`, if it is there.
    pub fn remove(&mut self, directory: NodeId, name: &[u8]) {
        let Some(entry) = self.find(directory, name) else {
            return;
        };
        let hash = self.hash(directory.0, name);
        if let Ok(occupied) = self.table.find_entry(hash, |&e| e == entry) {
            occupied.remove();
        }
        // It stays in the directory's list, so that removal takes constant time.
        self.entries[entry as usize].target = REMOVED;
    }

    /// Takes every name out of `directory`.
    pub fn clear(&mut self, directory: NodeId) {
        let names: Vec<Box<[u8]>> = self.children(directory).map(|(n, _)| n.into()).collect();
        for name in names {
            self.remove(directory, &name);
        }
        self.nodes[directory.0 as usize].first_entry = NONE;
    }

    /// Replaces the metadata and xattrs of a node; a directory is no longer implied.
    pub fn set_attributes(&mut self, node: NodeId, metadata: Metadata, xattrs: XattrSet) {
        let node = &mut self.nodes[node.0 as usize];
        node.metadata = metadata;
        node.xattrs = xattrs;
        node.implied = false;
    }

    /// Marks a directory as hiding (or not) what lower layers have.
    pub fn set_opaque(&mut self, directory: NodeId, opaque: bool) {
        self.nodes[directory.0 as usize].opaque = opaque;
    }

    /// Marks a directory as one that no entry of the archive named.
    pub fn set_implied(&mut self, directory: NodeId, implied: bool) {
        self.nodes[directory.0 as usize].implied = implied;
    }

    /// Notes the layer that a node came from.
    pub fn set_layer(&mut self, node: NodeId, layer: u16) {
        self.nodes[node.0 as usize].layer = layer;
    }

    /// The entries of a directory, latest first.
    pub fn children(&self, directory: NodeId) -> impl Iterator<Item = (&[u8], Target)> {
        let mut at = self.nodes[directory.0 as usize].first_entry;
        std::iter::from_fn(move || {
            loop {
                let this = at;
                let entry = self.entries.get(this as usize)?;
                at = entry.next;
                if entry.target != REMOVED {
                    return Some((self.name(entry), self.entry_target(this)));
                }
            }
        })
    }

    /// The entries of a directory in the order of their name bytes.
    #[must_use]
    pub fn sorted_children(&self, directory: NodeId) -> Vec<(&[u8], Target)> {
        let mut children: Vec<_> = self.children(directory).collect();
        children.sort_unstable_by_key(|(name, _)| *name);
        children
    }

    /// The set with these attributes; the order does not matter, the last of equal names wins.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`] when all sets together become too large for an index.
    pub fn xattr_set<'a>(
        &mut self,
        attributes: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<XattrSet, TreeError> {
        let sorted: std::collections::BTreeMap<_, _> = attributes.into_iter().collect();
        if sorted.is_empty() {
            return Ok(XattrSet(0));
        }
        let mut bytes = Vec::new();
        for (name, value) in sorted {
            let name_length = u32::try_from(name.len()).map_err(|_| TreeError::TooLarge)?;
            let value_length = u32::try_from(value.len()).map_err(|_| TreeError::TooLarge)?;
            bytes.extend_from_slice(&name_length.to_le_bytes());
            bytes.extend_from_slice(&value_length.to_le_bytes());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value);
        }
        self.xattr_set_from_bytes(bytes.into_boxed_slice())
    }

    /// The set whose encoding (see `format`) is `bytes`.
    pub(crate) fn xattr_set_from_bytes(&mut self, bytes: Box<[u8]>) -> Result<XattrSet, TreeError> {
        if bytes.is_empty() {
            return Ok(XattrSet(0));
        }
        if let Some(&number) = self.xattr_numbers.get(&bytes) {
            return Ok(XattrSet(number));
        }
        let number = u32::try_from(self.xattr_sets.len()).map_err(|_| TreeError::TooLarge)?;
        self.xattr_sets.push(bytes.clone());
        self.xattr_numbers.insert(bytes, number);
        Ok(XattrSet(number))
    }

    /// The encodings of all xattr sets; number 0 is the empty set.
    pub(crate) fn xattr_sets(&self) -> &[Box<[u8]>] {
        &self.xattr_sets
    }

    fn set(&mut self, directory: NodeId, name: &[u8], target: u32) -> Result<(), TreeError> {
        check_name(name)?;
        if !self.is_directory(directory) {
            return Err(TreeError::NotADirectory);
        }
        if let Some(entry) = self.find(directory, name) {
            self.entries[entry as usize].target = target;
            return Ok(());
        }
        if self.entries.len() >= MAX_NODES || self.names.len() + name.len() > MAX_NAME_BYTES {
            return Err(TreeError::TooLarge);
        }
        let number = self.entries.len() as u32;
        let hash = self.hash(directory.0, name);
        self.entries.push(Entry {
            parent: directory.0,
            name: self.names.len() as u32,
            length: name.len() as u8,
            next: self.nodes[directory.0 as usize].first_entry,
            target,
        });
        self.names.extend_from_slice(name);
        self.nodes[directory.0 as usize].first_entry = number;
        let (entries, names, hasher) = (&self.entries, &self.names, &self.hasher);
        self.table.insert_unique(hash, number, |&entry| {
            let entry = &entries[entry as usize];
            let start = entry.name as usize;
            hasher.hash_one((entry.parent, &names[start..start + entry.length as usize]))
        });
        Ok(())
    }

    fn find(&self, directory: NodeId, name: &[u8]) -> Option<u32> {
        self.table
            .find(self.hash(directory.0, name), |&entry| {
                let entry = &self.entries[entry as usize];
                entry.parent == directory.0 && self.name(entry) == name
            })
            .copied()
    }

    fn hash(&self, directory: u32, name: &[u8]) -> u64 {
        self.hasher.hash_one((directory, name))
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        let start = entry.name as usize;
        &self.names[start..start + entry.length as usize]
    }

    fn entry_target(&self, entry: u32) -> Target {
        match self.entries[entry as usize].target {
            WHITEOUT => Target::Whiteout,
            node => Target::Node(NodeId(node)),
        }
    }
}

/// Whether a directory can hold `name`.
///
/// # Errors
/// [`TreeError::InvalidName`] names it.
pub fn check_name(name: &[u8]) -> Result<(), TreeError> {
    let valid = !name.is_empty()
        && name.len() <= 255
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == 0 || byte == b'/');
    if valid {
        Ok(())
    } else {
        Err(TreeError::InvalidName(name.escape_ascii().to_string()))
    }
}
