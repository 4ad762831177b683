//! Directory layers, merged per directory on demand.
//!
//! A directory of the union is made of *branches*, directories of different layers. It is read as a
//! whole when something is first looked up in it: that costs one pass over each branch, tells all
//! whiteouts and opaque marks at once, and answers every later question for a name that does not
//! exist. What is in it is asked for one statx(2) each, when it is looked up or listed.
//!
//! # Invariants
//! * Layers do not change while the stack lives, so whatever was learnt stays true.
//! * A node number is the inode number of the topmost object where that is unique (see
//!   [`node::Numbers`]); hard links within a layer are one node.
//! * `st_nlink` is the count of the file in its layer, and 1 for directories, as in the kernel's
//!   merged directories.
//! * Objects keep the directories above them in memory; a node that is forgotten leaves nothing.
//!
//! # Locking
//! The table of nodes, the cache of listings and the cache of descriptors have locks of their own.
//! None is held during a system call, or while another one is taken.

mod directory;
mod follow;
mod listing;
mod lower;
mod node;
mod resolve;
mod xattr;

use std::borrow::Cow;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use lru::LruCache;
use nix::errno::Errno;
use parking_lot::Mutex;

use super::{Attributes, Error, Listed, NodeNumber, OpenContent, Result};
use crate::idmap::IdMap;
use crate::layer::FileKind;
use crate::layer::directory::{DirectoryLayer, Marks, OverrideKey};
use crate::sys::at;
use crate::whiteout::Namespace;

use directory::Directory;
use listing::Listing;
use lower::{Handles, LowerDirectory};
use node::{NodeTable, Numbers, Object};

/// Longest name of a directory entry.
const NAME_MAX: usize = 255;

/// How a stack is shown.
#[derive(Clone, Debug, Default)]
pub struct StackOptions {
    /// Which owners are shown for those on disk, in attributes and ACLs.
    pub ids: IdMap,
    /// `xattr_permissions=`: where owner, mode and kind of the objects of all layers are kept. A
    /// layer whose root has such an attribute is read that way in any case.
    pub override_key: Option<OverrideKey>,
    /// Which marks count.
    pub marks: Namespace,
}

/// A read-only union of directory layers.
#[derive(Debug)]
pub struct Stack {
    options: StackOptions,
    handles: Handles,
    data_layers: Box<[DirectoryLayer]>,
    /// The root directory of each layer.
    roots: Box<[Arc<LowerDirectory>]>,
    /// Layers that contain another one or lie in another one.
    overlapping: Box<[bool]>,
    numbers: Numbers,
    nodes: NodeTable,
    listings: Listings,
    /// The device on which this union is shown; 0 while it is none.
    own_device: AtomicU64,
    /// See [`Stack::renew_changed`].
    renews: AtomicBool,
}

/// An error of a system call on a layer.
fn failed(error: io::Error, doing: &'static str) -> Error {
    Error::io(error, doing)
}

impl Stack {
    /// Makes the union of `layers`, topmost first. `data_layers` are searched only for the content
    /// of metacopy files with an absolute redirect, in this order.
    ///
    /// # Errors
    /// `EINVAL` without layers or with more than 65,535, or what reading their roots reports.
    pub fn new(
        layers: Vec<DirectoryLayer>,
        data_layers: Vec<DirectoryLayer>,
        options: StackOptions,
    ) -> Result<Stack> {
        let count = u16::try_from(layers.len()).map_err(|_| Errno::EINVAL)?;
        let numbers = Numbers::new(layers.iter().map(|layer| layer.stat().dev));
        let overlapping =
            resolve::overlapping(&layers).map_err(|error| failed(error, "comparing the layers"))?;
        let handles = Handles::new(layers.into());
        let roots: Box<[_]> = (0..count).map(LowerDirectory::root).collect();
        let top = Arc::clone(roots.first().ok_or(Errno::EINVAL)?);
        let attributes = resolve::root_attributes(&handles, &options)?;
        let root = Arc::new(Directory {
            attributes,
            parent: None,
            top,
            branch: 0,
            below: Box::default(),
            branches: OnceLock::new(),
        });
        Ok(Stack {
            options,
            handles,
            data_layers: data_layers.into(),
            roots,
            overlapping,
            numbers,
            nodes: NodeTable::new(&root),
            listings: Listings::new(LISTED_ENTRIES),
            own_device: AtomicU64::new(0),
            renews: AtomicBool::new(false),
        })
    }

    /// See [`super::Union::lookup`].
    ///
    /// # Errors
    /// As there; `ENAMETOOLONG` for names that no directory can have.
    pub fn lookup(&self, directory: NodeNumber, name: &[u8]) -> Result<Option<Attributes>> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let directory = self.directory(directory)?;
        let object = match name {
            b"." => Object::Directory(directory),
            b".." => Object::Directory(self.parent(&directory)),
            _ => {
                let listing = self.listing(&directory)?;
                let Some(found) = listing.find(name) else {
                    return Ok(None);
                };
                let Some(object) = self.resolve(&directory, found)? else {
                    return Ok(None);
                };
                object
            }
        };
        Ok(Some(self.hold(object)?.object.attributes()))
    }

    /// See [`super::Union::hold`].
    pub fn hold_again(&self, node: NodeNumber) {
        self.nodes.hold_again(node);
    }

    /// See [`super::Union::contains`].
    ///
    /// # Errors
    /// As there.
    pub fn contains(&self, directory: NodeNumber, name: &[u8]) -> Result<bool> {
        let directory = self.directory(directory)?;
        Ok(self.listing(&directory)?.find(name).is_some())
    }

    /// See [`super::Union::identity`].
    ///
    /// # Errors
    /// As there.
    pub fn identity(&self) -> Result<[u8; 16]> {
        let mut all = Vec::new();
        for layer in self.handles.layers() {
            let figures = layer.root().statfs();
            let figures = figures.map_err(|error| failed(error, "asking a layer's file system"))?;
            // Device numbers may be others after a reboot; most file systems have a number that stays.
            all.extend_from_slice(format!("{:?}", figures.filesystem_id()).as_bytes());
            all.extend_from_slice(&layer.stat().ino.to_le_bytes());
        }
        Ok(xxhash_rust::xxh3::xxh3_128(&all).to_le_bytes())
    }

    /// See [`super::Union::forget`].
    pub fn forget(&self, node: NodeNumber, count: u64) {
        if let Some(node) = self.nodes.forget(node, count)
            && let Object::Directory(directory) = &node.object
        {
            self.listings.remove(directory.top.id);
            self.handles.forget(&directory.top);
        }
    }

    /// Says on which device (`st_dev`) this union is mounted. Where a layer contains that mount
    /// point, it is shown as an empty directory: reading it would be a request to ourselves.
    pub fn set_own_device(&self, device: u64) {
        self.own_device.store(device, Ordering::Relaxed);
    }

    /// Says that whoever shows this union can be told other attributes of a file that was changed in its layer.
    pub fn renew_changed(&self) {
        self.renews.store(true, Ordering::Relaxed);
    }

    /// How many nodes are held in memory, the root included.
    #[must_use]
    pub fn nodes_in_use(&self) -> usize {
        self.nodes.len()
    }

    /// See [`super::Union::attributes`].
    ///
    /// # Errors
    /// As there.
    pub fn attributes(&self, node: NodeNumber) -> Result<Attributes> {
        Ok(self.node(node)?.object.attributes())
    }

    /// See [`super::Union::read_link`].
    ///
    /// # Errors
    /// As there.
    pub fn read_link(&self, node: NodeNumber) -> Result<Cow<'_, [u8]>> {
        let node = self.node(node)?;
        let Object::Leaf(leaf) = &node.object else {
            return Err(Errno::EINVAL.into());
        };
        let attributes = Attributes::from(leaf.attributes);
        if attributes.kind != FileKind::Symlink {
            return Err(Errno::EINVAL.into());
        }
        let directory = self.branch(&leaf.parent, leaf.branch)?;
        let read = || self.handles.get(directory)?.read_link(&leaf.name);
        match read() {
            // Where layers keep kinds in attributes, the target is the content of a regular file.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let size = attributes.size;
                self.read_placeholder(directory, &leaf.name, size)
                    .map(Cow::Owned)
            }
            result => result
                .map(Cow::Owned)
                .map_err(|error| failed(error, "reading a symlink of a layer")),
        }
    }

    /// See [`super::Union::list`].
    ///
    /// # Errors
    /// As there.
    pub fn list(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        self.each_entry(directory, offset, &mut |name, next_offset, object| {
            let attributes = object.attributes();
            Ok(emit(Listed {
                node: attributes.node,
                kind: attributes.kind,
                name,
                next_offset,
            }))
        })
    }

    /// See [`super::Union::list_with_attributes`].
    ///
    /// # Errors
    /// As there.
    pub fn list_with_attributes(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>, &Attributes) -> ControlFlow<()>,
    ) -> Result<()> {
        self.each_entry(directory, offset, &mut |name, next_offset, object| {
            let listed = |attributes: &Attributes| Listed {
                node: attributes.node,
                kind: attributes.kind,
                name,
                next_offset,
            };
            if matches!(name, b"." | b"..") {
                let attributes = object.attributes();
                return Ok(emit(listed(&attributes), &attributes));
            }
            let node = self.hold(object)?;
            let attributes = node.object.attributes();
            let flow = emit(listed(&attributes), &attributes);
            if flow.is_break() {
                self.forget(attributes.node, 1);
            }
            Ok(flow)
        })
    }

    /// Goes through the entries of a directory from `offset` on.
    fn each_entry(&self, directory: NodeNumber, offset: u64, emit: EmitObject<'_>) -> Result<()> {
        let directory = self.directory(directory)?;
        let listing = self.listing(&directory)?;
        let mut offset = offset;
        loop {
            let (name, object) = match offset {
                0 => (&b"."[..], Object::Directory(Arc::clone(&directory))),
                1 => (&b".."[..], Object::Directory(self.parent(&directory))),
                _ => {
                    let position = usize::try_from(offset - 2).map_err(|_| Errno::EINVAL)?;
                    let Some(found) = listing.get(position) else {
                        return Ok(());
                    };
                    let Some(object) = self.resolve(&directory, found)? else {
                        offset += 1;
                        continue;
                    };
                    (found.name, object)
                }
            };
            offset += 1;
            if emit(name, offset, object)?.is_break() {
                return Ok(());
            }
        }
    }

    /// See [`super::Union::open`].
    ///
    /// # Errors
    /// As there; `ESTALE` when the layer has been changed. After [`Stack::renew_changed`] the node then has the attributes of
    /// now, if its file was written to in place; if there is another file, its name leads to another node.
    pub fn open(&self, node: NodeNumber) -> Result<OpenContent> {
        let node = self.node(node)?;
        let leaf = match &node.object {
            Object::Directory(_) => return Err(Errno::EISDIR.into()),
            Object::Leaf(leaf) => leaf,
        };
        let attributes = Attributes::from(leaf.attributes);
        if attributes.kind != FileKind::Regular {
            return Err(Errno::EINVAL.into());
        }
        let marks = if self.has_xattrs(&node)? {
            self.marks(self.branch(&leaf.parent, leaf.branch)?, &leaf.name)?
        } else {
            Marks::default()
        };
        let file = self.open_content(&leaf.parent, leaf.branch, &leaf.name, marks)?;
        let stat = at::stat_file(&file).map_err(|error| failed(error, "opening a file"))?;
        if stat.mode & libc::S_IFMT != libc::S_IFREG || stat.size != attributes.size {
            if self.renews.load(Ordering::Relaxed) {
                self.look_again(leaf)?;
            }
            return Err(Errno::ESTALE.into());
        }
        Ok(OpenContent {
            file: Arc::new(file),
            start: 0,
            size: stat.size,
            whole: true,
        })
    }
}

/// Takes a name, the offset behind it, and what it stands for.
type EmitObject<'a> = &'a mut dyn FnMut(&[u8], u64, Object) -> Result<ControlFlow<()>>;

/// Entries of listings that are kept in memory: about 10 MiB.
const LISTED_ENTRIES: usize = 200_000;

/// The listings that were used last, by the id of the topmost branch.
#[derive(Debug)]
struct Listings {
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    listings: LruCache<u64, Arc<Listing>>,
    entries: usize,
}

impl Listings {
    fn new(capacity: usize) -> Listings {
        let kept = Kept {
            listings: LruCache::unbounded(),
            entries: 0,
        };
        Listings {
            capacity,
            kept: Mutex::new(kept),
        }
    }

    /// What a listing counts; an empty one takes space too.
    fn weight(listing: &Listing) -> usize {
        listing.len() + 1
    }

    fn get(&self, directory: u64) -> Option<Arc<Listing>> {
        self.kept.lock().listings.get(&directory).cloned()
    }

    fn insert(&self, directory: u64, listing: &Arc<Listing>) {
        let mut dropped = Vec::new();
        let mut kept = self.kept.lock();
        kept.entries += Listings::weight(listing);
        dropped.extend(kept.listings.push(directory, Arc::clone(listing)));
        if let Some((_, replaced)) = dropped.first() {
            kept.entries -= Listings::weight(replaced);
        }
        // The newest stays, however large it is.
        while kept.entries > self.capacity && kept.listings.len() > 1 {
            let Some((id, oldest)) = kept.listings.pop_lru() else {
                break;
            };
            kept.entries -= Listings::weight(&oldest);
            dropped.push((id, oldest));
        }
        drop(kept);
        drop(dropped);
    }

    fn remove(&self, directory: u64) {
        let mut kept = self.kept.lock();
        let removed = kept.listings.pop(&directory);
        if let Some(listing) = &removed {
            kept.entries -= Listings::weight(listing);
        }
        drop(kept);
        drop(removed);
    }
}
