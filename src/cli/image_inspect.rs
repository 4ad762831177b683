//! `plyfs image inspect`

use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::{Map, Value, json};

use super::access::Access;
use super::failure::{Failure, each};
use super::template::Template;
use super::{Global, Result, complete, environment, listing, output};
use crate::image::{self, EntryKind, IndexEntry, Summary};
use crate::oci::{Config, Descriptor, Platform, Reference};
use crate::registry::Location;
use crate::store::{Record, Store};

/// What Docker says of a time that there is not.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Tell everything about images, as JSON
///
/// The names are those of docker image inspect; each layer has all its digests: as distributed
/// (compressed), diffID and chainID.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs image inspect alpine
  plyfs image inspect --format '{{.Architecture}} {{index .RepoTags 0}}' alpine
  plyfs image inspect --format '{{json .Config.Env}}' alpine
  plyfs image inspect --remote --platform linux/arm64 ghcr.io/own/app:1
  plyfs image inspect alpine | jq -r '.[0].Layers[].Digest'")]
pub struct ImageInspect {
    /// Names, digests or IDs
    #[arg(required = true, value_name = "IMAGE", add = complete::images())]
    images: Vec<String>,
    /// json (on one line), or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// The platform, of an image that is stored for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Look where the image comes from, without pulling it; all that pull reads can be named
    #[arg(long)]
    remote: bool,
    #[command(flatten)]
    access: Access,
}

impl ImageInspect {
    pub fn run(self, global: &Global) -> Result<()> {
        if self.access.is_given() && !self.remote {
            let why = "--insecure, --authfile and --cert-dir go with --remote";
            return Err(Failure::usage(why));
        }
        let template = match self.format.as_deref().map(str::trim) {
            None | Some("" | "json") => None,
            Some(text) => Some(listing::parse(text)?),
        };
        let store = match self.remote {
            true => None,
            false => Some(environment::open_store(global)?),
        };
        let mut described = Vec::new();
        let found = each(&self.images, |name| {
            let value = match &store {
                Some(store) => describe(store, name, self.platform.as_ref()),
                None => self.look_up(name),
            };
            let value = value.map_err(|error| Failure::of_image("image inspect", name, error))?;
            match &template {
                Some(template) => print(template, &value),
                None => {
                    described.push(value);
                    Ok(())
                }
            }
        });
        if template.is_none() && (!described.is_empty() || found.is_ok()) {
            match self.format.as_deref() {
                Some(format) if !format.trim().is_empty() => output::json_line(&described)?,
                _ => output::json(&described)?,
            }
        }
        found
    }

    fn look_up(&self, name: &str) -> image::Result<Value> {
        let location = Location::parse(name)?;
        let source = location.open(&self.access.settings())?;
        let platform = self.platform.as_ref();
        let remote = image::look_up(source.as_ref(), &location.manifest_name(), platform)?;
        let (mut tags, mut digests) = (Vec::new(), Vec::new());
        if let Location::Registry(reference) = &location {
            tags.extend(reference.tag().map(|_| reference.familiar()));
            digests.push(reference.with_digest(remote.descriptor.digest).familiar());
        }
        let facts = Facts {
            tags,
            digests,
            tagged: None,
            descriptor: &remote.descriptor,
            entries: &remote.entries,
            summary: &remote.summary,
        };
        Ok(facts.to_json(None))
    }
}

fn print(template: &Template, value: &Value) -> Result<()> {
    output::line(&template.render(value).map_err(listing::wrong)?)
}

fn describe(store: &Store, name: &str, platform: Option<&Platform>) -> image::Result<Value> {
    let found = image::find(store, name, platform)?;
    let summary = image::summary(store, &found)?;
    let descriptor = &found.record.descriptor;
    let mut records = store.images()?;
    records.retain(|record| record.descriptor.digest == descriptor.digest);
    let (tags, digests) = names(&records);
    let tagged = records.iter().filter_map(|record| record.tagged).max();
    let facts = Facts {
        tags,
        digests,
        tagged: tagged.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        descriptor,
        entries: &image::index_entries(store, descriptor)?,
        summary: &summary,
    };
    Ok(facts.to_json(Some(store)))
}

/// The tags of an image, and its digest in each of their repositories.
fn names(records: &[Record]) -> (Vec<String>, Vec<String>) {
    let (mut tags, mut digests) = (Vec::new(), Vec::new());
    for record in records {
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
    (tags, digests)
}

/// All that is told of an image.
struct Facts<'a> {
    tags: Vec<String>,
    digests: Vec<String>,
    /// When it got its last name, if that is known.
    tagged: Option<SystemTime>,
    descriptor: &'a Descriptor,
    entries: &'a [IndexEntry],
    summary: &'a Summary,
}

impl Facts<'_> {
    /// Docker's fields, then ours. Without a store nothing is known of what layers hold.
    fn to_json(&self, store: Option<&Store>) -> Value {
        let summary = self.summary;
        let image = &summary.config;
        let chain = summary.layers.last().and_then(|layer| layer.chain_id);
        let driver = store.zip(chain).map(|(store, chain)| {
            json!({
                "Name": "plyfs",
                "Data": { "Chain": store.chain_path(&chain).display().to_string() },
            })
        });
        let comment = image
            .history
            .last()
            .and_then(|step| step.comment.as_deref());
        let diff_ids = &image.rootfs.diff_ids;
        json!({
            "Id": summary.id,
            "RepoTags": self.tags,
            "RepoDigests": self.digests,
            "Parent": "",
            "Comment": comment.unwrap_or_default(),
            "Created": image.created,
            "Author": image.author.as_deref().unwrap_or_default(),
            "Config": config(&image.config),
            "Architecture": summary.platform.architecture,
            "Variant": summary.platform.variant.as_deref().unwrap_or_default(),
            "Os": summary.platform.os,
            "OsVersion": summary.platform.os_version.as_deref().unwrap_or_default(),
            "Size": store.map(|_| summary.size),
            "CompressedSize": summary.compressed_size,
            "GraphDriver": driver,
            "Metadata": { "LastTagTime": self.tagged.map_or_else(|| NEVER.to_owned(), output::rfc3339) },
            "RootFS": { "Type": "layers", "Layers": diff_ids },
            "Descriptor": self.descriptor,
            "Manifest": summary.manifest,
            "Manifests": self.entries.iter().map(entry).collect::<Vec<_>>(),
            "Layers": layers(summary),
            "History": image.history,
        })
    }
}

/// How to run an image, with every field that a template may ask for.
fn config(config: &Config) -> Value {
    let empty = |keys: &std::collections::BTreeSet<String>| {
        let pair = |key: &String| (key.clone(), json!({}));
        keys.iter().map(pair).collect::<Map<String, Value>>()
    };
    let mut value = json!({
        "Cmd": config.cmd,
        "Entrypoint": config.entrypoint,
        "Env": config.env,
        "ExposedPorts": empty(&config.exposed_ports),
        "Labels": config.labels,
        "OnBuild": null,
        "StopSignal": config.stop_signal.as_deref().unwrap_or_default(),
        "User": config.user,
        "Volumes": empty(&config.volumes),
        "WorkingDir": config.working_dir,
    });
    if let Some(fields) = value.as_object_mut() {
        let other = config.other.iter();
        fields.extend(other.map(|(key, value)| (key.clone(), value.clone())));
    }
    value
}

/// An entry of a multi-platform index.
fn entry(entry: &IndexEntry) -> Value {
    let (kind, of) = match entry.kind {
        EntryKind::Image => ("image", None),
        EntryKind::Attestation { of } => ("attestation", of),
        EntryKind::Other => ("unknown", None),
    };
    let platform = entry.descriptor.platform.as_ref();
    json!({
        "Kind": kind,
        "Digest": entry.descriptor.digest,
        "Size": entry.descriptor.size,
        "Platform": platform.map(ToString::to_string),
        "Attests": of,
        "Stored": entry.is_stored,
    })
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
