//! Nodes in use: what each number stands for at present.
//!
//! # Invariants
//! * A node is in the table exactly while it has references: those that were given out by lookups
//!   and listings, and one for each node in use whose place is in it. The root always is.
//! * A number is one object for as long as it is in the table.
//! * A node holds one reference to the object of the base that it came from, for its whole life.
//!
//! # Locking
//! Each shard has a lock; it is never held during a system call, or while another lock is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use super::directory::Contents;
use crate::layer::FileKind;
use crate::sys::writable::WritableDir;

/// Number of the root.
pub(super) const ROOT: u64 = 1;

/// Where the current state of an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// All of it in the base.
    Base,
    /// Its attributes in the upper, its data in the base.
    Metacopy,
    /// All of it in the upper. (A directory may still show what the base has in it.)
    Upper,
}

/// The part of a node that changes.
#[derive(Debug)]
pub(super) struct State {
    /// See [`Stage`].
    pub(super) stage: Stage,
    /// One place where it is: a directory and a name in it. None for the root, for what has lost
    /// this name, and for other names of a base file that was copied up into the index.
    pub(super) place: Option<(Arc<Node>, Box<[u8]>)>,
    /// Keeps an object of the upper reachable that has lost its place.
    pub(super) pin: Option<Arc<WritableDir>>,
    /// Inode number in the upper.
    pub(super) upper_ino: u64,
    /// Where the object of the base is, if not where its name says: a path from the root.
    pub(super) redirect: Option<Box<[u8]>>,
    /// Whether the index has an entry for it: it is a base file with several names.
    pub(super) indexed: bool,
    /// It has no name left.
    pub(super) gone: bool,
    /// It was replaced by another node while the kernel was reading its lower file.
    pub(super) detached: bool,
}

/// A node in use.
#[derive(Debug)]
pub(super) struct Node {
    /// Its number.
    pub(super) number: u64,
    /// What users see as `st_ino`.
    pub(super) ino: u64,
    /// See [`crate::union::Attributes::generation`].
    pub(super) generation: u32,
    /// Its kind, for ever.
    pub(super) kind: FileKind,
    /// The object of the base that it came from.
    pub(super) base: Option<u64>,
    /// Whether that object has several names in the base.
    pub(super) linked_in_base: bool,
    references: AtomicU64,
    /// Held while the object is copied up.
    pub(super) copying: Mutex<()>,
    pub(super) state: RwLock<State>,
    /// What is in a directory.
    pub(super) contents: Option<Box<RwLock<Contents>>>,
}

impl Node {
    /// A node without references.
    pub(super) fn new(number: u64, kind: FileKind, base: Option<u64>, state: State) -> Node {
        let contents = (kind == FileKind::Directory).then(|| {
            let is_read = state.stage == Stage::Base;
            Box::new(RwLock::new(Contents::new(base, is_read)))
        });
        Node {
            number,
            ino: number,
            generation: 0,
            kind,
            base,
            linked_in_base: false,
            references: AtomicU64::new(0),
            copying: Mutex::new(()),
            state: RwLock::new(state),
            contents,
        }
    }

    /// How many references there are.
    pub(super) fn references(&self) -> u64 {
        self.references.load(Ordering::Relaxed)
    }

    /// Notes that attributes of a directory have changed.
    pub(super) fn forget_inheritance(&self) {
        if let Some(contents) = &self.contents {
            contents.write().inheritance = None;
        }
    }

    /// The present stage.
    pub(super) fn stage(&self) -> Stage {
        self.state.read().stage
    }
}

impl State {
    /// Something that lies wholly in the base.
    pub(super) fn base(place: Option<(Arc<Node>, Box<[u8]>)>) -> State {
        State {
            stage: Stage::Base,
            place,
            pin: None,
            upper_ino: 0,
            redirect: None,
            indexed: false,
            gone: false,
            detached: false,
        }
    }
}

const SHARDS: usize = 32;

type Shard = RwLock<HashMap<u64, Arc<Node>>>;

/// The nodes in use, by number.
#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Shard; SHARDS]>,
}

impl Table {
    pub(super) fn new() -> Table {
        Table {
            shards: Box::new(std::array::from_fn(|_| RwLock::default())),
        }
    }

    fn shard(&self, number: u64) -> &Shard {
        let [first, ..] = &*self.shards;
        self.shards.get(number as usize % SHARDS).unwrap_or(first)
    }

    /// The node of that number, without a reference.
    pub(super) fn get(&self, number: u64) -> Option<Arc<Node>> {
        self.shard(number).read().get(&number).cloned()
    }

    /// Takes a reference to the node of that number if it is in use.
    pub(super) fn hold(&self, number: u64) -> Option<Arc<Node>> {
        let shard = self.shard(number).read();
        let node = shard.get(&number)?;
        node.references.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(node))
    }

    /// Takes a reference to the node of that number, which `make` makes if it is not in use; says
    /// whether it has.
    pub(super) fn hold_or(&self, number: u64, make: impl FnOnce() -> Node) -> (Arc<Node>, bool) {
        if let Some(node) = self.hold(number) {
            return (node, false);
        }
        let mut shard = self.shard(number).write();
        let mut is_new = false;
        let node = shard.entry(number).or_insert_with(|| {
            is_new = true;
            Arc::new(make())
        });
        node.references.fetch_add(1, Ordering::Relaxed);
        (Arc::clone(node), is_new)
    }

    /// Takes one more reference to a node that has some.
    pub(super) fn hold_again(&self, node: &Arc<Node>) {
        node.references.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives references back; returns the node if it left the table.
    pub(super) fn release(&self, number: u64, count: u64) -> Option<Arc<Node>> {
        if number == ROOT {
            return None;
        }
        let shard = self.shard(number);
        {
            let nodes = shard.read();
            let node = nodes.get(&number)?;
            let minus = |references: u64| Some(references.saturating_sub(count));
            let before = (node.references)
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, minus)
                .unwrap_or(0);
            if before > count {
                return None;
            }
        }
        let mut nodes = shard.write();
        if nodes.get(&number)?.references() > 0 {
            return None;
        }
        nodes.remove(&number)
    }

    /// How many nodes are in use.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }
}
