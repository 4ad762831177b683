//! What can be told of the images in the store.

use crate::oci::{ChainId, Descriptor, DiffId, Digest, ImageConfig, Platform};
use crate::store::{LayerRecord, Record, Store};

use super::{Found, Result, find};

/// A line of the list of images.
#[derive(Clone, Debug)]
pub struct Row {
    /// As the store lists it.
    pub record: Record,
    /// Its documents, or why they cannot be read.
    pub summary: std::result::Result<Summary, String>,
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

/// All images, newest first as they were stored.
///
/// # Errors
/// What reading the store's index reports. A damaged image is listed as such.
pub fn list(store: &Store) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for record in store.images()?.into_iter().rev() {
        let summary = find::load(store, record.clone(), None)
            .and_then(|found| summary(store, &found))
            .map_err(|error| crate::cause::chain(&error));
        rows.push(Row { record, summary });
    }
    Ok(rows)
}

/// What the documents of an image tell.
///
/// # Errors
/// What reading the store reports.
pub fn summary(store: &Store, image: &Found) -> Result<Summary> {
    let mut layers = Vec::new();
    let mut chain_id = None;
    for (descriptor, diff_id) in image
        .manifest
        .layers
        .iter()
        .zip(&image.config.rootfs.diff_ids)
    {
        chain_id = match chain_id {
            Some(below) => Some(ChainId::with(below, *diff_id)),
            None => ChainId::of(&[*diff_id]),
        };
        let record = if store.has_layer(diff_id) {
            Some(store.layer_record(diff_id)?)
        } else {
            None
        };
        layers.push(LayerDetails {
            descriptor: descriptor.clone(),
            diff_id: *diff_id,
            chain_id,
            record,
        });
    }
    let records = layers.iter().filter_map(|layer| layer.record.as_ref());
    Ok(Summary {
        id: image.id(),
        manifest: image.manifest_descriptor.clone(),
        config: image.config.clone(),
        platform: image.config.platform.clone(),
        size: records.map(|record| record.content_bytes).sum(),
        compressed_size: image
            .manifest
            .layers
            .iter()
            .fold(0, |sum, layer| sum.saturating_add(layer.size)),
        layers,
    })
}
