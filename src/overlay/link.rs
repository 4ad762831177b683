//! Giving something another name.

use std::sync::Arc;

use nix::errno::Errno;

use super::copy_up::Want;
use super::directory::Entry;
use super::engine::{Engine, check_new_name};
use super::node::{Node, Stage};
use super::upper::failed;
use crate::layer::FileKind;
use crate::union::{Attributes, Error, NodeNumber, Result};

impl Engine {
    /// See [`super::Overlay::link`].
    pub(super) fn link(
        &self,
        node: NodeNumber,
        parent: NodeNumber,
        name: &[u8],
    ) -> Result<Attributes> {
        check_new_name(name)?;
        let node = self.node(node)?;
        let parent = self.directory(parent)?;
        {
            let _still = self.still();
            if let Some(there) = self.find(&parent, name)? {
                self.release(there.number, 1);
                return Err(Errno::EEXIST.into());
            }
        }
        if node.kind == FileKind::Directory {
            return Err(Errno::EPERM.into());
        }
        self.copy_up(&node, Want::Attributes)?;
        self.copy_up_directory(&parent)?;
        let _still = self.still();
        self.redirect_metacopy(&node)?;
        let indexed = {
            let state = node.state.read();
            if state.gone {
                return Err(Errno::ENOENT.into());
            }
            state.indexed
        };
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
        if node.base.is_some() || node.ino != self.numbers.of_upper(node.state.read().upper_ino) {
            self.mark_impure(&directory, &mut contents)?;
        }
        // One too many is harmless, one too few would lose the entry too early.
        if indexed {
            self.index.count(&self.upper, node.ino, 1, true)?;
        }
        let link = || -> Result<()> {
            let reach = self.upper.reach(&node)?;
            if over_whiteout {
                let link = self.upper.temporary_link(reach.at())?;
                link.replace(&directory, name)?;
                return Ok(());
            }
            let linked = reach.at().link(&directory, name);
            linked.map_err(failed("linking in the upper"))
        };
        if let Err(error) = link() {
            if indexed && let Err(error) = self.index.count(&self.upper, node.ino, 1, false) {
                log::warn!("cannot count the names of node {}: {error}", node.number);
            }
            return Err(error);
        }
        let upper_ino = node.state.read().upper_ino;
        contents.set_object(name, upper_ino, node.number, in_base);
        drop(contents);
        let attributes = self.attributes_of(&node).map_err(Error::in_doubt)?;
        self.table.hold_again(&node);
        Ok(attributes)
    }

    /// Notes where the data of a metacopy lie, before it gets another name or place.
    pub(super) fn redirect_metacopy(&self, node: &Arc<Node>) -> Result<()> {
        let (stage, redirect) = {
            let state = node.state.read();
            (state.stage, state.redirect.clone())
        };
        let is_absolute = redirect.is_some_and(|redirect| redirect.starts_with(b"/"));
        if stage != Stage::Metacopy || is_absolute || node.linked_in_base {
            return Ok(());
        }
        self.set_redirect(node)
    }

    /// Notes where the object of the base lies.
    pub(super) fn set_redirect(&self, node: &Arc<Node>) -> Result<()> {
        let path = self.base_path_of(node)?;
        let reach = self.upper.reach(node)?;
        let set = reach.at().set_xattr(&self.upper.names.redirect, &path, 0);
        set.map_err(failed("noting a redirect"))?;
        node.state.write().redirect = Some(path.into());
        Ok(())
    }
}
