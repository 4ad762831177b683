//! The read-only union of layers: complete and usable without any mount.
//!
//! A [`Union`] is either a chain index (the layers of an image, flattened when it was pulled) or a
//! stack of directory layers that is merged per directory on demand. Both answer the same
//! questions, so whatever serves or prints a tree need not know which one it has.
//!
//! # Invariants
//! * A node number is what users see as `st_ino` and what FUSE calls the node id: 1 is the root,
//!   names that are hard links of one file have one number, and numbers of a chain are the same at
//!   every mount.
//! * Listings are stateless: offset 0 is `.`, 1 is `..`, and the entries follow in an order that
//!   does not change while the union lives.
//! * Nothing here can change a layer.

pub mod chain;
pub mod error;
pub mod flatten;
mod path;
pub mod spread;
pub mod stack;

use std::borrow::Cow;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::layer::{FileKind, Timestamp};

pub use error::{Error, Result};

/// The number of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeNumber(pub u64);

impl NodeNumber {
    /// The root directory.
    pub const ROOT: NodeNumber = NodeNumber(1);
}

/// What stat(2) tells of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The node.
    pub node: NodeNumber,
    /// What users see as `st_ino`: the number of the node, but for a node that had to be replaced
    /// while it was in use.
    pub ino: u64,
    /// Tells an object from others that had this number before it; 0 where none can have had it.
    pub generation: u32,
    /// Kind of file.
    pub kind: FileKind,
    /// `07777` bits.
    pub permissions: u16,
    /// Number of names, counted over the whole union.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Length in bytes (of the target, for a symlink).
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Time of last access.
    pub atime: Timestamp,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Time of last status change.
    pub ctime: Timestamp,
}

/// One entry of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The node that the name stands for.
    pub node: NodeNumber,
    /// Its kind.
    pub kind: FileKind,
    /// The name.
    pub name: &'a [u8],
    /// Where a later listing goes on after this entry.
    pub next_offset: u64,
}

/// The content of a regular file, opened.
#[derive(Clone, Debug)]
pub struct OpenContent {
    /// The file that holds it.
    pub file: Arc<File>,
    /// Where it begins there.
    pub start: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it is the whole of `file`, which can then be handed to the kernel (passthrough).
    pub whole: bool,
}

impl OpenContent {
    /// Reads from `offset` on until `buffer` is full or the content ends; returns the number of
    /// bytes.
    ///
    /// # Errors
    /// What pread(2) reports; `EIO` when the file is shorter than the content should be.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let Some(buffer) = buffer.get_mut(..length) else {
            return Ok(0);
        };
        self.file
            .read_exact_at(buffer, self.start.saturating_add(offset))
            .map_err(|error| Error::io(error, "reading content"))?;
        Ok(length)
    }
}

/// Size figures of a union, for statfs(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of content of the visible files.
    pub bytes: u64,
    /// Number of nodes.
    pub nodes: u64,
    /// Bytes of content in files of at least 32 MiB.
    pub large_bytes: u64,
}

/// A read-only union.
#[derive(Debug)]
pub enum Union {
    /// The flattened layers of an image.
    Chain(chain::Chain),
    /// Directory layers, merged on demand.
    Stack(stack::Stack),
}

macro_rules! each {
    ($self:ident, $union:ident => $call:expr) => {
        match $self {
            Union::Chain($union) => $call,
            Union::Stack($union) => $call,
        }
    };
}

impl Union {
    /// Looks `name` up in `directory` and takes one reference to what it finds.
    ///
    /// # Errors
    /// `ENOTDIR`, or what reading a layer reports. A missing name is `Ok(None)`.
    pub fn lookup(&self, directory: NodeNumber, name: &[u8]) -> Result<Option<Attributes>> {
        each!(self, union => union.lookup(directory, name))
    }

    /// Whether `directory` has an entry of that name; takes no reference.
    ///
    /// # Errors
    /// As [`Union::lookup`].
    pub fn contains(&self, directory: NodeNumber, name: &[u8]) -> Result<bool> {
        each!(self, union => union.contains(directory, name))
    }

    /// Takes one more reference to a node that has some.
    pub fn hold(&self, node: NodeNumber) {
        match self {
            Union::Chain(_) => {}
            Union::Stack(stack) => stack.hold_again(node),
        }
    }

    /// Tells this union from others: two that have one identity have the same numbers of nodes.
    ///
    /// # Errors
    /// What statfs(2) reports of a layer.
    pub fn identity(&self) -> Result<[u8; 16]> {
        each!(self, union => union.identity())
    }

    /// Gives `count` references back; a node without references may be dropped from memory.
    pub fn forget(&self, node: NodeNumber, count: u64) {
        match self {
            Union::Chain(_) => {}
            Union::Stack(stack) => stack.forget(node, count),
        }
    }

    /// What stat(2) tells of `node`.
    ///
    /// # Errors
    /// `ESTALE` for a number that names nothing, or what reading a layer reports.
    pub fn attributes(&self, node: NodeNumber) -> Result<Attributes> {
        each!(self, union => union.attributes(node))
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// `EINVAL` for another kind of file.
    pub fn read_link(&self, node: NodeNumber) -> Result<Cow<'_, [u8]>> {
        each!(self, union => union.read_link(node))
    }

    /// Lists `directory` from `offset` on, until `emit` breaks. Takes no references.
    ///
    /// # Errors
    /// `ENOTDIR`, or what reading a layer reports.
    pub fn list(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        each!(self, union => union.list(directory, offset, emit))
    }

    /// Lists like [`Union::list`], with attributes. Takes one reference to each node other than
    /// `.` and `..` for which `emit` continues; the entry at which it breaks counts as not emitted.
    ///
    /// # Errors
    /// As [`Union::list`].
    pub fn list_with_attributes(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>, &Attributes) -> ControlFlow<()>,
    ) -> Result<()> {
        each!(self, union => union.list_with_attributes(directory, offset, emit))
    }

    /// The value of one extended attribute. What overlay filesystems keep for themselves in
    /// directory layers is not shown, and what they escaped is unescaped; rows of a packed layer are
    /// shown as they are.
    ///
    /// # Errors
    /// What reading a layer reports. A missing attribute is `Ok(None)`.
    pub fn xattr(&self, node: NodeNumber, name: &[u8]) -> Result<Option<Cow<'_, [u8]>>> {
        each!(self, union => union.xattr(node, name))
    }

    /// The names of all extended attributes that [`Union::xattr`] would show.
    ///
    /// # Errors
    /// What reading a layer reports.
    pub fn xattr_names(&self, node: NodeNumber) -> Result<Vec<Cow<'_, [u8]>>> {
        each!(self, union => union.xattr_names(node))
    }

    /// Whether any node may have extended attributes; `false` is certain.
    #[must_use]
    pub fn may_have_xattrs(&self) -> bool {
        each!(self, union => union.may_have_xattrs())
    }

    /// Whether any node may have a POSIX ACL; `false` is certain.
    #[must_use]
    pub fn may_have_acls(&self) -> bool {
        each!(self, union => union.may_have_acls())
    }

    /// Opens the content of a regular file for reading.
    ///
    /// # Errors
    /// `EISDIR` or `EINVAL` for other kinds, or what open(2) reports.
    pub fn open(&self, node: NodeNumber) -> Result<OpenContent> {
        each!(self, union => union.open(node))
    }

    /// The content of `node` if it lies in a pack, so that no system call is needed to open it.
    /// Other nodes, empty files among them, give `None`.
    ///
    /// # Errors
    /// `ESTALE` for a number that names nothing, and always in a stack, whose nodes are in no order.
    pub fn packed_content(&self, node: NodeNumber) -> Result<Option<OpenContent>> {
        match self {
            Union::Chain(chain) => chain.packed_content(node),
            Union::Stack(_) => Err(nix::errno::Errno::ESTALE.into()),
        }
    }

    /// Size figures for statfs(2); a stack does not know them.
    #[must_use]
    pub fn totals(&self) -> Option<Totals> {
        match self {
            Union::Chain(chain) => Some(chain.totals()),
            Union::Stack(_) => None,
        }
    }
}
