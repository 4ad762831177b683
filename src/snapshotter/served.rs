//! Images of the store as directories: for layers of others that lie above them, and for whoever
//! unpacks such a layer.
//!
//! A container over an image needs none of this, since its own mount reads the image's index. But
//! where directories lie in between, the image has to be a directory too. It is then mounted
//! read-only in the directory of its snapshot, by the mount helper, in a daemon of its own that
//! does not end with the snapshotter. After a restart of the machine it is mounted again when it
//! is needed.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Error, Result};
use crate::image;
use crate::mount;
use crate::options::MountOptions;
use crate::store::{SnapshotImage, Store};
use crate::union::NodeNumber;

/// The program that mounts, looked for in `PATH`.
const HELPER: &str = "mount.plyfs";

/// How long the server of an image that was unmounted is waited for. If it takes longer, what it
/// keeps is removed by a later sweep.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two calls that need an image at once mount it once.
static MOUNTING: Mutex<()> = Mutex::new(());

/// The directory in which the image of a snapshot is mounted; mounts it if it is not.
///
/// # Errors
/// [`Error::Helper`] says why it cannot be mounted; [`Error::Mount`], [`Error::Store`].
pub(super) fn ensure(store: &Store, number: u64) -> Result<PathBuf> {
    let directory = store.snapshot(number).image();
    let _one_at_a_time = MOUNTING.lock();
    if is_mounted(&directory)? {
        if std::fs::metadata(&directory).is_ok() {
            return Ok(directory);
        }
        // Its server died.
        mount::unmount(&directory, true)?;
    }
    let name = image_of(store, number)?.image;
    let options = MountOptions {
        root: Some(store.root().to_owned()),
        snapshot: Some(number),
        read_only: Some(true),
        // Lower directories of the kernel's overlay, while a layer is unpacked.
        as_lower: true,
        ..MountOptions::default()
    };
    let mut command = Command::new(HELPER);
    command.arg(name).arg(&directory);
    command.arg("-o").arg(options.print()).stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| Error::Helper(error.to_string()))?;
    if output.status.success() {
        return Ok(directory);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Helper(said.trim().replace('\n', "; ")))
}

/// Takes the mount of a snapshot's image away, if there is one, and waits for its server to give the
/// image up.
///
/// # Errors
/// [`Error::Mount`] or [`Error::Store`].
pub(super) fn end(store: &Store, number: u64) -> Result<()> {
    let directory = store.snapshot(number).image();
    let _one_at_a_time = MOUNTING.lock();
    if !is_mounted(&directory)? {
        return Ok(());
    }
    mount::unmount(&directory, true)?;
    let place = Some(mount::path_text(&directory));
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if !store.leases()?.iter().any(|it| it.mount_point == place) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
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

fn is_mounted(directory: &Path) -> Result<bool> {
    let mounts = mount::mounts().map_err(|error: io::Error| {
        Error::io(error, "reading", Path::new("/proc/self/mountinfo"))
    })?;
    Ok(mounts.iter().any(|mount| mount.point == directory))
}
