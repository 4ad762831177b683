//! Making something new: files, directories, symlinks, devices, FIFOs, sockets.
//!
//! What has its owner and mode from the first call on is made in its place; everything else in the
//! work directory, so that nobody ever sees it half made, and so is what takes the place of a
//! whiteout.

use std::fs::File;
use std::sync::Arc;

use nix::errno::Errno;

use super::acl;
use super::directory::{Contents, Entry, Inheritance};
use super::engine::{Engine, check_new_name};
use super::node::{Node, Stage, State};
use super::request::Caller;
use super::upper::{Looks, Owner, Temporary, failed};
use crate::layer::FileKind;
use crate::sys::identity::Identity;
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
    /// Its owner, as it is on disk.
    stored: Owner,
    above: Arc<Inheritance>,
    /// Whether a default ACL applies to it.
    has_default_acl: bool,
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
        let plan = self.plan(&self.inheritance(&directory, &mut contents)?, new, caller);
        let made = match over_whiteout {
            true => None,
            false => self.make_in_place(&directory, name, &plan)?,
        };
        let file = if let Some(file) = made {
            file
        } else {
            let temporary = self.make_temporary(&plan)?;
            if over_whiteout && new.kind == FileKind::Directory {
                if in_base {
                    let opaque = temporary.at().set_xattr(&self.upper.names.opaque, b"y", 0);
                    opaque.map_err(failed("marking a directory as opaque"))?;
                }
                drop(temporary.exchange(&directory, name)?);
                None
            } else if over_whiteout {
                temporary.replace(&directory, name)?
            } else {
                temporary.publish(&directory, name)?
            }
        };
        // From here on it is there, whatever fails.
        let looks = match &file {
            Some(file) => self.upper.looks(At::file(file)),
            None => self.upper.looks(directory.at(name)),
        };
        let looks = match looks {
            Ok(looks) => looks,
            Err(error) => {
                // Whoever looks it up tries again.
                contents.set_object(name, 0, 0, in_base);
                return Err(error.in_doubt());
            }
        };
        let node = self.hold_new(&parent, name, new.kind, &looks);
        contents.set_object(name, looks.stat.ino, node.number, in_base);
        let mut attributes = looks.attributes();
        (attributes.node, attributes.ino) = (NodeNumber(node.number), node.ino);
        attributes.generation = node.generation;
        Ok((node, attributes, file))
    }

    /// What a directory gives to what is made in it, read now or before.
    fn inheritance(
        &self,
        directory: &WritableDir,
        contents: &mut Contents,
    ) -> Result<Arc<Inheritance>> {
        if let Some(known) = &contents.inheritance {
            return Ok(Arc::clone(known));
        }
        let looks = self.upper.looks(directory.at(b""))?;
        let inheritance = Arc::new(Inheritance {
            gid: (looks.owner.permissions & 0o2000 != 0).then_some(looks.owner.gid),
            stored_gid: (looks.stat.mode & 0o2000 != 0).then_some(looks.stat.gid),
            default_acl: self.default_acl(directory)?,
        });
        contents.inheritance = Some(Arc::clone(&inheritance));
        Ok(inheritance)
    }

    fn plan<'a>(&self, above: &Arc<Inheritance>, new: New<'a>, caller: &Caller) -> Plan<'a> {
        let mut new = new;
        let default_acl = match new.kind {
            FileKind::Symlink => None,
            _ => above.default_acl.as_ref(),
        };
        let mut access_acl = None;
        new.permissions &= 0o7777;
        match default_acl {
            Some(default) => {
                if let Some((permissions, access)) = acl::inherit(default, new.permissions) {
                    new.permissions = permissions;
                    access_acl = access;
                }
            }
            None => new.permissions &= !(caller.umask as u16),
        }
        if above.gid.is_some() && new.kind == FileKind::Directory {
            new.permissions |= 0o2000;
        }
        let ids = &self.upper.ids;
        let stored = Owner {
            uid: ids.users.stored_of_maker(caller.uid),
            gid: ids.groups.stored_of_maker(above.gid.unwrap_or(caller.gid)),
            permissions: new.permissions,
        };
        Plan {
            new,
            stored,
            has_default_acl: default_acl.is_some(),
            above: Arc::clone(above),
            access_acl,
        }
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

    /// Makes it in its place, if one system call gives it all that it shall have.
    fn make_in_place(
        &self,
        directory: &WritableDir,
        name: &[u8],
        plan: &Plan<'_>,
    ) -> Result<Option<Option<File>>> {
        if self.upper.needs_placeholder(plan.new.kind, plan.new.device) {
            return Ok(None);
        }
        // Not all file systems keep set-id bits of what is made.
        if self.upper.override_stat || plan.has_default_acl || plan.new.permissions & 0o6000 != 0 {
            return Ok(None);
        }
        let Owner { uid, gid, .. } = plan.stored;
        if plan.above.stored_gid.is_some_and(|given| given != gid) {
            return Ok(None);
        }
        let (own_uid, own_gid) = self.upper.own_ids;
        let is_own = uid == own_uid && (gid == own_gid || plan.above.stored_gid.is_some());
        // Who takes on another identity may make no devices.
        if !is_own && matches!(plan.new.kind, FileKind::CharDevice | FileKind::BlockDevice) {
            return Ok(None);
        }
        let Some(identity) = Identity::take((!is_own).then_some((uid, gid))) else {
            return Ok(None);
        };
        let made = make_at(directory, name, &plan.new);
        drop(identity);
        match made {
            // The kernel has allowed it to the caller, who may have more groups than we know of.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
                Ok(None)
            }
            made => made
                .map(Some)
                .map_err(failed("making something in the upper")),
        }
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
            kind if upper.needs_placeholder(kind, device) => upper.temporary_file()?,
            kind => upper.temporary_node(kind.mode_bits() | 0o600, device)?,
        };
        let at: At<'_> = temporary.at();
        upper.set_first_owner(at, kind, device, plan.stored)?;
        if upper.needs_placeholder(kind, device) {
            // With permissions alone, whatever the default ACL says.
            upper.set_null_device(at, plan.stored.permissions)?;
            return Ok(temporary);
        }
        if let Some(access) = &plan.access_acl {
            self.store_raw_xattr(at, ACCESS_ACL, access)?;
        }
        if kind == FileKind::Directory
            && let Some(default) = &plan.above.default_acl
        {
            self.store_raw_xattr(at, DEFAULT_ACL, default)?;
        }
        if kind != FileKind::Symlink && !upper.override_stat {
            upper.set_permissions(at, plan.stored.permissions)?;
        }
        Ok(temporary)
    }

    /// The node of something that was just made; takes a reference.
    pub(super) fn hold_new(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        kind: FileKind,
        looks: &Looks,
    ) -> Arc<Node> {
        let upper_ino = looks.stat.ino;
        let mut number = self.numbers.of_upper(upper_ino);
        loop {
            let (node, is_new) = self.table.hold_or(number, || {
                let state = State {
                    stage: Stage::Upper,
                    upper_ino,
                    ..State::base(Some((Arc::clone(parent), Box::from(name))))
                };
                let mut node = Node::new(number, kind, None, state);
                node.generation = looks.generation();
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
            number = self.numbers.fresh();
        }
    }
}

fn make_at(directory: &WritableDir, name: &[u8], new: &New<'_>) -> std::io::Result<Option<File>> {
    let mode = u32::from(new.permissions);
    match new.kind {
        FileKind::Regular => directory.create_file(name, mode).map(Some),
        FileKind::Directory => directory.make_directory(name, mode).map(|()| None),
        FileKind::Symlink => directory.make_symlink(name, new.target).map(|()| None),
        kind => directory
            .make_node(name, kind.mode_bits() | mode, new.device)
            .map(|()| None),
    }
}
