//! `plyfs image rm`

use std::time::SystemTime;

use clap::Args;

use super::failure::{Failure, each};
use super::{Global, Result, environment, output};
use crate::cause;
use crate::image::{self, RemoveRequest};
use crate::store::ObjectKind;

/// Remove images, or names of images
///
/// Layers go when no image uses them any more.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs image rm alpine:3.19
  plyfs image rm 1d34ffeaf190")]
pub struct ImageRm {
    /// Names, digests or IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove all names of an ID, and images that are mounted (what a mount needs stays until it
    /// ends)
    #[arg(short, long)]
    force: bool,
}

impl ImageRm {
    pub fn run(self, global: &Global) -> Result<()> {
        let store = environment::open_store(global)?;
        each(&self.images, |name| {
            let request = RemoveRequest {
                name,
                force: self.force,
            };
            let removed = image::remove(&store, &request, SystemTime::now())
                .map_err(|error| failure(name, error))?;
            for reference in &removed.untagged {
                output::line(&format!("Untagged: {}", reference.familiar()))?;
            }
            if let Some(id) = removed.deleted {
                output::line(&format!("Deleted: {id}"))?;
            }
            let swept = match removed.swept {
                Ok(swept) => swept,
                Err(error) => {
                    let why = cause::chain(&error);
                    log::warn!("nothing could be collected: {why} (plyfs check tells more)");
                    return Ok(());
                }
            };
            for object in swept.objects.iter().filter(|o| o.kind == ObjectKind::Layer) {
                output::line(&format!("Deleted: {}", object.digest))?;
            }
            Ok(())
        })
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
            Some("plyfs image ls lists what is".to_owned())
        }
        _ => None,
    };
    let failure = Failure::new(format!("cannot remove {name}"), error);
    match hint {
        Some(hint) => failure.or_hint(hint),
        None => failure,
    }
}
