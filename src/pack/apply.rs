//! What each entry of an archive does to the layer's tree.
//!
//! # Invariants
//! * A whiteout hides lower layers only. Where the same layer also has the name, before or after,
//!   the entry stays and, if it is a directory, becomes opaque: order does not matter.
//! * A directory over a directory replaces attributes; everything else replaces what was there. A
//!   directory that replaces something else of this layer is opaque, since what it replaced
//!   already hid the lower layers.
//! * Symbolic links of the layer are never followed here: what lies below one is detached.
//! * A name component that merely begins with `.wh.` is an ordinary directory name; only the last
//!   component of an entry makes a whiteout.

use std::io::Read;

use super::content::Contents;
use super::entry::{Entry, EntryKind};
use super::path::{normalise, split};
use super::reader::Archive;
use super::{Error, Escaped, Limits, Problem};
use crate::layer::Metadata;
use crate::layer::tree::{
    Detached, DetachedAction, Kind, NodeId, Target, Tree, XattrSet, check_name,
};

const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Where AUFS kept the contents of hard links while archives were made; links may name it.
const AUFS_LINKS: &[u8] = b".wh..wh.plnk";

/// Where the parent path of an entry leads.
#[derive(Clone, Copy)]
enum Parent {
    Directory(NodeId),
    /// Through a symbolic link of this layer.
    BelowLink,
    /// Through something that is no directory.
    BelowFile,
}

/// What is left to do for an entry.
enum Next {
    Done,
    /// Storing the content, and adding a regular file.
    Store,
    /// Adding a node.
    Add(Kind),
}

/// Applies entries to a tree.
pub(super) struct Applier<'a> {
    tree: Tree,
    limits: &'a Limits,
    path: Vec<u8>,
    target: Vec<u8>,
    /// The parent of the latest entry: siblings mostly follow one another.
    parent_path: Vec<u8>,
    parent: Option<NodeId>,
    /// Bytes that the tree holds beside names.
    text: u64,
}

impl<'a> Applier<'a> {
    pub(super) fn new(limits: &'a Limits) -> Applier<'a> {
        Applier {
            tree: Tree::new(),
            limits,
            path: Vec::new(),
            target: Vec::new(),
            parent_path: Vec::new(),
            parent: None,
            text: 0,
        }
    }

    /// The tree, after the last entry.
    pub(super) fn finish(mut self) -> Tree {
        self.tree.remove(Tree::ROOT, AUFS_LINKS);
        self.tree
    }

    /// Applies the current entry of `archive`, and takes its content.
    pub(super) fn apply<'scope, R: Read + Send + 'scope>(
        &mut self,
        archive: &mut Archive<'scope, '_, R>,
        contents: &mut Contents,
    ) -> Result<(), Error> {
        let mut path = std::mem::take(&mut self.path);
        let result = normalise(&archive.entry.path, "path", self.limits, &mut path)
            .map_err(|problem| archive.entry.error(problem))
            .and_then(|()| self.apply_at(&path, archive, contents));
        self.path = path;
        result
    }

    fn apply_at<'scope, R: Read + Send + 'scope>(
        &mut self,
        path: &[u8],
        archive: &mut Archive<'scope, '_, R>,
        contents: &mut Contents,
    ) -> Result<(), Error> {
        let (parent, name) = split(path);
        let own = if name == OPAQUE { parent } else { path };
        if is_aufs(own) {
            return Ok(());
        }
        if name.starts_with(WHITEOUT) {
            return self
                .whiteout(parent, name)
                .map_err(|problem| archive.entry.error(problem));
        }
        let next = self.prepare(&archive.entry, path);
        let kind = match next.map_err(|problem| archive.entry.error(problem))? {
            Next::Done => return Ok(()),
            Next::Add(kind) => kind,
            Next::Store => Kind::Regular(contents.store(archive)?),
        };
        self.add(&archive.entry, path, kind)
            .map_err(|problem| archive.entry.error(problem))
    }

    /// Does everything that needs no new node, and tells what is left to do.
    fn prepare(&mut self, entry: &Entry, path: &[u8]) -> Result<Next, Problem> {
        if path.is_empty() {
            if entry.kind != EntryKind::Directory {
                return Err(Problem::Root);
            }
            let xattrs = self.xattrs(entry)?;
            self.tree.set_attributes(Tree::ROOT, entry.metadata, xattrs);
            return Ok(Next::Done);
        }
        let (major, minor) = entry.device;
        Ok(Next::Add(match entry.kind {
            EntryKind::Regular => return Ok(Next::Store),
            EntryKind::Directory => Kind::Directory,
            EntryKind::CharDevice => Kind::CharDevice { major, minor },
            EntryKind::BlockDevice => Kind::BlockDevice { major, minor },
            EntryKind::Fifo => Kind::Fifo,
            EntryKind::Symlink => Kind::Symlink(self.symlink_target(&entry.link)?),
            EntryKind::HardLink => {
                let mut target = std::mem::take(&mut self.target);
                let result = normalise(&entry.link, "link target", self.limits, &mut target)
                    .and_then(|()| self.hard_link(entry, path, &target));
                self.target = target;
                return result;
            }
        }))
    }

    fn symlink_target(&mut self, target: &[u8]) -> Result<Box<[u8]>, Problem> {
        if target.is_empty() {
            return Err(Problem::EmptyTarget);
        }
        if target.contains(&0) {
            return Err(Problem::Nul("link target"));
        }
        // readlink(2) gives one byte less than a path may have.
        if target.len() >= self.limits.path {
            let what = "bytes of link target";
            return Err(Problem::TooLarge {
                what,
                limit: self.limits.path as u64,
            });
        }
        self.count(target.len())?;
        Ok(target.into())
    }

    /// Makes a hard link to what the layer has; otherwise gives the kind of an unresolved one.
    fn hard_link(&mut self, entry: &Entry, path: &[u8], target: &[u8]) -> Result<Next, Problem> {
        let refuse = |why| Problem::HardLink {
            target: Escaped::new(&entry.link),
            why,
        };
        if target.is_empty() {
            return Err(refuse("names the root"));
        }
        let node = self.find(target);
        if node.is_some_and(|node| self.tree.is_directory(node)) {
            return Err(refuse("names a directory"));
        }
        match node {
            Some(_) if path == target => Ok(Next::Done),
            None if path == target => Err(refuse("names itself")),
            None => {
                self.count(target.len())?;
                Ok(Next::Add(Kind::UnresolvedLink(target.into())))
            }
            Some(node) => {
                // Engines apply the attributes of every link to the inode: the last one counts.
                let mut metadata = entry.metadata;
                if matches!(self.tree.kind(node), Kind::Symlink(_)) {
                    metadata.permissions = self.tree.metadata(node).permissions;
                }
                let xattrs = self.tree.xattrs(node);
                self.tree.set_attributes(node, metadata, xattrs);
                self.place(path, node)?;
                Ok(Next::Done)
            }
        }
    }

    /// The node at `path`, without following links.
    fn find(&self, path: &[u8]) -> Option<NodeId> {
        path.split(|byte| *byte == b'/')
            .try_fold(Tree::ROOT, |node, name| {
                // Only directories have children, so a link or file on the way ends the search.
                self.tree.lookup(node, name)
            })
    }

    /// Adds a node of this kind, or changes the directory that is there already.
    fn add(&mut self, entry: &Entry, path: &[u8], kind: Kind) -> Result<(), Problem> {
        let xattrs = self.xattrs(entry)?;
        let mut metadata = entry.metadata;
        if matches!(kind, Kind::Symlink(_)) {
            // Linux knows no other mode for them.
            metadata.permissions = 0o777;
        }
        if kind == Kind::Directory {
            let (parent, name) = split(path);
            if let Parent::Directory(parent) = self.parent(parent, true)?
                && let Some(node) = self.tree.lookup(parent, name)
                && self.tree.is_directory(node)
            {
                self.tree.set_attributes(node, metadata, xattrs);
                return Ok(());
            }
        }
        let node = self.tree.new_node(metadata, kind, xattrs)?;
        self.place(path, node)
    }

    /// Names `node` at `path`.
    fn place(&mut self, path: &[u8], node: NodeId) -> Result<(), Problem> {
        let (parent, name) = split(path);
        match self.parent(parent, true)? {
            Parent::Directory(parent) => {
                match self.tree.get(parent, name) {
                    Some(Target::Node(old)) if self.tree.is_directory(old) => self.parent = None,
                    None => {}
                    Some(_) if self.tree.is_directory(node) => self.tree.set_opaque(node, true),
                    Some(_) => {}
                }
                self.tree.put(parent, name, node)?;
            }
            _ => {
                check_name(name)?;
                self.detach(path, DetachedAction::Put(node))?;
            }
        }
        Ok(())
    }

    fn detach(&mut self, path: &[u8], action: DetachedAction) -> Result<(), Problem> {
        self.count(path.len())?;
        self.tree.detached.push(Detached {
            path: path.into(),
            action,
        });
        Ok(())
    }

    /// Counts bytes that the tree is to hold beside names.
    fn count(&mut self, bytes: usize) -> Result<(), Problem> {
        self.text = self.text.saturating_add(bytes as u64);
        if self.text > self.limits.text {
            let what = "bytes of link targets and extended attributes in the layer";
            return Err(Problem::TooLarge {
                what,
                limit: self.limits.text,
            });
        }
        Ok(())
    }

    /// Applies `.wh.NAME` or the opaque mark.
    fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<(), Problem> {
        let hidden = name.get(WHITEOUT.len()..).unwrap_or_default();
        if name != OPAQUE && check_name(hidden).is_err() {
            return Err(Problem::Whiteout);
        }
        let opaque = name == OPAQUE;
        match self.parent(parent, false)? {
            Parent::Directory(parent) if opaque => self.tree.set_opaque(parent, true),
            Parent::Directory(parent) => match self.tree.lookup(parent, hidden) {
                Some(node) if self.tree.is_directory(node) => {
                    self.tree.set_opaque(node, true);
                    // The attributes of what lower layers have there are hidden as well.
                    self.tree.set_implied(node, false);
                }
                Some(_) => {}
                None => self.tree.put_whiteout(parent, hidden)?,
            },
            Parent::BelowLink if opaque => self.detach(parent, DetachedAction::Opaque)?,
            Parent::BelowLink => {
                let path = [parent, b"/", hidden].concat();
                self.detach(&path, DetachedAction::Whiteout)?;
            }
            // Below a file there is nothing to hide, and the file itself must stay.
            Parent::BelowFile => {}
        }
        Ok(())
    }

    /// Walks to the directory at `path`, making what is missing. With `replace`, what is in the
    /// way and neither a directory nor a symbolic link gives way to an opaque directory.
    fn parent(&mut self, path: &[u8], replace: bool) -> Result<Parent, Problem> {
        if path.is_empty() {
            return Ok(Parent::Directory(Tree::ROOT));
        }
        if let Some(parent) = self.parent
            && self.parent_path == path
        {
            return Ok(Parent::Directory(parent));
        }
        let mut directory = Tree::ROOT;
        for name in path.split(|byte| *byte == b'/') {
            let opaque = match self.tree.get(directory, name) {
                Some(Target::Node(node)) => match self.tree.kind(node) {
                    Kind::Directory => {
                        directory = node;
                        continue;
                    }
                    // What the link names in a lower layer may be a symbolic link as well.
                    Kind::Symlink(_) | Kind::UnresolvedLink(_) => return Ok(Parent::BelowLink),
                    _ if replace => true,
                    _ => return Ok(Parent::BelowFile),
                },
                Some(Target::Whiteout) => true,
                None => false,
            };
            let metadata = Metadata {
                permissions: 0o755,
                ..Metadata::default()
            };
            let node = self
                .tree
                .new_node(metadata, Kind::Directory, XattrSet::default())?;
            // What replaces something takes no attributes from the layers below.
            self.tree.set_implied(node, !opaque);
            self.tree.set_opaque(node, opaque);
            self.tree.put(directory, name, node)?;
            directory = node;
        }
        self.parent_path.clear();
        self.parent_path.extend_from_slice(path);
        self.parent = Some(directory);
        Ok(Parent::Directory(directory))
    }

    fn xattrs(&mut self, entry: &Entry) -> Result<XattrSet, Problem> {
        let sets = self.tree.xattr_sets().len();
        let set = self.tree.xattr_set(entry.extensions.xattrs())?;
        if self.tree.xattr_sets().len() > sets {
            let lengths = entry
                .extensions
                .xattrs()
                .map(|(name, value)| name.len() + value.len());
            self.count(lengths.sum())?;
        }
        Ok(set)
    }
}

/// Whether `path` leads through AUFS's own files, except through its store of hard links.
fn is_aufs(path: &[u8]) -> bool {
    let links = path
        .strip_prefix(AUFS_LINKS)
        .is_some_and(|rest| rest.starts_with(b"/"));
    !links
        && path
            .split(|byte| *byte == b'/')
            .any(|name| name.starts_with(AUFS))
}
