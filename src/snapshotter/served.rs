//! Images of the store as directories: for layers of others that lie above them, and for whoever
//! unpacks such a layer.
//!
//! A container over an image needs none of this, since its own mount reads the image's index. But
//! where directories lie in between, the image has to be a directory too. It is then mounted
//! read-only in the directory of its snapshot, by the mount helper, in a daemon of its own that
//! does not end with the snapshotter. After a restart of the machine it is mounted again when it
//! is needed.

use std::path::PathBuf;
use std::process::Command;

use parking_lot::Mutex;

use super::{Error, Result};
use crate::image;
use crate::mount;
use crate::options::MountOptions;
use crate::store::{SnapshotImage, Store};
use crate::union::NodeNumber;

/// The program that mounts, looked for in `PATH`.
const HELPER: &str = "mount.plyfs";

/// Two calls that need an image at once mount it once.
static MOUNTING: Mutex<()> = Mutex::new(());

/// The directory in which the image of a snapshot is mounted; mounts it if it is not.
///
/// # Errors
/// [`Error::Mount`] says why it cannot be mounted; [`Error::Store`].
pub(super) fn ensure(store: &Store, number: u64) -> Result<PathBuf> {
    let directory = store.snapshot(number).image();
    let _one_at_a_time = MOUNTING.lock();
    let name = image_of(store, number)?.image;
    let options = MountOptions {
        root: Some(store.root().to_owned()),
        snapshot: Some(number),
        ..MountOptions::default()
    };
    mount::mount_shared(&directory, &name, options, Command::new(HELPER))?;
    Ok(directory)
}

/// Takes the mount of a snapshot's image away, if there is one, and waits for its server to give the
/// image up.
///
/// # Errors
/// [`Error::Mount`] or [`Error::Store`].
pub(super) fn end(store: &Store, number: u64) -> Result<()> {
    let _one_at_a_time = MOUNTING.lock();
    Ok(mount::unmount_shared(
        store,
        &store.snapshot(number).image(),
    )?)
}

/// Mode, owner and group of the root of a snapshot's image.
///
/// # Errors
/// [`Error::Store`] or [`Error::Image`].
pub(super) fn root_of(store: &Store, number: u64) -> Result<(u32, u32, u32)> {
    let found = image::find_snapshot(store, &image_of(store, number)?)?;
    let root = image::open(store, &found)?.attributes(NodeNumber::ROOT);
    let root = root.map_err(Error::Tree)?;
    Ok((u32::from(root.permissions), root.uid, root.gid))
}

fn image_of(store: &Store, number: u64) -> Result<SnapshotImage> {
    let missing = || Error::NotFound(format!("image of {number}"));
    store.snapshot_image(number)?.ok_or_else(missing)
}
