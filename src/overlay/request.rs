//! What callers ask of the engine: plain values, without a word of FUSE.

use std::sync::Arc;

use super::file::OverlayFile;
use super::{NodeNumber, Timestamp};
use crate::idmap::IdMap;
use crate::layer::directory::namespace_of_process;
use crate::whiteout::Namespace;

/// On whose behalf something is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// File system user.
    pub uid: u32,
    /// File system group.
    pub gid: u32,
    /// Bits that are taken from the mode of what is made, unless the directory has a default ACL.
    /// 0 where the kernel has taken them already.
    pub umask: u32,
}

/// A new time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeChange {
    /// The present.
    Now,
    /// This one.
    At(Timestamp),
}

/// What [`super::Overlay::set_attributes`] changes. Nothing set is no change.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttributes {
    /// `07777` bits.
    pub permissions: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Time of last access.
    pub atime: Option<TimeChange>,
    /// Time of last modification.
    pub mtime: Option<TimeChange>,
    /// Also does what [`super::Overlay::kill_privileges`] does. A change of owner does so by itself.
    pub kill_privileges: bool,
}

/// How [`super::Overlay::rename`] renames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameFlags {
    /// `RENAME_NOREPLACE`
    pub no_replace: bool,
    /// `RENAME_EXCHANGE`
    pub exchange: bool,
    /// `RENAME_WHITEOUT`
    pub whiteout: bool,
}

/// How [`super::Overlay::open_file`] opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenRequest {
    /// For writing too: the file is copied up.
    pub write: bool,
    /// The file loses its content; implies `write`.
    pub truncate: bool,
    /// The kernel reads this node's lower file by itself at present (passthrough), so that the
    /// node cannot get other data: opening for writing makes another node.
    pub lower_is_live: bool,
}

/// What [`super::Overlay::open_file`] has done.
#[derive(Clone, Debug)]
pub enum Opened {
    /// Opened it.
    File(Arc<OverlayFile>),
    /// Copied it up, under another node number: what the names of the old node lead to now. No
    /// reference is taken; a lookup finds it. The old node keeps showing the lower file.
    MovedTo(NodeNumber),
}

/// What [`super::Overlay::set_xattr`] expects to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrChange {
    /// Anything.
    #[default]
    Set,
    /// No such attribute (`XATTR_CREATE`).
    Create,
    /// Such an attribute (`XATTR_REPLACE`).
    Replace,
}

/// How a writable overlay keeps things.
#[derive(Clone, Debug, Default)]
pub struct OverlayOptions {
    /// `metacopy=on,redirect_dir=on`: changing attributes copies no data, and renaming a directory
    /// copies nothing of what is in it. Others that read the upper must then follow these marks.
    pub metacopy_redirect: bool,
    /// The namespace of the marks; found out when not given.
    pub namespace: Option<Namespace>,
    /// Nothing is made durable.
    pub volatile: bool,
    /// Which owners are shown for those on disk, and stored for those that are meant.
    pub ids: IdMap,
    /// Owner, mode and kind are kept in `user.containers.override_stat`, since the process may not
    /// set them.
    pub override_stat: bool,
}

impl OverlayOptions {
    /// The namespace of the marks of an upper, and of what were uppers once, for a process that does not try
    /// which it can write.
    #[must_use]
    pub fn marks(&self) -> Namespace {
        match self.namespace {
            Some(namespace) => namespace,
            None if self.override_stat => Namespace::User,
            None => namespace_of_process(),
        }
    }
}

/// Figures of the file system that holds the upper, for statfs(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in a block.
    pub block_size: u64,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for the unprivileged.
    pub blocks_available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name.
    pub name_max: u64,
}
