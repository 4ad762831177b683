//! Images of the store as something to serve.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Ready, Serving, Target};
use crate::image;
use crate::oci::Platform;
use crate::options::MountOptions;
use crate::overlay::Overlay;
use crate::store::{LeaseKind, LeaseRecord, Store};

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
pub fn serving(store: Store, request: ImageRequest<'_>) -> image::Result<Serving> {
    let found = image::find(&store, request.name, request.platform)?;
    let union = image::open(&store, &found)?;
    let name = match &found.record.reference {
        Some(reference) => reference.to_string(),
        None => found.id().to_string(),
    };
    let mut record = LeaseRecord {
        kind: LeaseKind::Mount,
        pid: std::process::id(),
        image: name.clone(),
        mount_point: mount_point(&request.target),
        digests: vec![
            found.record.descriptor.digest,
            found.manifest_descriptor.digest,
        ],
    };
    let lease = store.lease(&record)?;
    let lease = Arc::new(parking_lot::Mutex::new(lease));
    let hold = Arc::clone(&lease);
    let on_ready = move |ready: Ready| {
        record.pid = ready.pid;
        store
            .update_lease(&mut lease.lock(), &record)
            .map_err(io::Error::other)
    };
    Ok(Serving {
        overlay: Overlay::read_only(union),
        source: OsString::from(name),
        target: request.target,
        options: request.options,
        hold: Some(Box::new(hold)),
        on_ready: Some(Box::new(on_ready)),
    })
}

fn mount_point(target: &Target) -> Option<String> {
    let Target::Directory(path) = target else {
        return None;
    };
    let path: &Path = path;
    Some(
        path.canonicalize()
            .as_deref()
            .unwrap_or(path)
            .display()
            .to_string(),
    )
}

/// [`serving`] from the store at `root`, which must exist.
///
/// # Errors
/// What opening the store reports, and as [`serving`].
pub fn serving_from(root: &Path, request: ImageRequest<'_>) -> image::Result<Serving> {
    serving(Store::open(root)?, request)
}
