//! Takes the layers of an image apart again: a tree with a directory for each layer, the lowest `0`, as
//! union file systems have layers.
//!
//! What a layer holds is told by what it changes when it is put upon those below it. So everything is
//! resolved in it that its own index leaves open, and only one mark is needed: a character device
//! 0:0 for a name that is gone, which every union file system understands.
//!
//! # Invariants
//! * The directories, put upon one another, show the flattened tree of the layers.
//! * A directory that is in a layer only because of what lies below it looks as in the layers below.

use std::collections::HashMap;

use super::flatten::{FlattenError, Flattening};
use crate::layer::Metadata;
use crate::layer::index::Index;
use crate::layer::tree::{Kind, NodeId, Target, Tree};

/// Takes layers apart, lowest first.
///
/// # Errors
/// As [`flatten`](super::flatten::flatten()).
pub fn spread<'a>(layers: impl IntoIterator<Item = &'a Index>) -> Result<Tree, FlattenError> {
    let mut below = Flattening::default();
    let mut spread = Tree::new();
    for layer in layers {
        let before = below.tree.clone();
        let number = below.add(layer)?;
        Spreading {
            before: &before,
            after: &below.tree,
            number,
            spread: &mut spread,
            leaves: HashMap::new(),
            directories: Vec::new(),
        }
        .run()?;
    }
    spread.set_implied(Tree::ROOT, false);
    Ok(spread)
}

/// One layer while it is taken from the others.
struct Spreading<'a> {
    before: &'a Tree,
    after: &'a Tree,
    number: u16,
    spread: &'a mut Tree,
    /// What files have become, so that hard links stay one file.
    leaves: HashMap<NodeId, NodeId>,
    directories: Vec<Directory<'a>>,
}

/// A directory with the layer, and what shows through it.
struct Directory<'a> {
    after: NodeId,
    before: Option<NodeId>,
    /// The number of the one above it, and its name there; the root has its name in the spread tree.
    place: Option<(usize, &'a [u8])>,
    /// What it has become, if anything of the layer is in it.
    made: Option<NodeId>,
}

type Done = Result<(), FlattenError>;

impl<'a> Spreading<'a> {
    fn run(mut self) -> Done {
        let root = self.copy(Tree::ROOT)?;
        let name = self.number.to_string();
        self.spread.put(Tree::ROOT, name.as_bytes(), root)?;
        self.directories.push(Directory {
            after: Tree::ROOT,
            before: Some(Tree::ROOT),
            place: None,
            made: Some(root),
        });
        // Those that are found are looked into in their turn.
        let mut next = 0;
        while next < self.directories.len() {
            self.compare(next)?;
            next += 1;
        }
        Ok(())
    }

    fn compare(&mut self, at: usize) -> Done {
        let (before, after) = (self.before, self.after);
        let Some(directory) = self.directories.get(at) else {
            return Ok(());
        };
        let (inside, below) = (directory.after, directory.before);
        for (name, target) in after.children(inside) {
            let Target::Node(node) = target else { continue };
            let old = below.and_then(|below| before.lookup(below, name));
            if after.is_directory(node) {
                let old = old.filter(|old| before.is_directory(*old));
                let number = self.directories.len();
                self.directories.push(Directory {
                    after: node,
                    before: old,
                    place: Some((at, name)),
                    made: None,
                });
                if old != Some(node) || after.layer(node) == self.number {
                    self.ensure(number)?;
                }
            } else if old != Some(node)
                || before.metadata(node) != after.metadata(node)
                || before.xattrs(node) != after.xattrs(node)
            {
                let parent = self.ensure(at)?;
                let leaf = match self.leaves.get(&node) {
                    Some(&leaf) => leaf,
                    None => {
                        let leaf = self.copy(node)?;
                        self.leaves.insert(node, leaf);
                        leaf
                    }
                };
                self.spread.put(parent, name, leaf)?;
            }
        }
        let Some(below) = below else { return Ok(()) };
        for (name, _) in before.children(below) {
            if after.lookup(inside, name).is_none() {
                let parent = self.ensure(at)?;
                let kind = Kind::CharDevice { major: 0, minor: 0 };
                let mark = self
                    .spread
                    .new_node(Metadata::default(), kind, Default::default())?;
                self.spread.put(parent, name, mark)?;
            }
        }
        Ok(())
    }

    /// The directory in the layer, made with those above it if it is not there.
    fn ensure(&mut self, at: usize) -> Result<NodeId, FlattenError> {
        let mut missing = Vec::new();
        let mut made = Tree::ROOT;
        let mut next = Some(at);
        while let Some(directory) = next.and_then(|number| self.directories.get(number)) {
            if let Some(found) = directory.made {
                made = found;
                break;
            }
            missing.extend(next);
            next = directory.place.map(|(above, _)| above);
        }
        for number in missing.into_iter().rev() {
            let Some(directory) = self.directories.get(number) else {
                continue;
            };
            let (after, place) = (directory.after, directory.place);
            let copy = self.copy(after)?;
            if let Some((_, name)) = place {
                self.spread.put(made, name, copy)?;
            }
            if let Some(directory) = self.directories.get_mut(number) {
                directory.made = Some(copy);
            }
            made = copy;
        }
        Ok(made)
    }

    fn copy(&mut self, node: NodeId) -> Result<NodeId, FlattenError> {
        let set = self.after.xattrs(node).0 as usize;
        let xattrs = self.after.xattr_sets().get(set).cloned();
        let xattrs = self
            .spread
            .xattr_set_from_bytes(xattrs.unwrap_or_default())?;
        let kind = self.after.kind(node).clone();
        let copy = self
            .spread
            .new_node(self.after.metadata(node), kind, xattrs)?;
        self.spread.set_layer(copy, self.after.layer(node));
        Ok(copy)
    }
}
