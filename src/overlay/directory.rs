//! What is in a directory: the names that the upper has, and what they do to those of the base.
//!
//! The names of an upper directory are read once, when something is first asked of it, and kept
//! while the node is in use; nobody but us changes them.
//!
//! # Listings
//! Offset 0 is `.`, 1 is `..`. An entry that the base has lies at the offset that it has in the
//! base, whether it comes from there or from the upper by now; names that only the upper has get a
//! number when they are first seen, counted from [`FIRST_UPPER`] on. When the base is hidden, what came
//! from it stays where it was. So what others create and
//! remove while a directory is read never makes a listing skip or repeat an entry that stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hashbrown::HashMap;

/// The offset of the first entry that only the upper has.
pub(super) const FIRST_UPPER: u64 = 1 << 40;

/// Something in an upper directory.
#[derive(Debug)]
pub(super) struct Object {
    /// Inode number in the upper.
    pub(super) upper_ino: u64,
    /// Its offset in listings; 0 when that is the one of the base's entry.
    pub(super) offset: u64,
    /// Its node number; 0 before it was looked at.
    pub(super) node: AtomicU64,
}

/// What an upper directory says of a name.
#[derive(Debug)]
pub(super) enum Entry {
    /// It is gone.
    Whiteout,
    /// It is this.
    Object(Object),
}

/// What a directory gives to what is made in it.
#[derive(Debug)]
pub(super) struct Inheritance {
    /// The group, as it is shown, if it is given.
    pub(super) gid: Option<u32>,
    /// The group that the upper's file system gives.
    pub(super) stored_gid: Option<u32>,
    /// As the upper has it.
    pub(super) default_acl: Option<Vec<u8>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Contents {
    /// The directory of the base that shows through, if one does.
    pub(super) base: Option<u64>,
    /// Whether `entries` is complete.
    pub(super) is_read: bool,
    /// Whether some files are whiteouts by attribute (`opaque=x`).
    pub(super) has_xattr_whiteouts: bool,
    /// Whether objects in it may have come from the base.
    pub(super) impure: bool,
    /// Whether the directory has been removed.
    pub(super) removed: bool,
    /// What is made in it gets this; none before it was asked for, and after it may have changed.
    pub(super) inheritance: Option<Arc<Inheritance>>,
    entries: HashMap<Box<[u8]>, Entry>,
    order: BTreeMap<u64, Box<[u8]>>,
    next_offset: u64,
}

impl Contents {
    pub(super) fn new(base: Option<u64>, is_read: bool) -> Contents {
        Contents {
            base,
            is_read,
            has_xattr_whiteouts: false,
            impure: false,
            removed: false,
            inheritance: None,
            entries: HashMap::new(),
            order: BTreeMap::new(),
            next_offset: FIRST_UPPER,
        }
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// All names that the upper has.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.entries.iter().map(|(name, entry)| (&**name, entry))
    }

    /// The first entry that only the upper has at `offset` or after it.
    pub(super) fn upper_only(&self, offset: u64) -> Option<(u64, &[u8], &Object)> {
        let (&offset, name) = self.order.range(offset..).next()?;
        match self.entries.get(name) {
            Some(Entry::Object(object)) => Some((offset, name, object)),
            _ => None,
        }
    }

    /// Whether some name is there that only the upper has.
    pub(super) fn has_upper_only(&self) -> bool {
        !self.order.is_empty()
    }

    pub(super) fn set_whiteout(&mut self, name: &[u8]) {
        self.remove(name);
        self.entries.insert(Box::from(name), Entry::Whiteout);
    }

    /// Adds an object; `in_base` says that the base shows this name too.
    pub(super) fn set_object(&mut self, name: &[u8], upper_ino: u64, node: u64, in_base: bool) {
        let known = match self.entries.get(name) {
            Some(Entry::Object(object)) => Some(object.offset),
            _ => None,
        };
        let offset = match known {
            _ if in_base => 0,
            Some(offset) if offset > 0 => offset,
            _ => {
                self.next_offset += 1;
                self.next_offset - 1
            }
        };
        if offset > 0 {
            self.order.insert(offset, Box::from(name));
        }
        let object = Object {
            upper_ino,
            offset,
            node: AtomicU64::new(node),
        };
        self.entries.insert(Box::from(name), Entry::Object(object));
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some(Entry::Object(object)) = self.entries.remove(name) {
            self.order.remove(&object.offset);
        }
    }

    /// Forgets all whiteouts, and the base with them, whose entries lay at these offsets.
    pub(super) fn hide_base(&mut self, offsets: Vec<(Box<[u8]>, u64)>) {
        self.base = None;
        self.entries
            .retain(|_, entry| matches!(entry, Entry::Object(_)));
        for (name, offset) in offsets {
            if let Some(Entry::Object(object)) = self.entries.get_mut(&name)
                && object.offset == 0
            {
                object.offset = offset;
                self.order.insert(offset, name);
            }
        }
        for (name, entry) in &mut self.entries {
            if let Entry::Object(object) = entry
                && object.offset == 0
            {
                object.offset = self.next_offset;
                self.next_offset += 1;
                self.order.insert(object.offset, name.clone());
            }
        }
    }
}
