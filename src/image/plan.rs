//! What a pull would fetch, without fetching it.

use std::collections::{HashMap, HashSet};

use crate::oci::{Descriptor, DiffId, Digest, Document, ImageConfig, Platform};
use crate::store::{LayerSource, Store};

use super::documents::{MAX_CONFIG_SIZE, fetch_documents};
use super::inspect::{IndexEntry, entries};
use super::pull::Platforms;
use super::receive::fetch_small;
use super::{PullRequest, Result};

/// What a pull would do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the name stands for: a manifest or an index.
    pub descriptor: Descriptor,
    /// The entries of the index, if it is one.
    pub entries: Vec<IndexEntry>,
    /// The images that would be pulled, one for each platform.
    pub images: Vec<PlannedImage>,
    /// The attestations that would be pulled, by the digests of their manifests, with the bytes that
    /// would be fetched for them.
    pub attestations: HashMap<Digest, u64>,
    /// Bytes of layers and attestations that would be fetched.
    pub fetched_bytes: u64,
}

/// An image that would be pulled.
#[derive(Clone, Debug)]
pub struct PlannedImage {
    /// Its manifest.
    pub manifest: Descriptor,
    /// What it runs on.
    pub platform: Platform,
    /// Its layers, lowest first.
    pub layers: Vec<PlannedLayer>,
}

/// A layer of it.
#[derive(Clone, Debug)]
pub struct PlannedLayer {
    /// As the manifest has it.
    pub descriptor: Descriptor,
    /// Whether it is in the store.
    pub is_stored: bool,
    /// Bytes that an interrupted pull left of it.
    pub received: u64,
}

/// Looks up what a pull would do; without a store everything would be fetched.
///
/// # Errors
/// As [`super::pull`].
pub fn plan(
    store: Option<&Store>,
    request: &PullRequest<'_>,
    platforms: Platforms<'_>,
) -> Result<Plan> {
    let documents = fetch_documents(request.source, request.name, platforms)?;
    let has_blob = |digest: &Digest| store.is_some_and(|store| store.has_blob(digest));
    let document: Document = documents.top.document()?;
    let mut plan = Plan {
        descriptor: documents.top.descriptor(),
        entries: entries(&document, &has_blob),
        images: Vec::new(),
        attestations: HashMap::new(),
        fetched_bytes: 0,
    };
    let mut counted = HashSet::new();
    for image in &documents.images {
        let config = &image.manifest.config;
        let known = store.filter(|store| store.has_blob(&config.digest));
        let config = match known {
            Some(store) => store.read_blob(&config.digest)?,
            None => fetch_small(request.source, config, MAX_CONFIG_SIZE)?,
        };
        let diff_ids = image.layers(&config)?;
        let mut layers = Vec::new();
        for (descriptor, diff_id) in image.manifest.layers.iter().zip(&diff_ids) {
            let layer = planned(store, descriptor, diff_id)?;
            if !layer.is_stored && counted.insert(descriptor.digest) {
                let missing = descriptor.size.saturating_sub(layer.received);
                plan.fetched_bytes = plan.fetched_bytes.saturating_add(missing);
            }
            layers.push(layer);
        }
        plan.images.push(PlannedImage {
            manifest: image.descriptor.clone(),
            platform: ImageConfig::parse(&config)?.platform,
            layers,
        });
    }
    for attestation in &documents.attestations {
        let missing = attestation.blobs().filter(|blob| !has_blob(&blob.digest));
        let missing = missing.map(|blob| blob.size).fold(0, u64::saturating_add);
        plan.fetched_bytes = plan.fetched_bytes.saturating_add(missing);
        let digest = attestation.descriptor.digest;
        plan.attestations.insert(digest, missing);
    }
    Ok(plan)
}

fn planned(
    store: Option<&Store>,
    descriptor: &Descriptor,
    diff_id: &DiffId,
) -> Result<PlannedLayer> {
    let mut layer = PlannedLayer {
        descriptor: descriptor.clone(),
        is_stored: false,
        received: 0,
    };
    if let Some(store) = store {
        let source = LayerSource {
            digest: descriptor.digest,
            size: descriptor.size,
        };
        let has_blob = store.has_blob(&descriptor.digest);
        layer.is_stored = has_blob && store.has_layer_of(diff_id, &source)?;
        layer.received = match has_blob {
            true => descriptor.size,
            false => store
                .received_bytes(&descriptor.digest)
                .min(descriptor.size),
        };
    }
    Ok(layer)
}
