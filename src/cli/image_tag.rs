//! `plyfs image tag`

use clap::Args;

use super::failure::Failure;
use super::{Global, Result, complete, environment};
use crate::image;
use crate::oci::Reference;

/// Give an image further names
///
/// A name that another image had goes over to this one; the other stays, as <none>, if it has no
/// further name.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs image tag alpine:3.20 alpine:current
  plyfs image tag 1d34ffeaf190 registry.example/app:1 registry.example/app:latest")]
pub struct ImageTag {
    /// A name, digest or ID
    #[arg(value_name = "IMAGE", add = complete::images())]
    source: String,
    /// The new names: all are given, or none
    #[arg(required = true, value_name = "NAME[:TAG]")]
    targets: Vec<Reference>,
}

impl ImageTag {
    pub fn run(self, global: &Global) -> Result<()> {
        let store = environment::open_store(global)?;
        match image::tag(&store, &self.source, &self.targets) {
            Ok(_) => Ok(()),
            Err(error @ image::Error::TagWithDigest { .. }) => Err(Failure::usage(format!(
                "cannot tag {}: {error}",
                self.source
            ))),
            Err(error) => Err(Failure::of_image("tag", &self.source, error)),
        }
    }
}
