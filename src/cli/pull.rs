//! `plyfs pull`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::Args;
use serde_json::json;

use super::access::Access;
use super::failure::{Failure, each};
use super::platforms::{Asked, Wanted};
use super::{Global, Result, complete, environment, interrupt, output, progress, pull_plan};
use crate::cause;
use crate::image::{self, Plan, PullRequest};
use crate::oci::Reference;
use crate::pack::Limits;
use crate::registry::{DockerArchive, Layout, Location, ManifestName, Mirrored, Source};
use crate::store::Store;

/// Layers received at the same time.
pub const PARALLEL: usize = 4;

/// Pull images into the store
///
/// IMAGE is a reference as docker knows it (alpine, ghcr.io/owner/name:tag, name@sha256:...), or
/// oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:REF]. An interrupted pull goes on
/// where it stopped.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs pull alpine:3.20
  plyfs pull --dry-run alpine debian:12
  plyfs pull --platform linux/arm64 --platform linux/amd64 debian
  plyfs pull --platform all debian
  plyfs pull --all-tags registry.example/app
  plyfs pull docker-archive:saved.tar --name app:1")]
pub struct Pull {
    /// The images
    #[arg(required = true, value_name = "IMAGE", add = complete::images())]
    images: Vec<OsString>,
    /// Pull the image of another platform than this machine's; of several, or of all, with attestations
    #[arg(
        long = "platform",
        value_name = "OS/ARCH[/VARIANT]|all",
        value_delimiter = ','
    )]
    platforms: Vec<Wanted>,
    /// Pull every tag of the repositories
    #[arg(short, long, conflicts_with = "name")]
    all_tags: bool,
    /// Print nothing but the full name
    #[arg(short, long)]
    quiet: bool,
    /// Only tell what would be fetched
    #[arg(long)]
    dry_run: bool,
    /// Print nothing but JSON: an object for each image
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
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
        let store = match self.dry_run {
            true => environment::existing_store(global)?,
            false => Some(environment::create_tidy_store(global)?),
        };
        if !self.dry_run {
            interrupt::explain(self.quiet || self.json);
        }
        let images = match self.all_tags {
            true => self.tags()?,
            false => self.images.clone(),
        };
        each(&images, |image| {
            let shown = image.to_string_lossy();
            let failed = |error: anyhow::Error| match error.downcast::<std::io::Error>() {
                Ok(error) => output::failed(error),
                Err(error) => Failure::new(format!("cannot pull {shown}"), error),
            };
            match &store {
                Some(store) if !self.dry_run => self.pull(store, image).map_err(|error| {
                    if cause::is_full_disk(error.as_ref()) {
                        store.clear_trash();
                    }
                    failed(error)
                }),
                store => {
                    let plan = self.plan(store.as_ref(), image).map_err(failed)?;
                    match self.json {
                        true => output::json_line(&pull_plan::json(&shown, &plan)),
                        false => pull_plan::print(&shown, &plan),
                    }
                }
            }
        })
    }

    /// The images of all tags of the repositories that were named.
    fn tags(&self) -> Result<Vec<OsString>> {
        let settings = self.access.settings();
        let mut images = Vec::new();
        for image in &self.images {
            let shown = image.to_string_lossy();
            let cannot = format!("cannot pull all tags of {shown}");
            let location = Location::parse(image).map_err(|e| Failure::new(&cannot, e))?;
            let Location::Registry(reference) = location else {
                return Err(Failure::usage(format!(
                    "{cannot}: it is no repository of a registry"
                )));
            };
            let last = shown.rsplit('/').next().unwrap_or(&shown);
            if last.contains([':', '@']) {
                return Err(
                    Failure::usage(format!("{cannot}: it names one image")).or_hint(format!(
                        "plyfs pull --all-tags {}",
                        reference.familiar_name()
                    )),
                );
            }
            let tags = Mirrored::open(&settings, &reference).and_then(|source| source.tags());
            let mut tags = tags.map_err(|error| Failure::new(&cannot, error))?;
            tags.sort();
            if tags.is_empty() {
                return Err(Failure::plain(format!("{cannot}: it has none")));
            }
            for tag in tags {
                let tagged = reference
                    .with_tag(&tag)
                    .map_err(|e| Failure::new(&cannot, e))?;
                images.push(tagged.familiar().into());
            }
        }
        Ok(images)
    }

    fn plan(&self, store: Option<&Store>, image: &OsString) -> anyhow::Result<Plan> {
        let location = Location::parse(image)?;
        let source = location.open(&self.access.settings())?;
        let name = location.manifest_name();
        let limits = Limits::default();
        let request = request(source.as_ref(), &name, None, &limits);
        let platforms = Asked::of(&self.platforms);
        Ok(image::plan(store, &request, platforms.as_ref())?)
    }

    fn pull(&self, store: &Store, image: &OsString) -> anyhow::Result<()> {
        let location = Location::parse(image)?;
        let source = location.open(&self.access.settings())?;
        let name = location.manifest_name();
        let store_as = match (&self.name, &location) {
            (Some(name), _) => Some(name.clone()),
            (None, Location::Registry(reference)) => Some(reference.clone()),
            // The names inside archives are full references, or at least tags of them.
            (None, _) => source_name(&location, &name)?,
        };
        let display = progress::Display::new(self.quiet || self.json);
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
        let limits = Limits::default();
        let request = request(source.as_ref(), &name, store_as.as_ref(), &limits);
        let platforms = Asked::of(&self.platforms);
        let result = image::pull_platforms(
            store,
            &request,
            platforms.as_ref(),
            &|event| display.event(&event),
            &mut |part, manifest| {
                if platforms.is_several() {
                    display.line(&part.to_string());
                }
                display.start(&manifest.layers);
            },
        );
        display.finish();
        let pulled = result?;
        if self.json {
            let told = json!({
                "Name": store_as.as_ref().map(ToString::to_string),
                "Digest": pulled.descriptor.digest,
                "Manifest": pulled.manifest.digest,
                "UpToDate": pulled.up_to_date,
            });
            return print(&told.to_string());
        }
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

fn request<'a>(
    source: &'a dyn Source,
    name: &'a ManifestName,
    store_as: Option<&'a Reference>,
    limits: &'a Limits,
) -> PullRequest<'a> {
    PullRequest {
        source,
        name,
        store_as,
        platform: None,
        limits,
        parallel: PARALLEL,
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

/// The name that the image of a layout has there, or the first one of an archive.
fn own_name(location: &Location) -> anyhow::Result<Option<Reference>> {
    let name = match location {
        Location::DockerArchive(path, _) => {
            let archive = DockerArchive::open(path)?;
            archive.names().next().map(str::to_owned)
        }
        Location::OciArchive(path, _) => Layout::open_archive(path)?.own_name(),
        Location::Layout(path, _) => Layout::open(path)?.own_name(),
        Location::Registry(_) => None,
    };
    // One with a digest is no name for what may have another.
    let name = name.and_then(|name| name.parse::<Reference>().ok());
    Ok(name.filter(|name| name.digest().is_none()))
}
