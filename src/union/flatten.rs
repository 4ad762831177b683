//! Flattens layers into one tree, from which the chain index of an image is written.
//!
//! Here everything that a layer's own index had to leave open is resolved: whiteouts and opaque
//! directories take away, implied directories find the attributes of the layers below, hard links
//! find their targets there, and entries below symlinked parents find their directory.
//!
//! # Invariants
//! * No path leaves the tree: `..` stops at the root, symlinks are followed inside it only.
//! * The result holds no whiteout, no opaque or implied directory, and no unresolved link.
//!
//! # See
//! OCI image specification, `layer.md`.

mod error;

use std::collections::HashSet;

use crate::layer::index::{DetachedRow, Index, Named, NodeKind, NodeRef};
use crate::layer::tree::{Kind, NodeId, Target, Tree};
use crate::layer::{Content, FileKind, Metadata};
use error::MAX_LAYERS;

pub use error::FlattenError;

/// Symlinks followed in one path, as in the kernel.
const MAX_LINKS: usize = 40;

/// Flattens layers, lowest first.
///
/// # Errors
/// [`FlattenError`].
pub fn flatten<'a>(layers: impl IntoIterator<Item = &'a Index>) -> Result<Tree, FlattenError> {
    let mut flattening = Flattening::default();
    for layer in layers {
        flattening.add(layer)?;
    }
    flattening.tree.set_implied(Tree::ROOT, false);
    Ok(flattening.tree)
}

/// Layers, while they are put one upon another; none at first.
#[derive(Default)]
pub(super) struct Flattening {
    /// What they are together.
    pub(super) tree: Tree,
    /// How many they are.
    layers: usize,
    /// The directory above each directory of the tree, by node.
    parents: Vec<NodeId>,
}

type Name<'a> = (NodeId, &'a [u8]);
type Applied = Result<(), FlattenError>;

/// One layer while it is applied.
struct Applying<'a> {
    index: &'a Index,
    number: u16,
    /// What the layer's nodes have become, so that hard links stay one node.
    made: Vec<Option<NodeId>>,
    /// The names that the layer gave to files of the layers below, whose nodes keep their number.
    linked: HashSet<(NodeId, Box<[u8]>)>,
}

impl Applying<'_> {
    /// Whether this layer put `node` under `name`, so that its whiteouts do not mean it.
    fn has_put(&self, tree: &Tree, node: NodeId, directory: NodeId, name: &[u8]) -> bool {
        tree.layer(node) == self.number || self.linked.contains(&(directory, name.into()))
    }
}

impl Flattening {
    /// Puts a layer upon the others, and tells its number.
    ///
    /// # Errors
    /// [`FlattenError`].
    pub(super) fn add(&mut self, layer: &Index) -> Result<u16, FlattenError> {
        if self.layers >= MAX_LAYERS {
            return Err(FlattenError::TooManyLayers);
        }
        let number = self.layers as u16;
        self.apply(layer, number)?;
        self.layers += 1;
        Ok(number)
    }

    fn apply(&mut self, index: &Index, number: u16) -> Applied {
        let mut layer = Applying {
            index,
            number,
            made: vec![None; index.node_count() as usize],
            linked: HashSet::new(),
        };
        // Links lead to the layers below as they were before this one hides or replaces anything.
        for row in 0..index.node_count() {
            if let Some(NodeKind::UnresolvedLink(target)) = index.node(row).map(|n| n.kind()) {
                let found = self.resolve_leaf(target);
                if let (Some(linked), Some(link)) = (found, index.node(row)) {
                    self.take_attributes(linked, link);
                }
                layer.made[row as usize] = found;
            }
        }
        let mut deferred = Vec::new();
        if let Some(root) = index.node(Index::ROOT) {
            self.merge_directory(Tree::ROOT, root, &layer)?;
        }
        let mut walk = vec![(Index::ROOT, Tree::ROOT)];
        while let Some((from, to)) = walk.pop() {
            for (name, named) in index.children(from) {
                match named {
                    // What this layer itself put there, by another path, stays.
                    Named::Whiteout => {
                        let found = self.tree.lookup(to, name);
                        if !found.is_some_and(|node| layer.has_put(&self.tree, node, to, name)) {
                            self.tree.remove(to, name);
                        }
                    }
                    Named::Node(row) => match self.place(&mut layer, row, to, name)? {
                        Placed::Leaf => {}
                        Placed::Directory(directory) => walk.push((row, directory)),
                        Placed::NoTarget(target) => deferred.push((to, name, row, target)),
                    },
                }
            }
        }
        for (directory, name, row, target) in deferred {
            let node = layer.made[row as usize].or_else(|| self.resolve_leaf(target));
            let node = node.ok_or_else(|| FlattenError::LinkTarget(text(target)))?;
            if layer.made[row as usize].is_none()
                && let Some(link) = index.node(row)
            {
                self.take_attributes(node, link);
            }
            layer.made[row as usize] = Some(node);
            self.put(&mut layer, (directory, name), node)?;
        }
        self.apply_detached(&mut layer)
    }

    /// Entries below symlinked parents: first what hides, so that order in the archive is nothing.
    fn apply_detached(&mut self, layer: &mut Applying<'_>) -> Applied {
        for (path, row) in layer.index.detached() {
            if matches!(row, DetachedRow::Node(_)) {
                continue;
            }
            let (parent, name) = split(path);
            let Some(directory) = self.resolve_directory(parent, None)? else {
                continue;
            };
            match (row, self.tree.lookup(directory, name)) {
                (DetachedRow::Whiteout, Some(node))
                    if !layer.has_put(&self.tree, node, directory, name) =>
                {
                    self.tree.remove(directory, name);
                }
                (DetachedRow::Opaque, Some(node)) if self.tree.is_directory(node) => {
                    self.remove_lower_children(node, layer);
                }
                _ => {}
            }
        }
        for (path, row) in layer.index.detached() {
            let DetachedRow::Node(row) = row else {
                continue;
            };
            let (parent, name) = split(path);
            let found = self.resolve_directory(parent, Some(layer.number))?;
            let directory =
                found.ok_or_else(|| FlattenError::Parent(text(path), "it does not exist"))?;
            if let Placed::NoTarget(target) = self.place(layer, row, directory, name)? {
                return Err(FlattenError::LinkTarget(text(target)));
            }
        }
        Ok(())
    }

    /// Names a file, one of this layer or one that it links to.
    fn put(&mut self, layer: &mut Applying<'_>, name: Name<'_>, node: NodeId) -> Applied {
        if self.tree.layer(node) != layer.number {
            layer.linked.insert((name.0, name.1.into()));
        }
        Ok(self.tree.put(name.0, name.1, node)?)
    }

    /// Gives a file the attributes that the entry of a hard link to it has, as engines do: they
    /// change mode, owner and times of the inode. Its extended attributes stay.
    fn take_attributes(&mut self, node: NodeId, link: NodeRef<'_>) {
        let mut metadata = link.metadata();
        if matches!(self.tree.kind(node), Kind::Symlink(_)) {
            metadata.permissions = self.tree.metadata(node).permissions;
        }
        let xattrs = self.tree.xattrs(node);
        self.tree.set_attributes(node, metadata, xattrs);
    }

    /// Puts a node of the layer under `name` in `to`.
    fn place<'a>(
        &mut self,
        layer: &mut Applying<'a>,
        row: u32,
        to: NodeId,
        name: &[u8],
    ) -> Result<Placed<'a>, FlattenError> {
        let Some(node) = layer.index.node(row) else {
            return Ok(Placed::Leaf);
        };
        match node.kind() {
            NodeKind::Directory { opaque, implied } => {
                let directory = self.place_directory(layer, node, to, name, opaque, implied)?;
                return Ok(Placed::Directory(directory));
            }
            NodeKind::UnresolvedLink(target) if layer.made[row as usize].is_none() => {
                return Ok(Placed::NoTarget(target));
            }
            _ => {}
        }
        let made = match layer.made[row as usize] {
            Some(made) => made,
            None => {
                let made = self.copy_leaf(layer, node)?;
                layer.made[row as usize] = Some(made);
                made
            }
        };
        self.put(layer, (to, name), made)?;
        Ok(Placed::Leaf)
    }

    fn place_directory(
        &mut self,
        layer: &Applying<'_>,
        node: NodeRef<'_>,
        to: NodeId,
        name: &[u8],
        opaque: bool,
        implied: bool,
    ) -> Result<NodeId, FlattenError> {
        if (!opaque || implied)
            && let Some(existing) = self.tree.lookup(to, name)
        {
            let mut kept = None;
            if self.tree.is_directory(existing) {
                kept = Some(existing);
            } else if implied && let Kind::Symlink(target) = self.tree.kind(existing).clone() {
                // An entry below a symlink of a lower layer goes where the symlink leads.
                let mut links = MAX_LINKS;
                let found = self.walk_path(to, &target, Some(layer.number), &mut links)?;
                let missing = || FlattenError::Parent(text(name), "it does not exist");
                kept = Some(found.ok_or_else(missing)?);
            }
            if let Some(directory) = kept {
                if opaque {
                    self.remove_lower_children(directory, layer);
                }
                if !implied {
                    self.merge_directory(directory, node, layer)?;
                }
                return Ok(directory);
            }
        }
        let directory = self.new_directory(to, name, layer.number)?;
        if !implied {
            self.merge_directory(directory, node, layer)?;
        }
        Ok(directory)
    }

    fn merge_directory(
        &mut self,
        directory: NodeId,
        node: NodeRef<'_>,
        layer: &Applying<'_>,
    ) -> Result<(), FlattenError> {
        let NodeKind::Directory { opaque, implied } = node.kind() else {
            return Ok(());
        };
        if opaque {
            self.tree.clear(directory);
        }
        if !implied {
            let xattrs = self.tree.xattr_set_from_bytes(node.xattr_set().into())?;
            self.tree.set_attributes(directory, node.metadata(), xattrs);
            self.tree.set_layer(directory, layer.number);
        }
        Ok(())
    }

    fn copy_leaf(
        &mut self,
        layer: &Applying<'_>,
        node: NodeRef<'_>,
    ) -> Result<NodeId, FlattenError> {
        let kind = match node.kind() {
            NodeKind::Regular(place) => {
                // A chain index carries no content digests.
                Kind::Regular(Content {
                    place,
                    size: node.size(),
                    digest: [0; 32],
                })
            }
            NodeKind::Symlink(target) => Kind::Symlink(target.into()),
            NodeKind::Special {
                kind: FileKind::CharDevice,
                device: (major, minor),
            } => Kind::CharDevice { major, minor },
            NodeKind::Special {
                kind: FileKind::BlockDevice,
                device: (major, minor),
            } => Kind::BlockDevice { major, minor },
            NodeKind::Special {
                kind: FileKind::Fifo,
                ..
            } => Kind::Fifo,
            // Directories and links were placed elsewhere; what is left is a socket.
            _ => Kind::Socket,
        };
        let xattrs = self.tree.xattr_set_from_bytes(node.xattr_set().into())?;
        let made = self.tree.new_node(node.metadata(), kind, xattrs)?;
        self.tree.set_layer(made, layer.number);
        Ok(made)
    }

    /// A directory that no archive describes: 0755, owned by root, from the beginning of time.
    fn new_directory(
        &mut self,
        to: NodeId,
        name: &[u8],
        layer: u16,
    ) -> Result<NodeId, FlattenError> {
        let metadata = Metadata {
            permissions: 0o755,
            ..Metadata::default()
        };
        let directory = self
            .tree
            .new_node(metadata, Kind::Directory, Default::default())?;
        self.tree.set_layer(directory, layer);
        self.tree.put(to, name, directory)?;
        self.parents.resize(self.tree.node_count(), Tree::ROOT);
        self.parents[directory.0 as usize] = to;
        Ok(directory)
    }

    fn remove_lower_children(&mut self, directory: NodeId, layer: &Applying<'_>) {
        let children: Vec<(Box<[u8]>, Target)> = self
            .tree
            .children(directory)
            .map(|(name, target)| (name.into(), target))
            .collect();
        for (name, target) in children {
            if !matches!(target, Target::Node(node) if layer.has_put(&self.tree, node, directory, &name))
            {
                self.tree.remove(directory, &name);
            }
        }
    }

    /// The non-directory at `path`, if there is one.
    fn resolve_leaf(&mut self, path: &[u8]) -> Option<NodeId> {
        let (parent, name) = split(path);
        // A parent that cannot be resolved is a target that is not there.
        let directory = self.resolve_directory(parent, None).unwrap_or(None)?;
        let node = self.tree.lookup(directory, name)?;
        (!self.tree.is_directory(node)).then_some(node)
    }

    /// The directory at `path`, following symlinks; missing ones are made when `create` names the
    /// layer that needs them.
    fn resolve_directory(
        &mut self,
        path: &[u8],
        create: Option<u16>,
    ) -> Result<Option<NodeId>, FlattenError> {
        let mut links = MAX_LINKS;
        self.walk_path(Tree::ROOT, path, create, &mut links)
    }

    fn walk_path(
        &mut self,
        from: NodeId,
        path: &[u8],
        create: Option<u16>,
        links: &mut usize,
    ) -> Result<Option<NodeId>, FlattenError> {
        let mut at = if path.starts_with(b"/") {
            Tree::ROOT
        } else {
            from
        };
        for name in path.split(|&byte| byte == b'/') {
            at = match name {
                b"" | b"." => continue,
                b".." => self
                    .parents
                    .get(at.0 as usize)
                    .copied()
                    .unwrap_or(Tree::ROOT),
                _ => match self.tree.lookup(at, name) {
                    Some(node) if self.tree.is_directory(node) => node,
                    Some(node) => {
                        let Kind::Symlink(target) = self.tree.kind(node).clone() else {
                            return Ok(None);
                        };
                        *links = links.checked_sub(1).ok_or_else(|| {
                            FlattenError::Parent(text(path), "too many levels of symbolic links")
                        })?;
                        match self.walk_path(at, &target, create, links)? {
                            Some(directory) => directory,
                            None => return Ok(None),
                        }
                    }
                    None => match create {
                        Some(layer) => self.new_directory(at, name, layer)?,
                        None => return Ok(None),
                    },
                },
            };
        }
        Ok(Some(at))
    }
}

/// What became of a node.
enum Placed<'a> {
    /// It is in the tree.
    Leaf,
    /// It is this directory of the tree; its entries are still to come.
    Directory(NodeId),
    /// It is a link to this path, which does not exist yet.
    NoTarget(&'a [u8]),
}

/// Parent path and name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn text(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tree::{Detached, DetachedAction, XattrSet};
    use crate::layer::{Place, Timestamp};

    /// A layer in a line per entry: `dir/`, `file=CONTENT_SIZE`, `link->target`, `hard=>target`,
    /// `-whiteout`, `dir!` (opaque), `dir?/` (implied), `dir!?/` (both), `@path=SIZE` (detached).
    fn layer(lines: &[&str]) -> Index {
        let mut tree = Tree::new();
        let metadata = Metadata {
            permissions: 0o644,
            uid: 7,
            gid: 8,
            mtime: Timestamp::default(),
        };
        for line in lines {
            if let Some(rest) = line.strip_prefix('@') {
                let (path, size) = rest.split_once('=').unwrap();
                let content = Content {
                    place: Place::Pack(0),
                    size: size.parse().unwrap(),
                    digest: [0; 32],
                };
                let node = tree
                    .new_node(metadata, Kind::Regular(content), XattrSet::default())
                    .unwrap();
                let action = DetachedAction::Put(node);
                tree.detached.push(Detached {
                    path: path.as_bytes().into(),
                    action,
                });
                continue;
            }
            let whiteout = line.strip_prefix('-');
            let path = whiteout.unwrap_or(line);
            let end = path.find(['=', '!', '?']).or_else(|| path.find("->"));
            let path = path[..end.unwrap_or(path.len())].trim_end_matches('/');
            let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
            let mut at = Tree::ROOT;
            for parent in parents.split('/').filter(|p| !p.is_empty()) {
                at = tree.lookup(at, parent.as_bytes()).unwrap_or_else(|| {
                    panic!("the test's layer {lines:?} must name {parent} before what is in it")
                });
            }
            if whiteout.is_some() {
                tree.put_whiteout(at, name.as_bytes()).unwrap();
                continue;
            }
            let kind = if let Some((_, target)) = line.split_once("=>") {
                Kind::UnresolvedLink(target.as_bytes().into())
            } else if let Some((_, target)) = line.split_once("->") {
                Kind::Symlink(target.as_bytes().into())
            } else if let Some((_, size)) = line.split_once('=') {
                let (place, size) = (Place::Pack(0), size.parse().unwrap());
                Kind::Regular(Content {
                    place,
                    size,
                    digest: [0; 32],
                })
            } else {
                Kind::Directory
            };
            let node = tree.new_node(metadata, kind, XattrSet::default()).unwrap();
            tree.put(at, name.as_bytes(), node).unwrap();
            tree.set_opaque(node, line.contains('!'));
            tree.set_implied(node, line.ends_with("?/"));
        }
        let mut bytes = Vec::new();
        tree.write_layer(&mut bytes).unwrap();
        Index::from_bytes(bytes).unwrap()
    }

    fn flat(layers: &[&[&str]]) -> Result<Vec<String>, FlattenError> {
        joined(layers, |layers| flatten(layers))
    }

    fn joined(
        layers: &[&[&str]],
        join: impl FnOnce(&[Index]) -> Result<Tree, FlattenError>,
    ) -> Result<Vec<String>, FlattenError> {
        let layers: Vec<Index> = layers.iter().map(|lines| layer(lines)).collect();
        let tree = join(&layers)?;
        let mut bytes = Vec::new();
        let ids = vec![[0; 32]; layers.len()];
        tree.write_chain(&ids, &mut bytes).unwrap();
        let index = Index::from_bytes(bytes).unwrap();
        let mut lines = Vec::new();
        show(&index, Index::ROOT, "", &mut lines);
        Ok(lines)
    }

    fn show(index: &Index, directory: u32, path: &str, lines: &mut Vec<String>) {
        for (name, named) in index.children(directory) {
            let path = format!("{path}{}", name.escape_ascii());
            let Named::Node(row) = named else {
                panic!("a whiteout in a chain")
            };
            let node = index.node(row).unwrap();
            match node.kind() {
                NodeKind::Directory { .. } => {
                    lines.push(format!(
                        "{path}/{}",
                        if node.metadata().uid == 7 { "" } else { "0" }
                    ));
                    show(index, row, &format!("{path}/"), lines);
                }
                NodeKind::Symlink(target) => {
                    lines.push(format!("{path}->{}", target.escape_ascii()));
                }
                _ => lines.push(format!("{path}={}x{}", node.size(), node.nlink())),
            }
        }
    }

    #[test]
    fn layers_are_told_apart() {
        let layers: &[&[&str]] = &[
            &["a=1", "d/", "d/x=1", "d/y=1", "l->d", "u/", "u/v/"],
            // A new name for a file below, one that is gone, and one below a symlink.
            &["b=>a", "d?/", "-d/x", "@l/z=3", "u?/", "u/w=4"],
            // What hides all that was there, and a file in place of a directory.
            &["d!", "d/y=5", "u=6"],
        ];
        let spread = joined(layers, |layers| crate::union::spread::spread(layers)).unwrap();
        let expected = "0/0 0/a=1x1 0/d/ 0/d/x=1x1 0/d/y=1x1 0/l->d 0/u/ 0/u/v/ \
            1/0 1/b=1x1 1/d/ 1/d/x=0x1 1/d/z=3x1 1/u/ 1/u/w=4x1 \
            2/0 2/d/ 2/d/y=5x1 2/d/z=0x1 2/u=6x1";
        assert_eq!(spread.join(" "), expected);
    }

    #[test]
    fn layers_merge() {
        type Case<'a> = (&'a str, &'a [&'a [&'a str]], &'a [&'a str]);
        let cases: &[Case<'_>] = &[
            (
                "upper files win",
                &[&["a=1", "b=2"], &["b=3"]],
                &["a=1x1", "b=3x1"],
            ),
            ("whiteout", &[&["a=1", "d/", "d/x=1"], &["-a", "-d"]], &[]),
            ("whiteout of nothing", &[&["a=1"], &["-b"]], &["a=1x1"]),
            (
                "opaque",
                &[&["d/", "d/x=1"], &["d!", "d/y=2"]],
                &["d/", "d/y=2x1"],
            ),
            (
                "directories merge",
                &[&["d/", "d/x=1"], &["d/", "d/y=2"]],
                &["d/", "d/x=1x1", "d/y=2x1"],
            ),
            (
                "file over directory",
                &[&["d/", "d/x=1"], &["d=5"]],
                &["d=5x1"],
            ),
            (
                "directory over file",
                &[&["d=5"], &["d/", "d/x=1"]],
                &["d/", "d/x=1x1"],
            ),
            (
                "link into the layer below",
                &[&["a=4"], &["b=>a"]],
                &["a=4x2", "b=4x2"],
            ),
            (
                "link to what the layer hides",
                &[&["a=4"], &["-a", "b=>a"]],
                &["b=4x1"],
            ),
            (
                "link to what comes later",
                &[&[], &["b=>c", "c=9"]],
                &["b=9x2", "c=9x2"],
            ),
            (
                "link below a symlink",
                &[&["d/", "d/a=4", "s->d"], &["b=>s/a"]],
                &["b=4x2", "d/", "d/a=4x2", "s->d"],
            ),
            (
                "implied parent keeps attributes",
                &[&["d/"], &["d?/", "d/x=1"]],
                &["d/", "d/x=1x1"],
            ),
            (
                "implied parent from nowhere",
                &[&["d?/", "d/x=1"]],
                &["d/0", "d/x=1x1"],
            ),
            (
                "implied parent is a symlink",
                &[&["usr/", "usr/lib/", "lib->usr/lib"], &["lib?/", "lib/x=1"]],
                &["lib->usr/lib", "usr/", "usr/lib/", "usr/lib/x=1x1"],
            ),
            (
                "implied parent is a dangling symlink",
                &[&["lib->usr/lib"], &["lib?/", "lib/x=1"]],
                &["lib->usr/lib", "usr/0", "usr/lib/0", "usr/lib/x=1x1"],
            ),
            (
                "implied parent is a symlink upwards",
                &[&["lib->../../../etc"], &["lib?/", "lib/x=1"]],
                &["etc/0", "etc/x=1x1", "lib->../../../etc"],
            ),
            (
                "explicit directory replaces a symlink",
                &[&["usr/", "lib->usr"], &["lib/", "lib/x=1"]],
                &["lib/", "lib/x=1x1", "usr/"],
            ),
            (
                "below a symlink of the same layer",
                &[&["usr/"], &["lib->usr", "@lib/x=3"]],
                &["lib->usr", "usr/", "usr/x=3x1"],
            ),
            (
                "an opaque mark alone keeps the attributes",
                &[&["d/", "d/x=1"], &["d!?/"]],
                &["d/"],
            ),
            (
                "an opaque mark below a symlink",
                &[&["d/", "d/x=1", "s->d"], &["s!?/", "s/y=2"]],
                &["d/", "d/y=2x1", "s->d"],
            ),
            (
                "implied parent is a file",
                &[&["d=1"], &["d?/", "d/x=1"]],
                &["d/0", "d/x=1x1"],
            ),
        ];
        for (what, layers, expected) in cases {
            let found = flat(layers).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(found, *expected, "{what}");
        }
    }

    /// Engines give the linked inode owner, mode and times of the link's entry.
    #[test]
    fn regression_a_link_into_a_lower_layer_changes_what_it_links_to() {
        let mut upper = Tree::new();
        let metadata = Metadata {
            permissions: 0o4755,
            uid: 1,
            gid: 2,
            mtime: Timestamp {
                seconds: 9,
                nanoseconds: 5,
            },
        };
        for (name, target) in [("b", "a"), ("t", "s")] {
            let kind = Kind::UnresolvedLink(target.as_bytes().into());
            let link = upper.new_node(metadata, kind, XattrSet::default()).unwrap();
            upper.put(Tree::ROOT, name.as_bytes(), link).unwrap();
        }
        let mut bytes = Vec::new();
        upper.write_layer(&mut bytes).unwrap();
        let layers = [layer(&["a=4", "s->a"]), Index::from_bytes(bytes).unwrap()];
        let tree = flatten(&layers).unwrap();
        for (name, permissions) in [("a", 0o4755), ("b", 0o4755), ("s", 0o644), ("t", 0o644)] {
            let node = tree.lookup(Tree::ROOT, name.as_bytes()).unwrap();
            let expected = Metadata {
                permissions,
                ..metadata
            };
            assert_eq!(tree.metadata(node), expected, "{name}");
        }
    }

    /// The node of such a link has the number of the layer below, but this layer put it there.
    #[test]
    fn regression_a_whiteout_leaves_what_its_own_layer_linked_there_by_another_path() {
        let lower = ["a=4", "usr/", "usr/d/", "usr/d/x=9", "usr/x=9", "z->usr"];
        let (whiteout, opaque) = (
            ["usr?/", "-usr/x", "z?/", "z/x=>a"],
            ["usr?/", "usr/d!?/", "z?/", "z/d?/", "z/d/x=>a"],
        );
        for (upper, expected) in [(&whiteout[..], "usr/x=4x2"), (&opaque, "usr/d/x=4x2")] {
            let found = flat(&[&lower, upper]).unwrap();
            assert!(found.contains(&expected.to_owned()), "{upper:?}: {found:?}");
        }
    }

    #[test]
    fn link_to_nothing_is_an_error_that_names_it() {
        let error = flat(&[&["b=>etc/nothing"]]).unwrap_err();
        assert!(error.to_string().contains("etc/nothing"), "{error}");
    }

    #[test]
    fn link_loops_are_errors() {
        let error = flat(&[&["a->b", "b->a"], &["a?/", "a/x=1"]]).unwrap_err();
        assert!(error.to_string().contains("symbolic links"), "{error}");
    }
}
