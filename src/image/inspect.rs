//! What can be told of the images in the store.

use std::collections::{HashMap, HashSet};

use crate::oci::{
    ChainId, Descriptor, DiffId, Digest, Document, ImageConfig, Manifest, Platform, attested,
};
use crate::store::{LayerRecord, Record, Store};

use super::{Found, Result, find};

/// A line of the list of images: an image under one of its names.
#[derive(Clone, Debug)]
pub struct Row {
    /// As the store lists it.
    pub record: Record,
    /// What its documents tell, for each platform that it is stored for, that of this machine first
    /// (there is at least one); or why they cannot be read.
    pub variants: std::result::Result<Vec<Summary>, String>,
    /// Bytes of the contents of all its layers, of all these platforms.
    pub size: u64,
    /// Of these, bytes of layers that other images of the store have, too.
    pub shared_size: u64,
    /// Bytes of the compressed layers.
    pub compressed_size: u64,
}

impl Row {
    /// What its documents tell, for the platform that is shown.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn summary(&self) -> std::result::Result<&Summary, &str> {
        match &self.variants {
            Ok(variants) => variants.first().ok_or("it is stored for no platform"),
            Err(error) => Err(error),
        }
    }
}

/// What the documents of an image tell.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The image ID: the digest of the configuration.
    pub id: Digest,
    /// The manifest's descriptor.
    pub manifest: Descriptor,
    /// The configuration.
    pub config: ImageConfig,
    /// What it runs on.
    pub platform: Platform,
    /// Bytes of the contents of all layers.
    pub size: u64,
    /// Bytes of the compressed layers.
    pub compressed_size: u64,
    /// The layers, lowest first.
    pub layers: Vec<LayerDetails>,
}

/// A layer in its image.
#[derive(Clone, Debug)]
pub struct LayerDetails {
    /// As the manifest has it.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// Identifies this layer together with those below.
    pub chain_id: Option<ChainId>,
    /// What the store knows of it, if it is there.
    pub record: Option<LayerRecord>,
}

/// An entry of a multi-platform index.
#[derive(Clone, Debug)]
pub struct IndexEntry {
    /// As the index has it.
    pub descriptor: Descriptor,
    /// What it is.
    pub kind: EntryKind,
    /// Whether its manifest is in the store.
    pub is_stored: bool,
}

/// What an entry of an index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// The image of a platform.
    Image,
    /// A statement about an image, such as how it was built.
    Attestation {
        /// The manifest that it is about, if it says so.
        of: Option<Digest>,
    },
    /// Something else.
    Other,
}

/// All images, newest first as they were stored.
///
/// # Errors
/// What reading the store's index reports. A damaged image is listed as such.
pub fn list(store: &Store) -> Result<Vec<Row>> {
    let mut known: HashMap<Digest, std::result::Result<Vec<Summary>, String>> = HashMap::new();
    let mut records = store.images()?;
    for record in &records {
        known.entry(record.descriptor.digest).or_insert_with(|| {
            variants(store, record).map_err(|error| crate::cause::chain(&error))
        });
    }
    if known.values().any(std::result::Result::is_err) {
        // What was removed meanwhile is not damaged.
        let listed = store.images()?;
        records.retain(|record| listed.contains(record));
    }
    // How many images have each layer.
    let mut users: HashMap<DiffId, usize> = HashMap::new();
    for variants in known.values().flatten() {
        for layer in distinct(variants) {
            *users.entry(layer.diff_id).or_default() += 1;
        }
    }
    let mut rows = Vec::new();
    for record in records.into_iter().rev() {
        let variants = known.get(&record.descriptor.digest).cloned();
        let variants = variants.unwrap_or_else(|| Err("it is gone".to_owned()));
        let (mut size, mut shared_size, mut compressed_size) = (0_u64, 0_u64, 0_u64);
        for layer in variants.iter().flat_map(|variants| distinct(variants)) {
            let bytes = layer.record.as_ref().map_or(0, |r| r.content_bytes);
            size = size.saturating_add(bytes);
            if users.get(&layer.diff_id).is_some_and(|users| *users > 1) {
                shared_size = shared_size.saturating_add(bytes);
            }
            compressed_size = compressed_size.saturating_add(layer.descriptor.size);
        }
        rows.push(Row {
            record,
            variants,
            size,
            shared_size,
            compressed_size,
        });
    }
    Ok(rows)
}

/// The layers of all platforms, each once.
fn distinct(variants: &[Summary]) -> impl Iterator<Item = &LayerDetails> {
    let mut seen = HashSet::new();
    let layers = variants.iter().flat_map(|variant| &variant.layers);
    layers.filter(move |layer| seen.insert(layer.diff_id))
}

/// What the documents of an image tell, for each platform that it is stored for, that of this
/// machine first.
///
/// # Errors
/// What reading the store reports; [`super::Error::NotStoredFor`] when it is stored for none.
pub fn variants(store: &Store, record: &Record) -> Result<Vec<Summary>> {
    let found = find::load_all(store, record)?;
    found.iter().map(|found| summary(store, found)).collect()
}

/// The entries of an image's index; none for an image of one platform.
///
/// # Errors
/// What reading the index reports.
pub fn index_entries(store: &Store, image: &Descriptor) -> Result<Vec<IndexEntry>> {
    Ok(entries(&store.document(image)?, &|digest| {
        store.has_blob(digest)
    }))
}

/// The entries of an index, where `is_stored` knows which manifests are there.
#[must_use]
pub fn entries(document: &Document, is_stored: &dyn Fn(&Digest) -> bool) -> Vec<IndexEntry> {
    let Document::Index(index) = document else {
        return Vec::new();
    };
    let describe = |entry: &Descriptor| IndexEntry {
        descriptor: entry.clone(),
        kind: match attested(entry) {
            Some(of) => EntryKind::Attestation { of },
            None if entry.media_type.is_manifest() => EntryKind::Image,
            None => EntryKind::Other,
        },
        is_stored: is_stored(&entry.digest),
    };
    index.manifests.iter().map(describe).collect()
}

/// What the documents of an image tell.
///
/// # Errors
/// What reading the store reports.
pub fn summary(store: &Store, image: &Found) -> Result<Summary> {
    summarise(
        image.manifest_descriptor.clone(),
        &image.manifest,
        image.config.clone(),
        |diff_id| {
            let there = store.has_layer(diff_id);
            Ok(there.then(|| store.layer_record(diff_id)).transpose()?)
        },
    )
}

/// What documents tell; `record` says what is known of a layer.
pub(super) fn summarise(
    descriptor: Descriptor,
    manifest: &Manifest,
    config: ImageConfig,
    record: impl Fn(&DiffId) -> Result<Option<LayerRecord>>,
) -> Result<Summary> {
    let mut layers = Vec::new();
    let mut chain_id = None;
    for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
        chain_id = match chain_id {
            Some(below) => Some(ChainId::with(below, *diff_id)),
            None => ChainId::of(&[*diff_id]),
        };
        layers.push(LayerDetails {
            descriptor: descriptor.clone(),
            diff_id: *diff_id,
            chain_id,
            record: record(diff_id)?,
        });
    }
    let records = layers.iter().filter_map(|layer| layer.record.as_ref());
    let compressed = manifest.layers.iter().map(|layer| layer.size);
    Ok(Summary {
        id: manifest.config.digest,
        manifest: descriptor,
        platform: config.platform.clone(),
        config,
        size: records.map(|record| record.content_bytes).sum(),
        compressed_size: compressed.fold(0, u64::saturating_add),
        layers,
    })
}
