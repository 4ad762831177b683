//! Makes an image of what a container changed: its image, and a layer on top.

use std::io::Write;

use crate::oci::{Config, Descriptor, Digest, History, ImageConfig, MediaType, Reference};
use crate::pack::{Compression, Limits};
use crate::store::Store;

use super::made::{MadeImage, MadeLayer, WriteError, archive, publish};
use super::{Found, Result};

/// What to make an image of.
pub struct CommitRequest<'a> {
    /// The image below.
    pub base: &'a Found,
    /// The name of the new one; without one it becomes a dangling image.
    pub name: Option<&'a Reference>,
    /// How to run it.
    pub config: Config,
    /// The time of its making, RFC 3339.
    pub created: &'a str,
    /// How it was made, for its history.
    pub created_by: &'a str,
    /// Who made it.
    pub author: Option<&'a str>,
    /// A remark for its history.
    pub message: Option<&'a str>,
    /// How the layer is compressed.
    pub compression: Compression,
    /// What the layer may ask for.
    pub limits: &'a Limits,
    /// Is told how many bytes of the layer were archived.
    pub told: &'a (dyn Fn(u64) + Sync),
}

/// An image that was made.
#[derive(Clone, Debug)]
pub struct Committed<T> {
    /// Its ID: the digest of its configuration.
    pub id: Digest,
    /// What archiving its layer gave.
    pub archived: T,
}

/// Makes an image whose topmost layer is what `write` archives; it is in the store when this returns.
///
/// # Errors
/// [`super::Error`]; then the store is as it was.
pub fn commit<T: Send>(
    store: &Store,
    request: CommitRequest<'_>,
    write: impl FnOnce(&mut dyn Write) -> std::result::Result<T, WriteError> + Send,
) -> Result<Committed<T>> {
    let staging = store.staging()?;
    let (compression, limits) = (request.compression, request.limits);
    let (packed, blob, archived) = archive(&staging, compression, limits, request.told, write)?;
    let layer = MadeLayer::packed(store, &staging, &packed, blob)?;
    drop(packed);
    let base = request.base;
    let author = request.author.map(str::to_owned);
    let mut config = ImageConfig {
        created: Some(request.created.to_owned()),
        author: author.clone(),
        config: request.config,
        ..base.config.clone()
    };
    config.rootfs.diff_ids.push(layer.diff_id);
    config.history.push(History {
        created: Some(request.created.to_owned()),
        author,
        created_by: Some(request.created_by.to_owned()),
        comment: request.message.map(str::to_owned),
        empty_layer: false,
    });
    let mut annotations = vec![
        (
            "org.opencontainers.image.created",
            request.created.to_owned(),
        ),
        (
            "org.opencontainers.image.base.digest",
            base.manifest_descriptor.digest.to_string(),
        ),
    ];
    if let Some(reference) = &base.record.reference {
        let key = "org.opencontainers.image.base.name";
        annotations.push((key, reference.to_string()));
    }
    let image = MadeImage {
        config: &config,
        below: base.manifest.layers.iter().map(in_oci_terms).collect(),
        layer: &layer,
        annotations,
        name: request.name,
    };
    let id = publish(store, &staging, image)?;
    Ok(Committed { id, archived })
}

/// A layer as an OCI manifest describes it: Docker's types mean the same, and mixing both is refused
/// by some tools.
fn in_oci_terms(layer: &Descriptor) -> Descriptor {
    use MediaType::{
        DockerForeignLayer, DockerForeignLayerGzip, DockerLayer, DockerLayerGzip, DockerLayerZstd,
        OciForeignLayer, OciForeignLayerGzip, OciLayer, OciLayerGzip, OciLayerZstd,
    };
    let media_type = match &layer.media_type {
        DockerLayer => OciLayer,
        DockerLayerGzip => OciLayerGzip,
        DockerLayerZstd => OciLayerZstd,
        DockerForeignLayer => OciForeignLayer,
        DockerForeignLayerGzip => OciForeignLayerGzip,
        other => other.clone(),
    };
    Descriptor {
        media_type,
        ..layer.clone()
    }
}
