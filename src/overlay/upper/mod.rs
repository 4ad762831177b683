//! The upper: the directory in which everything that changes is kept, in the format of the
//! kernel's overlay, and the work directory beside it. The only type with mutators.
//!
//! # On disk
//! * `upper/`: whiteouts are character devices 0:0, or where those cannot be made empty files with
//!   `overlay.whiteout` in a directory marked `overlay.opaque=x`. Further marks: `overlay.opaque`,
//!   `overlay.redirect` (always from the root), `overlay.metacopy`, `overlay.impure`.
//! * `overlay.plyfs.origin`, ours, under a prefix that the kernel hides: what object of the base
//!   something came from, which is where its node number comes from; a metacopy has none, because
//!   its name or redirect says it. `overlay.plyfs.nlink`: how many names a file of the [`super::index`] has.
//!   `overlay.plyfs.device`: see [`null_device`].
//! * `work/work/`: things under way, removed when the overlay is opened; `incompat/volatile` in it
//!   says that a volatile overlay was not shut down in order.
//! * `work/plyfs.index/`: base files with several names, see [`super::index`].
//!
//! # Locking
//! The cache of descriptors and the state of the shared whiteout have locks of their own; that of
//! the whiteout is held while it is made and linked.

mod looks;
mod null_device;
mod open;
mod temporary;
mod whiteout;

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use lru::LruCache;
use nix::errno::Errno;
use parking_lot::Mutex;

use super::node::{Node, ROOT};
use crate::idmap::IdMap;
use crate::sys::writable::{At, WritableDir};
use crate::union::{Error, NodeNumber, Result};
use crate::whiteout::Namespace;

pub(super) use looks::{Looks, Owner, without_set_id};
pub(super) use temporary::Temporary;
use whiteout::SharedWhiteout;

/// The names of our marks in one namespace.
#[derive(Debug)]
pub(super) struct MarkNames {
    /// `overlay.opaque`
    pub(super) opaque: Vec<u8>,
    /// `overlay.redirect`
    pub(super) redirect: Vec<u8>,
    /// `overlay.metacopy`
    pub(super) metacopy: Vec<u8>,
    pub(super) namespace: Namespace,
    /// `overlay.whiteout`
    pub(super) whiteout: Vec<u8>,
    /// `overlay.impure`
    pub(super) impure: Vec<u8>,
    /// `overlay.plyfs.origin`
    pub(super) origin: Vec<u8>,
    /// `overlay.plyfs.nlink`
    pub(super) nlink: Vec<u8>,
    /// `overlay.plyfs.device`
    pub(super) device: Vec<u8>,
}

impl MarkNames {
    fn new(namespace: Namespace) -> MarkNames {
        let name = |rest: &[u8]| [namespace.prefix(), rest].concat();
        MarkNames {
            namespace,
            opaque: name(b"overlay.opaque"),
            redirect: name(b"overlay.redirect"),
            metacopy: name(b"overlay.metacopy"),
            whiteout: name(b"overlay.whiteout"),
            impure: name(b"overlay.impure"),
            origin: name(b"overlay.plyfs.origin"),
            nlink: name(b"overlay.plyfs.nlink"),
            device: name(b"overlay.plyfs.device"),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Upper {
    root: Arc<WritableDir>,
    /// `work/work`
    work: WritableDir,
    /// `work/plyfs.index`
    pub(super) index: Arc<WritableDir>,
    /// Held for as long as the overlay is open; none where it is only looked at.
    locks: Vec<File>,
    pub(super) names: MarkNames,
    pub(super) ids: IdMap,
    pub(super) override_stat: bool,
    pub(super) volatile: bool,
    pub(super) metacopy_redirect: bool,
    /// Of the base, to tell origins in it from others.
    identity: [u8; 16],
    /// Who owns what this process makes.
    pub(super) own_ids: (u32, u32),
    next_name: AtomicU64,
    no_unnamed_files: AtomicBool,
    whiteout: Mutex<SharedWhiteout>,
    directories: Mutex<LruCache<u64, Arc<WritableDir>>>,
}

/// A way to an object of the upper.
#[derive(Debug)]
pub(super) struct Reach {
    directory: Arc<WritableDir>,
    name: Box<[u8]>,
}

impl Reach {
    pub(super) fn new(directory: &Arc<WritableDir>, name: &[u8]) -> Reach {
        Reach {
            directory: Arc::clone(directory),
            name: Box::from(name),
        }
    }

    pub(super) fn at(&self) -> At<'_> {
        self.directory.at(&self.name)
    }
}

/// An error of a system call on the upper.
pub(super) fn failed(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::io(error, doing)
}

fn cache<V>() -> Mutex<LruCache<u64, V>> {
    const DESCRIPTORS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
    Mutex::new(LruCache::new(DESCRIPTORS))
}

impl Upper {
    /// The upper directory itself.
    pub(super) fn root(&self) -> &Arc<WritableDir> {
        &self.root
    }

    /// Whether this process is the one that has it mounted.
    pub(super) fn may_be_changed(&self) -> bool {
        !self.locks.is_empty()
    }

    /// Opens the directory that a node is in the upper. The places of it and of all directories
    /// above must not change meanwhile.
    pub(super) fn directory(&self, node: &Arc<Node>) -> Result<Arc<WritableDir>> {
        let mut missing = Vec::new();
        let mut at = Arc::clone(node);
        let mut open = loop {
            if at.number == ROOT {
                break Arc::clone(&self.root);
            }
            if let Some(open) = self.directories.lock().get(&at.number) {
                break Arc::clone(open);
            }
            let (place, pin) = {
                let state = at.state.read();
                (state.place.clone(), state.pin.clone())
            };
            if let Some(pin) = pin {
                break pin;
            }
            let (parent, name) = place.ok_or(Errno::ENOENT)?;
            missing.push((at.number, name));
            at = parent;
        };
        for (number, name) in missing.into_iter().rev() {
            let next = open
                .directory(&name)
                .map_err(failed("opening a directory of the upper"))?;
            open = Arc::new(next);
            // What this pushes out is closed after the lock is released.
            let _evicted = self.directories.lock().push(number, Arc::clone(&open));
        }
        Ok(open)
    }

    /// Closes what is kept open of a directory.
    pub(super) fn forget(&self, number: u64) {
        let _closed = self.directories.lock().pop(&number);
    }

    /// The way to the upper object of a node, which must have one.
    pub(super) fn reach(&self, node: &Arc<Node>) -> Result<Reach> {
        let (place, pin, indexed) = {
            let state = node.state.read();
            (state.place.clone(), state.pin.clone(), state.indexed)
        };
        if let Some(pin) = pin {
            return Ok(Reach::new(&pin, b""));
        }
        if indexed {
            return Ok(Reach::new(&self.index, &index_name(node.ino)));
        }
        if node.number == ROOT {
            return Ok(Reach::new(&self.root, b""));
        }
        let (parent, name) = place.ok_or(Errno::ENOENT)?;
        Ok(Reach::new(&self.directory(&parent)?, &name))
    }

    /// The value of the mark that says where something came from: a version, half of the identity
    /// of the base, and the number without leading zeros. It is short so that all marks of a copy
    /// fit into its inode, where file systems keep a hundred bytes or so; a block for them would
    /// cost more than the rest of a copy without data.
    pub(super) fn origin_value(&self, base: u64) -> Vec<u8> {
        let mut value = vec![2];
        value.extend_from_slice(self.short_identity());
        let zeros = usize::try_from(base.leading_zeros() / 8).unwrap_or(0);
        value.extend(base.to_le_bytes().into_iter().take(8 - zeros));
        value
    }

    fn short_identity(&self) -> &[u8] {
        let (short, _) = self.identity.split_at(8);
        short
    }

    /// Reads such a value; none for one that speaks of another base.
    pub(super) fn parse_origin(&self, value: &[u8]) -> Option<NodeNumber> {
        let number = match value.split_first()? {
            // Of the first releases.
            (1, rest) => rest.strip_prefix(&self.identity)?,
            (2, rest) => rest.strip_prefix(self.short_identity())?,
            _ => return None,
        };
        let mut bytes = [0; 8];
        bytes.get_mut(..number.len())?.copy_from_slice(number);
        let number = u64::from_le_bytes(bytes);
        (number > ROOT).then_some(NodeNumber(number))
    }

    /// Makes a file durable, unless nothing has to be.
    pub(super) fn sync(&self, file: &File, data_only: bool) -> Result<()> {
        if self.volatile {
            return Ok(());
        }
        crate::sys::data::sync(file, data_only).map_err(failed("syncing a file of the upper"))
    }
}

/// The name in the index of the base's file of that number.
pub(super) fn index_name(number: u64) -> Vec<u8> {
    format!("{number:016x}").into_bytes()
}
