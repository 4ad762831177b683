//! Finds a path in a union, as the kernel would in a mounted one with it as root.

use nix::errno::Errno;

use super::{Attributes, NodeNumber, Result, Union};
use crate::layer::FileKind;

/// Symlinks followed in one path, as in the kernel.
const MAX_LINKS: usize = 40;

impl Union {
    /// Finds `path` from the root on. Symlinks are followed inside the union, the last component
    /// only if `follow` says so or a slash ends the path.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP`, or what reading a layer reports.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<Attributes> {
        let mut links = MAX_LINKS;
        // Components that are left, the next one last.
        let mut left: Vec<Vec<u8>> = components(path);
        let must_be_directory = path.ends_with(b"/");
        let mut at = self.attributes(NodeNumber::ROOT)?;
        while let Some(name) = left.pop() {
            let directory = at;
            at = self.lookup(directory.node, &name)?.ok_or(Errno::ENOENT)?;
            if at.kind != FileKind::Symlink || (left.is_empty() && !follow && !must_be_directory) {
                continue;
            }
            links = links.checked_sub(1).ok_or(Errno::ELOOP)?;
            let target = self.read_link(at.node)?;
            at = if target.starts_with(b"/") {
                self.attributes(NodeNumber::ROOT)?
            } else {
                directory
            };
            left.extend(components(&target));
        }
        if must_be_directory && at.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        Ok(at)
    }
}

/// The components of a path, the first one last; `.` and empty ones left out.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    let mut names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
    names.reverse();
    names
}
