//! Images of the store as something to serve, read-only or below a container.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::text::path_text;
use super::writable::{self, Readers};
use super::{MountRecord, OnReady, Ready, Serving, Target};
use crate::cause;
use crate::image::{self, Found};
use crate::oci::{Digest, Platform};
use crate::options::MountOptions;
use crate::store::{self, Container, Lease, LeaseKind, LeaseRecord, SnapshotImage, Store};
use crate::union::Union;
use crate::union::chain::Marks;

/// What image is mounted, so that another process finds the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// What people call it.
    pub image: String,
    is_reference: bool,
    image_digest: Digest,
    manifest_digest: Digest,
    layers: usize,
}

/// Which image to serve, and where.
#[derive(Debug)]
pub struct ImageRequest<'a> {
    /// What people call it: a name, a digest or an ID.
    pub name: &'a str,
    /// Which platform's, if it is stored for several.
    pub platform: Option<&'a Platform>,
    /// Where it appears.
    pub target: Target,
    /// How.
    pub options: MountOptions,
}

/// Prepares an image for serving: found, opened and leased, so that nothing it needs is removed
/// while it is mounted.
///
/// # Errors
/// What finding and opening the image reports.
pub fn serving(store: Store, request: ImageRequest<'_>) -> Result<Serving> {
    let found = image::find(&store, request.name, request.platform)?;
    serving_found(
        store,
        &found,
        request.target,
        request.options,
        Readers::Others,
    )
}

/// Prepares a container for serving: its image below, its own directory on top.
///
/// # Errors
/// As [`serving`], and what using the directory reports.
pub(super) fn serving_container(
    store: Store,
    container: Container,
    found: &Found,
    target: Target,
    mut options: MountOptions,
) -> Result<Serving> {
    (options.upper, options.work) = (Some(container.upper()), Some(container.work()));
    let discards = container.record.ephemeral;
    let own = Store::open(store.root()).map_err(image::Error::from)?;
    let mut serving = serving_found(store, found, target, options, Readers::Nobody)?;
    if discards {
        let discard = move || {
            own.remove_container(container).map_err(io::Error::other)?;
            tidy(&own);
            Ok(())
        };
        serving.on_end = Some(Box::new(discard));
    } else {
        serving.hold = Some(Box::new((serving.hold.take(), container)));
    }
    Ok(serving)
}

/// Prepares the image of a snapshot for serving, below the directory that the options name, if they
/// do.
///
/// # Errors
/// As [`serving`], and [`image::Error::NotStored`] when no such snapshot stands for an image.
pub fn serving_snapshot(
    root: &Path,
    number: u64,
    target: Target,
    options: MountOptions,
) -> Result<Serving> {
    let store = Store::open(root).map_err(image::Error::from)?;
    let snapshot = store.snapshot_image(number).map_err(image::Error::from)?;
    let snapshot = snapshot.ok_or(image::Error::NotStored)?;
    let found = image::find_snapshot(&store, &snapshot)?;
    serving_found(store, &found, target, options, Readers::Others)
}

/// Prepares the image with this manifest for serving, be it listed or not.
///
/// # Errors
/// As [`serving`].
pub fn serving_manifest(
    root: &Path,
    name: &str,
    manifest: Digest,
    target: Target,
    options: MountOptions,
) -> Result<Serving> {
    let store = Store::open(root).map_err(image::Error::from)?;
    let found = image::find_manifest(&store, name, manifest)?;
    serving_found(store, &found, target, options, Readers::Others)
}

/// Prepares an image for serving that is mounted already, and protected by who serves it now.
pub(super) fn serving_held(
    recovery: &Recovery,
    target: Target,
    options: MountOptions,
) -> Result<Serving> {
    let root = options.root.as_deref().unwrap_or(Path::new(""));
    let store = Store::open(root).map_err(image::Error::from)?;
    let snapshot = SnapshotImage {
        image: recovery.image.clone(),
        manifest_digest: recovery.manifest_digest,
        layers: recovery.layers,
    };
    let mut found = image::find_snapshot(&store, &snapshot)?;
    found.record.descriptor.digest = recovery.image_digest;
    if !recovery.is_reference {
        found.record.reference = None;
    }
    let leased = Leased::held(&store, &found, &target)?;
    serving_leased(store, &found, leased, target, options, Readers::Others)
}

fn serving_found(
    store: Store,
    found: &Found,
    target: Target,
    options: MountOptions,
    readers: Readers,
) -> Result<Serving> {
    let leased = Leased::new(&store, found, &target)?;
    serving_leased(store, found, leased, target, options, readers)
}

fn serving_leased(
    store: Store,
    found: &Found,
    leased: Leased,
    target: Target,
    mut options: MountOptions,
    readers: Readers,
) -> Result<Serving> {
    if options.upper.is_some() && (options.as_lower || options.layers) {
        let reason = "as_lower and layers go without upperdir=, of which nothing is hidden";
        return Err(Error::Unsupported(reason.into()));
    }
    options.root = Some(store.root().to_owned());
    let recovery = options.upper.is_none().then(|| Recovery {
        image: leased.name.clone(),
        is_reference: found.record.reference.is_some(),
        image_digest: found.record.descriptor.digest,
        manifest_digest: found.manifest_descriptor.digest,
        layers: found.config.rootfs.diff_ids.len(),
    });
    let mut chain = match options.layers {
        true => image::layers(&store, found)?,
        false => image::chain(&store, found)?,
    };
    if options.as_lower && !options.layers {
        chain.show_marks(Marks::Hidden);
    }
    let union = Union::Chain(chain.with_ids(options.ids.clone()));
    let overlay = writable::overlay(union, &options, readers)?;
    let upper = options.upper.as_deref().map(path_text);
    let mut serving = Serving::new(overlay, OsString::from(leased.name), target, options);
    serving.record = MountRecord {
        upper,
        ..leased.shown
    };
    serving.recovery = recovery;
    serving.hold = Some(leased.hold);
    // An image that was removed while it was mounted goes now.
    serving.on_end = Some(Box::new(move || {
        tidy(&store);
        Ok(())
    }));
    serving.on_ready = Some(leased.on_ready);
    Ok(serving)
}

/// An image that is kept for a mount.
pub(super) struct Leased {
    /// What people call it.
    pub(super) name: String,
    /// What is told of it to others.
    pub(super) shown: MountRecord,
    /// The lease, which inherits who inherits this.
    pub(super) hold: Box<dyn Send>,
    /// Tells who holds it.
    pub(super) on_ready: OnReady,
}

impl Leased {
    /// Keeps `found` for a mount on `target`: nothing that it needs is removed while it is held.
    ///
    /// # Errors
    /// [`image::Error::NotStored`] when it has been removed, or what taking a lease reports.
    pub(super) fn new(store: &Store, found: &Found, target: &Target) -> Result<Leased> {
        refuse_to_cover(store, target)?;
        if let Err(error) = store.tidy_if_free(SystemTime::now()) {
            log::info!("cannot tidy up the store: {}", cause::chain(&error));
        }
        let leased = Leased::held(store, found, target)?;
        // From here on it stays; before, it may have been removed.
        match is_kept(store, found).map_err(image::Error::from)? {
            true => Ok(leased),
            false => Err(image::Error::NotStored.into()),
        }
    }

    /// As [`Leased::new`], where it is certain that it is there: somebody keeps it.
    fn held(store: &Store, found: &Found, target: &Target) -> Result<Leased> {
        let name = match &found.record.reference {
            Some(reference) => reference.to_string(),
            None => found.id().to_string(),
        };
        let mut record = LeaseRecord {
            kind: LeaseKind::Mount,
            pid: std::process::id(),
            image: name.clone(),
            mount_point: mount_point(target),
            digests: vec![
                found.record.descriptor.digest,
                found.manifest_descriptor.digest,
            ],
        };
        let lease = take_lease(store, &record)?;
        let diff_ids = found.config.rootfs.diff_ids.iter().rev();
        let shown = MountRecord {
            image: Some(name.clone()),
            layers: diff_ids.map(|diff_id| diff_id.to_string()).collect(),
            ..MountRecord::default()
        };
        let own = Store::open(store.root()).map_err(image::Error::from)?;
        let lease = Arc::new(parking_lot::Mutex::new(lease));
        let hold = Arc::clone(&lease);
        let on_ready = move |ready: Ready| {
            record.pid = ready.pid;
            match &mut *lease.lock() {
                Some(lease) => own.update_lease(lease, &record).map_err(io::Error::other),
                None => Ok(()),
            }
        };
        Ok(Leased {
            name,
            shown,
            hold: Box::new(hold),
            on_ready: Box::new(on_ready),
        })
    }
}

/// Whether the image is listed, or a container or a snapshot keeps it.
fn is_kept(store: &Store, found: &Found) -> store::Result<bool> {
    let image = found.record.descriptor.digest;
    let manifest = found.manifest_descriptor.digest;
    let listed = |store: &Store| {
        let images = store.images()?;
        store::Result::Ok(images.iter().any(|it| it.descriptor.digest == image))
    };
    let contained = |store: &Store| {
        let containers = store.containers()?;
        store::Result::Ok(
            containers
                .iter()
                .any(|(_, it)| it.image_digest == image || it.manifest_digest == manifest),
        )
    };
    let snapshots = store.snapshot_images()?;
    let stood_for = snapshots.iter().any(|it| it.manifest_digest == manifest);
    Ok(stood_for || listed(store)? || contained(store)?)
}

/// Removes what ended processes left; a mount does not need that.
pub(super) fn tidy(store: &Store) {
    if let Err(error) = store.tidy(SystemTime::now()) {
        log::info!("cannot tidy up the store: {}", cause::chain(&error));
    }
}

/// Protects the image from removal; where nothing can be written there is no lease to be had.
fn take_lease(store: &Store, record: &LeaseRecord) -> Result<Option<Lease>> {
    match store.lease(record) {
        Ok(lease) => Ok(Some(lease)),
        Err(error) if error.is_write_protected() => {
            log::debug!("mounted without a lease: {error}");
            Ok(None)
        }
        Err(error) => Err(image::Error::from(error).into()),
    }
}

/// A mount over the store would hide what it is made of from everybody else.
fn refuse_to_cover(store: &Store, target: &Target) -> Result<()> {
    if let Target::Directory(path) = target
        && let Ok(path) = path.canonicalize()
        && store.root().starts_with(&path)
    {
        let reason = format!("{} holds the store", path_text(&path));
        return Err(Error::Unsupported(reason));
    }
    Ok(())
}

fn mount_point(target: &Target) -> Option<String> {
    let Target::Directory(path) = target else {
        return None;
    };
    let path: &Path = path;
    let absolute = path.canonicalize();
    Some(path_text(absolute.as_deref().unwrap_or(path)))
}

/// [`serving`] from the store at `root`, which must exist.
///
/// # Errors
/// What opening the store reports, and as [`serving`].
pub fn serving_from(root: &Path, request: ImageRequest<'_>) -> Result<Serving> {
    serving(Store::open(root).map_err(image::Error::from)?, request)
}
