//! What tests of the writable engine share: a lab with an upper, trees as rows, verbs by path.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use plyfs::layer::FileKind;
use plyfs::overlay::{
    Attributes, Caller, NodeNumber, OpenRequest, Opened, Overlay, OverlayFile, OverlayOptions,
    Result, Union,
};
use plyfs::sys::at::RootFd;

use super::support::{Lab, Row, Rows, open};

/// Layers with an upper above them.
pub struct Writable {
    pub lab: Lab,
    pub layers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// The tree of an image, instead of layers, and where its content lies.
    pub packed: Option<(Rows, PathBuf)>,
    pub options: OverlayOptions,
}

impl Writable {
    /// Over layers made of lines, see [`super::support::make`].
    pub fn new(layers: &[&[&str]]) -> Writable {
        let mut lab = Lab::new();
        let layers = lab.layers(layers);
        Writable::over(lab, layers)
    }

    pub fn over(mut lab: Lab, layers: Vec<PathBuf>) -> Writable {
        let (upper, work) = (lab.empty(), lab.empty());
        Writable {
            lab,
            layers,
            upper,
            work,
            packed: None,
            options: OverlayOptions {
                metacopy_redirect: true,
                ..OverlayOptions::default()
            },
        }
    }

    pub fn try_open(&self) -> Result<Overlay> {
        let base = match &self.packed {
            Some((rows, directory)) => chain(rows, directory),
            None => Union::Stack(open(&self.layers)),
        };
        Overlay::writable(base, &self.upper, &self.work, self.options.clone())
    }

    pub fn open(&self) -> Overlay {
        self.try_open().expect("a writable overlay")
    }

    /// Names in the upper directory `path`, sorted.
    pub fn upper_names(&self, path: &str) -> Vec<String> {
        names(&self.upper.join(path))
    }
}

/// A chain of one packed layer with these rows, whose content lies in `directory`.
pub fn chain(rows: &Rows, directory: &Path) -> Union {
    use plyfs::layer::tree::{Kind, Tree};
    use plyfs::layer::{Content, Metadata, Place, index::Index};

    let mut tree = Tree::new();
    let mut pack: Vec<u8> = Vec::new();
    let mut known = BTreeMap::new();
    let mut linked = BTreeMap::new();
    for (path, row) in rows {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (known[&path[..at]], &path[at + 1..]),
            None => (Tree::ROOT, path),
        };
        if let Some(node) = linked.get(&row.ino) {
            tree.put(parent, name, *node).expect("a link");
            continue;
        }
        let kind = match row.kind {
            FileKind::Directory => Kind::Directory,
            FileKind::Symlink => Kind::Symlink(row.target.clone().into()),
            FileKind::Regular => {
                let place = match row.content.is_empty() {
                    true => Place::Empty,
                    false => Place::Pack(pack.len() as u64),
                };
                pack.extend_from_slice(&row.content);
                Kind::Regular(Content {
                    place,
                    size: row.size,
                    digest: [0; 32],
                })
            }
            FileKind::CharDevice => Kind::CharDevice {
                major: row.device.0,
                minor: row.device.1,
            },
            _ => Kind::Fifo,
        };
        let metadata = Metadata {
            permissions: row.permissions,
            uid: row.owner.0,
            gid: row.owner.1,
            mtime: plyfs::layer::Timestamp {
                seconds: row.mtime.0,
                nanoseconds: row.mtime.1,
            },
        };
        let xattrs = row.xattrs.iter().map(|(n, v)| (&n[..], &v[..]));
        let xattrs = tree.xattr_set(xattrs).expect("attributes");
        let node = tree.new_node(metadata, kind, xattrs).expect("a node");
        tree.put(parent, name, node).expect("a name");
        known.insert(path, node);
        if row.kind != FileKind::Directory {
            linked.insert(row.ino, node);
        }
    }
    std::fs::write(directory.join("pack"), &pack).expect("a pack");
    let mut bytes = Vec::new();
    tree.write_layer(&mut bytes).expect("a layer");
    let layer = Index::from_bytes(bytes).expect("an index");
    let flat = plyfs::union::flatten::flatten([&layer]).expect("a chain");
    let mut bytes = Vec::new();
    flat.write_chain(&[[7; 32]], &mut bytes).expect("a chain");
    let index = Index::from_bytes(bytes).expect("an index");
    let content = plyfs::union::chain::LayerContent::open(directory).expect("content");
    Union::Chain(plyfs::union::chain::Chain::new(index, vec![content]).expect("a chain"))
}

pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry
            .expect("an entry")
            .file_name()
            .to_string_lossy()
            .into_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

pub const ROOT_CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0,
};

/// Verbs by path, each giving back all references that it took.
pub struct Paths<'a>(pub &'a Overlay);

impl Paths<'_> {
    /// Runs `run` with the node of a path.
    pub fn with<T>(&self, path: &str, run: impl FnOnce(&Attributes) -> Result<T>) -> Result<T> {
        let mut at = self.0.attributes(NodeNumber::ROOT)?;
        let mut held = Vec::new();
        let mut missing = false;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match self.0.lookup(at.node, name.as_bytes()) {
                Ok(Some(found)) => {
                    held.push(found.node);
                    at = found;
                }
                Ok(None) => {
                    missing = true;
                    break;
                }
                Err(error) => {
                    self.forget(&held);
                    return Err(error);
                }
            }
        }
        let result = if missing {
            Err(Errno::ENOENT.into())
        } else {
            run(&at)
        };
        self.forget(&held);
        result
    }

    fn forget(&self, held: &[NodeNumber]) {
        for node in held.iter().rev() {
            self.0.forget(*node, 1);
        }
    }

    /// Runs `run` with the node of the parent and the name.
    pub fn at<T>(&self, path: &str, run: impl FnOnce(NodeNumber, &[u8]) -> Result<T>) -> Result<T> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.with(parent, |parent| {
            if parent.kind != FileKind::Directory {
                return Err(Errno::ENOTDIR.into());
            }
            run(parent.node, name.as_bytes())
        })
    }

    pub fn stat(&self, path: &str) -> Result<Attributes> {
        self.with(path, |found| Ok(*found))
    }

    fn made(&self, made: Result<Attributes>) -> Result<()> {
        self.0.forget(made?.node, 1);
        Ok(())
    }

    pub fn mkdir(&self, path: &str, permissions: u16) -> Result<()> {
        self.at(path, |parent, name| {
            self.made(
                self.0
                    .make_directory(parent, name, permissions, &ROOT_CALLER),
            )
        })
    }

    pub fn create(&self, path: &str, content: &[u8]) -> Result<()> {
        self.at(path, |parent, name| {
            let (made, file) = self.0.create(parent, name, 0o644, &ROOT_CALLER)?;
            let written = file.write_at(content, 0);
            self.0.forget(made.node, 1);
            assert_eq!(written?, content.len());
            Ok(())
        })
    }

    pub fn symlink(&self, path: &str, target: &str) -> Result<()> {
        self.at(path, |parent, name| {
            self.made(
                self.0
                    .make_symlink(parent, name, target.as_bytes(), &ROOT_CALLER),
            )
        })
    }

    pub fn fifo(&self, path: &str) -> Result<()> {
        self.at(path, |parent, name| {
            let made = self
                .0
                .make_node(parent, name, FileKind::Fifo, 0o600, (0, 0), &ROOT_CALLER);
            self.made(made)
        })
    }

    pub fn null_device(&self, path: &str) -> Result<()> {
        self.at(path, |parent, name| {
            let kind = FileKind::CharDevice;
            let made = self
                .0
                .make_node(parent, name, kind, 0o640, (0, 0), &ROOT_CALLER);
            self.made(made)
        })
    }

    /// An empty file of another user, and of his group.
    pub fn create_as(&self, path: &str, id: u32) -> Result<()> {
        let caller = Caller {
            uid: id,
            gid: id,
            ..ROOT_CALLER
        };
        self.at(path, |parent, name| {
            let (made, _file) = self.0.create(parent, name, 0o644, &caller)?;
            self.0.forget(made.node, 1);
            Ok(())
        })
    }

    pub fn unlink(&self, path: &str) -> Result<()> {
        self.at(path, |parent, name| self.0.unlink(parent, name))
    }

    pub fn rmdir(&self, path: &str) -> Result<()> {
        self.at(path, |parent, name| self.0.remove_directory(parent, name))
    }

    pub fn rename_with(
        &self,
        from: &str,
        to: &str,
        flags: plyfs::overlay::RenameFlags,
    ) -> Result<()> {
        self.at(from, |parent, name| {
            self.at(to, |new_parent, new_name| {
                self.0.rename(parent, name, new_parent, new_name, flags)
            })
        })
    }

    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.rename_with(from, to, plyfs::overlay::RenameFlags::default())
    }

    pub fn link(&self, old: &str, new: &str) -> Result<()> {
        self.with(old, |node| {
            self.at(new, |parent, name| {
                self.made(self.0.link(node.node, parent, name))
            })
        })
    }

    /// The open file.
    pub fn open(&self, path: &str, request: OpenRequest) -> Result<Arc<OverlayFile>> {
        self.with(path, |node| match self.0.open_file(node.node, request)? {
            Opened::File(file) => Ok(file),
            Opened::MovedTo(_) => Err(Errno::ESTALE.into()),
        })
    }

    pub fn write(&self, path: &str, content: &[u8], offset: u64) -> Result<()> {
        let request = OpenRequest {
            write: true,
            ..OpenRequest::default()
        };
        self.with(path, |node| match self.0.open_file(node.node, request)? {
            Opened::File(file) => file.write_at(content, offset).map(drop),
            Opened::MovedTo(_) => Err(Errno::ESTALE.into()),
        })
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.with(path, |node| read(self.0, node))
    }

    pub fn set(&self, path: &str, change: &plyfs::overlay::SetAttributes) -> Result<()> {
        self.with(path, |node| {
            self.0.set_attributes(node.node, change).map(drop)
        })
    }

    pub fn chmod(&self, path: &str, permissions: u16) -> Result<()> {
        let change = plyfs::overlay::SetAttributes {
            permissions: Some(permissions),
            ..Default::default()
        };
        self.set(path, &change)
    }

    pub fn truncate(&self, path: &str, size: u64) -> Result<()> {
        let change = plyfs::overlay::SetAttributes {
            size: Some(size),
            ..Default::default()
        };
        self.set(path, &change)
    }

    pub fn set_xattr(&self, path: &str, name: &str, value: &[u8]) -> Result<()> {
        self.with(path, |node| {
            self.0
                .set_xattr(node.node, name.as_bytes(), value, Default::default())
        })
    }

    pub fn names(&self, path: &str) -> Result<Vec<String>> {
        self.with(path, |node| {
            let mut names = Vec::new();
            self.0.list(node.node, 2, &mut |listed| {
                names.push(String::from_utf8_lossy(listed.name).into_owned());
                ControlFlow::Continue(())
            })?;
            names.sort();
            Ok(names)
        })
    }
}

pub fn read(overlay: &Overlay, node: &Attributes) -> Result<Vec<u8>> {
    let Opened::File(file) = overlay.open_file(node.node, OpenRequest::default())? else {
        return Err(Errno::ESTALE.into());
    };
    let mut content = vec![0; usize::try_from(node.size).expect("a small file")];
    let length = file.read_at(&mut content, 0)?;
    assert_eq!(length, content.len());
    Ok(content)
}

/// The whole tree. Checks that listings with and without attributes, lookups and attributes tell the
/// same, and that nothing stays held.
pub fn tree(overlay: &Overlay) -> Rows {
    let before = overlay.nodes_in_use();
    let mut rows = Rows::new();
    let mut pending = vec![(NodeNumber::ROOT, Vec::new())];
    let mut held = Vec::new();
    while let Some((directory, path)) = pending.pop() {
        let mut plain = Vec::new();
        overlay
            .list(directory, 0, &mut |listed| {
                plain.push((listed.name.to_vec(), listed.node.0, listed.kind));
                ControlFlow::Continue(())
            })
            .expect("a listing");
        let mut entries = Vec::new();
        // In steps, as the kernel asks.
        let mut offset = 0;
        loop {
            let mut room = 3;
            let mut got = 0;
            overlay
                .list_with_attributes(directory, offset, &mut |listed, attributes| {
                    if room == 0 {
                        return ControlFlow::Break(());
                    }
                    room -= 1;
                    got += 1;
                    offset = listed.next_offset;
                    entries.push((listed.name.to_vec(), *attributes));
                    ControlFlow::Continue(())
                })
                .expect("a listing with attributes");
            if got == 0 {
                break;
            }
        }
        let short = |(name, a): &(Vec<u8>, Attributes)| (name.clone(), a.ino, a.kind);
        assert_eq!(plain, entries.iter().map(short).collect::<Vec<_>>());
        for (name, attributes) in entries.into_iter().skip(2) {
            held.push(attributes.node);
            // Reading changes the time of last access; ext4 changes the blocks while it writes back, at any time.
            let still = |found: Option<Attributes>| {
                found.map(|found| Attributes {
                    atime: attributes.atime,
                    blocks: attributes.blocks,
                    ..found
                })
            };
            let found = overlay.lookup(directory, &name).expect("a lookup");
            assert_eq!(still(found), Some(attributes), "{}", name.escape_ascii());
            held.push(attributes.node);
            let found = overlay.attributes(attributes.node);
            assert_eq!(still(found.ok()), Some(attributes));
            let path = [&path[..], b"/", &name].concat();
            if attributes.kind == FileKind::Directory {
                pending.push((attributes.node, path.clone()));
            }
            assert!(rows.insert(path, row(overlay, &attributes)).is_none());
        }
    }
    for node in held {
        overlay.forget(node, 1);
    }
    assert_eq!(overlay.nodes_in_use(), before);
    rows
}

fn row(overlay: &Overlay, attributes: &Attributes) -> Row {
    let node = attributes.node;
    let names = overlay.xattr_names(node).expect("xattrs");
    let names = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    Row {
        kind: attributes.kind,
        permissions: attributes.permissions,
        owner: (attributes.uid, attributes.gid),
        nlink: attributes.nlink,
        device: attributes.device,
        size: attributes.size,
        mtime: (attributes.mtime.seconds, attributes.mtime.nanoseconds),
        target: match attributes.kind {
            FileKind::Symlink => overlay.read_link(node).expect("a target").into_owned(),
            _ => Vec::new(),
        },
        content: match attributes.kind {
            FileKind::Regular => read(overlay, attributes).expect("content"),
            _ => Vec::new(),
        },
        xattrs: names
            .map(|name| {
                (
                    name.to_vec(),
                    overlay.xattr(node, name).expect("a value").into_owned(),
                )
            })
            .collect(),
        ino: attributes.ino,
    }
}

/// A directory on disk, as rows.
pub fn plain(root: &Path) -> Rows {
    on_disk(root, false)
}

/// The same of a mount of the kernel's overlayfs, which lists whiteouts of directories that only one layer has.
pub fn by_kernel(root: &Path) -> Rows {
    on_disk(root, true)
}

fn on_disk(root: &Path, lists_whiteouts: bool) -> Rows {
    let mut rows = Rows::new();
    let mut pending = vec![(root.to_owned(), Vec::new())];
    while let Some((directory, path)) = pending.pop() {
        let fd = RootFd::open(&directory).expect("a directory");
        for entry in std::fs::read_dir(&directory).expect("a listing") {
            let name = entry.expect("an entry").file_name();
            let name = name.as_bytes();
            let stat = match fd.stat(name) {
                Err(_) if lists_whiteouts => continue,
                stat => stat.expect("attributes"),
            };
            let child = directory.join(OsStr::from_bytes(name));
            let path = [&path[..], b"/", name].concat();
            let kind = FileKind::from_mode(stat.mode).expect("a kind");
            let mut xattrs = BTreeMap::new();
            for attribute in fd.xattr_names(name).expect("xattrs").split(|b| *b == 0) {
                if !attribute.is_empty() {
                    let value = fd.xattr(name, attribute).expect("an xattr");
                    xattrs.insert(attribute.to_vec(), value);
                }
            }
            let has_size = !matches!(
                kind,
                FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket
            );
            let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
            rows.insert(
                path.clone(),
                Row {
                    kind,
                    permissions: (stat.mode & 0o7777) as u16,
                    owner: (stat.uid, stat.gid),
                    nlink: stat.nlink,
                    device: if is_device { stat.rdev } else { (0, 0) },
                    size: if has_size { stat.size } else { 0 },
                    mtime: stat.mtime,
                    target: match kind {
                        FileKind::Symlink => fd.read_link(name).expect("a target"),
                        _ => Vec::new(),
                    },
                    content: match kind {
                        FileKind::Regular => std::fs::read(&child).expect("content"),
                        _ => Vec::new(),
                    },
                    xattrs,
                    ino: stat.ino,
                },
            );
            if kind == FileKind::Directory {
                pending.push((child, path));
            }
        }
    }
    rows
}

/// The errno of a result of ours.
pub fn errno<T>(result: Result<T>) -> std::result::Result<T, Errno> {
    result.map_err(|error| error.errno)
}
