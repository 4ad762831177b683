//! What the nodes of a [`Tree`](super::tree::Tree) are.

use super::Content;
use super::tree::NodeId;

/// What a node is, beyond its [`Metadata`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular(Content),
    /// A symbolic link with its target.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A hard link to this normalised path, which the layer itself does not hold: resolved in
    /// the layers below when a chain is built.
    UnresolvedLink(Box<[u8]>),
}

/// An entry that cannot be placed before the layers below are known, because its parent path
/// leads through a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// The normalised path (no leading slash, no `.`, no `..`).
    pub path: Box<[u8]>,
    /// What the entry does at that path.
    pub action: DetachedAction,
}

/// What a [`Detached`] entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachedAction {
    /// Puts this node there (in a layer's tree it has no name).
    Put(NodeId),
    /// Hides what lower layers have there.
    Whiteout,
    /// Makes the directory there opaque.
    Opaque,
}
