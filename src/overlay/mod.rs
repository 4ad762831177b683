//! The POSIX engine over a base and, later, an optional upper; it knows no FUSE type.
//!
//! Read-only today: it adds the limits of POSIX to what the [`Union`] answers.

mod file;
mod request;
mod verbs;

use std::borrow::Cow;
use std::ops::ControlFlow;

use nix::errno::Errno;

pub use crate::layer::Timestamp;
pub use crate::union::{Attributes, Error, Listed, NodeNumber, OpenContent, Result, Totals, Union};

pub use file::OverlayFile;
pub use request::{
    Caller, Namespace, OpenRequest, Opened, OverlayOptions, RenameFlags, SetAttributes, Space,
    TimeChange, XattrChange,
};

/// The engine behind a mount.
#[derive(Debug)]
pub struct Overlay {
    base: Union,
}

impl Overlay {
    /// A read-only engine over `base`.
    #[must_use]
    pub fn read_only(base: Union) -> Overlay {
        Overlay { base }
    }

    /// The union below.
    #[must_use]
    pub fn base(&self) -> &Union {
        &self.base
    }

    /// Looks `name` up and takes one reference; a missing name is `None`.
    ///
    /// # Errors
    /// As [`Union::lookup`]; `ENAMETOOLONG` above 255 bytes.
    pub fn lookup(&self, directory: NodeNumber, name: &[u8]) -> Result<Option<Attributes>> {
        if name.len() > 255 {
            return Err(Errno::ENAMETOOLONG.into());
        }
        self.base.lookup(directory, name)
    }

    /// Gives `count` references to `node` back.
    pub fn forget(&self, node: NodeNumber, count: u64) {
        self.base.forget(node, count);
    }

    /// What stat(2) tells of `node`.
    ///
    /// # Errors
    /// As [`Union::attributes`].
    pub fn attributes(&self, node: NodeNumber) -> Result<Attributes> {
        self.base.attributes(node)
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// As [`Union::read_link`].
    pub fn read_link(&self, node: NodeNumber) -> Result<Cow<'_, [u8]>> {
        self.base.read_link(node)
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
        self.base.list(directory, offset, emit)
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
        self.base.list_with_attributes(directory, offset, emit)
    }

    /// Opens the content of a regular file.
    ///
    /// # Errors
    /// As [`Union::open`].
    pub fn open(&self, node: NodeNumber) -> Result<OpenContent> {
        self.base.open(node)
    }

    /// The content of `node` if it needs no system call to open; see [`Union::packed_content`].
    ///
    /// # Errors
    /// As [`Union::packed_content`].
    pub fn packed_content(&self, node: NodeNumber) -> Result<Option<OpenContent>> {
        self.base.packed_content(node)
    }

    /// The value of one extended attribute.
    ///
    /// # Errors
    /// `ENODATA` when there is none, and what reading a layer reports.
    pub fn xattr(&self, node: NodeNumber, name: &[u8]) -> Result<Cow<'_, [u8]>> {
        self.base
            .xattr(node, name)?
            .ok_or_else(|| Errno::ENODATA.into())
    }

    /// The names of all extended attributes, each ended by NUL.
    ///
    /// # Errors
    /// What reading a layer reports.
    pub fn xattr_names(&self, node: NodeNumber) -> Result<Vec<u8>> {
        let mut list = Vec::new();
        for name in self.base.xattr_names(node)? {
            list.extend_from_slice(&name);
            list.push(0);
        }
        Ok(list)
    }
}
