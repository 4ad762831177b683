//! Copying up: making an object of the base one of the upper, before it is changed.
//!
//! 1. The directories above, topmost first, each by itself.
//! 2. A temporary in the work directory, unnamed where the file system can.
//! 3. Data, by sharing or by copying what is no hole; none at all for a change of attributes where
//!    `metacopy` is on.
//! 4. Owner, then extended attributes (changing the owner removes capabilities, so does writing),
//!    then mode (changing the owner removes set-id bits), then times.
//! 5. The data become durable, unless the overlay is volatile.
//! 6. The object gets its place, atomically, and the node learns of it.
//! 7. The directory gets its times back.
//!
//! Whatever fails removes the temporary; what a crash leaves goes when the overlay is opened.
//!
//! # Locking
//! `copying` of the node alone is held through all of this, the rest only for step 6.

use std::sync::Arc;

use nix::errno::Errno;

use super::directory::Entry;
use super::engine::Engine;
use super::node::{Node, Stage};
use super::upper::{Owner, Temporary, failed, without_set_id};
use crate::layer::{FileKind, Timestamp};
use crate::sys::data;
use crate::sys::writable::{At, NewTime};
use crate::union::{Attributes, Error, NodeNumber, Result};

/// What is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Attributes.
    Attributes,
    /// Data, of which so many bytes matter.
    Data(u64),
}

impl Want {
    /// Only regular files have data.
    pub(super) fn for_kind(self, kind: FileKind) -> Want {
        if kind == FileKind::Regular {
            self
        } else {
            Want::Attributes
        }
    }
}

/// What a copy shall be like at once, where that is not what it is a copy of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    pub(super) permissions: Option<u16>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    /// Of access, of modification.
    pub(super) times: (Option<NewTime>, Option<NewTime>),
}

impl Wish {
    fn changes_owner(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }

    fn owner(&self, kind: FileKind, base: &Attributes) -> Owner {
        let kept = match kind {
            FileKind::Directory => base.permissions,
            _ if self.changes_owner() => without_set_id(base.permissions),
            _ => base.permissions,
        };
        Owner {
            uid: self.uid.unwrap_or(base.uid),
            gid: self.gid.unwrap_or(base.gid),
            permissions: self.permissions.unwrap_or(kept),
        }
    }
}

/// A copy that has no place yet.
pub(super) struct Copy<'a> {
    pub(super) temporary: Temporary<'a>,
    pub(super) stage: Stage,
    pub(super) upper_ino: u64,
}

impl Engine {
    /// Copies a node up as far as `want` needs it. Nothing may be locked.
    pub(super) fn copy_up(&self, node: &Arc<Node>, want: Want) -> Result<()> {
        self.copy_up_as(node, want, &Wish::default()).map(drop)
    }

    /// The same; a copy that is made is as wished. Says whether one was made.
    pub(super) fn copy_up_as(&self, node: &Arc<Node>, want: Want, wish: &Wish) -> Result<bool> {
        if node.kind == FileKind::Directory {
            return self.copy_up_directory(node).map(|()| false);
        }
        if is_enough(node.stage(), want) {
            return Ok(false);
        }
        let _copying = node.copying.lock();
        match node.stage() {
            stage if is_enough(stage, want) => Ok(false),
            Stage::Base => {
                if node.state.read().detached {
                    return Err(Errno::ESTALE.into());
                }
                let copy = self.copy(node, want, wish)?;
                self.publish(node, copy, None).map(|()| true)
            }
            _ => self.complete(node, want).map(|()| false),
        }
    }

    /// Copies a directory up, and all above it.
    pub(super) fn copy_up_directory(&self, node: &Arc<Node>) -> Result<()> {
        while node.stage() == Stage::Base {
            // From the lowest that is in the upper downwards.
            let mut missing = Vec::new();
            {
                let _still = self.still();
                let mut at = Arc::clone(node);
                while at.stage() == Stage::Base {
                    missing.push(Arc::clone(&at));
                    let place = at.state.read().place.clone();
                    let (parent, _) = place.ok_or(Errno::ENOENT)?;
                    at = parent;
                }
            }
            for directory in missing.into_iter().rev() {
                self.copy_up_one_directory(&directory)?;
            }
        }
        Ok(())
    }

    fn copy_up_one_directory(&self, node: &Arc<Node>) -> Result<()> {
        let _copying = node.copying.lock();
        if node.stage() != Stage::Base {
            return Ok(());
        }
        let base = self.base_of(node)?;
        let copy = self.upper.temporary_directory()?;
        let upper_ino = self.dress(node, &copy, &base, &Wish::default())?;
        self.mark_origin(copy.at(), node)?;
        let copy = Copy {
            temporary: copy,
            stage: Stage::Upper,
            upper_ino,
        };
        let _still = self.still();
        let place = node.state.read().place.clone();
        let (parent, name) = place.ok_or(Errno::ENOENT)?;
        if parent.stage() == Stage::Base {
            // Renamed meanwhile; whoever wants it begins again.
            return Ok(());
        }
        self.put_in_place(node, copy, &parent, &name, None)
    }

    pub(super) fn base_of(&self, node: &Node) -> Result<Attributes> {
        let base = node
            .base
            .ok_or_else(|| Error::broken("a node of no layer"))?;
        self.base.attributes(NodeNumber(base))
    }

    /// Makes the copy of something that is no directory.
    pub(super) fn copy(&self, node: &Arc<Node>, want: Want, wish: &Wish) -> Result<Copy<'_>> {
        let base = self.base_of(node)?;
        let mut stage = Stage::Upper;
        let mut has_data = false;
        let upper = &self.upper;
        let permissions = wish.owner(node.kind, &base).permissions;
        let may_be_metacopy = node.kind == FileKind::Regular
            && want == Want::Attributes
            && upper.metacopy_redirect
            && base.size > 0;
        let mut redirect = None;
        if may_be_metacopy && node.linked_in_base {
            let _still = self.still();
            // The name by which it was known may be gone, and another one not looked up again.
            if node.state.read().place.is_some() {
                redirect = Some(self.base_path_of(node)?);
            }
        }
        let temporary = match node.kind {
            FileKind::Regular
                if may_be_metacopy && (redirect.is_some() || !node.linked_in_base) =>
            {
                stage = Stage::Metacopy;
                let copy = upper.temporary_file_for(permissions)?;
                if let Some(file) = copy.file() {
                    data::truncate(file, base.size).map_err(failed("copying up attributes"))?;
                }
                copy
            }
            FileKind::Regular => {
                let copy = upper.temporary_file_for(permissions)?;
                let keep = match want {
                    Want::Data(keep) => keep,
                    Want::Attributes => u64::MAX,
                };
                if let Some(file) = copy.file() {
                    has_data = self.copy_data(base.node, keep, file)?;
                }
                copy
            }
            FileKind::Symlink => {
                // Its target is the content of a file then, and must not be lost in a crash.
                has_data = upper.override_stat;
                upper.new_symlink(&self.base.read_link(base.node)?)?
            }
            _ if upper.override_stat => upper.temporary_file()?,
            kind if upper.needs_placeholder(kind, base.device) => upper.temporary_file()?,
            kind => upper.temporary_node(kind.mode_bits() | 0o600, base.device)?,
        };
        if stage == Stage::Metacopy {
            let doing = failed("marking a metacopy");
            let marks = temporary.at();
            let names = &upper.names;
            marks.set_xattr(&names.metacopy, b"", 0).map_err(&doing)?;
            if let Some(path) = redirect {
                marks.set_xattr(&names.redirect, &path, 0).map_err(&doing)?;
            }
        }
        // The name of a metacopy, or its redirect, leads to its origin.
        if stage != Stage::Metacopy || node.linked_in_base {
            self.mark_origin(temporary.at(), node)?;
        }
        let upper_ino = self.dress(node, &temporary, &base, wish)?;
        if has_data && let Some(file) = temporary.file() {
            upper.sync(file, false)?;
        }
        Ok(Copy {
            temporary,
            stage,
            upper_ino,
        })
    }

    /// Copies data of the base; says whether there were any.
    fn copy_data(&self, base: NodeNumber, keep: u64, to: &std::fs::File) -> Result<bool> {
        if keep == 0 {
            return Ok(false);
        }
        let content = self.base.open(base)?;
        let size = content.size.min(keep);
        let whole = content.whole && size == content.size;
        data::copy(&content.file, content.start, size, whole, to)
            .map_err(failed("copying up data"))?;
        Ok(size > 0)
    }

    /// Gives a copy owner, attributes, mode and times of what it is a copy of, or as wished;
    /// returns its inode number.
    fn dress(
        &self,
        node: &Node,
        copy: &Temporary<'_>,
        base: &Attributes,
        wish: &Wish,
    ) -> Result<u64> {
        let at = copy.at();
        let mut owner = wish.owner(node.kind, base);
        (owner.uid, owner.gid) = self.upper.stored(owner.uid, owner.gid)?;
        let stat = self
            .upper
            .set_first_owner(at, node.kind, base.device, owner)?;
        let mut has_acl = false;
        for name in self.base.xattr_names(base.node)? {
            // What a change of owner takes away.
            if wish.changes_owner() && *name == *b"security.capability" {
                continue;
            }
            if let Some(value) = self.base.xattr(base.node, &name)? {
                self.store_xattr(at, &name, &value)?;
                has_acl |= name.starts_with(b"system.posix_acl_");
            }
        }
        let has_mode = !has_acl && stat.mode & 0o7777 == u32::from(owner.permissions);
        if self.upper.needs_placeholder(node.kind, base.device) {
            self.upper.set_null_device(at, owner.permissions)?;
        } else if node.kind != FileKind::Symlink && !self.upper.override_stat && !has_mode {
            self.upper.set_permissions(at, owner.permissions)?;
        }
        if has_acl && wish.permissions.is_some() {
            self.acl_follows_mode(at, owner.permissions)?;
        }
        let time = |time: Timestamp| NewTime::Set(time.seconds, time.nanoseconds);
        at.set_times(
            wish.times.0.unwrap_or(time(base.atime)),
            wish.times.1.unwrap_or(time(base.mtime)),
        )
        .map_err(failed("setting times in the upper"))?;
        Ok(stat.ino)
    }

    /// Notes where a copy comes from. Without privileges only files and directories can have notes.
    fn mark_origin(&self, copy: At<'_>, node: &Node) -> Result<()> {
        let value = self.upper.origin_value(node.ino);
        match copy.set_xattr(&self.upper.names.origin, &value, 0) {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP))
                    && !matches!(node.kind, FileKind::Regular | FileKind::Directory) =>
            {
                Ok(())
            }
            result => result.map_err(failed("noting where a copy comes from")),
        }
    }

    /// Copies the data of a metacopy.
    pub(super) fn complete(&self, node: &Arc<Node>, want: Want) -> Result<()> {
        let Want::Data(keep) = want else {
            return Ok(());
        };
        let doing = failed("copying up data");
        let file = {
            let _still = self.still();
            let reach = self.upper.reach(node)?;
            reach.at().open(true).map_err(&doing)?
        };
        let at = At::file(&file);
        let stat = at.stat().map_err(&doing)?;
        let capability = at.xattr(b"security.capability").map_err(&doing)?;
        let base = self.base_of(node)?;
        // What writing takes away.
        let restore = || -> Result<()> {
            if let Some(capability) = &capability {
                at.set_xattr(b"security.capability", capability, 0)
                    .map_err(&doing)?;
            }
            if stat.mode & 0o6000 != 0 {
                at.set_mode(stat.mode & 0o7777).map_err(&doing)?;
            }
            let times = (
                NewTime::Set(stat.atime.0, stat.atime.1),
                NewTime::Set(stat.mtime.0, stat.mtime.1),
            );
            at.set_times(times.0, times.1).map_err(&doing)
        };
        let copy = || -> Result<()> {
            data::truncate(&file, 0).map_err(&doing)?;
            if self.copy_data(base.node, keep, &file)? {
                self.upper.sync(&file, true)?;
            }
            restore()?;
            self.mark_origin(at, node)?;
            at.remove_xattr(&self.upper.names.metacopy).map_err(&doing)
        };
        if let Err(error) = copy() {
            // Still a metacopy, whose size is told by its length.
            let back = data::truncate(&file, stat.size).map_err(&doing);
            if let Err(error) = back.and_then(|()| restore()) {
                log::warn!("a metacopy is not as it was: {error}");
            }
            return Err(error);
        }
        node.state.write().stage = Stage::Upper;
        Ok(())
    }

    /// The path of a node's object in the base, from its root. The tree must not change meanwhile.
    pub(super) fn base_path_of(&self, node: &Arc<Node>) -> Result<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = Arc::clone(node);
        loop {
            let (redirect, place) = {
                let state = at.state.read();
                (state.redirect.clone(), state.place.clone())
            };
            if let Some(redirect) = redirect {
                if redirect.starts_with(b"/") {
                    names.push(redirect.get(1..).unwrap_or_default().to_vec());
                    break;
                }
                names.push(redirect.into());
            } else if at.number == super::node::ROOT {
                break;
            } else if let Some((_, name)) = &place {
                names.push(name.to_vec());
            }
            let (parent, _) = place.ok_or(Errno::ENOENT)?;
            at = parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        Ok(path)
    }

    /// Whether the upper has nothing at a name.
    pub(super) fn is_base_only(contents: &super::directory::Contents, name: &[u8]) -> bool {
        !matches!(contents.get(name), Some(Entry::Object(_) | Entry::Whiteout))
    }
}

fn is_enough(stage: Stage, want: Want) -> bool {
    match want {
        Want::Attributes => stage != Stage::Base,
        Want::Data(_) => stage == Stage::Upper,
    }
}
