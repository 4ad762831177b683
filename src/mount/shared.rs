//! Images that are mounted once, as the lower layer of kernel overlays: those of all containers of an
//! image (`served/<manifest>` in the store), or of the snapshots above one.
//!
//! An overlay keeps its lower layers alive, mounted or not. So such a mount may be taken away at any
//! time: what uses it goes on, its server ends with the last of them, and only who comes later is
//! served by another one. `served/lock` is held by who puts an overlay over it, and by who takes it
//! away because none is over it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::{attach, mountinfo, path_text, unmount};
use crate::oci::Digest;
use crate::options::MountOptions;
use crate::store::Store;

/// How long the server of an image that was unmounted is waited for. If it takes longer, what it
/// keeps is removed by a later sweep.
const PATIENCE: Duration = Duration::from_secs(5);

const DIRECTORY: &str = "served";

/// The store whose containers share the mount at `lower`, if it is such a mount.
pub(super) fn store_of(lower: &Path) -> Option<&Path> {
    let parent = lower.parent()?;
    parent.ends_with(DIRECTORY).then(|| parent.parent())?
}

/// Mounts the image `name` read-only on `directory`, unless it is mounted there and answers. It is served
/// by a process of its own, which `helper` becomes: a program that takes what `mount.plyfs` takes.
///
/// # Errors
/// [`Error::Helper`] says why it cannot be mounted; what reading the table of mounts reports.
pub fn mount_shared(
    directory: &Path,
    name: &str,
    options: MountOptions,
    mut helper: Command,
) -> Result<()> {
    if is_mounted(directory)? {
        // Not what the kernel remembers of it.
        if attach::identity_at(directory, true).is_ok() {
            return Ok(());
        }
        // Its server died.
        unmount(directory, true)?;
    }
    let options = MountOptions {
        read_only: Some(true),
        as_lower: true,
        ..options
    };
    helper.arg(name).arg(directory);
    helper.arg("-o").arg(options.print()).stdin(Stdio::null());
    let output = helper.output().map_err(Error::Start)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Helper(said.trim().replace('\n', "; ")))
}

/// Takes the mount of an image at `directory` away, if there is one, and waits for its server to give the
/// image up.
///
/// # Errors
/// What unmounting and reading leases report.
pub fn unmount_shared(store: &Store, directory: &Path) -> Result<()> {
    if !is_mounted(directory)? {
        return Ok(());
    }
    unmount(directory, true)?;
    let place = Some(path_text(directory));
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let leases = store.leases()?;
        if !leases.iter().any(|lease| lease.mount_point == place) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Makes the directory on which an image is to be mounted, unless it is there.
///
/// # Errors
/// What making it reports.
pub fn make_mount_point(directory: &Path) -> Result<()> {
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    match made {
        // A mount whose server died.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(Error::system("cannot make a directory for the image")),
    }
}

fn is_mounted(directory: &Path) -> Result<bool> {
    let seen = unmount::seen_at(directory)?;
    Ok(seen.is_some_and(|mount| mount.kind == mountinfo::KIND))
}

/// Keeps shared images as they are while it lives.
#[derive(Debug)]
pub(super) struct Guard(#[allow(dead_code)] File);

/// Waits until nobody else mounts or unmounts images for the containers of the store.
pub(super) fn lock(root: &Path) -> Result<Guard> {
    let directory = root.join(DIRECTORY);
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory);
    let lock = made.and_then(|()| {
        let mut open = File::options();
        let lock = open.create(true).truncate(false).write(true);
        let lock = lock.open(directory.join("lock"))?;
        lock.lock().map(|()| lock)
    });
    lock.map(Guard).map_err(Error::system(
        "cannot lock the images that containers share",
    ))
}

/// The directory on which the image with this manifest is mounted for the containers of the store.
///
/// # Errors
/// As [`mount_shared`].
pub(super) fn ensure(
    _guard: &Guard,
    store: &Store,
    name: &str,
    manifest: Digest,
    helper: Command,
) -> Result<PathBuf> {
    let directory = store.root().join(DIRECTORY).join(manifest.hex());
    make_mount_point(&directory)?;
    let options = MountOptions {
        root: Some(store.root().to_owned()),
        manifest: Some(manifest.to_string()),
        ..MountOptions::default()
    };
    mount_shared(&directory, name, options, helper)?;
    Ok(directory)
}

/// Takes away the images over which there is no container any more.
///
/// # Errors
/// What reading the table of mounts, and unmounting, report.
pub(super) fn end_unused(store: &Store) -> Result<()> {
    let served = store.root().join(DIRECTORY);
    let _guard = lock(store.root())?;
    let failed = || Error::system("cannot look for images that containers share");
    for entry in std::fs::read_dir(&served).map_err(failed())? {
        let directory = entry.map_err(failed())?.path();
        let mounts = mountinfo::all().map_err(failed())?;
        let used = |mount| mountinfo::shared_image(mount).as_ref() == Some(&directory);
        if directory.ends_with("lock") || mounts.iter().any(used) {
            continue;
        }
        unmount_shared(store, &directory)?;
        if let Err(error) = std::fs::remove_dir(&directory) {
            log::debug!("{}: {error}", directory.display());
        }
    }
    Ok(())
}
