//! Extended attributes: what users may see and set, and under which names the upper keeps it.
//!
//! The overlay's own marks are hidden; such names set by users (overlays within containers) are
//! escaped. With `override_stat`, what an ordinary user cannot set is kept as
//! `user.containers.override_NAME`.

use std::borrow::Cow;

use nix::errno::Errno;

use super::acl;
use super::copy_up::Want;
use super::engine::Engine;
use super::node::Stage;
use super::request::XattrChange;
use super::upper::failed;
use crate::layer::FileKind;
use crate::sys::writable::At;
use crate::union::{NodeNumber, Result};

const ESCAPE: &[u8] = b"user.containers.override_";
const STAT: &[u8] = b"user.containers.override_stat";
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// What names of attributes begin with.
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];
const ACLS: [&[u8]; 2] = [ACCESS_ACL, b"system.posix_acl_default"];

impl Engine {
    /// The name under which the upper keeps an attribute; none if users cannot have it.
    fn stored_name<'a>(&self, name: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        if self.upper.override_stat {
            if name.starts_with(ESCAPE) {
                return None;
            }
            if !name.starts_with(b"user.") {
                return Some(Cow::Owned([ESCAPE, name].concat()));
            }
        }
        self.upper.names.namespace.stored_name(name)
    }

    fn shown_name<'a>(&self, name: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        if self.upper.override_stat {
            if name == STAT {
                return None;
            }
            if let Some(escaped) = name.strip_prefix(ESCAPE) {
                return Some(Cow::Borrowed(escaped));
            }
        }
        self.upper.names.namespace.shown_name(name)
    }

    /// Sets an attribute of an object of the upper, for a copy.
    pub(super) fn store_xattr(&self, at: At<'_>, name: &[u8], value: &[u8]) -> Result<()> {
        let value = self.stored_value(name, value)?;
        self.store_raw_xattr(at, name, &value)
    }

    /// The same for a value that is as the upper has it.
    pub(super) fn store_raw_xattr(&self, at: At<'_>, name: &[u8], value: &[u8]) -> Result<()> {
        // What users cannot have in the upper came with the image, and stays there.
        let Some(stored) = self.stored_name(name) else {
            return Ok(());
        };
        let set = at.set_xattr(&stored, value, 0);
        set.map_err(failed("setting an extended attribute in the upper"))
    }

    fn stored_value<'a>(&self, name: &[u8], value: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        if ACLS.contains(&name) {
            let stored = self.upper.ids.stored_acl(Cow::Borrowed(value));
            return Ok(stored.ok_or(Errno::EOVERFLOW)?);
        }
        Ok(Cow::Borrowed(value))
    }

    /// See [`super::Overlay::xattr`].
    pub(super) fn xattr(&self, node: NodeNumber, name: &[u8]) -> Result<Option<Cow<'_, [u8]>>> {
        let node = self.node(node)?;
        if node.stage() == Stage::Base {
            // Nothing is locked: a layer may take long to answer.
            let base = node.base.ok_or(Errno::ESTALE)?;
            return self.base.xattr(NodeNumber(base), name);
        }
        let _still = self.still();
        let Some(stored) = self.stored_name(name) else {
            return Ok(None);
        };
        let reach = self.upper.reach(&node)?;
        let value = reach.at().xattr(&stored);
        let value = value.map_err(failed("reading an extended attribute of the upper"))?;
        Ok(value.map(|value| match ACLS.contains(&name) {
            true => self.upper.ids.shown_acl(Cow::Owned(value)),
            false => Cow::Owned(value),
        }))
    }

    /// See [`super::Overlay::xattr_names`].
    pub(super) fn xattr_names(&self, node: NodeNumber) -> Result<Vec<Cow<'_, [u8]>>> {
        let node = self.node(node)?;
        if node.stage() == Stage::Base {
            let base = node.base.ok_or(Errno::ESTALE)?;
            return self.base.xattr_names(NodeNumber(base));
        }
        let _still = self.still();
        let reach = self.upper.reach(&node)?;
        let names = reach.at().xattr_names();
        let names = names.map_err(failed("reading the extended attributes of the upper"))?;
        let shown = names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .filter_map(|name| self.shown_name(name))
            .map(|name| Cow::Owned(name.into_owned()));
        Ok(shown.collect())
    }

    /// See [`super::Overlay::set_xattr`].
    pub(super) fn set_xattr(
        &self,
        node: NodeNumber,
        name: &[u8],
        value: &[u8],
        change: XattrChange,
    ) -> Result<()> {
        let stored = self.stored_name(name).ok_or(Errno::EPERM)?;
        // Elsewhere the file system of the upper knows.
        if self.upper.override_stat && !NAMESPACES.iter().any(|it| name.starts_with(it)) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let value = self.stored_value(name, value)?;
        let flags = match change {
            XattrChange::Set => 0,
            XattrChange::Create => libc::XATTR_CREATE,
            XattrChange::Replace => libc::XATTR_REPLACE,
        };
        let node = self.node(node)?;
        if node.stage() == Stage::Base && change != XattrChange::Set {
            let has = self.xattr(NodeNumber(node.number), name)?.is_some();
            check_change(change, has)?;
        }
        self.copy_up(&node, Want::Attributes)?;
        let _still = self.still();
        let reach = self.upper.reach(&node)?;
        let at = reach.at();
        let set = match self.upper.override_stat && name == ACCESS_ACL {
            true => self.set_access_acl(at, node.kind, (&stored, &value), change),
            false => {
                let set = at.set_xattr(&stored, &value, flags);
                set.map_err(failed("setting an extended attribute in the upper"))
            }
        };
        node.forget_inheritance();
        set
    }

    /// Sets the access ACL of an object of a plain user's upper, and the mode that it says. One that says nothing
    /// else is not kept.
    fn set_access_acl(
        &self,
        at: At<'_>,
        kind: FileKind,
        (stored, value): (&[u8], &[u8]),
        change: XattrChange,
    ) -> Result<()> {
        let doing = failed("setting an extended attribute in the upper");
        let now = self.upper.looks(at)?.owner.permissions;
        let (permissions, says_more) = acl::mode_of(value, now).ok_or(Errno::EINVAL)?;
        let had = at.xattr(stored).map_err(&doing)?.is_some();
        check_change(change, had)?;
        // First what may need space; a mode without its ACL must not say more than both did.
        if says_more {
            at.set_xattr(stored, value, 0).map_err(doing)?;
            return self.upper.change_permissions(at, kind, permissions);
        }
        self.upper.change_permissions(at, kind, permissions)?;
        if had {
            at.remove_xattr(stored).map_err(doing)?;
        }
        Ok(())
    }

    /// Has the ACL of an object of a plain user's upper say what its new mode says.
    pub(super) fn acl_follows_mode(&self, at: At<'_>, permissions: u16) -> Result<()> {
        let Some(stored) = self
            .stored_name(ACCESS_ACL)
            .filter(|_| self.upper.override_stat)
        else {
            return Ok(());
        };
        let doing = failed("changing an ACL in the upper");
        let Some(acl) = at.xattr(&stored).map_err(&doing)? else {
            return Ok(());
        };
        match acl::with_mode(&acl, permissions) {
            Some(changed) if changed != acl => at.set_xattr(&stored, &changed, 0).map_err(doing),
            _ => Ok(()),
        }
    }

    /// See [`super::Overlay::remove_xattr`].
    pub(super) fn remove_xattr(&self, node: NodeNumber, name: &[u8]) -> Result<()> {
        let stored = self.stored_name(name).ok_or(Errno::ENODATA)?;
        let node = self.node(node)?;
        if node.stage() == Stage::Base && self.xattr(NodeNumber(node.number), name)?.is_none() {
            return Err(Errno::ENODATA.into());
        }
        self.copy_up(&node, Want::Attributes)?;
        let _still = self.still();
        let reach = self.upper.reach(&node)?;
        let removed = reach.at().remove_xattr(&stored);
        node.forget_inheritance();
        removed.map_err(failed("removing an extended attribute in the upper"))
    }
}

/// Whether an attribute can be set that is there or not.
fn check_change(change: XattrChange, is_there: bool) -> Result<()> {
    match change {
        XattrChange::Create if is_there => Err(Errno::EEXIST.into()),
        XattrChange::Replace if !is_there => Err(Errno::ENODATA.into()),
        _ => Ok(()),
    }
}
