//! Removing names: unlink and rmdir.

use std::ops::ControlFlow;
use std::sync::Arc;

use nix::errno::Errno;
use parking_lot::RwLockWriteGuard;

use super::directory::{Contents, Entry};
use super::engine::{Engine, check_name};
use super::node::{Node, Stage};
use super::upper::{Temporary, failed};
use crate::layer::FileKind;
use crate::sys::writable::WritableDir;
use crate::union::{NodeNumber, Result};

impl Engine {
    /// See [`super::Overlay::unlink`].
    pub(super) fn unlink(&self, parent: NodeNumber, name: &[u8]) -> Result<()> {
        self.remove(parent, name, false)
    }

    /// See [`super::Overlay::remove_directory`].
    pub(super) fn remove_directory(&self, parent: NodeNumber, name: &[u8]) -> Result<()> {
        match name {
            b"." => Err(Errno::EINVAL.into()),
            b".." => Err(Errno::ENOTEMPTY.into()),
            _ => self.remove(parent, name, true),
        }
    }

    fn remove(&self, parent: NodeNumber, name: &[u8], is_directory: bool) -> Result<()> {
        check_name(name)?;
        let parent = self.directory(parent)?;
        if parent.stage() == Stage::Base {
            // What is not there is no reason to copy a directory up.
            let _still = self.still();
            let node = self.find(&parent, name)?.ok_or(Errno::ENOENT)?;
            self.release(node.number, 1);
        }
        self.copy_up_directory(&parent)?;
        // Alone, for what loses its place may be under way to it by this name, and another object
        // may get the name at once.
        let alone = self.tree.write();
        let mut contents = self.contents_mut(&parent)?;
        let node = self
            .find_in(&parent, &contents, name)?
            .ok_or(Errno::ENOENT)?;
        let removed = match (node.kind == FileKind::Directory, is_directory) {
            (true, false) => Err(Errno::EISDIR.into()),
            (false, true) => Err(Errno::ENOTDIR.into()),
            (true, true) => self.remove_node_directory(&parent, &mut contents, name, &node),
            (false, false) => self
                .unlink_node(&parent, &mut contents, name, &node)
                .map(|()| None),
        };
        drop(contents);
        self.release(node.number, 1);
        drop(alone);
        // Now, when others may go on: it may be full of whiteouts.
        removed.map(drop)
    }

    fn unlink_node(
        &self,
        parent: &Arc<Node>,
        contents: &mut Contents,
        name: &[u8],
        node: &Arc<Node>,
    ) -> Result<()> {
        let directory = self.upper.directory(parent)?;
        let in_base = self.base_has(contents, name)?;
        let in_upper = matches!(contents.get(name), Some(Entry::Object(_)));
        let pin = self.pin_before(node)?;
        match (in_base, in_upper) {
            (true, true) => {
                let (whiteout, by_attribute) = self.upper.temporary_whiteout()?;
                self.mark_whiteouts(&directory, contents, by_attribute)?;
                whiteout.replace(&directory, name)?;
            }
            (true, false) => self.put_whiteout(&directory, contents, name)?,
            (false, _) => directory
                .unlink(name)
                .map_err(failed("removing from the upper"))?,
        }
        if in_base {
            contents.set_whiteout(name);
        } else {
            contents.remove(name);
        }
        self.lost_name(node, parent, name, pin);
        Ok(())
    }

    /// Makes a whiteout where the upper has nothing.
    pub(super) fn put_whiteout(
        &self,
        directory: &WritableDir,
        contents: &mut Contents,
        name: &[u8],
    ) -> Result<()> {
        let by_attribute = self.upper.makes_whiteouts_by_attribute()?;
        self.mark_whiteouts(directory, contents, by_attribute)?;
        self.upper.make_whiteout(directory, name).map(drop)
    }

    /// Removes a whiteout that hides nothing. What cannot be removed stays known for what it is.
    pub(super) fn remove_whiteout(
        &self,
        directory: &WritableDir,
        contents: &mut Contents,
        name: &[u8],
    ) {
        contents.remove(name);
        if let Err(error) = directory.unlink(name) {
            log::warn!("cannot remove a whiteout that hides nothing: {error}");
            contents.set_whiteout(name);
        }
    }

    /// Says that a directory has whiteouts by attribute; before it has the first, which would be an
    /// empty file otherwise.
    pub(super) fn mark_whiteouts(
        &self,
        directory: &WritableDir,
        contents: &mut Contents,
        by_attribute: bool,
    ) -> Result<()> {
        if by_attribute && !contents.has_xattr_whiteouts {
            let mark = directory
                .at(b"")
                .set_xattr(&self.upper.names.opaque, b"x", 0);
            mark.map_err(failed("marking a directory that has whiteouts"))?;
            contents.has_xattr_whiteouts = true;
        }
        Ok(())
    }

    /// Keeps what is about to lose a name reachable, if somebody knows it.
    pub(super) fn pin_before(&self, node: &Arc<Node>) -> Result<Option<WritableDir>> {
        let (stage, indexed, pinned) = {
            let state = node.state.read();
            (state.stage, state.indexed, state.pin.is_some())
        };
        if stage == Stage::Base || pinned || node.references() < 2 {
            return Ok(None);
        }
        if indexed && self.index.nlink(node.ino) != Some(1) {
            return Ok(None);
        }
        let reach = self.upper.reach(node)?;
        match reach.at().pin() {
            Ok(pin) => Ok(Some(pin)),
            // Better that it cannot be reached afterwards than that it cannot be removed.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                log::warn!("too many files are open to keep node {}", node.number);
                let links = reach.at().stat().map_or(1, |stat| stat.nlink);
                if indexed || node.kind == FileKind::Directory || links == 1 {
                    // Whatever has this inode next is something else.
                    node.state.write().upper_ino = 0;
                }
                Ok(None)
            }
            Err(error) => Err(failed("keeping what is removed")(error)),
        }
    }

    /// Notes that a node has lost a name.
    pub(super) fn lost_name(
        &self,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        name: &[u8],
        pin: Option<WritableDir>,
    ) {
        let was_there = Engine::is_at(node, parent, name);
        if was_there {
            self.set_place(node, None);
        }
        let (stage, indexed) = {
            let state = node.state.read();
            (state.stage, state.indexed)
        };
        let mut gone = stage == Stage::Base && !node.linked_in_base;
        if indexed || (stage == Stage::Base && node.linked_in_base) {
            let counted = match node.base {
                Some(base) => self
                    .base
                    .attributes(NodeNumber(base))
                    .map(|base| base.nlink),
                None => Ok(1),
            };
            let counted =
                counted.and_then(|nlink| self.index.count(&self.upper, node.ino, nlink, false));
            match counted {
                Ok(left) => gone = left == 0,
                // One too many is shown from now on.
                Err(error) => log::warn!("cannot count the names of node {}: {error}", node.number),
            }
        } else if let Some(pin) = &pin {
            gone = pin.at(b"").stat().is_ok_and(|stat| stat.nlink == 0);
        }
        let mut state = node.state.write();
        state.gone |= gone;
        if gone {
            state.indexed = false;
        }
        if ((was_there && !indexed) || gone)
            && let Some(pin) = pin
        {
            state.pin = Some(Arc::new(pin));
        }
    }

    /// Returns what is left to be removed, if something is.
    fn remove_node_directory(
        &self,
        parent: &Arc<Node>,
        contents: &mut Contents,
        name: &[u8],
        node: &Arc<Node>,
    ) -> Result<Option<Temporary<'_>>> {
        let mut own = self.contents_mut(node)?;
        if !self.is_empty(&own)? {
            return Err(Errno::ENOTEMPTY.into());
        }
        let directory = self.upper.directory(parent)?;
        let in_base = self.base_has(contents, name)?;
        let in_upper = matches!(contents.get(name), Some(Entry::Object(_)));
        let has_whiteouts = own.entries().next().is_some();
        let pin = self.pin_before(node)?;
        let left = match (in_base, in_upper) {
            (true, true) => {
                let (whiteout, by_attribute) = self.upper.temporary_whiteout()?;
                self.mark_whiteouts(&directory, contents, by_attribute)?;
                Some(whiteout.exchange(&directory, name)?)
            }
            (true, false) => {
                self.put_whiteout(&directory, contents, name)?;
                None
            }
            (false, _) if has_whiteouts => Some(self.upper.take_out(&directory, name)?),
            (false, _) => {
                let removed = directory.remove_directory(name);
                removed.map_err(failed("removing a directory from the upper"))?;
                None
            }
        };
        if in_base {
            contents.set_whiteout(name);
        } else {
            contents.remove(name);
        }
        own.removed = true;
        self.lost_directory(own, node, pin);
        Ok(left)
    }

    /// Notes that a directory is no more.
    pub(super) fn lost_directory(
        &self,
        own: RwLockWriteGuard<'_, Contents>,
        node: &Arc<Node>,
        pin: Option<WritableDir>,
    ) {
        drop(own);
        self.set_place(node, None);
        self.upper.forget(node.number);
        let mut state = node.state.write();
        state.gone = true;
        state.pin = pin.map(Arc::new);
    }

    /// Whether a directory shows nothing.
    pub(super) fn is_empty(&self, contents: &Contents) -> Result<bool> {
        if contents.has_upper_only() {
            return Ok(false);
        }
        let Some(base) = contents.base else {
            return Ok(true);
        };
        let mut is_empty = true;
        self.base.list(
            NodeNumber(base),
            2,
            &mut |listed| match contents.get(listed.name) {
                Some(Entry::Whiteout) => ControlFlow::Continue(()),
                _ => {
                    is_empty = false;
                    ControlFlow::Break(())
                }
            },
        )?;
        Ok(is_empty)
    }
}
