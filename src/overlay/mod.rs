//! The POSIX engine over a base and an optional upper; it knows no FUSE type.
//!
//! Without an upper it adds the limits of POSIX to what the [`Union`] answers, and costs nothing
//! more. With one it is copy on write: what changes is kept in an upper directory that the kernel's
//! overlay could mount, and everything else still comes from the base.
//!
//! # Identity
//! What the base has keeps the number that it has there: after it was copied up, renamed, or
//! mounted again (`overlay.plyfs.origin` in the upper says so). What came into being in the upper has the
//! number of its inode there, with a bit above all numbers of the base (see [`number`]). Names of one inode are one
//! node, in the base, in the upper, and where some are here and some there (see [`index`]). A
//! number is never given to something else while anybody knows it. `st_ino` is the number of the
//! node, except where a node had to be replaced while the kernel was reading its lower file
//! ([`Opened::MovedTo`]): the new one shows the number of the old one.
//!
//! # Copy up
//! See [`copy_up`]: parents first, a temporary in the work directory, data, owner, attributes, mode,
//! times, durable, published at once.
//!
//! # Lock order
//! ```text
//! copying of a node        held while its data are copied; of no other node, directories above excepted
//!   rename lock            shared by what relies on places of nodes, alone by rename, unlink, rmdir
//!     contents             of a directory, before that of one in it
//!       state of a node
//!         handle
//!           counts of the index, shards of the table, caches of descriptors
//! ```
//! The rename lock is never held while something is copied up, and never taken twice. Creating in
//! different directories takes nothing in common but its shared side; removing takes it alone, since
//! a name that goes may be the way by which others are about to reach its node.

mod acl;
mod changes;
mod contents;
mod copy_up;
mod copy_up_tree;
mod create;
mod directory;
mod engine;
mod file;
mod index;
mod link;
mod list;
mod lookup;
mod node;
mod number;
mod publish;
mod query;
mod remove;
mod rename;
mod rename_leave;
mod request;
mod set_attributes;
mod upper;
mod verbs;
mod xattr;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

pub use crate::layer::Timestamp;
pub use crate::union::{Attributes, Error, Listed, NodeNumber, OpenContent, Result, Totals, Union};

pub use crate::whiteout::Namespace;
pub use changes::{Change, changes};
pub use file::OverlayFile;
pub use query::Origin;
pub use request::{
    Caller, OpenRequest, Opened, OverlayOptions, RenameFlags, SetAttributes, Space, TimeChange,
    XattrChange,
};

use engine::Engine;
use upper::Upper;

/// The engine behind a mount.
#[derive(Debug)]
pub struct Overlay {
    kind: Kind,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // there is one per mount
enum Kind {
    ReadOnly(Union),
    Writable(Arc<Engine>),
}

impl Overlay {
    /// A read-only engine over `base`.
    #[must_use]
    pub fn read_only(base: Union) -> Overlay {
        Overlay {
            kind: Kind::ReadOnly(base),
        }
    }

    /// A writable engine over `base`: what changes is kept in the directory `upper` in the format
    /// of the kernel's overlay, with `work` on the same file system for things under way.
    ///
    /// # Errors
    /// `EBUSY` when one of them is in use, `EXDEV` when they lie on different file systems,
    /// `EROFS`, `EINVAL` after a crash of a volatile overlay, or what opening them reports.
    pub fn writable(
        base: Union,
        upper: &Path,
        work: &Path,
        options: OverlayOptions,
    ) -> Result<Overlay> {
        let upper = Upper::open(upper, work, base.identity()?, options)?;
        Ok(Overlay {
            kind: Kind::Writable(Arc::new(Engine::new(base, upper)?)),
        })
    }

    /// As [`Overlay::writable`], to read what another process is writing at present: nothing is
    /// locked, made or removed, and nothing may be changed. What was read once may be shown as it
    /// was then.
    ///
    /// # Errors
    /// What opening the directories reports.
    pub fn beside(
        base: Union,
        upper: &Path,
        work: &Path,
        options: OverlayOptions,
    ) -> Result<Overlay> {
        let upper = Upper::beside(upper, work, base.identity()?, options)?;
        Ok(Overlay {
            kind: Kind::Writable(Arc::new(Engine::new(base, upper)?)),
        })
    }

    /// Says that everything was received and nothing more will be changed. A volatile overlay can
    /// then be opened again until the machine is started anew.
    ///
    /// # Errors
    /// What writing to the work directory reports.
    pub fn shut_down(&self) -> Result<()> {
        match &self.kind {
            Kind::ReadOnly(_) => Ok(()),
            Kind::Writable(engine) => engine.upper.shut_down(),
        }
    }

    /// The namespace of the marks in the upper, if there is one.
    #[must_use]
    pub fn marks(&self) -> Option<Namespace> {
        match &self.kind {
            Kind::ReadOnly(_) => None,
            Kind::Writable(engine) => Some(engine.upper.names.namespace),
        }
    }

    /// Whether anything can be changed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        matches!(self.kind, Kind::Writable(_))
    }

    fn engine(&self) -> Result<&Arc<Engine>> {
        match &self.kind {
            Kind::Writable(engine) => Ok(engine),
            Kind::ReadOnly(_) => Err(Errno::EROFS.into()),
        }
    }

    /// The union below.
    #[must_use]
    pub fn base(&self) -> &Union {
        match &self.kind {
            Kind::ReadOnly(base) => base,
            Kind::Writable(engine) => &engine.base,
        }
    }

    /// Looks `name` up and takes one reference; a missing name is `None`.
    ///
    /// # Errors
    /// As [`Union::lookup`]; `ENAMETOOLONG` above 255 bytes.
    pub fn lookup(&self, directory: NodeNumber, name: &[u8]) -> Result<Option<Attributes>> {
        if name.len() > 255 {
            return Err(Errno::ENAMETOOLONG.into());
        }
        match &self.kind {
            Kind::ReadOnly(base) => base.lookup(directory, name),
            Kind::Writable(engine) => engine.lookup(directory, name),
        }
    }

    /// Gives `count` references to `node` back.
    pub fn forget(&self, node: NodeNumber, count: u64) {
        match &self.kind {
            Kind::ReadOnly(base) => base.forget(node, count),
            Kind::Writable(engine) => engine.release(node.0, count),
        }
    }

    /// What stat(2) tells of `node`.
    ///
    /// # Errors
    /// As [`Union::attributes`].
    pub fn attributes(&self, node: NodeNumber) -> Result<Attributes> {
        match &self.kind {
            Kind::ReadOnly(base) => base.attributes(node),
            Kind::Writable(engine) => engine.attributes(node),
        }
    }

    /// How many nodes are held in memory beside those of the base.
    #[must_use]
    pub fn nodes_in_use(&self) -> usize {
        match &self.kind {
            Kind::ReadOnly(_) => 0,
            Kind::Writable(engine) => engine.table.len(),
        }
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// As [`Union::read_link`].
    pub fn read_link(&self, node: NodeNumber) -> Result<Cow<'_, [u8]>> {
        match &self.kind {
            Kind::ReadOnly(base) => base.read_link(node),
            Kind::Writable(engine) => engine.read_link(node).map(Cow::Owned),
        }
    }

    /// Lists `directory` from `offset` on; see [`Union::list`].
    ///
    /// # Errors
    /// As [`Union::list`].
    pub fn list(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        match &self.kind {
            Kind::ReadOnly(base) => base.list(directory, offset, emit),
            Kind::Writable(engine) => {
                engine.list(directory, offset, false, &mut |listed, _| emit(listed))
            }
        }
    }

    /// Lists with attributes; see [`Union::list_with_attributes`].
    ///
    /// # Errors
    /// As [`Union::list_with_attributes`].
    pub fn list_with_attributes(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>, &Attributes) -> ControlFlow<()>,
    ) -> Result<()> {
        match &self.kind {
            Kind::ReadOnly(base) => base.list_with_attributes(directory, offset, emit),
            Kind::Writable(engine) => engine.list_attributes(directory, offset, emit),
        }
    }

    /// Opens the content of a regular file.
    ///
    /// # Errors
    /// As [`Union::open`].
    pub fn open(&self, node: NodeNumber) -> Result<OpenContent> {
        match &self.kind {
            Kind::ReadOnly(base) => base.open(node),
            Kind::Writable(engine) => engine.open(node),
        }
    }

    /// The content of `node` if it needs no system call to open, and never changes; see [`Union::packed_content`].
    ///
    /// # Errors
    /// As [`Union::packed_content`].
    pub fn packed_content(&self, node: NodeNumber) -> Result<Option<OpenContent>> {
        match &self.kind {
            Kind::ReadOnly(base) => base.packed_content(node),
            // They may change.
            Kind::Writable(_) => Ok(None),
        }
    }

    /// The value of one extended attribute.
    ///
    /// # Errors
    /// `ENODATA` when there is none, and what reading a layer reports.
    pub fn xattr(&self, node: NodeNumber, name: &[u8]) -> Result<Cow<'_, [u8]>> {
        let value = match &self.kind {
            Kind::ReadOnly(base) => base.xattr(node, name)?,
            Kind::Writable(engine) => engine.xattr(node, name)?,
        };
        value.ok_or_else(|| Errno::ENODATA.into())
    }

    /// The names of all extended attributes, each ended by NUL.
    ///
    /// # Errors
    /// What reading a layer reports.
    pub fn xattr_names(&self, node: NodeNumber) -> Result<Vec<u8>> {
        let mut list = Vec::new();
        let names = match &self.kind {
            Kind::ReadOnly(base) => base.xattr_names(node)?,
            Kind::Writable(engine) => engine.xattr_names(node)?,
        };
        for name in names {
            list.extend_from_slice(&name);
            list.push(0);
        }
        Ok(list)
    }
}
