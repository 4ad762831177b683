//! The union of an image's packed layers: one flattened index, and the content of each layer.
//!
//! # Invariants
//! * Node number = row of the index + 1, so numbers are the same at every mount.
//! * The index answers from its mapping; contents are opened anew each time (callers keep them). Only
//!   how much room a large file takes is asked of the file itself, once, and kept.
//! * With [`Marks::Hidden`] nothing is shown that the kernel's overlay would take for a mark.

use std::borrow::Cow;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use hashbrown::HashMap;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use parking_lot::RwLock;

use super::{Attributes, Error, Listed, NodeNumber, OpenContent, Result, Totals};
use crate::idmap::IdMap;
use crate::layer::index::{Index, Named, NodeKind, NodeRef};
use crate::layer::{FileKind, Place};

/// The content of one packed layer.
#[derive(Debug)]
pub struct LayerContent {
    /// The directory that holds `pack` and `files/`.
    directory: OwnedFd,
    /// Absent when every content of the layer has a file of its own.
    pack: Option<Arc<File>>,
}

impl LayerContent {
    /// Opens the directory of a packed layer.
    ///
    /// # Errors
    /// What open(2) reports.
    pub fn open(directory: &Path) -> std::io::Result<LayerContent> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::open(directory, flags, Mode::empty())?;
        let pack = match openat(
            &directory,
            "pack",
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            Ok(file) => Some(Arc::new(File::from(file))),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno.into()),
        };
        Ok(LayerContent { directory, pack })
    }

    /// Blocks of 512 bytes that the file with this number takes; `None` if it cannot be told.
    fn blocks(&self, number: u32) -> Option<u64> {
        let path = format!("files/{number}");
        let found = fstatat(&self.directory, path.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        found
            .ok()
            .and_then(|stat| u64::try_from(stat.st_blocks).ok())
    }

    /// Opens the content that lies at `place`.
    ///
    /// # Errors
    /// What open(2) reports.
    pub fn content(&self, place: Place, size: u64) -> Result<OpenContent> {
        match place {
            Place::Empty | Place::Pack(_) if size == 0 => {
                let null = File::open("/dev/null")
                    .map_err(|error| Error::io(error, "opening an empty file"))?;
                Ok(OpenContent {
                    file: Arc::new(null),
                    start: 0,
                    size,
                    whole: false,
                })
            }
            Place::Empty => Err(Error::broken("a file without content")),
            Place::Pack(start) => {
                let pack = self.pack.as_ref();
                let file = pack.ok_or_else(|| Error::broken("a layer without its pack"))?;
                Ok(OpenContent {
                    file: Arc::clone(file),
                    start,
                    size,
                    whole: false,
                })
            }
            Place::File(number) => {
                let path = format!("files/{number}");
                let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
                let file = openat(&self.directory, path.as_str(), flags, Mode::empty())
                    .map_err(|errno| Error::io(errno.into(), format!("opening content {path}")))?;
                Ok(OpenContent {
                    file: Arc::new(File::from(file)),
                    start: 0,
                    size,
                    whole: true,
                })
            }
        }
    }
}

/// The flattened layers of an image.
#[derive(Debug)]
pub struct Chain {
    index: Index,
    layers: Vec<LayerContent>,
    /// How owners are shown.
    ids: IdMap,
    /// Blocks of the large files that were looked at, by number of node.
    blocks: RwLock<HashMap<u64, u64>>,
    marks: Marks,
}

/// Whether a chain shows what the kernel's overlay would follow in a layer: its attributes, and character
/// devices 0:0, which are whiteouts to it. An image may hold such things, and must not reach with them what
/// lies below or beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// As what the image says they are.
    Shown,
    /// Only the devices: in single layers they are what they look like.
    Whiteouts,
    /// Not at all.
    Hidden,
}

/// The attributes that name users and groups.
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

impl Chain {
    /// Joins a chain index with the contents of its layers, lowest first.
    ///
    /// # Errors
    /// `EIO` when the numbers of layers differ.
    pub fn new(index: Index, layers: Vec<LayerContent>) -> Result<Chain> {
        if index.layers().len() != layers.len() {
            return Err(Error::broken(
                "the layers of the chain index are not those of the image",
            ));
        }
        Ok(Chain {
            index,
            layers,
            ids: IdMap::default(),
            blocks: RwLock::default(),
            marks: Marks::Shown,
        })
    }

    /// The same, with owners shown by these rules.
    #[must_use]
    pub fn with_ids(self, ids: IdMap) -> Chain {
        Chain { ids, ..self }
    }

    /// Shows these marks from now on; all without it.
    pub fn show_marks(&mut self, marks: Marks) {
        self.marks = marks;
    }

    fn is_hidden(&self, row: NodeRef<'_>) -> bool {
        let whiteout = NodeKind::Special {
            kind: FileKind::CharDevice,
            device: (0, 0),
        };
        self.marks == Marks::Hidden && row.kind() == whiteout
    }

    fn is_hidden_xattr(&self, name: &[u8]) -> bool {
        let rest = name
            .strip_prefix(b"trusted.")
            .or_else(|| name.strip_prefix(b"user."));
        self.marks != Marks::Shown && rest.is_some_and(|rest| rest.starts_with(b"overlay."))
    }

    fn node(&self, node: NodeNumber) -> Result<NodeRef<'_>> {
        let row = node
            .0
            .checked_sub(1)
            .and_then(|row| u32::try_from(row).ok());
        row.and_then(|row| self.index.node(row))
            .ok_or_else(|| Errno::ESTALE.into())
    }

    fn directory(&self, node: NodeNumber) -> Result<(u32, NodeRef<'_>)> {
        let row = self.node(node)?;
        match row.file_kind() {
            // The number fits: `node` has found it.
            Some(FileKind::Directory) => Ok(((node.0 - 1) as u32, row)),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    pub(super) fn lookup(&self, directory: NodeNumber, name: &[u8]) -> Result<Option<Attributes>> {
        // Whoever has a file handle asks for the file itself so, whatever its kind.
        if name == b"." {
            return self.attributes(directory).map(Some);
        }
        let (row, node) = self.directory(directory)?;
        match name {
            b".." => self.attributes(number(node.parent())).map(Some),
            _ => match self.index.lookup(row, name) {
                Some(Named::Node(child)) => {
                    let (child, row) = (number(child), self.node(number(child))?);
                    let shown = !self.is_hidden(row);
                    Ok(shown.then(|| self.attributes_of(child, row)))
                }
                _ => Ok(None),
            },
        }
    }

    pub(super) fn contains(&self, directory: NodeNumber, name: &[u8]) -> Result<bool> {
        let (row, _) = self.directory(directory)?;
        match self.index.lookup(row, name) {
            Some(Named::Node(child)) => Ok(!self.is_hidden(self.node(number(child))?)),
            _ => Ok(false),
        }
    }

    #[allow(clippy::unnecessary_wraps)] // a stack asks its file systems
    pub(super) fn identity(&self) -> Result<[u8; 16]> {
        let layers = self.index.layers().concat();
        Ok(xxhash_rust::xxh3::xxh3_128(&layers).to_le_bytes())
    }

    pub(super) fn attributes(&self, node: NodeNumber) -> Result<Attributes> {
        Ok(self.attributes_of(node, self.node(node)?))
    }

    pub(super) fn read_link(&self, node: NodeNumber) -> Result<Cow<'_, [u8]>> {
        match self.node(node)?.kind() {
            NodeKind::Symlink(target) => Ok(Cow::Borrowed(target)),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    pub(super) fn list(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        self.walk(directory, offset, &mut |listed, _| emit(listed))
    }

    pub(super) fn list_with_attributes(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>, &Attributes) -> ControlFlow<()>,
    ) -> Result<()> {
        self.walk(directory, offset, &mut |listed, row| {
            emit(listed, &self.attributes_of(listed.node, row))
        })
    }

    fn walk(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>, NodeRef<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let (row, node) = self.directory(directory)?;
        for at in offset.. {
            let (name, child) = match at {
                0 => (&b"."[..], row),
                1 => (&b".."[..], node.parent()),
                _ => {
                    let position = u32::try_from(at - 2).ok();
                    match position.and_then(|position| self.index.entry(row, position)) {
                        Some((name, Named::Node(child))) => (name, child),
                        _ => break,
                    }
                }
            };
            let child_row = self.node(number(child))?;
            if self.is_hidden(child_row) {
                continue;
            }
            let listed = Listed {
                node: number(child),
                kind: kind(child_row),
                name,
                next_offset: at + 1,
            };
            if emit(listed, child_row).is_break() {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn xattr(&self, node: NodeNumber, name: &[u8]) -> Result<Option<Cow<'_, [u8]>>> {
        let mut xattrs = self.node(node)?.xattrs();
        if self.is_hidden_xattr(name) {
            return Ok(None);
        }
        Ok(xattrs
            .find(|(known, _)| *known == name)
            .map(|(_, value)| match ACLS.contains(&name) {
                true => self.ids.shown_acl(Cow::Borrowed(value)),
                false => Cow::Borrowed(value),
            }))
    }

    pub(super) fn xattr_names(&self, node: NodeNumber) -> Result<Vec<Cow<'_, [u8]>>> {
        Ok(self
            .node(node)?
            .xattrs()
            .map(|(name, _)| name)
            .filter(|name| !self.is_hidden_xattr(name))
            .map(Cow::Borrowed)
            .collect())
    }

    pub(super) fn may_have_xattrs(&self) -> bool {
        self.index.has_xattrs()
    }

    pub(super) fn may_have_acls(&self) -> bool {
        self.index.has_acls()
    }

    pub(super) fn open(&self, node: NodeNumber) -> Result<OpenContent> {
        let row = self.node(node)?;
        match row.kind() {
            NodeKind::Regular(place) => {
                let layer = self.layers.get(usize::from(row.layer()));
                let layer = layer.ok_or_else(|| Error::broken("a node of no layer"))?;
                layer.content(place, row.size())
            }
            NodeKind::Directory { .. } => Err(Errno::EISDIR.into()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    pub(super) fn packed_content(&self, node: NodeNumber) -> Result<Option<OpenContent>> {
        let row = self.node(node)?;
        match row.kind() {
            NodeKind::Regular(place @ Place::Pack(_)) if row.size() > 0 => {
                let layer = self.layers.get(usize::from(row.layer()));
                let layer = layer.ok_or_else(|| Error::broken("a node of no layer"))?;
                layer.content(place, row.size()).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The attributes of a row. A large file may have holes, which only the file itself knows.
    fn attributes_of(&self, node: NodeNumber, row: NodeRef<'_>) -> Attributes {
        let mut found = attributes(node, row);
        found.uid = self.ids.shown_uid(found.uid);
        found.gid = self.ids.shown_gid(found.gid);
        let NodeKind::Regular(Place::File(number)) = row.kind() else {
            return found;
        };
        if let Some(blocks) = self.blocks.read().get(&node.0) {
            found.blocks = *blocks;
            return found;
        }
        if let Some(layer) = self.layers.get(usize::from(row.layer()))
            && let Some(blocks) = layer.blocks(number)
        {
            found.blocks = blocks;
            self.blocks.write().insert(node.0, blocks);
        }
        found
    }

    pub(super) fn totals(&self) -> Totals {
        let (bytes, large_bytes) = self.index.content_bytes();
        Totals {
            bytes,
            nodes: u64::from(self.index.node_count()),
            large_bytes,
        }
    }
}

fn number(row: u32) -> NodeNumber {
    NodeNumber(u64::from(row) + 1)
}

fn kind(row: NodeRef<'_>) -> FileKind {
    // A chain has no unresolved links: the index was validated.
    row.file_kind().unwrap_or(FileKind::Regular)
}

fn attributes(node: NodeNumber, row: NodeRef<'_>) -> Attributes {
    let metadata = row.metadata();
    let device = match row.kind() {
        NodeKind::Special { device, .. } => device,
        _ => (0, 0),
    };
    Attributes {
        node,
        ino: node.0,
        generation: 0,
        kind: kind(row),
        permissions: metadata.permissions,
        nlink: row.nlink(),
        uid: metadata.uid,
        gid: metadata.gid,
        device,
        size: row.size(),
        blocks: row.size().div_ceil(512),
        // Images carry one time; the others are the same, at every mount.
        atime: metadata.mtime,
        mtime: metadata.mtime,
        ctime: metadata.mtime,
    }
}
