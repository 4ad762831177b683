//! `plyfs image rm`

use std::time::SystemTime;

use clap::Args;
use serde_json::json;

use super::failure::{Failure, each};
use super::glob::Pattern;
use super::{Global, Result, complete, environment, output};
use crate::cause;
use crate::image::{self, Removal, RemoveRequest};
use crate::oci::Digest;
use crate::store::{ObjectKind, Record, Store, Swept};

/// Remove images, or names of images
///
/// An image goes with its last name, its layers when no image uses them any more. An image that a
/// container or a mount uses stays.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs image rm alpine:3.19
  plyfs image rm 1d34ffeaf190
  plyfs image rm --dry-run 'ghcr.io/own/*:*'")]
pub struct ImageRm {
    /// Names, digests, IDs or the beginnings of IDs; a pattern (with * or ?) takes every name that
    /// is like it
    #[arg(required = true, value_name = "IMAGE", add = complete::images())]
    images: Vec<String>,
    /// Remove all names of an ID, and images that are in use (what a mount or container needs stays
    /// until it ends)
    #[arg(short, long)]
    force: bool,
    /// Only tell what would be removed, and the bytes that this would free
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// For scripts written for docker: there are no untagged parents that could be kept
    #[arg(long, hide = true)]
    no_prune: bool,
}

impl ImageRm {
    pub fn run(self, global: &Global) -> Result<()> {
        let store = environment::open_store(global)?;
        let mut told = Told {
            json: self.json,
            ..Told::default()
        };
        let removed = match self.dry_run {
            true => self.plan(&store, &mut told),
            false => each(&self.images, |image| {
                let names = meant(&store, image, &[])?;
                each(&names, |name| self.remove(&store, name, &mut told))
            }),
        };
        if self.json {
            output::json(&json!({
                "Untagged": told.untagged,
                "Deleted": told.deleted,
                "DryRun": self.dry_run,
                "ReclaimedBytes": told.bytes,
            }))?;
        }
        removed
    }

    fn remove(&self, store: &Store, name: &str, told: &mut Told) -> Result<()> {
        let removed = image::remove(store, &self.request(name), SystemTime::now())
            .map_err(|error| failure(name, error))?;
        told.removal(&removed.removal)?;
        match removed.swept {
            Ok(swept) => told.swept(&swept),
            Err(error) => {
                let why = cause::chain(&error);
                log::warn!("nothing could be collected: {why} (plyfs check tells more)");
                Ok(())
            }
        }
    }

    fn request<'a>(&self, name: &'a str) -> RemoveRequest<'a> {
        RemoveRequest {
            name,
            force: self.force,
        }
    }

    /// Tells what removing all of these would do.
    fn plan(&self, store: &Store, told: &mut Told) -> Result<()> {
        let mut gone: Vec<Record> = Vec::new();
        let planned = each(&self.images, |image| {
            let names = meant(store, image, &gone)?;
            each(&names, |name| {
                let removal = image::plan_removal(store, &self.request(name), &gone)
                    .map_err(|error| failure(name, error))?;
                told.removal(&removal)?;
                gone.extend(removal.gone);
                Ok(())
            })
        });
        let garbage = store
            .garbage_without(&gone)
            .map_err(|error| Failure::new("cannot tell what would be freed", error))?;
        told.swept(&garbage)?;
        let bytes = output::size(garbage.bytes);
        told.line(&format!("Would free: {bytes} (nothing was removed)"))?;
        planned
    }
}

/// The names that an argument means: of a pattern all that are like it, but for those in `gone`.
fn meant(store: &Store, image: &str, gone: &[Record]) -> Result<Vec<String>> {
    if !Pattern::is_pattern(image) {
        return Ok(vec![image.to_owned()]);
    }
    let pattern = Pattern::parse(image)
        .ok_or_else(|| Failure::usage(format!("{image:?} is not a pattern of names")))?;
    let failed = |error| Failure::new(format!("cannot remove {image}"), error);
    let mut records = store.images().map_err(failed)?;
    records.retain(|record| !gone.contains(record));
    let names = records.into_iter().filter_map(|record| record.reference);
    let like: Vec<String> = names
        .filter(|name| pattern.matches(&name.familiar()) || pattern.matches(&name.to_string()))
        .map(|name| name.familiar())
        .collect();
    match like.is_empty() {
        false => Ok(like),
        true => Err(
            Failure::plain(format!("cannot remove {image}: no name is like it"))
                .or_hint("plyfs image ls lists what is there"),
        ),
    }
}

/// What is told of a removal: in lines at once, or all together at the end.
#[derive(Default)]
struct Told {
    json: bool,
    untagged: Vec<String>,
    /// IDs of images and diffIDs of layers.
    deleted: Vec<Digest>,
    bytes: u64,
}

impl Told {
    fn removal(&mut self, removal: &Removal) -> Result<()> {
        for reference in removal.untagged.iter().chain(&removal.digests) {
            self.line(&format!("Untagged: {}", reference.familiar()))?;
            self.untagged.push(reference.familiar());
        }
        self.deleted(removal.deleted)
    }

    fn swept(&mut self, swept: &Swept) -> Result<()> {
        self.bytes = self.bytes.saturating_add(swept.bytes);
        let layers = swept.objects.iter();
        let layers = layers.filter(|object| object.kind == ObjectKind::Layer);
        self.deleted(layers.map(|layer| layer.digest))
    }

    fn deleted(&mut self, digests: impl IntoIterator<Item = Digest>) -> Result<()> {
        for digest in digests {
            self.line(&format!("Deleted: {digest}"))?;
            self.deleted.push(digest);
        }
        Ok(())
    }

    fn line(&self, text: &str) -> Result<()> {
        match self.json {
            true => Ok(()),
            false => output::line(text),
        }
    }
}

fn failure(name: &str, error: image::Error) -> Failure {
    let hint = match &error {
        image::Error::Mounted { mount_point, .. } => Some(format!(
            "plyfs umount {mount_point}, or plyfs image rm --force {name}"
        )),
        image::Error::UsedByContainer { name: container } => Some(format!(
            "plyfs container rm {container}, or plyfs image rm --force {name}"
        )),
        image::Error::SeveralNames { .. } => {
            Some("remove them one by one, or all with --force".to_owned())
        }
        image::Error::NotStored | image::Error::Misspelt { .. } => {
            Some("plyfs image ls lists what is there".to_owned())
        }
        _ => None,
    };
    let failure = Failure::new(format!("cannot remove {name}"), error);
    match hint {
        Some(hint) => failure.or_hint(hint),
        None => failure,
    }
}
