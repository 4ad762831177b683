//! `plyfs import`

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

use clap::Args;

use super::failure::Failure;
use super::{Global, Result, environment, output};
use crate::image::{self, ImportRequest, ImportSource};
use crate::oci::{Config, Platform, Reference};
use crate::pack::{Limits, Skipped};

/// Make an image of one layer from a root file system
///
/// The source is a tar archive (plain, gzip or zstd), a directory, or - for standard input.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs import rootfs.tar.gz base:1
  debootstrap stable tree && plyfs import tree debian:mine
  ssh host tar -C / -c --one-file-system . | plyfs import - host:today")]
pub struct Import {
    /// An archive, a directory, or -
    #[arg(value_name = "FILE|DIR|-")]
    source: OsString,
    /// The name of the image
    #[arg(value_name = "REFERENCE")]
    name: Option<Reference>,
    /// A remark for its history
    #[arg(short, long)]
    message: Option<String>,
    /// What it runs on, if not this machine's platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

impl Import {
    pub fn run(self, global: &Global) -> Result<()> {
        let shown = self.source.to_string_lossy().into_owned();
        let cannot = format!("cannot import {shown}");
        let store = environment::create_store(global)?;
        let path = Path::new(&self.source);
        let source = if self.source == "-" {
            ImportSource::Archive(Box::new(std::io::stdin()))
        } else {
            let file = File::open(path).map_err(|error| Failure::new(&cannot, error))?;
            let metadata = file
                .metadata()
                .map_err(|error| Failure::new(&cannot, error))?;
            if metadata.is_dir() {
                ImportSource::Directory(path)
            } else {
                ImportSource::Archive(Box::new(file))
            }
        };
        let created = output::rfc3339(output::creation_time()?);
        let request = ImportRequest {
            source,
            described: &shown,
            name: self.name.as_ref(),
            platform: self.platform.unwrap_or_else(Platform::host),
            config: Config::default(),
            created: &created,
            message: self.message.as_deref(),
            limits: &Limits::default(),
        };
        let imported =
            image::import(&store, request).map_err(|error| Failure::new(&cannot, error))?;
        for skipped in &imported.skipped {
            match skipped {
                Skipped::Socket(path) => log::warn!("left out {path}: it is a socket"),
                Skipped::Excluded(path) => log::warn!("left out {path}: it is the store"),
            }
        }
        output::line(&imported.id.to_string())
    }
}
