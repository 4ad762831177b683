//! Renaming, with all that it may find at the new name and must leave at the old one.
//!
//! First everything that is to move is brought into the upper, without any lock held. Then, with
//! the rename lock held alone, one renameat2(2) does it: what is replaced and what stays behind as
//! a whiteout changes in the same moment.
//!
//! A directory that shows something of the base takes that along by a redirect; where there are to
//! be none, everything in it is copied up first, and it becomes opaque.

use std::sync::Arc;

use nix::errno::Errno;

use super::copy_up::Want;
use super::directory::Entry;
use super::engine::{Engine, check_name, check_new_name};
use super::node::{Node, ROOT, Stage};
use super::request::RenameFlags;
use super::upper::{Temporary, failed};
use crate::layer::FileKind;
use crate::union::{Error, NodeNumber, Result};

/// A name in a directory.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) directory: &'a Arc<Node>,
    pub(super) name: &'a [u8],
}

/// How often a rename begins again because others were faster.
const TRIES: usize = 100;

impl Engine {
    /// See [`super::Overlay::rename`].
    pub(super) fn rename(
        &self,
        parent: NodeNumber,
        name: &[u8],
        new_parent: NodeNumber,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        check_name(name)?;
        check_new_name(new_name)?;
        if flags.exchange && (flags.whiteout || flags.no_replace) {
            return Err(Errno::EINVAL.into());
        }
        let (parent, new_parent) = (self.directory(parent)?, self.directory(new_parent)?);
        let from = Place {
            directory: &parent,
            name,
        };
        let to = Place {
            directory: &new_parent,
            name: new_name,
        };
        for _ in 0..TRIES {
            let (source, target) = {
                let _still = self.still();
                let source = self.find(&parent, name)?.ok_or(Errno::ENOENT)?;
                match self.find(&new_parent, new_name) {
                    Ok(target) => (source, target),
                    Err(error) => {
                        self.release(source.number, 1);
                        return Err(error);
                    }
                }
            };
            let renamed = self.rename_found(from, to, &source, target.as_ref(), flags);
            for node in [Some(source), target].into_iter().flatten() {
                self.release(node.number, 1);
            }
            if renamed? {
                return Ok(());
            }
        }
        Err(Error::broken("others kept changing what was to be renamed"))
    }

    /// Says whether it was done; otherwise something has changed meanwhile.
    fn rename_found(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        source: &Arc<Node>,
        target: Option<&Arc<Node>>,
        flags: RenameFlags,
    ) -> Result<bool> {
        match target {
            Some(_) if flags.no_replace => return Err(Errno::EEXIST.into()),
            None if flags.exchange => return Err(Errno::ENOENT.into()),
            _ => self.refuse_loops(from, to, source, target, flags)?,
        }
        match target {
            // Two names of one inode: nothing to do.
            Some(target) if target.number == source.number => return Ok(true),
            Some(target) if !flags.exchange => {
                match (
                    source.kind == FileKind::Directory,
                    target.kind == FileKind::Directory,
                ) {
                    (true, false) => return Err(Errno::ENOTDIR.into()),
                    (false, true) => return Err(Errno::EISDIR.into()),
                    _ => {}
                }
                if target.kind == FileKind::Directory {
                    let _still = self.still();
                    if !self.is_empty(&*self.contents(target)?)? {
                        return Err(Errno::ENOTEMPTY.into());
                    }
                }
            }
            _ => {}
        }
        self.copy_up_directory(from.directory)?;
        self.copy_up_directory(to.directory)?;
        self.bring_up(from, source)?;
        if flags.exchange
            && let Some(target) = target
        {
            self.bring_up(to, target)?;
        }
        let alone = self.tree.write();
        let mut emptied = None;
        let renamed = self.rename_now(from, to, (source, target), flags, &mut emptied);
        drop(alone);
        // Now, when others may go on: it may be full of whiteouts.
        drop(emptied);
        renamed
    }

    /// Brings something into the upper such that it can be moved.
    pub(super) fn bring_up(&self, place: Place<'_>, node: &Arc<Node>) -> Result<()> {
        if node.kind == FileKind::Directory {
            self.copy_up_directory(node)?;
            if !self.upper.metacopy_redirect {
                self.copy_up_tree(node)?;
            }
            return Ok(());
        }
        self.copy_up(node, Want::Attributes)?;
        let _still = self.still();
        if node.state.read().indexed {
            self.link_name_from_index(node, place.directory, place.name, None)?;
        }
        Ok(())
    }

    /// Puts what is left to be removed into `emptied`.
    fn rename_now<'a>(
        &'a self,
        from: Place<'_>,
        to: Place<'_>,
        (source, target): (&Arc<Node>, Option<&Arc<Node>>),
        flags: RenameFlags,
        emptied: &mut Option<Temporary<'a>>,
    ) -> Result<bool> {
        if !self.is_still(from, Some(source))? || !self.is_still(to, target)? {
            return Ok(false);
        }
        if to.directory.state.read().gone {
            return Err(Errno::ENOENT.into());
        }
        self.refuse_loop(source, to.directory)?;
        if flags.exchange
            && let Some(target) = target
        {
            self.refuse_loop(target, from.directory)?;
        }
        let source_in_base = self.base_has(&*self.contents(from.directory)?, from.name)?;
        let target_in_base = self.base_has(&*self.contents(to.directory)?, to.name)?;
        if !self.prepare_marks(source, target_in_base)? {
            return Ok(false);
        }
        if flags.exchange
            && let Some(target) = target
        {
            if !self.prepare_marks(target, source_in_base)? {
                return Ok(false);
            }
            self.exchange_now(from, to, source, target, source_in_base, target_in_base)?;
            return Ok(true);
        }
        self.share_impurity(from.directory, to.directory)?;
        let left = match flags.whiteout {
            true => {
                let device = self.upper.temporary_null_device()?;
                let stat = device.at().stat();
                let ino = stat.map_err(failed("reading attributes in the upper"))?.ino;
                Some((device, ino))
            }
            false => None,
        };
        let pin = match target {
            Some(target) => {
                if target.kind == FileKind::Directory {
                    if !self.is_empty(&*self.contents(target)?)? {
                        return Err(Errno::ENOTEMPTY.into());
                    }
                    *emptied = self.clear_whiteouts(to, target)?;
                }
                self.pin_before(target)?
            }
            None => None,
        };
        self.move_upper(from, to, source, source_in_base)?;
        {
            let mut contents = self.contents_mut(from.directory)?;
            if source_in_base {
                contents.set_whiteout(from.name);
            } else if let Some(Entry::Object(_)) = contents.get(from.name) {
                contents.remove(from.name);
            }
        }
        if let Some(target) = target {
            if target.kind == FileKind::Directory {
                let mut own = self.contents_mut(target)?;
                own.removed = true;
                self.lost_directory(own, target, pin);
            } else {
                self.lost_name(target, to.directory, to.name, pin);
            }
        }
        self.arrived(from, to, source, target_in_base)?;
        if let Some(left) = left {
            self.leave(from, left, source_in_base)
                .map_err(Error::in_doubt)?;
        }
        Ok(true)
    }

    fn exchange_now(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        source: &Arc<Node>,
        target: &Arc<Node>,
        source_in_base: bool,
        target_in_base: bool,
    ) -> Result<()> {
        self.share_impurity(from.directory, to.directory)?;
        self.share_impurity(to.directory, from.directory)?;
        let (old, new) = (
            self.upper.directory(from.directory)?,
            self.upper.directory(to.directory)?,
        );
        old.rename(from.name, &new, to.name, libc::RENAME_EXCHANGE)
            .map_err(failed("exchanging in the upper"))?;
        self.arrived(from, to, source, target_in_base)?;
        self.arrived(to, from, target, source_in_base)
    }

    /// Notes where something is now.
    fn arrived(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        node: &Arc<Node>,
        in_base: bool,
    ) -> Result<()> {
        let ino = node.state.read().upper_ino;
        let mut contents = self.contents_mut(to.directory)?;
        contents.set_object(to.name, ino, node.number, in_base);
        drop(contents);
        if Engine::is_at(node, from.directory, from.name) {
            self.set_place(node, Some((to.directory, to.name)));
        }
        Ok(())
    }

    /// Whether a place still has what it had, in the upper if it is to be moved.
    fn is_still(&self, place: Place<'_>, node: Option<&Arc<Node>>) -> Result<bool> {
        let found = self.find(place.directory, place.name)?;
        if let Some(found) = &found {
            self.release(found.number, 1);
        }
        Ok(found.map(|found| found.number) == node.map(|node| node.number))
    }

    /// Refuses to move a directory into itself, and to replace one that contains what is moved.
    fn refuse_loops(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        source: &Arc<Node>,
        target: Option<&Arc<Node>>,
        flags: RenameFlags,
    ) -> Result<()> {
        let _still = self.still();
        self.refuse_loop(source, to.directory)?;
        match target {
            Some(target) if flags.exchange => self.refuse_loop(target, from.directory),
            Some(target) if self.refuse_loop(target, from.directory).is_err() => {
                Err(Errno::ENOTEMPTY.into())
            }
            _ => Ok(()),
        }
    }

    fn refuse_loop(&self, moved: &Arc<Node>, into: &Arc<Node>) -> Result<()> {
        let mut at = Arc::clone(into);
        while at.number != ROOT {
            if at.number == moved.number {
                return Err(Errno::EINVAL.into());
            }
            let place = at.state.read().place.clone();
            let (parent, _) = place.ok_or(Errno::ENOENT)?;
            at = parent;
        }
        Ok(())
    }

    /// Marks what is about to move, such that it is the same at its new place. Says whether it is
    /// ready to be moved.
    fn prepare_marks(&self, node: &Arc<Node>, new_name_in_base: bool) -> Result<bool> {
        if node.stage() == Stage::Base {
            return Ok(false);
        }
        if node.kind != FileKind::Directory {
            self.redirect_metacopy(node)?;
            return Ok(true);
        }
        let shows_base = self.contents(node)?.base.is_some();
        if shows_base {
            if !self.upper.metacopy_redirect {
                return Ok(false);
            }
            let redirect = node.state.read().redirect.clone();
            if !redirect.is_some_and(|redirect| redirect.starts_with(b"/")) {
                self.set_redirect(node)?;
            }
        } else if new_name_in_base {
            let reach = self.upper.reach(node)?;
            let mark = reach.at().set_xattr(&self.upper.names.opaque, b"y", 0);
            mark.map_err(failed("marking a directory as opaque"))?;
        }
        Ok(true)
    }

    /// What came from the base may be moved into another directory.
    fn share_impurity(&self, from: &Arc<Node>, to: &Arc<Node>) -> Result<()> {
        if self.contents(from)?.impure {
            let directory = self.upper.directory(to)?;
            self.mark_impure(&directory, &mut *self.contents_mut(to)?)?;
        }
        Ok(())
    }

    /// Replaces an upper directory that has whiteouts only by one that has nothing, so that another
    /// directory can replace it. Returns what was replaced, if something was.
    fn clear_whiteouts(&self, place: Place<'_>, node: &Arc<Node>) -> Result<Option<Temporary<'_>>> {
        if node.stage() == Stage::Base || self.contents(node)?.entries().next().is_none() {
            return Ok(None);
        }
        let empty = self.upper.temporary_directory()?;
        // It stays if the rename fails.
        let ino = (self.upper).copy_looks(self.upper.reach(node)?.at(), empty.at())?;
        let opaque = empty.at().set_xattr(&self.upper.names.opaque, b"y", 0);
        opaque.map_err(failed("marking a directory as opaque"))?;
        let directory = self.upper.directory(place.directory)?;
        let replaced = empty.exchange(&directory, place.name)?;
        self.upper.forget(node.number);
        node.state.write().upper_ino = ino;
        self.contents_mut(node)?.hide_base(Vec::new());
        let in_base = self.base_has(&*self.contents(place.directory)?, place.name)?;
        let mut contents = self.contents_mut(place.directory)?;
        contents.set_object(place.name, ino, node.number, in_base);
        Ok(Some(replaced))
    }

    /// The move itself, in the upper.
    fn move_upper(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        source: &Arc<Node>,
        needs_whiteout: bool,
    ) -> Result<()> {
        let doing = failed("renaming in the upper");
        let (old, new) = (
            self.upper.directory(from.directory)?,
            self.upper.directory(to.directory)?,
        );
        let at_target = match self.contents(to.directory)?.get(to.name) {
            None => None,
            Some(Entry::Whiteout) => Some(true),
            Some(Entry::Object(_)) => Some(false),
        };
        if at_target == Some(true) && source.kind == FileKind::Directory {
            if needs_whiteout {
                let by_attribute = self.contents(to.directory)?.has_xattr_whiteouts;
                let mut contents = self.contents_mut(from.directory)?;
                self.mark_whiteouts(&old, &mut contents, by_attribute)?;
            }
            old.rename(from.name, &new, to.name, libc::RENAME_EXCHANGE)
                .map_err(&doing)?;
            if needs_whiteout {
                return Ok(());
            }
            self.remove_whiteout(&old, &mut *self.contents_mut(from.directory)?, from.name);
            return Ok(());
        }
        if !needs_whiteout {
            return old.rename(from.name, &new, to.name, 0).map_err(doing);
        }
        match old.rename(from.name, &new, to.name, libc::RENAME_WHITEOUT) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => {
                self.move_by_hand(from, to, (&old, &new), at_target)
            }
            result => result.map_err(doing),
        }
    }
}
