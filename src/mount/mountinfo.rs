//! Which mounts of this mount namespace are ours.

use std::io;
use std::path::{Path, PathBuf};

pub use crate::sys::mountinfo::{MountEntry, all};

use super::shared;

/// The file system type that our own file systems show.
pub const KIND: &str = "fuse.plyfs";

/// Whether a mount is ours: a file system of ours, or the kernel's overlay that one of our containers is.
#[must_use]
pub fn is_ours(entry: &MountEntry) -> bool {
    entry.kind == KIND || shared_image(entry).is_some()
}

/// The mount of the image, below a container that the kernel's overlay writes.
pub(super) fn shared_image(entry: &MountEntry) -> Option<PathBuf> {
    let upper = entry.upper()?;
    let lower = entry.lower()?;
    let containers = upper.parent()?.parent()?;
    let same = shared::store_of(&lower)? == containers.parent()?;
    (same && containers.ends_with("containers")).then_some(lower)
}

/// Who made a mount of ours; only root makes the kernel's.
#[must_use]
pub fn owner(entry: &MountEntry) -> Option<u32> {
    match entry.kind == KIND {
        true => entry.user_id(),
        false => is_ours(entry).then_some(0),
    }
}

/// The live plyfs mounts.
///
/// # Errors
/// As [`all`].
pub fn ours() -> io::Result<Vec<MountEntry>> {
    let mut mounts = all()?;
    mounts.retain(is_ours);
    Ok(mounts)
}

/// The mount that is seen at `path`, an absolute path without links.
pub(super) fn seen_at(path: &Path) -> io::Result<Option<MountEntry>> {
    let mut mounts = all()?;
    mounts.retain(|mount| mount.point == path);
    Ok(mounts.pop())
}
