//! The end of copying up: a copy gets its place, and a node learns of it or is replaced.

use std::sync::Arc;

use nix::errno::Errno;

use super::copy_up::{Copy, Want, Wish};
use super::engine::Engine;
use super::node::{Node, Stage};
use super::upper::{Reach, failed, index_name};
use crate::layer::FileKind;
use crate::sys::writable::{NewTime, WritableDir};
use crate::union::{NodeNumber, Result};

impl Engine {
    /// As [`Engine::copy_up`], for data, under a new number; returns that. The node keeps showing
    /// the object of the base, without names.
    pub(super) fn split(&self, node: &Arc<Node>, keep: u64) -> Result<NodeNumber> {
        if node.kind != FileKind::Regular {
            return Err(Errno::EINVAL.into());
        }
        let _copying = node.copying.lock();
        {
            // No name leads to another node of what has none.
            let state = node.state.read();
            if state.detached || state.gone {
                return Err(Errno::ESTALE.into());
            }
        }
        let number = self.numbers.fresh();
        match node.stage() {
            Stage::Base => {
                let copy = self.copy(node, Want::Data(keep), &Wish::default())?;
                self.publish(node, copy, Some(number))?;
            }
            // Copied up in place since the kernel began to read the lower file.
            Stage::Metacopy | Stage::Upper => {
                if node.stage() == Stage::Metacopy {
                    self.complete(node, Want::Data(keep))?;
                }
                let _still = self.still();
                let place = node.state.read().place.clone();
                if let Some((parent, name)) = &place {
                    let mut contents = self.contents_mut(parent)?;
                    let ino = node.state.read().upper_ino;
                    let in_base = self.base_has(&contents, name)?;
                    contents.set_object(name, ino, number, in_base);
                }
                self.detach(node, number);
            }
        }
        Ok(NodeNumber(number))
    }

    fn detach(&self, node: &Arc<Node>, number: u64) {
        self.replaced.lock().insert(node.ino, number);
        self.set_place(node, None);
        let mut state = node.state.write();
        state.detached = true;
        state.stage = Stage::Base;
        // Or a lookup of what is in the upper now would take this node for it.
        state.upper_ino = 0;
        state.pin = None;
        state.indexed = false;
    }

    /// Step 6 for what is no directory. `number` replaces the node by another one.
    pub(super) fn publish(
        &self,
        node: &Arc<Node>,
        copy: Copy<'_>,
        number: Option<u64>,
    ) -> Result<()> {
        let mut copy = copy;
        if node.linked_in_base {
            let base = self.base_of(node)?;
            let still = self.still();
            if node.state.read().gone {
                // Nothing would ever take it out of the index.
                return keep_unnamed(node, &copy, number);
            }
            let Copy {
                temporary,
                stage,
                upper_ino,
            } = copy;
            self.index
                .publish(&self.upper, node.ino, temporary, base.nlink)?;
            {
                let mut state = node.state.write();
                state.stage = stage;
                state.upper_ino = upper_ino;
                state.indexed = true;
            }
            drop(still);
            // Everybody sees the copy by now, as it was wished.
            if let Err(error) = self.link_from_index(node, number) {
                log::warn!("a changed file has no name in the upper: {error}");
            }
            if let Some(number) = number {
                self.detach(node, number);
            }
            return Ok(());
        }
        loop {
            let place = node.state.read().place.clone();
            if let Some((parent, _)) = &place {
                self.copy_up_directory(parent)?;
            }
            let _still = self.still();
            let place = node.state.read().place.clone();
            let Some((parent, name)) = place else {
                return keep_unnamed(node, &copy, number);
            };
            if parent.stage() == Stage::Base {
                continue;
            }
            copy = match self.try_put_in_place(node, copy, &parent, &name, number)? {
                None => return Ok(()),
                // It has lost its place meanwhile.
                Some(copy) => copy,
            };
        }
    }

    pub(super) fn put_in_place(
        &self,
        node: &Arc<Node>,
        copy: Copy<'_>,
        parent: &Arc<Node>,
        name: &[u8],
        number: Option<u64>,
    ) -> Result<()> {
        match self.try_put_in_place(node, copy, parent, name, number)? {
            None => Ok(()),
            Some(_) => Err(Errno::ENOENT.into()),
        }
    }

    /// Gives the copy its place, or gives it back if the node is not there any more.
    fn try_put_in_place<'a>(
        &self,
        node: &Arc<Node>,
        copy: Copy<'a>,
        parent: &Arc<Node>,
        name: &[u8],
        number: Option<u64>,
    ) -> Result<Option<Copy<'a>>> {
        let mut contents = self.contents_mut(parent)?;
        if !Engine::is_at(node, parent, name) || contents.get(name).is_some() {
            return Ok(Some(copy));
        }
        let directory = self.upper.directory(parent)?;
        self.mark_impure(&directory, &mut contents)?;
        let before = directory
            .at(b"")
            .stat()
            .map_err(failed("reading times of a directory"))?;
        copy.temporary.publish(&directory, name)?;
        restore_times(&directory, (before.atime, before.mtime));
        let shown = number.unwrap_or(node.number);
        contents.set_object(name, copy.upper_ino, shown, true);
        match number {
            Some(number) => self.detach(node, number),
            None => {
                let mut state = node.state.write();
                state.stage = copy.stage;
                state.upper_ino = copy.upper_ino;
            }
        }
        Ok(None)
    }

    /// Links what lies in the index to the name that is known, for those who do not know the index.
    fn link_from_index(&self, node: &Arc<Node>, number: Option<u64>) -> Result<()> {
        loop {
            let place = node.state.read().place.clone();
            let Some((parent, _)) = place else {
                return Ok(());
            };
            self.copy_up_directory(&parent)?;
            let _still = self.still();
            let place = node.state.read().place.clone();
            let Some((parent, name)) = place else {
                return Ok(());
            };
            if parent.stage() == Stage::Base {
                continue;
            }
            return self.link_name_from_index(node, &parent, &name, number);
        }
    }

    /// The same for one name, where only the base has it.
    pub(super) fn link_name_from_index(
        &self,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        name: &[u8],
        number: Option<u64>,
    ) -> Result<()> {
        let mut contents = self.contents_mut(parent)?;
        if contents.get(name).is_some() {
            return Ok(());
        }
        let directory = self.upper.directory(parent)?;
        self.mark_impure(&directory, &mut contents)?;
        let before = directory
            .at(b"")
            .stat()
            .map_err(failed("reading times of a directory"))?;
        let entry = Reach::new(&self.upper.index, &index_name(node.ino));
        let linked = entry.at().link(&directory, name);
        linked.map_err(failed("linking from the index"))?;
        restore_times(&directory, (before.atime, before.mtime));
        let ino = node.state.read().upper_ino;
        contents.set_object(name, ino, number.unwrap_or(node.number), true);
        Ok(())
    }

    /// Says that what came from the base may be in a directory.
    pub(super) fn mark_impure(
        &self,
        directory: &WritableDir,
        contents: &mut super::directory::Contents,
    ) -> Result<()> {
        if !contents.impure {
            let mark = directory
                .at(b"")
                .set_xattr(&self.upper.names.impure, b"y", 0);
            mark.map_err(failed("marking a directory as impure"))?;
            contents.impure = true;
        }
        Ok(())
    }
}

/// Makes a copy what a node is that has no name left.
fn keep_unnamed(node: &Node, copy: &Copy<'_>, number: Option<u64>) -> Result<()> {
    if number.is_some() {
        return Err(Errno::ESTALE.into());
    }
    let pin = copy.temporary.pin()?;
    let mut state = node.state.write();
    state.pin = Some(Arc::new(pin));
    state.stage = copy.stage;
    state.upper_ino = copy.upper_ino;
    Ok(())
}

/// Gives a directory its times back. Best effort: what was done in it stays done.
pub(super) fn restore_times(directory: &WritableDir, (atime, mtime): ((i64, u32), (i64, u32))) {
    let times = (
        NewTime::Set(atime.0, atime.1),
        NewTime::Set(mtime.0, mtime.1),
    );
    if let Err(error) = directory.at(b"").set_times(times.0, times.1) {
        log::warn!("cannot restore the times of a directory: {error}");
    }
}
