//! Loads images from an archive: as a pull does, but of everything that the archive has.

use crate::oci::{Digest, Manifest, Reference};
use crate::pack::Limits;
use crate::registry::{ManifestName, SavedImage, Source};
use crate::store::{LeaseKind, Record, Store};

use super::find::find_manifest;
use super::pull::fetch_platforms;
use super::{Observer, Part, Platforms, PullRequest, Result};

/// What to load.
#[derive(Clone, Copy)]
pub struct LoadRequest<'a> {
    /// The archive.
    pub source: &'a dyn Source,
    /// The image there.
    pub image: &'a SavedImage,
    /// For which platforms.
    pub platforms: Platforms<'a>,
    /// What layers may ask for.
    pub limits: &'a Limits,
    /// How many layers are received at the same time.
    pub parallel: usize,
}

/// An image that was loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Its ID; for several platforms that of the first one.
    pub id: Digest,
    /// Those of its names that stood for another image before.
    pub taken: Vec<(Reference, Digest)>,
}

/// Loads an image with all its names; it is in the store when this returns.
///
/// `prepared` is called for each platform, and each attestation, before its blobs are received.
///
/// # Errors
/// [`super::Error`]; then the store is as it was.
pub fn load(
    store: &Store,
    request: LoadRequest<'_>,
    observer: Observer<'_>,
    prepared: &mut dyn FnMut(Part<'_>, &Manifest),
) -> Result<Loaded> {
    let name = ManifestName::Digest(request.image.digest);
    let pull = PullRequest {
        source: request.source,
        name: &name,
        store_as: None,
        platform: None,
        limits: request.limits,
        parallel: request.parallel,
    };
    let kind = LeaseKind::Make;
    let held = fetch_platforms(store, &pull, request.platforms, kind, observer, prepared)?;
    let names = request.image.names.iter();
    let named = names.map(|name| Record::named(name.clone(), held.descriptor.clone()));
    let mut records: Vec<Record> = named.collect();
    if records.is_empty() {
        records.push(Record::nameless(held.descriptor.clone()));
    }
    let id = find_manifest(store, "", held.manifest.digest)?.id();
    let lock = store.lock()?;
    let mut taken = Vec::new();
    for record in store.images()? {
        if let Some(reference) = record.reference
            && request.image.names.contains(&reference)
            && record.descriptor.digest != held.descriptor.digest
        {
            taken.push((reference, record.descriptor.digest));
        }
    }
    store.publish_all(&lock, records)?;
    drop(lock);
    held.end()?;
    Ok(Loaded { id, taken })
}
