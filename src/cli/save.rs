//! `plyfs save`

use std::ffi::OsString;

use clap::{Args, ValueHint};

use super::failure::Failure;
use super::out_file::{Compress, OutFile, compression_of};
use super::platforms::{Asked, Wanted};
use super::{Global, Result, complete, environment, progress};
use crate::image::Saving;
use crate::sys::process;

/// Write images into an archive
///
/// The archive is an OCI layout, and what docker save writes, in one: docker load, podman load, skopeo
/// and plyfs load read it. Layers stay compressed as they came, so that every digest stays. A name
/// without a tag means all tags of its repository. Of an image for several platforms all are saved that
/// are stored.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs save -o alpine.tar alpine:3.20
  plyfs save -o tools.tar.zst debian:12 python:3.12
  plyfs save debian | ssh host docker load")]
pub struct Save {
    /// Names, digests or IDs
    #[arg(required = true, value_name = "IMAGE", add = complete::images())]
    images: Vec<String>,
    /// The file to write; - for standard output. It appears when it is complete
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<OsString>,
    /// Save only these platforms of images for several
    #[arg(
        long = "platform",
        value_name = "OS/ARCH[/VARIANT]|all",
        value_delimiter = ','
    )]
    platforms: Vec<Wanted>,
    /// Compress the archive as a whole; without it the name of the file decides (.tar.gz, .tar.zst)
    #[arg(long, value_name = "HOW")]
    compress: Option<Compress>,
}

impl Save {
    pub fn run(self, global: &Global) -> Result<()> {
        let cannot = format!("cannot save {}", self.images.join(", "));
        let store = environment::open_store(global)?;
        // All blobs are open at once.
        if let Err(error) = process::raise_open_files() {
            log::debug!("no more files can be open at once: {error}");
        }
        let platforms = match Asked::of(&self.platforms) {
            Asked::Each(platforms) => platforms,
            Asked::All => Vec::new(),
        };
        let mut saving = Saving::default();
        for name in &self.images {
            let added = saving.add(&store, name, &platforms);
            added.map_err(|error| Failure::of_image("save", name, error))?;
        }
        let name = self.output.as_deref();
        let mut out = OutFile::create(name, &cannot)?;
        let compression = match self.compress {
            Some(compress) => compress.into(),
            None => compression_of(name),
        };
        let bar = progress::Bar::new("Saving", Some(saving.size()));
        let written = out.fill(compression, |out| {
            Ok::<(), anyhow::Error>(saving.write(out, &|done| bar.set(done))?)
        });
        bar.finish();
        written.map_err(|error: anyhow::Error| out.failure(&cannot, error))
    }
}
