//! Changing attributes: chmod, chown, truncate, utimes.

use std::sync::Arc;

use nix::errno::Errno;

use super::copy_up::{Want, Wish};
use super::engine::Engine;
use super::node::{Node, Stage};
use super::request::{SetAttributes, TimeChange};
use super::upper::{failed, without_set_id};
use crate::layer::FileKind;
use crate::sys::data;
use crate::sys::writable::{At, NewTime};
use crate::union::{Attributes, Error, NodeNumber, Result};

impl Engine {
    /// See [`super::Overlay::set_attributes`].
    pub(super) fn set_attributes(
        &self,
        node: NodeNumber,
        change: &SetAttributes,
    ) -> Result<Attributes> {
        let node = self.node(node)?;
        let SetAttributes {
            permissions,
            uid,
            gid,
            size,
            atime,
            mtime,
            kill_privileges,
        } = *change;
        let changes_owner = uid.is_some() || gid.is_some();
        let changes_times = atime.is_some() || mtime.is_some();
        if size.is_some() && node.kind != FileKind::Regular {
            let is_directory = node.kind == FileKind::Directory;
            return Err(if is_directory {
                Errno::EISDIR
            } else {
                Errno::EINVAL
            }
            .into());
        }
        if permissions.is_some() && node.kind == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP.into());
        }
        // No more is copied than what is to stay.
        let may_be_cut = size.is_some() && node.stage() != Stage::Upper;
        if kill_privileges && node.kind != FileKind::Directory {
            let want = size.map_or(Want::Attributes, Want::Data);
            self.drop_privileges(&node, want)?;
        }
        if let Some(size) = size {
            self.copy_up(&node, Want::Data(size))?;
        } else if changes_owner || changes_times || permissions.is_some() {
            let wish = Wish {
                permissions: permissions.map(|permissions| permissions & 0o7777),
                uid,
                gid,
                times: (atime.map(new_time), mtime.map(new_time)),
            };
            if self.copy_up_as(&node, Want::Attributes, &wish)? {
                let _still = self.still();
                return self.attributes_of(&node).map_err(Error::in_doubt);
            }
        } else {
            let _still = self.still();
            return self.attributes_of(&node);
        }
        let _still = self.still();
        let reach = self.upper.reach(&node)?;
        let at = reach.at();
        if let Some(size) = size {
            let truncated = at.open(true).and_then(|file| data::truncate(&file, size));
            if let Err(error) = truncated {
                let error = failed("truncating in the upper")(error);
                return Err(if may_be_cut { error.in_doubt() } else { error });
            }
        }
        if changes_owner {
            self.upper.set_owner(at, uid, gid)?;
        }
        if let Some(permissions) = permissions {
            let permissions = permissions & 0o7777;
            self.upper.change_permissions(at, node.kind, permissions)?;
            self.acl_follows_mode(at, permissions)?;
        }
        if changes_times {
            let new = |time: Option<TimeChange>| time.map_or(NewTime::Keep, new_time);
            at.set_times(new(atime), new(mtime))
                .map_err(failed("setting times in the upper"))?;
        }
        node.forget_inheritance();
        self.attributes_of(&node).map_err(Error::in_doubt)
    }

    /// Clears set-id bits and the file capability; copies nothing up that has neither, and no more than wanted.
    fn drop_privileges(&self, node: &Arc<Node>, want: Want) -> Result<()> {
        const CAPABILITY: &[u8] = b"security.capability";
        let number = NodeNumber(node.number);
        let now = {
            let _still = self.still();
            self.attributes_of(node)?
        };
        let permissions = without_set_id(now.permissions);
        if self.xattr(number, CAPABILITY)?.is_some() {
            self.remove_xattr(number, CAPABILITY)?;
        }
        if permissions != now.permissions {
            self.copy_up(node, want)?;
            let _still = self.still();
            let reach = self.upper.reach(node)?;
            let at: At<'_> = reach.at();
            let changed = self.upper.change_permissions(at, node.kind, permissions);
            changed.map_err(|error| match want {
                Want::Attributes => error,
                Want::Data(_) => error.in_doubt(),
            })?;
        }
        Ok(())
    }
}

fn new_time(change: TimeChange) -> NewTime {
    match change {
        TimeChange::Now => NewTime::Now,
        TimeChange::At(time) => NewTime::Set(time.seconds, time.nanoseconds),
    }
}
