//! Puts right what a check found: made again from what is stored, moved out of the way, or fetched again.
//!
//! # Invariants
//! * A layer whose blob is sound is made again, never thrown away: not every image can be pulled.
//! * What a live mount or pull needs stays where it is.

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;

use crate::cause;
use crate::oci::{ChainId, Descriptor, DiffId, Digest, Manifest};
use crate::pack::{Limits, Progress, pack_layer};
use crate::registry::{ManifestName, Source};
use crate::store::{self, LeaseKind, Object, ObjectKind, Record, Store};

use super::check::Damage;
use super::pull::{Part, Platforms, PullRequest, fetch_platforms};
use super::receive::{Observer, commit, source_of, write_packed};
use super::{Error, Result, find, open};

/// What became of something damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was made again of what else is stored.
    Rebuilt,
    /// It is gone; its images lack it until they are pulled or imported again.
    Removed,
    /// It came again from where its image had come from.
    Fetched,
    /// A live mount or pull needs it, so it was left.
    InUse,
}

/// Puts right what is damaged, and tells of each what became of it.
///
/// # Errors
/// What the store reports.
pub fn repair(store: &Store, damages: &[Damage]) -> Result<Vec<Outcome>> {
    let plan = Plan::read(store)?;
    let mut outcomes = Vec::new();
    // Layers before the chains that are made of them.
    for damage in damages {
        let diff_id = DiffId(damage.object.digest);
        let rebuilt = match damage.object.kind {
            ObjectKind::Layer if !is_leased(store, &damage.object)? => {
                let blobs = plan.blobs.get(&diff_id).map(Vec::as_slice);
                let sound = |blob: &&Descriptor| {
                    let is_it = |damage: &Damage| damage.object == blob_object(blob);
                    !damages.iter().any(is_it) && store.has_blob(&blob.digest)
                };
                let sound = blobs.unwrap_or_default().iter().filter(sound);
                rebuild_of_any(store, &diff_id, sound)?
            }
            _ => false,
        };
        outcomes.push(match rebuilt {
            true => Outcome::Rebuilt,
            false => remove(store, &damage.object)?,
        });
    }
    for (damage, outcome) in damages.iter().zip(&mut outcomes) {
        if let (Outcome::Removed, Some(diff_ids)) = (*outcome, plan.chains.get(&damage.object)) {
            match open::ensure_chain(store, diff_ids) {
                Ok(()) => *outcome = Outcome::Rebuilt,
                Err(error) => log::debug!("no chain index is made: {}", cause::chain(&error)),
            }
        }
    }
    Ok(outcomes)
}

/// The blobs that are stored, sound or not: to be asked before a repair, which removes some.
///
/// # Errors
/// What listing the store reports.
pub fn stored_blobs(store: &Store) -> Result<HashSet<Digest>> {
    let objects = store.objects()?.into_iter();
    let blobs = objects.filter(|object| object.kind == ObjectKind::Blob);
    Ok(blobs.map(|object| object.digest).collect())
}

/// Fetches what an image of the list lacks of what it had: its platforms and attestations are those whose manifests
/// are among the `blobs` of before. What its name stands for by now is not asked.
///
/// # Errors
/// As [`super::pull`].
pub fn fetch_lost(
    store: &Store,
    image: &Descriptor,
    blobs: &HashSet<Digest>,
    (source, parallel): (&dyn Source, usize),
    observer: Observer<'_>,
    prepared: &mut dyn FnMut(Part<'_>, &Manifest),
) -> Result<()> {
    let request = PullRequest {
        source,
        name: &ManifestName::Digest(image.digest),
        store_as: None,
        platform: None,
        limits: &Limits::default(),
        parallel,
    };
    let platforms = Platforms::Among(blobs);
    // It is listed, so it stays when the lease ends.
    fetch_platforms(
        store,
        &request,
        platforms,
        LeaseKind::Pull,
        observer,
        prepared,
    )?
    .end()
}

/// What the images say about their layers.
#[derive(Default)]
struct Plan {
    /// The blobs that hold a layer.
    blobs: HashMap<DiffId, Vec<Descriptor>>,
    /// The layers of a chain.
    chains: HashMap<Object, Vec<DiffId>>,
}

impl Plan {
    fn read(store: &Store) -> Result<Plan> {
        let mut plan = Plan::default();
        for record in store.images()? {
            let manifests = store.manifests(&record.descriptor).map_err(Error::from);
            for (descriptor, _) in unless_damaged(manifests)?.unwrap_or_default() {
                let of_platform = Record {
                    descriptor,
                    ..record.clone()
                };
                let Some(found) = unless_damaged(find::load(store, of_platform, None))? else {
                    continue;
                };
                let diff_ids = found.config.rootfs.diff_ids;
                for (blob, diff_id) in found.manifest.layers.iter().zip(&diff_ids) {
                    plan.blobs.entry(*diff_id).or_default().push(blob.clone());
                }
                if let Some(chain) = ChainId::of(&diff_ids) {
                    let (kind, digest) = (ObjectKind::Chain, chain.0);
                    plan.chains.insert(Object { kind, digest }, diff_ids);
                }
            }
        }
        Ok(plan)
    }
}

/// What could be read; `None` of what is damaged or missing, which the check has told of.
fn unless_damaged<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        // A disk that does not answer tells nothing: what it holds may be sound.
        Err(Error::Store(error @ store::Error::Io { .. })) => Err(error.into()),
        Err(error) => {
            log::debug!("{}", cause::chain(&error));
            Ok(None)
        }
    }
}

fn is_leased(store: &Store, object: &Object) -> Result<bool> {
    Ok(store.leased(&store.lock()?)?.contains(object))
}

fn remove(store: &Store, object: &Object) -> Result<Outcome> {
    let lock = store.lock()?;
    if store.leased(&lock)?.contains(object) {
        return Ok(Outcome::InUse);
    }
    if store.objects()?.contains(object) {
        store.discard(object)?;
    }
    Ok(Outcome::Removed)
}

fn rebuild_of_any<'a>(
    store: &Store,
    diff_id: &DiffId,
    blobs: impl Iterator<Item = &'a Descriptor>,
) -> Result<bool> {
    for blob in blobs {
        match rebuild(store, diff_id, blob) {
            Ok(rebuilt) => return Ok(rebuilt),
            Err(error) => {
                let why = cause::chain(&error);
                log::warn!("layer {diff_id} cannot be made again from its blob: {why}");
            }
        }
    }
    Ok(false)
}

/// Packs a layer again from its blob; `false` if it is needed as it is now.
fn rebuild(store: &Store, diff_id: &DiffId, blob: &Descriptor) -> Result<bool> {
    let staging = store.staging()?;
    let directory = staging.path().join("layer");
    let made = DirBuilder::new().mode(0o700).create(&directory);
    made.map_err(|error| store::Error::io(error, "making", &directory))?;
    let file = File::open(store.blob_path(&blob.digest));
    let file = file.map_err(|error| Error::io(error, "opening the blob"))?;
    let packed = pack_layer(file, &directory, &Limits::default(), &Progress::default())?;
    let found = Digest::from_sha256(packed.diff_id);
    if found != diff_id.0 {
        let expected = diff_id.0;
        return Err(Error::DiffIdMismatch { expected, found });
    }
    write_packed(store, &packed, &directory, source_of(blob))?;
    store.sync()?;
    let object = Object {
        kind: ObjectKind::Layer,
        digest: diff_id.0,
    };
    if remove(store, &object)? == Outcome::InUse {
        return Ok(false);
    }
    commit(store, &directory, diff_id, &source_of(blob))?;
    Ok(true)
}

fn blob_object(blob: &Descriptor) -> Object {
    Object {
        kind: ObjectKind::Blob,
        digest: blob.digest,
    }
}
