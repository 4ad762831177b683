//! Reading what an upper directory has.

use std::sync::Arc;

use nix::errno::Errno;
use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

use super::directory::Contents;
use super::engine::Engine;
use super::node::Node;
use super::upper::failed;
use crate::layer::FileKind;
use crate::union::Result;

impl Engine {
    /// What is in a directory, read now or before.
    pub(super) fn contents<'a>(
        &self,
        directory: &'a Arc<Node>,
    ) -> Result<RwLockReadGuard<'a, Contents>> {
        let contents = directory.contents.as_ref().ok_or(Errno::ENOTDIR)?;
        let read = contents.read();
        if read.is_read {
            return Ok(read);
        }
        drop(read);
        Ok(RwLockWriteGuard::downgrade(self.contents_mut(directory)?))
    }

    /// The same, to change it.
    pub(super) fn contents_mut<'a>(
        &self,
        directory: &'a Arc<Node>,
    ) -> Result<RwLockWriteGuard<'a, Contents>> {
        let contents = directory.contents.as_ref().ok_or(Errno::ENOTDIR)?;
        let mut contents = contents.write();
        if !contents.is_read {
            self.read_directory(directory, &mut contents)?;
        }
        Ok(contents)
    }

    fn read_directory(&self, node: &Arc<Node>, contents: &mut Contents) -> Result<()> {
        let doing = failed("reading a directory of the upper");
        let directory = self.upper.directory(node)?;
        let names = &self.upper.names;
        let own = directory.at(b"");
        let opaque = own.xattr(&names.opaque).map_err(&doing)?;
        contents.has_xattr_whiteouts = opaque.as_deref() == Some(b"x");
        let is_opaque = opaque.as_deref() == Some(b"y");
        if is_opaque {
            contents.base = None;
            // There may be some left, see below.
            contents.has_xattr_whiteouts = names.opaque.starts_with(b"user.");
        }
        contents.impure = own.xattr(&names.impure).map_err(&doing)?.is_some();
        let mut found = Vec::new();
        let mut whiteouts = Vec::new();
        let listed = directory.entries(&mut |entry| {
            let kind = FileKind::from_mode(u32::from(entry.d_type) << 12);
            found.push((entry.name.to_vec(), entry.ino, kind));
        });
        listed.map_err(&doing)?;
        for (name, ino, kind) in found {
            let is_doubtful = match kind {
                Some(FileKind::CharDevice) | None => true,
                Some(FileKind::Regular) => contents.has_xattr_whiteouts,
                Some(_) => false,
            };
            if is_doubtful {
                let at = directory.at(&name);
                let stat = at.stat().map_err(&doing)?;
                let by_attribute = contents.has_xattr_whiteouts;
                if self
                    .upper
                    .is_whiteout(at, &stat, by_attribute)
                    .map_err(&doing)?
                {
                    contents.set_whiteout(&name);
                    whiteouts.push(name);
                    continue;
                }
            }
            let in_base = self.base_has(contents, &name)?;
            contents.set_object(&name, ino, 0, in_base);
        }
        contents.is_read = true;
        if is_opaque && self.upper.may_be_changed() {
            // What made it opaque ended before it had removed them. Others take some for files.
            self.remove_whiteouts(&directory, contents, whiteouts);
        }
        Ok(())
    }
}
