//! Stand-ins for the verbs that change something, until each has a file of its own.

use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

use super::file::OverlayFile;
use super::request::{
    Caller, OpenRequest, Opened, OverlayOptions, RenameFlags, SetAttributes, Space, XattrChange,
};
use super::{Attributes, NodeNumber, Overlay, Result, Union};
use crate::layer::FileKind;

impl Overlay {
    /// A writable engine over `base`: what changes is kept in the directory `upper` in the format
    /// of the kernel's overlay, with `work` on the same file system for things under way.
    ///
    /// # Errors
    /// `EBUSY` when one of them is in use, `EXDEV` when they lie on different file systems,
    /// `EROFS`, `EINVAL` after a crash of a volatile overlay, or what opening them reports.
    pub fn writable(
        base: Union,
        _upper: &Path,
        _work: &Path,
        _options: OverlayOptions,
    ) -> Result<Overlay> {
        drop(base);
        Err(Errno::ENOSYS.into())
    }

    /// Whether anything can be changed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        false
    }

    /// Changes attributes; see [`SetAttributes`].
    ///
    /// # Errors
    /// `EROFS` on a read-only overlay, or what the system calls on the upper report.
    pub fn set_attributes(
        &self,
        _node: NodeNumber,
        _change: &SetAttributes<'_>,
    ) -> Result<Attributes> {
        Err(Errno::EROFS.into())
    }

    /// Clears the set-id bits and the file capability, as writing by an unprivileged user does.
    ///
    /// # Errors
    /// As [`Overlay::set_attributes`].
    pub fn kill_privileges(&self, _node: NodeNumber) -> Result<Attributes> {
        Err(Errno::EROFS.into())
    }

    /// Makes and opens a regular file; takes one reference. `permissions` are the `07777` bits.
    ///
    /// # Errors
    /// `EEXIST`, or as [`Overlay::set_attributes`].
    pub fn create(
        &self,
        _parent: NodeNumber,
        _name: &[u8],
        _permissions: u16,
        _caller: &Caller,
    ) -> Result<(Attributes, Arc<OverlayFile>)> {
        Err(Errno::EROFS.into())
    }

    /// Makes a regular file, device, FIFO or socket; takes one reference.
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL` for other kinds, or as [`Overlay::set_attributes`].
    pub fn make_node(
        &self,
        _parent: NodeNumber,
        _name: &[u8],
        _kind: FileKind,
        _permissions: u16,
        _device: (u32, u32),
        _caller: &Caller,
    ) -> Result<Attributes> {
        Err(Errno::EROFS.into())
    }

    /// Makes a directory; takes one reference.
    ///
    /// # Errors
    /// As [`Overlay::create`].
    pub fn make_directory(
        &self,
        _parent: NodeNumber,
        _name: &[u8],
        _permissions: u16,
        _caller: &Caller,
    ) -> Result<Attributes> {
        Err(Errno::EROFS.into())
    }

    /// Makes a symlink; takes one reference.
    ///
    /// # Errors
    /// As [`Overlay::create`].
    pub fn make_symlink(
        &self,
        _parent: NodeNumber,
        _name: &[u8],
        _target: &[u8],
        _caller: &Caller,
    ) -> Result<Attributes> {
        Err(Errno::EROFS.into())
    }

    /// Gives `node` another name; takes one reference.
    ///
    /// # Errors
    /// `EPERM` for a directory, `ENOENT` for a node without names, or as [`Overlay::create`].
    pub fn link(&self, _node: NodeNumber, _parent: NodeNumber, _name: &[u8]) -> Result<Attributes> {
        Err(Errno::EROFS.into())
    }

    /// Removes a name that is none of a directory.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, or as [`Overlay::set_attributes`].
    pub fn unlink(&self, _parent: NodeNumber, _name: &[u8]) -> Result<()> {
        Err(Errno::EROFS.into())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, or as [`Overlay::set_attributes`].
    pub fn remove_directory(&self, _parent: NodeNumber, _name: &[u8]) -> Result<()> {
        Err(Errno::EROFS.into())
    }

    /// Renames; see rename(2) and [`RenameFlags`].
    ///
    /// # Errors
    /// What rename(2) reports, `EXDEV` excepted.
    pub fn rename(
        &self,
        _parent: NodeNumber,
        _name: &[u8],
        _new_parent: NodeNumber,
        _new_name: &[u8],
        _flags: RenameFlags,
    ) -> Result<()> {
        Err(Errno::EROFS.into())
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// `EISDIR` or `EINVAL` for other kinds; `EROFS` for writing on a read-only overlay; or what
    /// copying up reports.
    pub fn open_file(&self, _node: NodeNumber, _request: OpenRequest) -> Result<Opened> {
        Err(Errno::EROFS.into())
    }

    /// Sets an extended attribute, ACLs included.
    ///
    /// # Errors
    /// `EEXIST` or `ENODATA` as asked for, `EPERM` for names that are the overlay's own, or as
    /// [`Overlay::set_attributes`].
    pub fn set_xattr(
        &self,
        _node: NodeNumber,
        _name: &[u8],
        _value: &[u8],
        _change: XattrChange,
    ) -> Result<()> {
        Err(Errno::EROFS.into())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, or as [`Overlay::set_xattr`].
    pub fn remove_xattr(&self, _node: NodeNumber, _name: &[u8]) -> Result<()> {
        Err(Errno::EROFS.into())
    }

    /// Makes the entries of a directory durable.
    ///
    /// # Errors
    /// What fsync(2) reports.
    pub fn sync_directory(&self, _node: NodeNumber) -> Result<()> {
        Ok(())
    }

    /// Figures of the upper's file system; none when read-only.
    ///
    /// # Errors
    /// What statfs(2) reports.
    pub fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    /// Whether any node may have extended attributes; `false` is certain, and never for a writable
    /// overlay.
    #[must_use]
    pub fn may_have_xattrs(&self) -> bool {
        self.base.may_have_xattrs()
    }

    /// Whether POSIX ACLs are possible.
    #[must_use]
    pub fn may_have_acls(&self) -> bool {
        self.base.may_have_acls()
    }
}
