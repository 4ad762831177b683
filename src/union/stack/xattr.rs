//! Extended attributes: what users may see of them.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use super::lower::Handle;
use super::node::{Node, Object};
use super::{Stack, failed};
use crate::union::{NodeNumber, Result};

/// Where layers that keep owners in attributes keep attributes that a user could not set.
const ESCAPE: &[u8] = b"user.containers.override_";
/// The one name with this prefix that is no escaped attribute.
const STAT: &[u8] = b"user.containers.override_stat";

const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

impl Stack {
    /// See [`crate::union::Union::xattr`].
    ///
    /// # Errors
    /// As there.
    pub fn xattr(&self, node: NodeNumber, name: &[u8]) -> Result<Option<Cow<'_, [u8]>>> {
        let node = self.node(node)?;
        if !self.has_xattrs(&node)? {
            return Ok(None);
        }
        let Some(stored) = self.stored_name(&node, name) else {
            return Ok(None);
        };
        let (directory, place) = self.place(&node)?;
        match directory.xattr(place, &stored) {
            Ok(value) if ACLS.contains(&name) => {
                Ok(Some(self.options.ids.shown_acl(Cow::Owned(value))))
            }
            Ok(value) => Ok(Some(Cow::Owned(value))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed(error, "reading an xattr of a layer")),
        }
    }

    /// See [`crate::union::Union::xattr_names`].
    ///
    /// # Errors
    /// As there.
    pub fn xattr_names(&self, node: NodeNumber) -> Result<Vec<Cow<'_, [u8]>>> {
        let node = self.node(node)?;
        if node.xattrs.get() == Some(false) {
            return Ok(Vec::new());
        }
        let stored = self.stored_names(&node)?;
        let shown = stored
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .filter_map(|name| self.shown_name(&node, name))
            .map(|name| Cow::Owned(name.into_owned()));
        Ok(shown.collect())
    }

    /// See [`crate::union::Union::may_have_xattrs`].
    #[must_use]
    pub fn may_have_xattrs(&self) -> bool {
        true
    }

    /// See [`crate::union::Union::may_have_acls`].
    #[must_use]
    pub fn may_have_acls(&self) -> bool {
        self.handles
            .layers()
            .iter()
            .any(|layer| layer.may_have_acls())
    }

    /// Whether `node` has any attribute in its layer; asked once.
    pub(super) fn has_xattrs(&self, node: &Arc<Node>) -> Result<bool> {
        match node.xattrs.get() {
            Some(known) => Ok(known),
            None => Ok(!self.stored_names(node)?.is_empty()),
        }
    }

    fn stored_names(&self, node: &Arc<Node>) -> Result<Vec<u8>> {
        let (directory, place) = self.place(node)?;
        let names = match directory.xattr_names(place) {
            Ok(names) => names,
            Err(error) if is_absent(&error) => Vec::new(),
            Err(error) => return Err(failed(error, "reading the xattrs of a layer")),
        };
        node.xattrs.set(!names.is_empty());
        Ok(names)
    }

    /// Whether the attributes of `node` are kept as [`ESCAPE`] says.
    fn is_escaped(&self, node: &Node) -> bool {
        let layer = match &node.object {
            Object::Directory(directory) => Some(directory.top.layer),
            Object::Leaf(leaf) => {
                let branches = leaf.parent.branches.get();
                branches
                    .and_then(|b| b.get(usize::from(leaf.branch)))
                    .map(|b| b.layer)
            }
        };
        layer.is_some_and(|layer| self.override_key(layer).is_some())
    }

    fn stored_name<'a>(&self, node: &Node, name: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        if self.is_escaped(node) {
            if name.starts_with(ESCAPE) || name.starts_with(b"security.fuseoverlayfs.") {
                return None;
            }
            if name.starts_with(b"security.") {
                return Some(Cow::Owned([ESCAPE, name].concat()));
            }
        }
        self.options.marks.stored_name(name)
    }

    fn shown_name<'a>(&self, node: &Node, name: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        if self.is_escaped(node) {
            if name == STAT || name.starts_with(b"security.fuseoverlayfs.") {
                return None;
            }
            if let Some(escaped) = name.strip_prefix(ESCAPE) {
                return Some(Cow::Borrowed(escaped));
            }
        }
        self.options.marks.shown_name(name)
    }

    /// How the object of `node` is reached: a directory and a name in it (empty: itself).
    fn place<'a>(&'a self, node: &'a Node) -> Result<(Handle<'a>, &'a [u8])> {
        let (directory, name) = match &node.object {
            Object::Leaf(leaf) => (self.branch(&leaf.parent, leaf.branch)?, &*leaf.name),
            Object::Directory(directory) => match &directory.top.parent {
                Some(parent) => (parent, &*directory.top.name),
                None => (&directory.top, &b""[..]),
            },
        };
        let open = self.handles.get(directory);
        let open = open.map_err(|error| failed(error, "opening a directory of a layer"))?;
        Ok((open, name))
    }
}

/// Whether the answer means that there is no such attribute: `EOVERFLOW` that the capability of a file is
/// for a user that this user namespace does not know.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODATA | libc::EOPNOTSUPP | libc::EOVERFLOW)
    )
}
