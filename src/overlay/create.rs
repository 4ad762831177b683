//! Making something new: files, directories, symlinks, devices, FIFOs, sockets.
//!
//! What has its owner and mode from the first call on is made in its place; everything else in the
//! work directory, so that nobody ever sees it half made, and so is what takes the place of a
//! whiteout.

use std::fs::File;
use std::sync::Arc;

use nix::errno::Errno;

use super::acl;
use super::directory::Entry;
use super::engine::{Engine, check_new_name};
use super::node::{Node, Stage, State};
use super::request::Caller;
use super::upper::{Owner, Temporary, failed};
use crate::layer::FileKind;
use crate::sys::writable::{At, WritableDir};
use crate::union::{Attributes, NodeNumber, Result};

const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct New<'a> {
    pub(super) kind: FileKind,
    pub(super) permissions: u16,
    pub(super) device: (u32, u32),
    pub(super) target: &'a [u8],
}

/// Something new, and how it is to look.
struct Plan<'a> {
    new: New<'a>,
    owner: Owner,
    /// Group that the directory gives to what is made in it, as it is stored.
    group_above: Option<u32>,
    default_acl: Option<Vec<u8>>,
    access_acl: Option<Vec<u8>>,
}

impl Engine {
    /// Makes something; returns it with a reference, and open if it is a regular file.
    pub(super) fn make(
        &self,
        parent: NodeNumber,
        name: &[u8],
        new: New<'_>,
        caller: &Caller,
    ) -> Result<(Arc<Node>, Attributes, Option<File>)> {
        check_new_name(name)?;
        if new.kind == FileKind::CharDevice && new.device == (0, 0) && !self.upper.override_stat {
            // It would be a whiteout.
            return Err(Errno::EPERM.into());
        }
        let parent = self.directory(parent)?;
        self.copy_up_directory(&parent)?;
        let _still = self.still();
        let mut contents = self.contents_mut(&parent)?;
        if contents.removed {
            return Err(Errno::ENOENT.into());
        }
        let in_base = self.base_has(&contents, name)?;
        let over_whiteout = match contents.get(name) {
            Some(Entry::Object(_)) => return Err(Errno::EEXIST.into()),
            Some(Entry::Whiteout) => true,
            None if in_base => return Err(Errno::EEXIST.into()),
            None => false,
        };
        let directory = self.upper.directory(&parent)?;
        let plan = self.plan(&directory, new, caller)?;
        let file = if !over_whiteout && self.can_be_made_in_place(&plan) {
            make_in_place(&directory, name, &plan.new)?
        } else {
            let temporary = self.make_temporary(&plan)?;
            if over_whiteout && new.kind == FileKind::Directory {
                if in_base {
                    let opaque = temporary.at().set_xattr(&self.upper.names.opaque, b"y", 0);
                    opaque.map_err(failed("marking a directory as opaque"))?;
                }
                temporary.exchange(&directory, name)?;
                None
            } else if over_whiteout {
                temporary.replace(&directory, name)?
            } else {
                temporary.publish(&directory, name)?
            }
        };
        // From here on it is there, whatever fails.
        let looks = self.upper.looks(directory.at(name))?;
        let node = self.hold_new(&parent, name, new.kind, looks.stat.ino);
        contents.set_object(name, looks.stat.ino, node.number, in_base);
        let mut attributes = looks.attributes();
        (attributes.node, attributes.ino) = (NodeNumber(node.number), node.ino);
        Ok((node, attributes, file))
    }

    fn plan<'a>(&self, directory: &WritableDir, new: New<'a>, caller: &Caller) -> Result<Plan<'a>> {
        let above = self.upper.looks(directory.at(b""))?;
        let inherits_group = above.owner.permissions & 0o2000 != 0;
        let mut new = new;
        let default_acl = match new.kind {
            FileKind::Symlink => None,
            _ => self.default_acl(directory)?,
        };
        let mut access_acl = None;
        new.permissions &= 0o7777;
        match &default_acl {
            Some(default) => {
                if let Some((permissions, access)) = acl::inherit(default, new.permissions) {
                    new.permissions = permissions;
                    access_acl = access;
                }
            }
            None => new.permissions &= !(caller.umask as u16),
        }
        if inherits_group && new.kind == FileKind::Directory {
            new.permissions |= 0o2000;
        }
        let gid = if inherits_group {
            above.owner.gid
        } else {
            caller.gid
        };
        let owner = Owner {
            uid: caller.uid,
            gid,
            permissions: new.permissions,
        };
        Ok(Plan {
            new,
            owner,
            group_above: (above.stat.mode & 0o2000 != 0).then_some(above.stat.gid),
            default_acl,
            access_acl,
        })
    }

    fn default_acl(&self, directory: &WritableDir) -> Result<Option<Vec<u8>>> {
        let escaped = [b"user.containers.override_", DEFAULT_ACL].concat();
        let name = if self.upper.override_stat {
            &escaped
        } else {
            DEFAULT_ACL
        };
        directory
            .at(b"")
            .xattr(name)
            .map_err(failed("reading a default ACL in the upper"))
    }

    /// Whether one system call gives it all that it shall have.
    fn can_be_made_in_place(&self, plan: &Plan<'_>) -> bool {
        if self.upper.override_stat || plan.default_acl.is_some() {
            return false;
        }
        let masked = plan.new.kind != FileKind::Symlink && self.upper.has_umask;
        // Not all file systems keep set-id bits of what is made.
        if masked || plan.new.permissions & 0o6000 != 0 {
            return false;
        }
        let (uid, gid) = (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        );
        let ids = &self.upper.ids;
        let gid = plan.group_above.unwrap_or(gid);
        ids.users.stored(plan.owner.uid) == Some(uid)
            && ids.groups.stored(plan.owner.gid) == Some(gid)
    }

    fn make_temporary(&self, plan: &Plan<'_>) -> Result<Temporary<'_>> {
        let New {
            kind,
            device,
            target,
            ..
        } = plan.new;
        let upper = &self.upper;
        let temporary = match kind {
            FileKind::Directory => upper.temporary_directory()?,
            FileKind::Symlink => upper.new_symlink(target)?,
            FileKind::Regular => upper.temporary_file()?,
            _ if upper.override_stat => upper.temporary_file()?,
            kind => upper.temporary_node(kind.mode_bits() | 0o600, device)?,
        };
        let at: At<'_> = temporary.at();
        upper.set_first_owner(at, kind, device, plan.owner)?;
        if let Some(access) = &plan.access_acl {
            self.store_raw_xattr(at, ACCESS_ACL, access)?;
        }
        if kind == FileKind::Directory
            && let Some(default) = &plan.default_acl
        {
            self.store_raw_xattr(at, DEFAULT_ACL, default)?;
        }
        if kind != FileKind::Symlink && !upper.override_stat {
            upper.set_permissions(at, plan.owner.permissions)?;
        }
        Ok(temporary)
    }

    /// The node of something that was just made; takes a reference.
    pub(super) fn hold_new(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        kind: FileKind,
        upper_ino: u64,
    ) -> Arc<Node> {
        let mut number = self.upper_number(upper_ino);
        loop {
            let (node, is_new) = self.table.hold_or(number, || {
                let state = State {
                    stage: Stage::Upper,
                    upper_ino,
                    ..State::base(Some((Arc::clone(parent), Box::from(name))))
                };
                let node = Node::new(number, kind, None, state);
                if let Some(contents) = &node.contents {
                    contents.write().is_read = true;
                }
                node
            });
            if is_new {
                self.table.hold_again(parent);
                return node;
            }
            // Somebody still knows what had this inode before.
            self.release(number, 1);
            number = self.dynamic_number();
        }
    }
}

fn make_in_place(directory: &WritableDir, name: &[u8], new: &New<'_>) -> Result<Option<File>> {
    let mode = u32::from(new.permissions);
    let made = match new.kind {
        FileKind::Regular => directory.create_file(name, mode).map(Some),
        FileKind::Directory => directory.make_directory(name, mode).map(|()| None),
        FileKind::Symlink => directory.make_symlink(name, new.target).map(|()| None),
        kind => directory
            .make_node(name, kind.mode_bits() | mode, new.device)
            .map(|()| None),
    };
    made.map_err(failed("making something in the upper"))
}
