//! The writable engine: what all verbs share.

use std::sync::Arc;

use hashbrown::HashMap;
use nix::errno::Errno;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::index::Index;
use super::node::{Node, ROOT, Stage, State, Table};
use super::number::Numbers;
use super::upper::{Looks, Upper};
use crate::layer::FileKind;
use crate::union::{Attributes, Error, NodeNumber, Result, Union};

/// Longest name of a directory entry.
const NAME_MAX: usize = 255;

/// A base, an upper, and the nodes in use.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) base: Union,
    pub(super) upper: Upper,
    pub(super) table: Table,
    pub(super) index: Index,
    /// The rename lock: exclusive while places of nodes change, shared while they are relied on.
    pub(super) tree: RwLock<()>,
    /// Nodes that stand for another one, which was replaced while it was in use; by its number.
    pub(super) replaced: Mutex<HashMap<u64, u64>>,
    pub(super) numbers: Numbers,
    /// Kept in use: the table holds nodes, and the root always is one.
    root: Arc<Node>,
}

impl Engine {
    pub(super) fn new(base: Union, upper: Upper) -> Result<Engine> {
        let index = Index::read(&upper)?;
        let state = State {
            stage: Stage::Upper,
            ..State::base(None)
        };
        let table = Table::new();
        let make = || Node::new(ROOT, FileKind::Directory, Some(ROOT), state);
        let (root, _) = table.hold_or(ROOT, make);
        Ok(Engine {
            numbers: Numbers::above(&base),
            base,
            upper,
            table,
            index,
            tree: RwLock::new(()),
            replaced: Mutex::default(),
            root,
        })
    }

    /// The node of that number.
    pub(super) fn node(&self, number: NodeNumber) -> Result<Arc<Node>> {
        if number.0 == ROOT {
            return Ok(Arc::clone(&self.root));
        }
        self.table.get(number.0).ok_or_else(|| Errno::ESTALE.into())
    }

    /// The directory of that number.
    pub(super) fn directory(&self, number: NodeNumber) -> Result<Arc<Node>> {
        let node = self.node(number)?;
        match node.kind {
            FileKind::Directory => Ok(node),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    /// Gives references back, and those that the node held if it leaves.
    pub(super) fn release(&self, number: u64, count: u64) {
        let mut next = Some((number, count));
        while let Some((number, count)) = next.take() {
            let Some(node) = self.table.release(number, count) else {
                return;
            };
            if let Some(base) = node.base {
                self.base.forget(NodeNumber(base), 1);
            }
            if node.number != node.ino {
                let mut replaced = self.replaced.lock();
                if replaced.get(&node.ino) == Some(&node.number) {
                    replaced.remove(&node.ino);
                }
            }
            if node.kind == FileKind::Directory {
                self.upper.forget(node.number);
            }
            let (place, upper_ino) = {
                let mut state = node.state.write();
                (state.place.take(), state.upper_ino)
            };
            self.numbers.left(node.number, upper_ino);
            next = place.map(|(parent, _)| (parent.number, 1));
        }
    }

    /// Changes where a node is; it holds a reference to the directory.
    pub(super) fn set_place(&self, node: &Arc<Node>, place: Option<(&Arc<Node>, &[u8])>) {
        let new = place.map(|(parent, name)| {
            self.table.hold_again(parent);
            (Arc::clone(parent), Box::from(name))
        });
        let old = std::mem::replace(&mut node.state.write().place, new);
        if let Some((parent, _)) = old {
            self.release(parent.number, 1);
        }
    }

    /// Whether a node is at this place.
    pub(super) fn is_at(node: &Node, parent: &Node, name: &[u8]) -> bool {
        let state = node.state.read();
        let place = state.place.as_ref();
        place.is_some_and(|(known, at)| known.number == parent.number && **at == *name)
    }

    /// What stat(2) tells of a node. The tree must not change meanwhile.
    pub(super) fn attributes_of(&self, node: &Arc<Node>) -> Result<Attributes> {
        let (stage, gone, indexed) = {
            let state = node.state.read();
            (state.stage, state.gone, state.indexed)
        };
        if stage == Stage::Base {
            let base = node.base.ok_or(Errno::ESTALE)?;
            let mut attributes = self.base.attributes(NodeNumber(base))?;
            if node.linked_in_base
                && let Some(nlink) = self.index.nlink(node.ino)
            {
                attributes.nlink = nlink;
            }
            if gone {
                attributes.nlink = 0;
            }
            attributes.node = NodeNumber(node.number);
            attributes.ino = node.ino;
            return Ok(attributes);
        }
        let reach = self.upper.reach(node)?;
        let looks = self.upper.looks(reach.at())?;
        self.attributes_from(node, &looks, stage, indexed)
    }

    fn attributes_from(
        &self,
        node: &Arc<Node>,
        looks: &Looks,
        stage: Stage,
        indexed: bool,
    ) -> Result<Attributes> {
        let mut attributes = looks.attributes();
        attributes.node = NodeNumber(node.number);
        (attributes.ino, attributes.generation) = (node.ino, node.generation);
        if let Some(contents) = &node.contents {
            let contents = contents.read();
            // As in the kernel: programs then do not count subdirectories.
            if contents.removed {
                attributes.nlink = 0;
            } else if contents.base.is_some() {
                attributes.nlink = 1;
            }
        } else if indexed && let Some(nlink) = self.index.nlink(node.ino) {
            attributes.nlink = nlink;
        }
        if stage == Stage::Metacopy
            && let Some(base) = node.base
        {
            // Its own length says nothing after a crash while data were copied.
            let base = self.base.attributes(NodeNumber(base))?;
            (attributes.size, attributes.blocks) = (base.size, base.blocks);
        }
        Ok(attributes)
    }

    /// Relies on the places of nodes until the guard is dropped. Never taken twice by one thread,
    /// and never held while something is copied up.
    pub(super) fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.tree.read()
    }
}

/// Refuses names that no directory can have.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG.into());
    }
    Ok(())
}

/// Refuses names that nothing can be given.
pub(super) fn check_new_name(name: &[u8]) -> Result<()> {
    check_name(name)?;
    match name {
        b"" => Err(Errno::ENOENT.into()),
        b"." | b".." => Err(Errno::EEXIST.into()),
        _ if name.contains(&b'/') || name.contains(&0) => Err(Errno::EINVAL.into()),
        _ => Ok(()),
    }
}

/// The parent of a directory; the root is its own.
pub(super) fn parent_of(directory: &Arc<Node>) -> Result<Arc<Node>> {
    if directory.number == ROOT {
        return Ok(Arc::clone(directory));
    }
    let state = directory.state.read();
    let place = state.place.as_ref();
    place
        .map(|(parent, _)| Arc::clone(parent))
        .ok_or_else(|| Error::plain(Errno::ENOENT))
}
