//! `plyfs pull`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::Args;

use super::failure::{Failure, each};
use super::{Global, Result, environment, interrupt, output, progress};
use crate::cause;
use crate::image::{self, PullRequest};
use crate::oci::{Platform, Reference};
use crate::pack::Limits;
use crate::registry::{DockerArchive, Location, ManifestName};

/// Layers received at the same time.
const PARALLEL: usize = 4;

/// Pull an image into the store
///
/// IMAGE is a reference as docker knows it (alpine, ghcr.io/owner/name:tag, name@sha256:...), or
/// oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:REF]. An interrupted pull goes on
/// where it stopped.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs pull alpine:3.20
  plyfs pull --platform linux/arm64 debian
  plyfs pull docker-archive:saved.tar --name app:1")]
pub struct Pull {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<OsString>,
    /// Pull the image of another platform than this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Print nothing but the full name
    #[arg(short, long)]
    quiet: bool,
    /// Do not verify certificates, and use plain HTTP where there is no TLS
    #[arg(long)]
    insecure: bool,
    /// Store the image under this name
    #[arg(long, value_name = "REFERENCE")]
    name: Option<Reference>,
}

impl Pull {
    pub fn run(self, global: &Global) -> Result<()> {
        if self.name.is_some() && self.images.len() > 1 {
            return Err(Failure::usage("--name goes with one image"));
        }
        for image in &self.images {
            refuse_file(image)?;
        }
        let store = environment::create_tidy_store(global)?;
        interrupt::explain(self.quiet);
        each(&self.images, |image| {
            let shown = image.to_string_lossy();
            self.pull(&store, image).map_err(|error| {
                if cause::is_full_disk(error.as_ref()) {
                    store.clear_trash();
                }
                match error.downcast::<std::io::Error>() {
                    Ok(error) => output::failed(error),
                    Err(error) => Failure::new(format!("cannot pull {shown}"), error),
                }
            })
        })
    }

    fn pull(&self, store: &crate::store::Store, image: &OsString) -> anyhow::Result<()> {
        let location = Location::parse(image)?;
        let source = location.open(&environment::registry_settings(self.insecure))?;
        let name = location.manifest_name();
        let store_as = match (&self.name, &location) {
            (Some(name), _) => Some(name.clone()),
            (None, Location::Registry(reference)) => Some(reference.clone()),
            // The names inside archives are full references, or at least tags of them.
            (None, _) => source_name(&location, &name)?,
        };
        let display = progress::Display::new(self.quiet);
        if let Location::Registry(reference) = &location {
            let tag = reference.tag().map_or_else(
                || {
                    reference
                        .digest()
                        .map(|digest| digest.to_string())
                        .unwrap_or_default()
                },
                str::to_owned,
            );
            display.line(&format!("{tag}: Pulling from {}", reference.repository()));
        } else {
            display.line(&format!("Pulling from {}", source.describe()));
        }
        let request = PullRequest {
            source: source.as_ref(),
            name: &name,
            store_as: store_as.as_ref(),
            platform: self.platform.as_ref(),
            limits: &Limits::default(),
            parallel: PARALLEL,
        };
        let result = image::pull(
            store,
            &request,
            &|event| display.event(&event),
            |manifest| display.start(&manifest.layers),
        );
        display.finish();
        let pulled = result?;
        let full = match &store_as {
            Some(reference) => reference.to_string(),
            None => pulled.descriptor.digest.to_string(),
        };
        if !self.quiet {
            let familiar = store_as
                .as_ref()
                .map_or_else(|| full.clone(), Reference::familiar);
            let status = if pulled.up_to_date {
                "Image is up to date"
            } else {
                "Downloaded newer image"
            };
            print(&format!("Digest: {}", pulled.descriptor.digest))?;
            print(&format!("Status: {status} for {familiar}"))?;
        }
        print(&full)
    }
}

/// Refuses the name of a file, which would be asked a registry for, or be no name at all.
fn refuse_file(image: &OsStr) -> Result<()> {
    let path = Path::new(image);
    let said = image.as_bytes();
    let like_a_path = [&b"/"[..], b"./", b"../"]
        .iter()
        .any(|start| said.starts_with(start));
    let archive = [".tar", ".tar.gz", ".tgz", ".tar.zst"];
    let like_an_archive = archive.iter().any(|end| said.ends_with(end.as_bytes()));
    if !path.exists() || !(like_a_path || like_an_archive) {
        return Ok(());
    }
    let shown = path.display();
    let (what, hint) = if path.is_dir() {
        (
            "a directory",
            format!(
                "plyfs pull oci:{shown} for an OCI layout, plyfs import {shown} for a root file system"
            ),
        )
    } else {
        (
            "a file",
            format!(
                "plyfs pull docker-archive:{shown} for saved images, plyfs import {shown} for a root file system"
            ),
        )
    };
    let why = format!("cannot pull {shown}: it is {what}, not the name of an image");
    Err(Failure::usage(why).or_hint(hint))
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// The name that an image from a layout or archive gets: its own, if that is a reference, or else
/// the name of the file with its tag.
fn source_name(location: &Location, name: &ManifestName) -> anyhow::Result<Option<Reference>> {
    let (Location::Layout(path, _)
    | Location::OciArchive(path, _)
    | Location::DockerArchive(path, _)) = location
    else {
        return Ok(None);
    };
    let tag = match name {
        ManifestName::Tag(tag) if tag.contains(['/', ':']) => return Ok(Some(tag.parse()?)),
        ManifestName::Tag(tag) => Some(tag),
        ManifestName::Default => match own_name(location)? {
            Some(name) => return Ok(Some(name)),
            None => None,
        },
        ManifestName::Digest(_) => return Ok(None),
    };
    let Some(stem) = Path::new(path).file_stem().and_then(|stem| stem.to_str()) else {
        return Ok(None);
    };
    let text = match tag {
        Some(tag) => format!("{stem}:{tag}"),
        None => stem.to_owned(),
    };
    let reference: std::result::Result<Reference, _> = text.to_lowercase().parse();
    reference.map(Some).map_err(|_| {
        anyhow::anyhow!("the image needs a name: {text:?} cannot be one (give one with --name)")
    })
}

/// The name that the first image of an archive has there.
fn own_name(location: &Location) -> anyhow::Result<Option<Reference>> {
    let Location::DockerArchive(path, _) = location else {
        return Ok(None);
    };
    let archive = DockerArchive::open(path)?;
    let name = archive.names().next();
    Ok(name.and_then(|name| name.parse().ok()))
}
