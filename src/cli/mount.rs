//! `plyfs mount`

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;

use super::failure::Failure;
use super::{Global, Result, complete, environment, output};
use crate::image::{self, Found};
use crate::mount::image::{ImageRequest, serving, serving_container, serving_snapshot};
use crate::mount::{self, Serving, Target, layers};
use crate::oci::Platform;
use crate::options::MountOptions;
use crate::store::{
    self, Container, ContainerRecord, LeaseKind, LeaseRecord, Store, is_container_name,
};

/// Mount an image, a container, or a union of directories
///
/// An image is mounted read-only. With --name what is changed is kept in a container of that name,
/// which is made of the image unless it is there. With -o lowerdir=A:B:C and no IMAGE the
/// directories are shown as one, A on top.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs mount alpine:3.20 /mnt
  plyfs mount --name web alpine:3.20 /mnt
  plyfs mount --name web /mnt
  plyfs mount -o lowerdir=/srv/new:/srv/base /mnt
  plyfs mount -o lowerdir=/srv/base,upperdir=/srv/changes,workdir=/srv/work /mnt

Options of -o, among others:
  data=auto|passthrough|cached   how file contents reach the kernel
  upperdir=DIR,workdir=DIR       where changes are kept, and prepared
  volatile                       nothing is made durable
  root=DIR,platform=OS/ARCH      as --root and --platform, for fstab
  allow_other                    let other users in (ordinary users; see /etc/fuse.conf)
  nosuid,nodev,noexec,noatime    as everywhere
  strict                         refuse options that are not known, instead of warning

docs/OPTIONS.md has them all.")]
pub struct Mount {
    /// The image; left out with -o lowerdir=, and with --name for a container that is there
    #[arg(value_name = "IMAGE", add = complete::images())]
    image: Option<OsString>,
    /// Where it appears
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The container that keeps what is changed
    #[arg(long, value_name = "CONTAINER", add = complete::containers())]
    name: Option<String>,
    /// Remove the container when it is unmounted; it must not be there yet
    #[arg(long, requires = "name")]
    rm: bool,
    /// Options, separated by commas
    #[arg(short, long = "options", value_name = "OPTIONS")]
    options: Vec<OsString>,
    /// Serve in this process, until it is interrupted or unmounted
    #[arg(short, long)]
    foreground: bool,
    /// The platform, of an image that is stored for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

impl Mount {
    /// What an image, or a container over it, is mounted with for a runtime.
    pub fn of(
        image: OsString,
        directory: PathBuf,
        name: Option<String>,
        rm: bool,
        options: Vec<OsString>,
        platform: Option<Platform>,
    ) -> Mount {
        Mount {
            image: Some(image),
            directory: Some(directory),
            name,
            rm,
            options,
            foreground: false,
            platform,
        }
    }

    pub fn run(self, global: &Global) -> Result<()> {
        let place = self
            .directory
            .as_deref()
            .or(self.image.as_deref().map(Path::new));
        mount::close_inherited(place.unwrap_or(Path::new("")))
            .map_err(|error| Failure::new("cannot close what was inherited", error))?;
        self.serve(global)
    }

    /// Mounts; the calling process has a single thread.
    pub fn serve(mut self, global: &Global) -> Result<()> {
        let options = MountOptions::parse(&self.options)
            .map_err(|error| Failure::usage(format!("cannot read the options: {error}")))?;
        for warning in &options.warnings {
            log::warn!("{warning}");
        }
        if let (None, Some(platform)) = (&self.platform, &options.platform) {
            self.platform = Some(utf8(platform)?.parse().map_err(Failure::usage)?);
        }
        if options.remount {
            return self.remount(&options);
        }
        let root = options.root.clone().or_else(|| global.root.clone());
        let global = &Global { root, ..*global };
        let serving = match &self.name {
            Some(_) if !options.lowers.is_empty() => {
                return Err(Failure::usage(
                    "--name is for images; lowerdir= goes with upperdir=",
                ));
            }
            Some(name) => self.container(global, name, options)?,
            None if options.lowers.is_empty() => self.image(global, options)?,
            None => self.layers(options)?,
        };
        let is_write_protected = serving.is_write_protected();
        let what = format!("cannot mount {}", serving.source.to_string_lossy());
        if self.foreground {
            mount::serve_foreground(serving)
        } else {
            mount::serve_detached(serving).map(drop)
        }
        .map_err(|error| Failure::new(what, error))?;
        if is_write_protected && !self.foreground {
            log::warn!("source write-protected, mounted read-only");
        }
        Ok(())
    }

    fn remount(&self, options: &MountOptions) -> Result<()> {
        let directory = self.directory.as_deref();
        let Some(directory) = directory.or(self.image.as_deref().map(Path::new)) else {
            return Err(Failure::usage("the directory of a mount is needed"));
        };
        let what = format!("cannot remount {}", directory.display());
        let writable =
            mount::remount(directory, options).map_err(|error| Failure::new(what, error))?;
        if !writable && options.read_only == Some(false) {
            log::warn!("source write-protected, mounted read-only");
        }
        Ok(())
    }

    /// The image of a snapshot, as containerd asks for it through the mount helper.
    fn snapshot(&self, global: &Global, number: u64, options: MountOptions) -> Result<Serving> {
        let Some(directory) = self.directory.as_deref() else {
            return Err(Failure::usage("a name to show and a directory are needed"));
        };
        let root = environment::store_root(global)?;
        let target = Target::from_path(directory);
        serving_snapshot(&root, number, target, options)
            .map_err(|error| failure(&format!("snapshot {number}"), error))
    }

    fn image(&self, global: &Global, options: MountOptions) -> Result<Serving> {
        if let Some(number) = options.snapshot {
            return self.snapshot(global, number, options);
        }
        let (Some(image), Some(directory)) = (&self.image, &self.directory) else {
            return Err(Failure::usage("an image and a directory are needed")
                .or_hint("plyfs mount IMAGE DIR, or plyfs mount -o lowerdir=A:B DIR"));
        };
        let name = utf8(image)?;
        let store = environment::open_store(global)?;
        let request = ImageRequest {
            name,
            platform: self.platform.as_ref(),
            target: Target::from_path(directory),
            options,
        };
        serving(store, request).map_err(|error| failure(name, error))
    }

    fn layers(&self, options: MountOptions) -> Result<Serving> {
        let directory = match (&self.image, &self.directory) {
            (Some(directory), None) => PathBuf::from(directory),
            (Some(_), Some(_)) => return Err(Failure::usage("lowerdir= goes without an image")),
            (None, _) => return Err(Failure::usage("a directory to mount on is needed")),
        };
        layers::serving(Target::from_path(&directory), options)
            .map_err(|error| Failure::new("cannot mount the layers", error))
    }

    fn container(&self, global: &Global, name: &str, options: MountOptions) -> Result<Serving> {
        if !is_container_name(name) {
            return Err(
                Failure::usage(format!("{name:?} cannot be the name of a container"))
                    .or_hint("letters, digits, '_', '.' and '-', and a letter or digit first"),
            );
        }
        let (image, directory) = match (&self.image, &self.directory) {
            (Some(image), Some(directory)) => (Some(utf8(image)?), directory.clone()),
            (Some(directory), None) => (None, PathBuf::from(directory)),
            (None, _) => return Err(Failure::usage("a directory to mount on is needed")),
        };
        let store = environment::open_store(global)?;
        let tried = format!("cannot mount container {name}");
        let failed = |error| Failure::new(&tried, error);
        store.remove_abandoned_containers().map_err(failed)?;
        let container = loop {
            match (store.container(name).map_err(failed)?, image) {
                (Some(_), _) if self.rm => {
                    let there = format!("{tried} with --rm: it is there already, and kept");
                    return Err(Failure::plain(there)
                        .or_hint(format!("plyfs container rm {name}, or leave --rm out")));
                }
                (Some(container), None) => break container,
                (Some(container), Some(image)) => {
                    break self.same_image(&store, container, image)?;
                }
                (None, Some(image)) => {
                    if let Some(container) = self.make(&store, name, image)? {
                        break container;
                    }
                }
                (None, None) => {
                    return Err(
                        Failure::plain(format!("{tried}: there is none of that name"))
                            .or_hint(format!("plyfs mount --name {name} IMAGE DIR makes it")),
                    );
                }
            }
        };
        let shown = container.record.image.clone();
        serving_container(store, container, Target::from_path(&directory), options)
            .map_err(|error| failure(&shown, error))
    }

    fn find(&self, store: &Store, image: &str) -> Result<Found> {
        image::find(store, image, self.platform.as_ref())
            .map_err(|error| Failure::of_image("mount", image, error))
    }

    /// Refuses to use a container for another image than its own.
    fn same_image(&self, store: &Store, container: Container, image: &str) -> Result<Container> {
        let found = self.find(store, image)?;
        let record = &container.record;
        if record.manifest_digest == found.manifest_descriptor.digest {
            return Ok(container);
        }
        let (name, theirs) = (&container.name, &record.image);
        let what = if found
            .record
            .reference
            .is_some_and(|r| r.to_string() == *theirs)
        {
            format!(
                "container {name} was made of an earlier {theirs} ({})",
                record.manifest_digest
            )
        } else {
            format!("container {name} was made of {theirs}, not of {image}")
        };
        Err(
            Failure::plain(format!("cannot mount container {name}: {what}"))
                .or_hint(format!("plyfs mount --name {name} DIR mounts it as it is")),
        )
    }

    /// Makes a container, unless somebody else does at the same time.
    fn make(&self, store: &Store, name: &str, image: &str) -> Result<Option<Container>> {
        let failed = |error| Failure::new(format!("cannot make container {name}"), error);
        let mut found = self.find(store, image)?;
        loop {
            let reference = found.record.reference.as_ref();
            let record = ContainerRecord {
                image: reference.map_or_else(|| found.id().to_string(), ToString::to_string),
                image_digest: found.record.descriptor.digest,
                manifest_digest: found.manifest_descriptor.digest,
                created: output::rfc3339(SystemTime::now()),
                ephemeral: self.rm,
            };
            let lease = store
                .lease(&LeaseRecord {
                    kind: LeaseKind::Mount,
                    pid: std::process::id(),
                    image: record.image.clone(),
                    mount_point: None,
                    digests: vec![record.image_digest, record.manifest_digest],
                })
                .map_err(failed)?;
            // From here on it stays; before, it may have been removed, or its name given to another.
            let kept = self.find(store, image)?;
            if kept.record.descriptor.digest == record.image_digest
                && kept.manifest_descriptor.digest == record.manifest_digest
            {
                let made = match store.create_container(name, record) {
                    Err(store::Error::ContainerExists(_)) => None,
                    made => Some(made.map_err(failed)?),
                };
                drop(lease);
                return Ok(made);
            }
            found = kept;
        }
    }
}

fn utf8(image: &OsStr) -> Result<&str> {
    let name = image.to_str();
    name.ok_or_else(|| Failure::usage("the name of an image is UTF-8"))
}

fn failure(image: &str, error: mount::Error) -> Failure {
    match error {
        mount::Error::Image(error) => Failure::of_image("mount", image, *error),
        error => Failure::new(format!("cannot mount {image}"), error),
    }
}
