//! `plyfs image inspect`

use clap::Args;
use serde_json::{Value, json};

use super::failure::{Failure, each};
use super::{Global, Result, environment, output};
use crate::image::{self, Summary};
use crate::oci::{Platform, Reference};
use crate::store::Store;

/// Tell everything about images, as JSON
///
/// The names are those of docker image inspect; each layer has all its digests.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs image inspect alpine
  plyfs image inspect alpine | jq -r '.[0].Layers[].Digest'")]
pub struct ImageInspect {
    /// Names, digests or IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The platform, of an image that is stored for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

impl ImageInspect {
    pub fn run(self, global: &Global) -> Result<()> {
        let store = environment::open_store(global)?;
        let mut described = Vec::new();
        let found = each(&self.images, |name| {
            let value = describe(&store, name, self.platform.as_ref())
                .map_err(|error| Failure::of_image("image inspect", name, error))?;
            described.push(value);
            Ok(())
        });
        if !described.is_empty() || found.is_ok() {
            output::json(&described)?;
        }
        found
    }
}

fn describe(store: &Store, name: &str, platform: Option<&Platform>) -> image::Result<Value> {
    let found = image::find(store, name, platform)?;
    let summary = image::summary(store, &found)?;
    let mut tags = Vec::new();
    let mut digests = Vec::new();
    for record in store.images()? {
        if record.descriptor.digest != found.record.descriptor.digest {
            continue;
        }
        if let Some(reference) = &record.reference
            && reference.tag().is_some()
        {
            tags.push(reference.familiar());
        }
        if let Some(repository) = &record.repository {
            let reference: std::result::Result<Reference, _> = repository.parse();
            let familiar = reference.map_or_else(|_| repository.clone(), |r| r.familiar_name());
            let digest = format!("{familiar}@{}", record.descriptor.digest);
            if !digests.contains(&digest) {
                digests.push(digest);
            }
        }
    }
    Ok(json!({
        "Id": summary.id,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": summary.config.created,
        "Author": summary.config.author.clone().unwrap_or_default(),
        "Config": summary.config.config,
        "Architecture": summary.platform.architecture,
        "Variant": summary.platform.variant,
        "Os": summary.platform.os,
        "Size": summary.size,
        "CompressedSize": summary.compressed_size,
        "RootFS": { "Type": "layers", "Layers": summary.config.rootfs.diff_ids },
        "Descriptor": found.record.descriptor,
        "Manifest": summary.manifest,
        "Layers": layers(&summary),
        "History": summary.config.history,
    }))
}

/// The layers with all their digests, lowest first.
fn layers(summary: &Summary) -> Vec<Value> {
    let describe = |layer: &image::LayerDetails| {
        json!({
            "Digest": layer.descriptor.digest,
            "MediaType": layer.descriptor.media_type,
            "CompressedSize": layer.descriptor.size,
            "DiffId": layer.diff_id,
            "ChainId": layer.chain_id,
            "UncompressedSize": layer.record.as_ref().map(|record| record.uncompressed_bytes),
            "Size": layer.record.as_ref().map(|record| record.content_bytes),
            "Entries": layer.record.as_ref().map(|record| record.entries),
        })
    };
    summary.layers.iter().map(describe).collect()
}
