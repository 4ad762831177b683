//! Snapshots that stand for the layers of an image of the store.
//!
//! Some clients of containerd (its CRI service, nerdctl, the transfer service) prepare a snapshot
//! for each layer before they fetch it, and say in labels which image it belongs to. The answer
//! that the snapshot exists already makes them go on to the next layer. So the first such call
//! pulls the image as a whole, all layers at once and packed, and the others find it there.
//!
//! Whatever is in the way of that - no labels, another image behind the name, a registry that wants
//! credentials which we do not have - the answer is an ordinary snapshot, and containerd goes on by
//! itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::metadata::New;
use super::{Error, Kind, Labels, Result, Snapshotter};
use crate::image::{self, Held, PullRequest};
use crate::oci::{ChainId, Digest, Reference};
use crate::pack::Limits;
use crate::registry::{Location, ManifestName, Settings};
use crate::store::SnapshotImage;

/// The chain that the committed snapshot would be.
const TARGET: &str = "containerd.io/snapshot.ref";
/// The image that the layer belongs to.
const REFERENCE: &str = "containerd.io/snapshot/cri.image-ref";
/// The manifest of that image.
const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";

/// How long an image that could not be pulled is left to containerd without another attempt.
const PAUSE: Duration = Duration::from_secs(60);

/// How images are fetched.
#[derive(Debug)]
pub struct Remote {
    /// How registries are reached.
    pub registry: Settings,
    /// What layers may ask for.
    pub limits: Limits,
    /// How many layers are received at the same time.
    pub parallel: usize,
}

/// The images that are being pulled, or could not be.
#[derive(Debug)]
pub(super) struct Images {
    remote: Remote,
    attempts: Mutex<HashMap<String, Arc<Attempt>>>,
}

/// When pulling an image failed last. Held while it is pulled, so that it is pulled once.
type Attempt = Mutex<Option<Instant>>;

impl Images {
    pub(super) fn new(remote: Remote) -> Images {
        Images {
            remote,
            attempts: Mutex::default(),
        }
    }
}

/// A layer that a client wants to prepare, as its labels describe it.
struct Wanted<'a> {
    target: ChainId,
    reference: &'a str,
    manifest: Option<Digest>,
}

impl<'a> Wanted<'a> {
    fn from_labels(labels: &'a Labels) -> Option<Wanted<'a>> {
        Some(Wanted {
            target: ChainId(labels.get(TARGET)?.parse().ok()?),
            reference: labels.get(REFERENCE)?,
            manifest: labels.get(MANIFEST).and_then(|text| text.parse().ok()),
        })
    }
}

impl Snapshotter {
    /// Makes a committed snapshot for the layer that the labels describe, and tells its name, if
    /// that layer can be had as part of its image.
    ///
    /// # Errors
    /// What reading and changing the metadata and the store reports. What is wrong with the image
    /// is no error: then the layer cannot be had.
    pub(super) fn stand_in(&self, parent: &str, labels: &Labels) -> Result<Option<String>> {
        let Some(wanted) = Wanted::from_labels(labels) else {
            return Ok(None);
        };
        // One chain over one parent has one name, so it is made once.
        let identity = format!("{parent}\n{}", wanted.target.0);
        let name = format!("image/{}", Digest::of(identity.as_bytes()).hex());
        match self.metadata.record(&name) {
            Ok(_) => return Ok(Some(name)),
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let below = match parent {
            "" => None,
            parent => match self.metadata.record(parent) {
                Ok(record) if record.is_image => self.store.snapshot_image(record.number)?,
                // Its directories are below, or it is not there, which is for others to say.
                Ok(_) | Err(Error::NotFound(_)) => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let layers = below.as_ref().map_or(0, |below| below.layers) + 1;
        if let Some(below) = below
            && self.shows(&below.manifest_digest, layers, &wanted.target)?
        {
            let image = SnapshotImage { layers, ..below };
            return self.place(&name, parent, labels, &image).map(Some);
        }
        let Some(held) = self.pull(&wanted) else {
            return Ok(None);
        };
        if ChainId::of(held.diff_ids.get(..layers).unwrap_or_default()) != Some(wanted.target) {
            let (target, reference) = (wanted.target.0, wanted.reference);
            log::warn!("{target} is not layer {layers} of {reference}: left to containerd");
            held.end()?;
            self.images_to_sweep.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        let image = SnapshotImage {
            image: wanted.reference.to_owned(),
            manifest_digest: held.manifest.digest,
            layers,
        };
        let placed = self.place(&name, parent, labels, &image);
        // Now the snapshot keeps the image.
        held.end()?;
        placed.map(Some)
    }

    /// Whether the lowest layers of an image of the store are the chain `target`.
    fn shows(&self, manifest: &Digest, layers: usize, target: &ChainId) -> Result<bool> {
        let image = SnapshotImage {
            image: String::new(),
            manifest_digest: *manifest,
            layers,
        };
        let found = image::find_snapshot(&self.store, &image)?;
        let diff_ids = &found.config.rootfs.diff_ids;
        Ok(diff_ids.len() == layers && ChainId::of(diff_ids) == Some(*target))
    }

    fn place(
        &self,
        name: &str,
        parent: &str,
        labels: &Labels,
        image: &SnapshotImage,
    ) -> Result<String> {
        let new = New {
            name,
            parent,
            kind: Kind::Committed,
            labels: labels.clone(),
            is_image: true,
        };
        let placed = self.create_placed(new, |snapshot| {
            let made = self.store.create_image_snapshot(snapshot.number, image);
            made.map(drop).map_err(Error::from)
        });
        match placed {
            // Another call was faster.
            Ok(_) | Err(Error::AlreadyExists(_)) => Ok(name.to_owned()),
            Err(error) => Err(error),
        }
    }

    /// Pulls the image, unless that failed a moment ago.
    fn pull(&self, wanted: &Wanted<'_>) -> Option<Held> {
        let key = match wanted.manifest {
            Some(digest) => format!("{}@{digest}", wanted.reference),
            None => wanted.reference.to_owned(),
        };
        let attempt = Arc::clone(self.images.attempts.lock().entry(key.clone()).or_default());
        let mut failed = attempt.lock();
        if failed.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        match self.try_pull(wanted) {
            Ok(held) => {
                self.images.attempts.lock().remove(&key);
                Some(held)
            }
            Err(error) => {
                let error = Error::from(error).chain();
                log::warn!("cannot pull {key}, which is left to containerd: {error}");
                *failed = Some(Instant::now());
                None
            }
        }
    }

    fn try_pull(&self, wanted: &Wanted<'_>) -> image::Result<Held> {
        let remote = &self.images.remote;
        if let Some(digest) = wanted.manifest
            && let Some(held) = image::hold(&self.store, wanted.reference, digest)?
        {
            return Ok(held);
        }
        let reference: Reference = wanted.reference.parse()?;
        let location = Location::Registry(reference);
        let source = location.open(&remote.registry)?;
        let name = match wanted.manifest {
            Some(digest) => ManifestName::Digest(digest),
            None => location.manifest_name(),
        };
        log::info!("pulling {}", wanted.reference);
        let request = PullRequest {
            source: source.as_ref(),
            name: &name,
            store_as: None,
            platform: None,
            limits: &remote.limits,
            parallel: remote.parallel,
        };
        image::fetch(&self.store, &request, &|_| {}, |_| {})
    }
}
