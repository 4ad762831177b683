//! One object of an overlay as an entry of an archive.

use std::collections::HashMap;
use std::io::{self, Write};

use crate::layer::{FileKind, Metadata};
use crate::overlay::{Attributes, NodeNumber, Origin, Overlay};
use crate::pack::{Escaped, TarEntry, TarKind, TarWriter};

use super::{Result, cannot_read};

/// Set by the machine that the upper lies on, and of no meaning on others.
const LABEL: &[u8] = b"security.selinux";

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Writes what an overlay shows.
pub(super) struct Archiver<'a, W> {
    pub(super) overlay: &'a Overlay,
    pub(super) tar: &'a mut TarWriter<W>,
    /// The first path of each file that has several, and how many names of it are not written.
    links: HashMap<Origin, (Vec<u8>, u32)>,
    /// What an archive cannot hold.
    pub(super) left_out: Vec<Escaped>,
}

impl<'a, W: Write> Archiver<'a, W> {
    pub(super) fn new(overlay: &'a Overlay, tar: &'a mut TarWriter<W>) -> Archiver<'a, W> {
        Archiver {
            overlay,
            tar,
            links: HashMap::new(),
            left_out: Vec::new(),
        }
    }

    /// Writes the object at `path`, which starts without a slash; `false` for what an archive cannot
    /// hold.
    pub(super) fn add(&mut self, path: &[u8], attributes: &Attributes) -> Result<bool> {
        let node = attributes.node;
        let cannot_read = cannot_read(path);
        let metadata = Metadata {
            permissions: attributes.permissions,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
        };
        let mut entry = TarEntry {
            path,
            metadata,
            kind: TarKind::Directory,
            xattrs: &[],
        };
        let nothing = &mut io::empty();
        let has_links = !matches!(attributes.kind, FileKind::Directory | FileKind::Socket);
        if has_links && attributes.nlink > 1 {
            let origin = self.overlay.origin(node).map_err(&cannot_read)?;
            if let Some((first, left)) = self.links.get_mut(&origin) {
                *left = left.saturating_sub(1);
                let kind = TarKind::HardLink(first);
                self.tar.append(&TarEntry { kind, ..entry }, nothing)?;
                return Ok(true);
            }
            let left = attributes.nlink - 1;
            self.links.insert(origin, (path.to_vec(), left));
        }
        let xattrs = self.xattrs(node).map_err(&cannot_read)?;
        entry.xattrs = &xattrs;
        let (major, minor) = attributes.device;
        let target;
        entry.kind = match attributes.kind {
            FileKind::Directory => TarKind::Directory,
            FileKind::Symlink => {
                target = self.overlay.read_link(node).map_err(&cannot_read)?;
                TarKind::Symlink(&target)
            }
            FileKind::CharDevice => TarKind::CharDevice(major, minor),
            FileKind::BlockDevice => TarKind::BlockDevice(major, minor),
            FileKind::Fifo => TarKind::Fifo,
            FileKind::Socket => {
                self.left_out.push(Escaped::new(path));
                return Ok(false);
            }
            FileKind::Regular => {
                let content = self.overlay.open(node).map_err(&cannot_read)?;
                let range = (content.start, content.size);
                let allocated = match content.whole {
                    true => attributes.blocks.saturating_mul(512),
                    false => content.size,
                };
                self.tar
                    .append_file(&entry, &content.file, range, allocated)?;
                return Ok(true);
            }
        };
        self.tar.append(&entry, nothing)?;
        Ok(true)
    }

    /// Whether a file of several names was written under one of them.
    pub(super) fn has(&self, file: &Origin) -> bool {
        self.links.contains_key(file)
    }

    /// Whether a file was written that has more names than those that were.
    pub(super) fn lacks_names(&self) -> bool {
        self.links.values().any(|(_, left)| *left > 0)
    }

    fn xattrs(&self, node: NodeNumber) -> crate::overlay::Result<Xattrs> {
        let mut xattrs = Vec::new();
        if !self.overlay.may_have_xattrs() {
            return Ok(xattrs);
        }
        let names = self.overlay.xattr_names(node)?;
        for name in names.split(|byte| *byte == 0) {
            if name.is_empty() || (name == LABEL && self.overlay.is_writable()) {
                continue;
            }
            match self.overlay.xattr(node, name) {
                Ok(value) => xattrs.push((name.to_vec(), value.into_owned())),
                // It may have been removed since the names were listed.
                Err(error) if error.errno == nix::errno::Errno::ENODATA => {}
                Err(error) => return Err(error),
            }
        }
        Ok(xattrs)
    }
}
