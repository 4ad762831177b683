//! Questions that change nothing.

use nix::errno::Errno;

use super::engine::Engine;
use super::node::Stage;
use super::request::Space;
use super::upper::failed;
use super::{Kind, Overlay};
use crate::layer::FileKind;
use crate::union::{Attributes, NodeNumber, Result};

/// Which inode a node is shown from. Two nodes of one are names of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// That of the base with this number.
    Base(u64),
    /// That of the upper with this number.
    Upper(u64),
}

impl Overlay {
    /// Where a node is shown from.
    ///
    /// # Errors
    /// `ESTALE` for a number that names nothing.
    pub fn origin(&self, node: NodeNumber) -> Result<Origin> {
        match &self.kind {
            Kind::ReadOnly(_) => Ok(Origin::Base(node.0)),
            Kind::Writable(engine) => {
                let node = engine.node(node)?;
                let state = node.state.read();
                Ok(match (state.stage, node.base) {
                    (Stage::Base, Some(base)) => Origin::Base(base),
                    _ => Origin::Upper(state.upper_ino),
                })
            }
        }
    }

    /// A directory and a name that a node has in it, if it is not in the upper and one is known.
    #[must_use]
    pub fn lower_place(&self, node: NodeNumber) -> Option<(NodeNumber, Vec<u8>)> {
        let Kind::Writable(engine) = &self.kind else {
            return None;
        };
        let node = engine.node(node).ok()?;
        let state = node.state.read();
        let (parent, name) = state.place.as_ref()?;
        (state.stage != Stage::Upper).then(|| (NodeNumber(parent.number), name.to_vec()))
    }

    /// Whether something of the base may show what lies in the upper at names that the upper does
    /// not have: base files with several names, of which one was changed.
    #[must_use]
    pub fn has_linked_copies(&self) -> bool {
        match &self.kind {
            Kind::ReadOnly(_) => false,
            Kind::Writable(engine) => engine.index.has_copies(),
        }
    }
}

impl Engine {
    /// See [`super::Overlay::attributes`].
    pub(super) fn attributes(&self, node: NodeNumber) -> Result<Attributes> {
        let _still = self.still();
        self.attributes_of(&self.node(node)?)
    }

    /// See [`super::Overlay::read_link`].
    pub(super) fn read_link(&self, node: NodeNumber) -> Result<Vec<u8>> {
        let node = self.node(node)?;
        if node.kind != FileKind::Symlink {
            return Err(Errno::EINVAL.into());
        }
        if node.stage() == Stage::Base {
            // Nothing is locked: a layer may take long to answer.
            let base = node.base.ok_or(Errno::ESTALE)?;
            return Ok(self.base.read_link(NodeNumber(base))?.into_owned());
        }
        let _still = self.still();
        let reach = self.upper.reach(&node)?;
        self.upper.read_link(reach.at())
    }

    /// See [`super::Overlay::sync_directory`].
    pub(super) fn sync_directory(&self, node: NodeNumber) -> Result<()> {
        let node = self.directory(node)?;
        if node.stage() == Stage::Base {
            return Ok(());
        }
        let directory = {
            let _still = self.still();
            self.upper.directory(&node)?
        };
        let file = directory.listable();
        self.upper.sync(
            &file.map_err(failed("opening a directory of the upper"))?,
            false,
        )
    }

    /// See [`super::Overlay::space`].
    pub(super) fn space(&self) -> Result<Space> {
        let figures = self.upper.root().statvfs();
        let figures = figures.map_err(failed("asking the upper's file system"))?;
        Ok(Space {
            block_size: figures.fragment_size(),
            blocks: figures.blocks(),
            blocks_free: figures.blocks_free(),
            blocks_available: figures.blocks_available(),
            files: figures.files(),
            files_free: figures.files_free(),
            name_max: figures.name_max(),
        })
    }

    /// See [`super::Overlay::may_have_acls`].
    pub(super) fn may_have_acls(&self) -> bool {
        let acl = self.upper.root().at(b"").has_acls();
        self.base.may_have_acls() || acl
    }
}
