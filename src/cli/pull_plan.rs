//! `plyfs pull --dry-run`: what would be fetched.

use serde_json::{Value, json};

use super::{Result, output};
use crate::image::{EntryKind, IndexEntry, Plan, PlannedLayer};

/// Prints what pulling `name` would do.
pub fn print(name: &str, plan: &Plan) -> Result<()> {
    output::line(&format!("{name}: {}", plan.descriptor.digest))?;
    for image in &plan.images {
        output::line(&format!("{} {}", image.platform, image.manifest.digest))?;
        for layer in &image.layers {
            let (digest, size) = (layer.descriptor.digest.short(), layer.descriptor.size);
            let state = match layer {
                _ if layer.is_stored => "Already exists".to_owned(),
                _ if layer.received == size => "Stored, would be unpacked again".to_owned(),
                _ if layer.received > 0 => format!(
                    "Would go on at {} of {}",
                    output::size(layer.received),
                    output::size(size)
                ),
                _ => format!("Would be fetched: {}", output::size(size)),
            };
            output::line(&format!("{digest}: {state}"))?;
        }
    }
    for entry in &plan.entries {
        if let EntryKind::Attestation { of } = entry.kind {
            let of = of.map_or_else(String::new, |of| format!(" of {}", of.short()));
            let digest = entry.descriptor.digest;
            let state = match plan.attestations.get(&digest) {
                None => "not pulled without --platform all".to_owned(),
                Some(0) => "already exists".to_owned(),
                Some(missing) => format!("would be fetched: {}", output::size(*missing)),
            };
            let digest = digest.short();
            output::line(&format!("{digest}: Attestation{of}, {state}"))?;
        }
    }
    let bytes = output::size(plan.fetched_bytes);
    output::line(&format!("Would fetch: {bytes} (nothing was pulled)"))
}

/// The same for programs.
pub fn json(name: &str, plan: &Plan) -> Value {
    let layer = |layer: &PlannedLayer| {
        json!({
            "Digest": layer.descriptor.digest,
            "CompressedSize": layer.descriptor.size,
            "Exists": layer.is_stored,
            "Received": layer.received,
        })
    };
    let images: Vec<Value> = plan
        .images
        .iter()
        .map(|image| {
            json!({
                "Digest": image.manifest.digest,
                "Platform": image.platform.to_string(),
                "Layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
            })
        })
        .collect();
    let attestation = |entry: &&IndexEntry| matches!(entry.kind, EntryKind::Attestation { .. });
    let attestations = plan.entries.iter().filter(attestation);
    let attestations: Vec<_> = attestations.map(|entry| entry.descriptor.digest).collect();
    json!({
        "Name": name,
        "Digest": plan.descriptor.digest,
        "Images": images,
        "Attestations": attestations,
        "FetchedBytes": plan.fetched_bytes,
    })
}
