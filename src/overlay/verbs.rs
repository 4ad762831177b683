//! What changes something, as the adapter calls it: each answers `EROFS` without an upper.

use std::sync::Arc;

use nix::errno::Errno;

use super::create::New;
use super::file::OverlayFile;
use super::request::{Caller, OpenRequest, Opened, RenameFlags, SetAttributes, Space, XattrChange};
use super::{Attributes, Kind, NodeNumber, Overlay, Result};
use crate::layer::FileKind;

impl Overlay {
    /// Changes attributes; see [`SetAttributes`].
    ///
    /// # Errors
    /// `EROFS` on a read-only overlay, or what the system calls on the upper report.
    pub fn set_attributes(&self, node: NodeNumber, change: &SetAttributes) -> Result<Attributes> {
        self.engine()?.set_attributes(node, change)
    }

    /// Clears the set-id bits and the file capability, as writing by an unprivileged user does.
    ///
    /// # Errors
    /// As [`Overlay::set_attributes`].
    pub fn kill_privileges(&self, node: NodeNumber) -> Result<Attributes> {
        let change = SetAttributes {
            kill_privileges: true,
            ..SetAttributes::default()
        };
        self.engine()?.set_attributes(node, &change)
    }

    /// Makes and opens a regular file; takes one reference. `permissions` are the `07777` bits.
    ///
    /// # Errors
    /// `EEXIST`, or as [`Overlay::set_attributes`].
    pub fn create(
        &self,
        parent: NodeNumber,
        name: &[u8],
        permissions: u16,
        caller: &Caller,
    ) -> Result<(Attributes, Arc<OverlayFile>)> {
        let engine = self.engine()?;
        let new = New {
            kind: FileKind::Regular,
            permissions,
            device: (0, 0),
            target: b"",
        };
        let (node, attributes, file) = engine.make(parent, name, new, caller)?;
        let file = match file {
            Some(file) => file,
            None => engine.open_upper(&node, true)?,
        };
        Ok((
            attributes,
            Arc::new(OverlayFile::of_upper(engine, &node, file)),
        ))
    }

    /// Makes a regular file, device, FIFO or socket; takes one reference.
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL` for other kinds, or as [`Overlay::set_attributes`].
    pub fn make_node(
        &self,
        parent: NodeNumber,
        name: &[u8],
        kind: FileKind,
        permissions: u16,
        device: (u32, u32),
        caller: &Caller,
    ) -> Result<Attributes> {
        if matches!(kind, FileKind::Directory | FileKind::Symlink) {
            return Err(Errno::EINVAL.into());
        }
        let new = New {
            kind,
            permissions,
            device,
            target: b"",
        };
        let (_, attributes, _) = self.engine()?.make(parent, name, new, caller)?;
        Ok(attributes)
    }

    /// Makes a directory; takes one reference.
    ///
    /// # Errors
    /// As [`Overlay::create`].
    pub fn make_directory(
        &self,
        parent: NodeNumber,
        name: &[u8],
        permissions: u16,
        caller: &Caller,
    ) -> Result<Attributes> {
        let new = New {
            kind: FileKind::Directory,
            permissions,
            device: (0, 0),
            target: b"",
        };
        let (_, attributes, _) = self.engine()?.make(parent, name, new, caller)?;
        Ok(attributes)
    }

    /// Makes a symlink; takes one reference.
    ///
    /// # Errors
    /// As [`Overlay::create`].
    pub fn make_symlink(
        &self,
        parent: NodeNumber,
        name: &[u8],
        target: &[u8],
        caller: &Caller,
    ) -> Result<Attributes> {
        let new = New {
            kind: FileKind::Symlink,
            permissions: 0o777,
            device: (0, 0),
            target,
        };
        let caller = Caller {
            umask: 0,
            ..*caller
        };
        let (_, attributes, _) = self.engine()?.make(parent, name, new, &caller)?;
        Ok(attributes)
    }

    /// Gives `node` another name; takes one reference.
    ///
    /// # Errors
    /// `EPERM` for a directory, `ENOENT` for a node without names, or as [`Overlay::create`].
    pub fn link(&self, node: NodeNumber, parent: NodeNumber, name: &[u8]) -> Result<Attributes> {
        self.engine()?.link(node, parent, name)
    }

    /// Removes a name that is none of a directory.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, or as [`Overlay::set_attributes`].
    pub fn unlink(&self, parent: NodeNumber, name: &[u8]) -> Result<()> {
        self.engine()?.unlink(parent, name)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, or as [`Overlay::set_attributes`].
    pub fn remove_directory(&self, parent: NodeNumber, name: &[u8]) -> Result<()> {
        self.engine()?.remove_directory(parent, name)
    }

    /// Renames; see rename(2) and [`RenameFlags`].
    ///
    /// # Errors
    /// What rename(2) reports, `EXDEV` excepted.
    pub fn rename(
        &self,
        parent: NodeNumber,
        name: &[u8],
        new_parent: NodeNumber,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        self.engine()?
            .rename(parent, name, new_parent, new_name, flags)
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// `EISDIR` or `EINVAL` for other kinds; `EROFS` for writing on a read-only overlay; or what
    /// copying up reports.
    pub fn open_file(&self, node: NodeNumber, request: OpenRequest) -> Result<Opened> {
        match &self.kind {
            Kind::Writable(engine) => engine.open_file(node, request),
            Kind::ReadOnly(_) if request.write || request.truncate => Err(Errno::EROFS.into()),
            Kind::ReadOnly(base) => {
                let file = OverlayFile::of_base(node, base.open(node)?);
                Ok(Opened::File(Arc::new(file)))
            }
        }
    }

    /// Sets an extended attribute, ACLs included.
    ///
    /// # Errors
    /// `EEXIST` or `ENODATA` as asked for, `EPERM` for names that are the overlay's own, or as
    /// [`Overlay::set_attributes`].
    pub fn set_xattr(
        &self,
        node: NodeNumber,
        name: &[u8],
        value: &[u8],
        change: XattrChange,
    ) -> Result<()> {
        self.engine()?.set_xattr(node, name, value, change)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, or as [`Overlay::set_xattr`].
    pub fn remove_xattr(&self, node: NodeNumber, name: &[u8]) -> Result<()> {
        self.engine()?.remove_xattr(node, name)
    }

    /// Makes the entries of a directory durable.
    ///
    /// # Errors
    /// What fsync(2) reports.
    pub fn sync_directory(&self, node: NodeNumber) -> Result<()> {
        match &self.kind {
            Kind::Writable(engine) => engine.sync_directory(node),
            Kind::ReadOnly(_) => Ok(()),
        }
    }

    /// Figures of the upper's file system; none when read-only.
    ///
    /// # Errors
    /// What statfs(2) reports.
    pub fn space(&self) -> Result<Option<Space>> {
        match &self.kind {
            Kind::Writable(engine) => engine.space().map(Some),
            Kind::ReadOnly(_) => Ok(None),
        }
    }

    /// Whether any node may have extended attributes; `false` is certain, and never for a writable
    /// overlay.
    #[must_use]
    pub fn may_have_xattrs(&self) -> bool {
        self.is_writable() || self.base().may_have_xattrs()
    }

    /// Whether POSIX ACLs are possible.
    #[must_use]
    pub fn may_have_acls(&self) -> bool {
        match &self.kind {
            Kind::Writable(engine) => engine.may_have_acls(),
            Kind::ReadOnly(base) => base.may_have_acls(),
        }
    }
}
