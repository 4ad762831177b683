//! Nodes in use, and their numbers.
//!
//! # Invariants
//! * The number of a node follows from its inode or, where that is not unique, from its place in
//!   the union; never from the order of lookups, except where two mounts show one directory twice.
//! * A node is in the table exactly while it has references; the root always is.
//!
//! # Locking
//! Each shard of the table has a lock. References are counted up under its shared lock and a node
//! is removed under the exclusive one, so a node that was found cannot vanish before it is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hashbrown::{HashMap, HashSet};
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::directory::Directory;
use crate::layer::{FileKind, Timestamp};
use crate::union::{Attributes, NodeNumber};

/// Something other than a directory.
#[derive(Debug)]
pub(super) struct Leaf {
    /// The directory of the union in which it was found first.
    pub(super) parent: Arc<Directory>,
    /// The branch of that directory.
    pub(super) branch: u16,
    /// The name there.
    pub(super) name: Box<[u8]>,
    /// What stat(2) tells of it.
    pub(super) attributes: Compact,
}

/// [`Attributes`] without padding: most of the memory of a mount are these.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compact {
    node: NodeNumber,
    /// Of devices the numbers, of all others the size.
    size_or_device: u64,
    blocks: u64,
    seconds: [i64; 3],
    nanoseconds: [u32; 3],
    nlink: u32,
    uid: u32,
    gid: u32,
    permissions: u16,
    kind: FileKind,
}

impl Compact {
    fn has_device(kind: FileKind) -> bool {
        matches!(kind, FileKind::CharDevice | FileKind::BlockDevice)
    }

    pub(super) fn renumber(&mut self, node: NodeNumber) {
        self.node = node;
    }
}

impl From<Attributes> for Compact {
    fn from(from: Attributes) -> Compact {
        let (major, minor) = from.device;
        let times = [from.atime, from.mtime, from.ctime];
        Compact {
            node: from.node,
            size_or_device: if Compact::has_device(from.kind) {
                (u64::from(major) << 32) | u64::from(minor)
            } else {
                from.size
            },
            blocks: from.blocks,
            seconds: times.map(|time| time.seconds),
            nanoseconds: times.map(|time| time.nanoseconds),
            nlink: from.nlink,
            uid: from.uid,
            gid: from.gid,
            permissions: from.permissions,
            kind: from.kind,
        }
    }
}

impl From<Compact> for Attributes {
    fn from(from: Compact) -> Attributes {
        let time = |seconds, nanoseconds| Timestamp {
            seconds,
            nanoseconds,
        };
        let [atime, mtime, ctime] = from.seconds;
        let [atime_ns, mtime_ns, ctime_ns] = from.nanoseconds;
        let number = from.size_or_device;
        let has_device = Compact::has_device(from.kind);
        Attributes {
            node: from.node,
            ino: from.node.0,
            generation: 0,
            kind: from.kind,
            permissions: from.permissions,
            nlink: from.nlink,
            uid: from.uid,
            gid: from.gid,
            device: if has_device {
                ((number >> 32) as u32, number as u32)
            } else {
                (0, 0)
            },
            size: if has_device { 0 } else { number },
            blocks: from.blocks,
            atime: time(atime, atime_ns),
            mtime: time(mtime, mtime_ns),
            ctime: time(ctime, ctime_ns),
        }
    }
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Object {
    Directory(Arc<Directory>),
    Leaf(Leaf),
}

impl Object {
    pub(super) fn attributes(&self) -> Attributes {
        match self {
            Object::Directory(directory) => directory.attributes,
            Object::Leaf(leaf) => leaf.attributes.into(),
        }
    }

    pub(super) fn number(&self) -> NodeNumber {
        match self {
            Object::Directory(directory) => directory.attributes.node,
            Object::Leaf(leaf) => leaf.attributes.node,
        }
    }

    /// Whether two objects that claim one number are one. A number names at most one inode; a
    /// directory may be seen at several places (layers within layers, bind mounts), and is another
    /// one at each, because other layers may be merged into it.
    fn is_same(&self, other: &Object) -> bool {
        match (self, other) {
            (Object::Leaf(_), Object::Leaf(_)) => true,
            (Object::Directory(a), Object::Directory(b)) => a.is_same(b),
            _ => false,
        }
    }
}

/// What is known of the extended attributes of a node.
#[derive(Debug, Default)]
pub(super) struct XattrState(AtomicU8);

impl XattrState {
    /// Whether it has any, if that is known.
    pub(super) fn get(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            known => Some(known == 2),
        }
    }

    pub(super) fn set(&self, any: bool) {
        self.0.store(1 + u8::from(any), Ordering::Relaxed);
    }
}

/// A node in use.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) object: Object,
    pub(super) xattrs: XattrState,
    references: AtomicU64,
}

const SHARDS: usize = 16;

type Shard = RwLock<HashMap<u64, Arc<Node>>>;

/// The nodes in use, by number.
#[derive(Debug)]
pub(super) struct NodeTable {
    shards: Box<[Shard; SHARDS]>,
}

impl NodeTable {
    pub(super) fn new(root: &Arc<Directory>) -> NodeTable {
        let table = NodeTable {
            shards: Box::new(std::array::from_fn(|_| RwLock::default())),
        };
        // One reference that nobody gives back.
        drop(table.hold(Object::Directory(Arc::clone(root))));
        table
    }

    fn shard(&self, number: u64) -> &Shard {
        let [first, ..] = &*self.shards;
        self.shards.get(number as usize % SHARDS).unwrap_or(first)
    }

    pub(super) fn get(&self, number: NodeNumber) -> Option<Arc<Node>> {
        self.shard(number.0).read().get(&number.0).cloned()
    }

    /// Whether the number of `object` belongs to something else at present.
    pub(super) fn is_taken_from(&self, object: &Object) -> bool {
        let number = object.number().0;
        (self.shard(number).read().get(&number)).is_some_and(|node| !node.object.is_same(object))
    }

    /// Takes a reference to the node of `object`, which becomes one if it is not one yet; gives
    /// `object` back when its number belongs to something else.
    pub(super) fn hold(&self, object: Object) -> Result<Arc<Node>, Object> {
        let number = object.number().0;
        let shard = self.shard(number);
        let known = |node: &Arc<Node>, object: Object| {
            if !node.object.is_same(&object) {
                return Err(object);
            }
            node.references.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::clone(node))
        };
        if let Some(node) = shard.read().get(&number) {
            return known(node, object);
        }
        let mut nodes = shard.write();
        if let Some(node) = nodes.get(&number) {
            return known(node, object);
        }
        let node = Arc::new(Node {
            object,
            xattrs: XattrState::default(),
            references: AtomicU64::new(1),
        });
        nodes.insert(number, Arc::clone(&node));
        Ok(node)
    }

    /// Puts other attributes in the place of those of a node in use, unless its number means something else now.
    pub(super) fn renew(&self, object: Object) {
        let number = object.number().0;
        let mut nodes = self.shard(number).write();
        if let Some(node) = nodes.get_mut(&number)
            && let (Object::Leaf(_), Object::Leaf(_)) = (&node.object, &object)
        {
            let references = AtomicU64::new(node.references.load(Ordering::Relaxed));
            let renewed = Node {
                object,
                xattrs: XattrState::default(),
                references,
            };
            let old = std::mem::replace(node, Arc::new(renewed));
            // Others may have to wait for the lock, not for its end.
            drop(nodes);
            drop(old);
        }
    }

    /// Takes one more reference to a node in use.
    pub(super) fn hold_again(&self, number: NodeNumber) {
        if let Some(node) = self.shard(number.0).read().get(&number.0) {
            node.references.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives references back; returns the node that this was the end of.
    pub(super) fn forget(&self, number: NodeNumber, count: u64) -> Option<Arc<Node>> {
        if number == NodeNumber::ROOT {
            return None;
        }
        let shard = self.shard(number.0);
        {
            let nodes = shard.read();
            let node = nodes.get(&number.0)?;
            let minus = |references: u64| Some(references.saturating_sub(count));
            let before = (node.references)
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, minus)
                .unwrap_or(0);
            if before > count {
                return None;
            }
        }
        let mut nodes = shard.write();
        let unused = (nodes.get(&number.0)?.references.load(Ordering::Relaxed)) == 0;
        if unused {
            nodes.remove(&number.0)
        } else {
            None
        }
    }

    /// How many nodes are in use.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }
}

/// What a number of the reserved range stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    /// An inode whose number does not fit, by the number of its file system.
    Inode { filesystem: u64, ino: u64 },
    /// A name in a directory of the union.
    Place { parent: u64, name: Box<[u8]> },
}

/// Bits of a node number that hold the inode number.
const INODE_BITS: u32 = 48;
/// Bits above them, for the number of the file system.
const FILESYSTEM_BITS: u32 = 13;
/// Set in numbers that follow from no inode. The bit below is that of the upper of a writable overlay.
const RESERVED: u64 = 1 << 62;

/// Makes numbers of inodes: of the first file system the inode number itself, of others with the
/// number of the file system in the high bits.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    filesystems: RwLock<Vec<u64>>,
    reserved: RwLock<Reserved>,
}

#[derive(Debug, Default)]
struct Reserved {
    numbers: HashMap<Identity, u64>,
    taken: HashSet<u64>,
}

impl Numbers {
    /// Numbers file systems in the order in which they appear; further ones follow when first seen.
    pub(super) fn new(devices: impl Iterator<Item = u64>) -> Numbers {
        let numbers = Numbers::default();
        for device in devices {
            numbers.filesystem(device);
        }
        numbers
    }

    pub(super) fn filesystem(&self, device: u64) -> u64 {
        let position = |known: &[u64]| known.iter().position(|known| *known == device);
        if let Some(position) = position(&self.filesystems.read()) {
            return position as u64;
        }
        let mut known = self.filesystems.write();
        let position = position(&known).unwrap_or_else(|| {
            known.push(device);
            known.len() - 1
        });
        position as u64
    }

    /// The number of an inode, unless it does not fit.
    pub(super) fn inode(&self, device: u64, ino: u64) -> Result<u64, Identity> {
        let filesystem = self.filesystem(device);
        let fits = ino >> INODE_BITS == 0 && filesystem >> FILESYSTEM_BITS == 0;
        let number = (filesystem << INODE_BITS) | ino;
        // 1 is the root of the union, and 0 is no number.
        if fits && number > NodeNumber::ROOT.0 {
            Ok(number)
        } else {
            Err(Identity::Inode { filesystem, ino })
        }
    }

    /// The number that was reserved for `identity` before.
    pub(super) fn known(&self, identity: &Identity) -> Option<u64> {
        let reserved = self.reserved.read();
        if reserved.numbers.is_empty() {
            return None;
        }
        reserved.numbers.get(identity).copied()
    }

    /// Reserves a number for `identity`, for ever: a number that users saw must not come to mean
    /// something else. Few objects need one.
    pub(super) fn reserve(&self, identity: Identity) -> u64 {
        if let Some(number) = self.known(&identity) {
            return number;
        }
        let mut reserved = self.reserved.write();
        if let Some(number) = reserved.numbers.get(&identity) {
            return *number;
        }
        let hash = match &identity {
            Identity::Inode { filesystem, ino } => {
                xxh3_64_with_seed(&ino.to_le_bytes(), *filesystem)
            }
            Identity::Place { parent, name } => xxh3_64_with_seed(name, *parent),
        };
        let mut number = (hash % RESERVED) | RESERVED;
        while !reserved.taken.insert(number) {
            number = ((number + 1) % RESERVED) | RESERVED;
        }
        reserved.numbers.insert(identity, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_inodes() {
        let numbers = Numbers::new([7, 9, 7].into_iter());
        assert_eq!(numbers.inode(7, 2), Ok(2));
        assert_eq!(numbers.inode(9, 2), Ok((1 << INODE_BITS) + 2));
        // A device that appears later does not change the others.
        assert_eq!(numbers.inode(1, 2), Ok((2 << INODE_BITS) + 2));
        assert_eq!(numbers.inode(7, 2), Ok(2));
        for (device, ino) in [(7, 0), (7, 1), (7, 1 << INODE_BITS), (9, u64::MAX)] {
            assert!(numbers.inode(device, ino).is_err(), "{device} {ino}");
        }
        assert!(numbers.inode(9, 1).is_ok());
    }

    #[test]
    fn reserved_numbers_are_kept_and_never_shared() {
        let numbers = Numbers::default();
        let identity = |ino| Identity::Inode { filesystem: 0, ino };
        assert_eq!(numbers.known(&identity(0)), None);
        let all: HashSet<u64> = (0..1000)
            .map(|ino| numbers.reserve(identity(ino)))
            .collect();
        assert_eq!(all.len(), 1000);
        for ino in 0..1000 {
            let number = numbers.reserve(identity(ino));
            assert!(all.contains(&number) && number >= RESERVED);
            assert_eq!(numbers.known(&identity(ino)), Some(number));
        }
    }

    #[test]
    fn compact_attributes_are_complete() {
        let time = |seconds, nanoseconds| Timestamp {
            seconds,
            nanoseconds,
        };
        for (kind, size, device) in [
            (FileKind::Regular, u64::MAX, (0, 0)),
            (FileKind::BlockDevice, 0, (u32::MAX, 3)),
            (FileKind::CharDevice, 0, (4, u32::MAX)),
        ] {
            let attributes = Attributes {
                node: NodeNumber(8),
                ino: 8,
                generation: 0,
                kind,
                permissions: 0o7777,
                nlink: 1,
                uid: 2,
                gid: 3,
                device,
                size,
                blocks: 4,
                atime: time(i64::MIN, 5),
                mtime: time(-1, 999_999_999),
                ctime: time(i64::MAX, 0),
            };
            assert_eq!(Attributes::from(Compact::from(attributes)), attributes);
        }
        assert!(size_of::<Node>() <= 144);
    }
}
