//! Pulls an image: documents first, then all layers in parallel, then the chain, then its name.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::oci::{
    ChainId, Descriptor, DiffId, Digest, ImageConfig, Manifest, Platform, Reference, attested,
};
use crate::pack::{Limits, Progress};
use crate::registry::{ManifestName, Source};
use crate::store::{self, Lease, LeaseKind, LeaseRecord, Record, Store};

use super::documents::{MAX_CONFIG_SIZE, fetch_documents, warn_left_out};
use super::find::find_manifest;
use super::receive::{Observer, Receiver};
use super::{Error, Result, open, parallel};

/// What to pull.
#[derive(Clone, Copy)]
pub struct PullRequest<'a> {
    /// From where.
    pub source: &'a dyn Source,
    /// Which image there.
    pub name: &'a ManifestName,
    /// The name it gets in the store; without one it becomes a dangling image.
    pub store_as: Option<&'a Reference>,
    /// Which platform's image, if there are several; `None` for that of this machine.
    pub platform: Option<&'a Platform>,
    /// What layers may ask for.
    pub limits: &'a Limits,
    /// How many layers are received at the same time.
    pub parallel: usize,
}

/// An image that was pulled.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What the source's name stood for: a manifest or an index.
    pub descriptor: Descriptor,
    /// The manifest; of several platforms the first one.
    pub manifest: Descriptor,
    /// Whether the name stood for the same image before, and nothing was missing.
    pub up_to_date: bool,
}

/// For which platforms an image is pulled.
#[derive(Clone, Copy, Debug)]
pub enum Platforms<'a> {
    /// For this one, or else that of this machine.
    One(Option<&'a Platform>),
    /// For each of these.
    Each(&'a [Platform]),
    /// For all that it is made for, with the attestations that the source has.
    All,
    /// For all that the source has, with the attestations.
    Available,
    /// For those whose manifests are among these, with such attestations; or else that of this machine.
    Among(&'a HashSet<Digest>),
}

/// What of an image is received next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// The image of a platform.
    Platform(&'a Platform),
    /// A statement about the image with this manifest, if it says so.
    Attestation(Option<Digest>),
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Platform(platform) => write!(f, "Platform: {platform}"),
            Part::Attestation(Some(of)) => write!(f, "Attestation of {}", of.short()),
            Part::Attestation(None) => f.write_str("Attestation"),
        }
    }
}

/// An image that is in the store, complete, and stays as long as this is there.
#[derive(Debug)]
pub struct Held {
    /// What its name stood for: a manifest or an index.
    pub descriptor: Descriptor,
    /// The manifest; of several platforms the first one.
    pub manifest: Descriptor,
    /// The layers of that manifest, from the lowest on.
    pub diff_ids: Vec<DiffId>,
    /// Whether nothing of its layers was missing before.
    complete_before: bool,
    lease: Lease,
}

impl Held {
    /// Gives the image up: unless something else keeps it, it is garbage now.
    ///
    /// # Errors
    /// What ending the lease reports.
    pub fn end(self) -> Result<()> {
        Ok(self.lease.end()?)
    }
}

/// Pulls an image for one platform; it is in the store when this returns.
///
/// `prepared` is called once the manifest is known, with its layers.
///
/// # Errors
/// [`Error`]; then the store is as it was, but for what a later pull can go on with.
pub fn pull(
    store: &Store,
    request: &PullRequest<'_>,
    observer: Observer<'_>,
    prepared: impl FnOnce(&Manifest),
) -> Result<Pulled> {
    let platforms = Platforms::One(request.platform);
    pull_platforms(store, request, platforms, observer, &mut once(prepared))
}

/// Pulls an image for several platforms (that of the request is not looked at); it is in the store,
/// for all of them, when this returns.
///
/// `prepared` is called for each platform, and each attestation, before its blobs are received.
///
/// # Errors
/// As [`pull`].
pub fn pull_platforms(
    store: &Store,
    request: &PullRequest<'_>,
    platforms: Platforms<'_>,
    observer: Observer<'_>,
    prepared: &mut dyn FnMut(Part<'_>, &Manifest),
) -> Result<Pulled> {
    let held = fetch_platforms(
        store,
        request,
        platforms,
        LeaseKind::Pull,
        observer,
        prepared,
    )?;
    let descriptor = held.descriptor.clone();
    let image = match request.store_as {
        Some(reference) => Record::named(reference.clone(), descriptor.clone()),
        None => Record::nameless(descriptor.clone()),
    };
    let lock = store.lock()?;
    let known_before = store.images()?.contains(&image);
    store.publish(&lock, image)?;
    drop(lock);
    let pulled = Pulled {
        descriptor,
        manifest: held.manifest.clone(),
        up_to_date: known_before && held.complete_before,
    };
    held.end()?;
    Ok(pulled)
}

/// As [`pull`], but the image is not listed: it stays as long as what is returned, and whoever
/// wants to keep it longer refers to it before that ends.
///
/// # Errors
/// As [`pull`].
pub fn fetch(
    store: &Store,
    request: &PullRequest<'_>,
    observer: Observer<'_>,
    prepared: impl FnOnce(&Manifest),
) -> Result<Held> {
    let platforms = Platforms::One(request.platform);
    let prepared = &mut once(prepared);
    fetch_platforms(
        store,
        request,
        platforms,
        LeaseKind::Pull,
        observer,
        prepared,
    )
}

/// Is told of the manifest of the one platform that is pulled.
fn once(prepared: impl FnOnce(&Manifest)) -> impl FnMut(Part<'_>, &Manifest) {
    let mut prepared = Some(prepared);
    move |_, manifest| {
        if let Some(prepared) = prepared.take() {
            prepared(manifest);
        }
    }
}

/// As [`pull_platforms`] and [`fetch`]; what is interrupted can be gone on with if `kind` is
/// [`LeaseKind::Pull`].
pub(super) fn fetch_platforms(
    store: &Store,
    request: &PullRequest<'_>,
    platforms: Platforms<'_>,
    kind: LeaseKind,
    observer: Observer<'_>,
    prepared: &mut dyn FnMut(Part<'_>, &Manifest),
) -> Result<Held> {
    let documents = fetch_documents(request.source, request.name, platforms)?;
    let descriptor = documents.top.descriptor();
    let mut record = LeaseRecord {
        kind,
        pid: std::process::id(),
        image: request.source.describe(),
        mount_point: None,
        digests: vec![descriptor.digest],
    };
    for image in &documents.images {
        let blobs = image.manifest.layers.iter().chain([&image.manifest.config]);
        record.digests.extend(blobs.map(|blob| blob.digest));
        record.digests.push(image.descriptor.digest);
    }
    for attestation in &documents.attestations {
        let blobs = attestation.blobs().chain([&attestation.descriptor]);
        record.digests.extend(blobs.map(|blob| blob.digest));
    }
    // From here on nothing that is found in the store, or put there, is garbage.
    let mut lease = store.lease(&record)?;
    let progress = Progress::default();
    let receiver = Receiver {
        store,
        source: request.source,
        limits: request.limits,
        progress: &progress,
        observer,
        resumable: kind == LeaseKind::Pull,
    };
    let mut wanted = Vec::new();
    for image in &documents.images {
        let config = receiver.small_blob(&image.manifest.config, MAX_CONFIG_SIZE)?;
        let diff_ids = image.layers(&config)?;
        let chain = ChainId::of(&diff_ids);
        let layers = diff_ids.iter().map(|diff_id| diff_id.0);
        record
            .digests
            .extend(layers.chain(chain.map(|chain| chain.0)));
        wanted.push((image, config, diff_ids));
    }
    store.update_lease(&mut lease, &record)?;

    let mut complete_before = true;
    for (image, config, diff_ids) in &wanted {
        let platform = &ImageConfig::parse(config)?.platform;
        prepared(Part::Platform(platform), &image.manifest);
        complete_before &= is_complete(store, diff_ids) && store.has_blob(&image.descriptor.digest);
        receive_layers(
            &receiver,
            &image.manifest.layers,
            diff_ids,
            request.parallel,
        )?;
        open::ensure_chain(store, diff_ids)?;
        store.write_blob(&image.manifest.config.digest, config)?;
    }
    for attestation in &documents.attestations {
        let of = attested(&attestation.descriptor).flatten();
        prepared(Part::Attestation(of), &attestation.manifest);
        let digest = &attestation.descriptor.digest;
        let mut blobs = attestation.blobs();
        match blobs.try_for_each(|blob| receiver.plain_blob(blob)) {
            Err(Error::Layer { source, .. }) if source.is_not_found() => {
                // What came of it already is garbage; the images do not need it.
                store.expect_garbage()?;
                warn_left_out(request.source, digest, &*source);
            }
            received => {
                received?;
                complete_before &= store.has_blob(digest);
                store.write_blob(digest, &attestation.bytes)?;
            }
        }
    }
    for image in &documents.images {
        store.write_blob(&image.descriptor.digest, &image.bytes)?;
    }
    store.write_blob(&descriptor.digest, &documents.top.bytes)?;
    store.forget_interrupted(&record.image)?;
    let diff_ids = wanted.into_iter().map(|(_, _, diff_ids)| diff_ids);
    let diff_ids = diff_ids.into_iter().next().unwrap_or_default();
    let first = documents.images.into_iter().next();
    Ok(Held {
        manifest: first.map_or_else(|| descriptor.clone(), |image| image.descriptor),
        descriptor,
        diff_ids,
        complete_before,
        lease,
    })
}

/// Holds an image of which everything is in the store already, listed or not; `None` if something
/// is missing.
///
/// # Errors
/// What reading the store reports.
pub fn hold(store: &Store, name: &str, manifest: Digest) -> Result<Option<Held>> {
    let lease = store.lease(&LeaseRecord {
        kind: LeaseKind::Pull,
        pid: std::process::id(),
        image: name.to_owned(),
        mount_point: None,
        digests: vec![manifest],
    })?;
    let missing = |error: &Error| matches!(error, Error::Store(store::Error::Missing { .. }));
    let found = match find_manifest(store, name, manifest) {
        Err(error) if missing(&error) => return lease.end().map(|()| None).map_err(Error::from),
        found => found?,
    };
    let diff_ids = found.config.rootfs.diff_ids;
    if !diff_ids.iter().all(|diff_id| store.has_layer(diff_id)) {
        lease.end()?;
        return Ok(None);
    }
    Ok(Some(Held {
        descriptor: found.manifest_descriptor.clone(),
        manifest: found.manifest_descriptor,
        diff_ids,
        complete_before: true,
        lease,
    }))
}

/// Whether an image of these layers can be mounted.
fn is_complete(store: &Store, diff_ids: &[DiffId]) -> bool {
    diff_ids.iter().all(|diff_id| store.has_layer(diff_id))
        && ChainId::of(diff_ids).is_none_or(|chain| store.has_chain(&chain))
}

/// The diffIDs of an image, as many as it has layers.
pub(super) fn layers_of(manifest: &Manifest, config: &[u8]) -> Result<Vec<DiffId>> {
    if !manifest.config.media_type.is_config() {
        return Err(Error::NotAnImage(manifest.config.media_type.to_string()));
    }
    let diff_ids = ImageConfig::parse(config)?.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        let (layers, diff_ids) = (manifest.layers.len(), diff_ids.len());
        return Err(Error::LayerCount { layers, diff_ids });
    }
    Ok(diff_ids)
}

/// Receives all layers, several at a time; the first failure stops the others.
pub(super) fn receive_layers(
    receiver: &Receiver<'_>,
    layers: &[Descriptor],
    diff_ids: &[DiffId],
    workers: usize,
) -> Result<()> {
    // An image may have the same layer twice: the empty one, for example.
    let mut work: Vec<(&Descriptor, &DiffId)> = layers
        .iter()
        .zip(diff_ids)
        .map(|pair| ((pair.0.digest, pair.1.0), pair))
        .collect::<HashMap<_, _>>()
        .into_values()
        .collect();
    // The largest is taken first, so that it does not run alone at the end.
    work.sort_by_key(|(layer, _)| (layer.size, layer.digest));
    parallel::each(work, workers, |(layer, diff_id)| {
        let received = receiver.layer(layer, diff_id);
        received.inspect_err(|_| receiver.progress.cancel())
    })
}
