//! From a name in a listing to an object with attributes and a number.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::directory::Directory;
use super::listing::Found;
use super::lower::{Handles, LowerDirectory};
use super::node::{Identity, Leaf, Node, Object};
use super::{Stack, StackOptions, failed};
use crate::layer::directory::{DirectoryLayer, Override, OverrideKey};
use crate::layer::{FileKind, Timestamp};
use crate::sys::at::{self, RootFd, Stat};
use crate::union::{Attributes, Error, NodeNumber, Result};

/// Longest symlink target.
const TARGET_MAX: u64 = 4095;

/// A file with fewer blocks may be a metacopy: that has no data, but perhaps a block of attributes.
const METACOPY_BLOCKS: u64 = 128;

/// Which of the layers contain another one or lie in another one.
pub(super) fn overlapping(layers: &[DirectoryLayer]) -> io::Result<Box<[bool]>> {
    let id = |layer: &DirectoryLayer| (layer.stat().dev, layer.stat().ino);
    let roots: HashSet<(u64, u64)> = layers.iter().map(id).collect();
    // Layers are often siblings, so what lies above one has been looked at for another.
    let mut harmless: HashSet<(u64, u64)> = HashSet::new();
    let mut outer: HashSet<(u64, u64)> = HashSet::new();
    let mut result = Vec::with_capacity(layers.len());
    let mut seen: HashSet<(u64, u64)> = HashSet::new();
    for layer in layers {
        let chain = layer.root().ancestors(&|id| harmless.contains(&id))?;
        let above = chain.get(1..).unwrap_or_default();
        let containing: Vec<_> = above.iter().filter(|id| roots.contains(*id)).collect();
        let again = !seen.insert(id(layer));
        if containing.is_empty() {
            harmless.extend(above);
        } else {
            outer.extend(containing.iter().copied());
        }
        if again {
            outer.insert(id(layer));
        }
        result.push(!containing.is_empty());
    }
    for (layer, overlaps) in layers.iter().zip(&mut result) {
        *overlaps |= outer.contains(&id(layer));
    }
    Ok(result.into())
}

/// The attributes of the root of the union.
pub(super) fn root_attributes(handles: &Handles, options: &StackOptions) -> Result<Attributes> {
    let layer = handles.layer(0).map_err(|_| Error::plain(Errno::EINVAL))?;
    let key = layer.override_key().or(options.override_key);
    attributes(
        layer.root(),
        b"",
        layer.stat(),
        key,
        options,
        NodeNumber::ROOT,
    )
}

/// The attributes of `name` in `directory`, whose `stat` is known.
fn attributes(
    directory: &RootFd,
    name: &[u8],
    stat: &Stat,
    key: Option<OverrideKey>,
    options: &StackOptions,
    node: NodeNumber,
) -> Result<Attributes> {
    let on_disk = FileKind::from_mode(stat.mode).ok_or_else(|| {
        Error::broken(format!(
            "{}: unknown type {:o}",
            name.escape_ascii(),
            stat.mode
        ))
    })?;
    let mut shown = Override {
        uid: stat.uid,
        gid: stat.gid,
        permissions: (stat.mode & 0o7777) as u16,
        kind: Some((on_disk, stat.rdev)),
    };
    if let Some(key) = key
        && let Some(said) = read_override(directory, name, key)?
    {
        let kind = said.kind.unwrap_or((on_disk, stat.rdev));
        // Only a regular file can stand for something else.
        if kind.0 != on_disk && (on_disk != FileKind::Regular || kind.0 == FileKind::Directory) {
            return Err(Error::broken(format!(
                "{}: {} names another kind of file",
                name.escape_ascii(),
                key.name().escape_ascii()
            )));
        }
        shown = Override {
            kind: Some(kind),
            ..said
        };
    }
    let (kind, device) = shown.kind.unwrap_or((on_disk, stat.rdev));
    let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    let has_size = !is_device && !matches!(kind, FileKind::Fifo | FileKind::Socket);
    let time = |(seconds, nanoseconds)| Timestamp {
        seconds,
        nanoseconds,
    };
    Ok(Attributes {
        node,
        ino: node.0,
        generation: 0,
        kind,
        permissions: shown.permissions,
        nlink: if kind == FileKind::Directory {
            1
        } else {
            stat.nlink
        },
        uid: options.ids.shown_uid(shown.uid),
        gid: options.ids.shown_gid(shown.gid),
        device: if is_device { device } else { (0, 0) },
        size: if has_size { stat.size } else { 0 },
        blocks: stat.blocks,
        atime: time(stat.atime),
        mtime: time(stat.mtime),
        ctime: time(stat.ctime),
    })
}

fn read_override(directory: &RootFd, name: &[u8], key: OverrideKey) -> Result<Option<Override>> {
    match directory.xattr(name, key.name()) {
        Ok(value) => Override::parse(&value).map(Some).ok_or_else(|| {
            let (name, key) = (name.escape_ascii(), key.name().escape_ascii());
            Error::broken(format!("{name}: {key} is {}", value.escape_ascii()))
        }),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENODATA | libc::EOPNOTSUPP) => Ok(None),
            _ => Err(failed(error, "reading the owner of a file")),
        },
    }
}

impl Stack {
    /// The node of that number.
    pub(super) fn node(&self, number: NodeNumber) -> Result<Arc<Node>> {
        Ok(self.nodes.get(number).ok_or(Errno::ESTALE)?)
    }

    /// The directory of that number.
    pub(super) fn directory(&self, number: NodeNumber) -> Result<Arc<Directory>> {
        match &self.node(number)?.object {
            Object::Directory(directory) => Ok(Arc::clone(directory)),
            Object::Leaf(_) => Err(Errno::ENOTDIR.into()),
        }
    }

    /// The directory that contains `directory`; the root contains itself.
    pub(super) fn parent(&self, directory: &Arc<Directory>) -> Arc<Directory> {
        Arc::clone(directory.parent.as_ref().unwrap_or(directory))
    }

    /// The attribute in which a layer keeps owners.
    pub(super) fn override_key(&self, layer: u16) -> Option<OverrideKey> {
        let layer = self.handles.layers().get(usize::from(layer))?;
        layer.override_key().or(self.options.override_key)
    }

    /// The object that `found` stands for in `parent`; none when it is gone from its layer.
    pub(super) fn resolve(
        &self,
        parent: &Arc<Directory>,
        found: Found<'_>,
    ) -> Result<Option<Object>> {
        let branch = self.branch(parent, found.branch)?;
        let open = self.handles.get(branch);
        let open = open.map_err(|error| failed(error, "opening a directory of a layer"))?;
        let stat = match open.stat(found.name) {
            Ok(stat) => stat,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(failed(error, "reading attributes in a layer")),
        };
        let key = self.override_key(branch.layer);
        let attributes = |node| attributes(&open, found.name, &stat, key, &self.options, node);
        if stat.mode & libc::S_IFMT == libc::S_IFDIR {
            let node = self.directory_number(parent, branch, found.name, &stat);
            let attributes = attributes(node)?;
            let directory = self.subdirectory(parent, found, attributes, stat.mount_root)?;
            if stat.dev == self.own_device.load(Ordering::Relaxed) {
                directory.branches.get_or_init(Box::default);
            }
            return Ok(Some(self.settle(Object::Directory(Arc::new(directory)))));
        }
        let node = match self.numbers.inode(stat.dev, stat.ino) {
            Ok(number) => number,
            Err(identity) => self.numbers.reserve(identity),
        };
        let mut attributes = attributes(NodeNumber(node))?;
        if attributes.kind == FileKind::Regular
            && stat.size.div_ceil(512) > stat.blocks
            && stat.blocks <= METACOPY_BLOCKS
        {
            self.count_blocks(parent, found, branch, &mut attributes)?;
        }
        let leaf = Leaf {
            parent: Arc::clone(parent),
            branch: found.branch,
            name: Box::from(found.name),
            attributes: attributes.into(),
        };
        Ok(Some(self.settle(Object::Leaf(leaf))))
    }

    /// Shows the blocks of the content of a metacopy file.
    fn count_blocks(
        &self,
        parent: &Directory,
        found: Found<'_>,
        branch: &LowerDirectory,
        attributes: &mut Attributes,
    ) -> Result<()> {
        let marks = self.marks(branch, found.name)?;
        if !marks.metacopy {
            return Ok(());
        }
        match self.open_content(parent, found.branch, found.name, marks) {
            Ok(file) => {
                let stat = at::stat_file(&file);
                let stat = stat.map_err(|error| failed(error, "reading attributes in a layer"))?;
                attributes.blocks = stat.blocks;
            }
            // Whoever opens it is told; until then it can be looked at.
            Err(error) => log::debug!("{}: {error}", found.name.escape_ascii()),
        }
        Ok(())
    }

    fn directory_number(
        &self,
        parent: &Directory,
        branch: &LowerDirectory,
        name: &[u8],
        stat: &Stat,
    ) -> NodeNumber {
        let place = || Identity::Place {
            parent: parent.attributes.node.0,
            name: Box::from(name),
        };
        let overlaps = self.overlapping.get(usize::from(branch.layer)) == Some(&true);
        let number = if overlaps || branch.beyond_mount || stat.mount_root {
            self.numbers.reserve(place())
        } else {
            match self.numbers.inode(stat.dev, stat.ino) {
                Ok(number) => self.numbers.known(&place()).unwrap_or(number),
                Err(identity) => self.numbers.reserve(identity),
            }
        };
        NodeNumber(number)
    }

    /// Gives `object` a number of its own if something else has its number.
    fn settle(&self, object: Object) -> Object {
        if self.nodes.is_taken_from(&object) {
            self.renumber(object)
        } else {
            object
        }
    }

    fn renumber(&self, mut object: Object) -> Object {
        match &mut object {
            Object::Leaf(leaf) => {
                // Something that is no file system of ours, so that it is no other identity.
                let filesystem = u64::MAX;
                let ino = Attributes::from(leaf.attributes).node.0;
                let number = self.numbers.reserve(Identity::Inode { filesystem, ino });
                leaf.attributes.renumber(NodeNumber(number));
            }
            Object::Directory(directory) => {
                let parent = directory.parent.as_ref().map_or(0, |p| p.attributes.node.0);
                let name = directory.top.name.clone();
                let number = self.numbers.reserve(Identity::Place { parent, name });
                if let Some(directory) = Arc::get_mut(directory) {
                    directory.attributes.node = NodeNumber(number);
                    directory.attributes.ino = number;
                }
            }
        }
        object
    }

    /// Takes a reference to `object`.
    pub(super) fn hold(&self, object: Object) -> Result<Arc<Node>> {
        self.nodes
            .hold(object)
            .or_else(|object| self.nodes.hold(self.renumber(object)))
            .map_err(|_| Error::broken("two objects have one number"))
    }

    /// Learns anew what is to be told of something that was changed in its layer.
    pub(super) fn look_again(&self, leaf: &Leaf) -> Result<()> {
        let listing = self.listing(&leaf.parent)?;
        if let Some(found) = listing.find(&leaf.name)
            && let Some(object) = self.resolve(&leaf.parent, found)?
        {
            self.nodes.renew(object);
        }
        Ok(())
    }

    /// The target of a symlink that is kept as the content of a regular file.
    pub(super) fn read_placeholder(
        &self,
        directory: &LowerDirectory,
        name: &[u8],
        size: u64,
    ) -> Result<Vec<u8>> {
        let read = || -> io::Result<Vec<u8>> {
            let file: File = self.handles.get(directory)?.open_file(name)?;
            let mut target = Vec::new();
            file.take(size.min(TARGET_MAX)).read_to_end(&mut target)?;
            Ok(target)
        };
        read().map_err(|error| failed(error, "reading a symlink of a layer"))
    }
}
