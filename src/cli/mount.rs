//! `plyfs mount`

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use super::failure::Failure;
use super::{Global, Result, complete, environment};
use crate::image;
use crate::mount::image::{ImageRequest, serving, serving_manifest, serving_snapshot};
use crate::mount::{self, ContainerRequest, Prepared, Serving, Target, layers};
use crate::oci::Platform;
use crate::options::MountOptions;

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
  writable=fuse|kernel|auto      what a container is written through (root)
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
        let name = self.name.clone().or_else(|| options.name.clone());
        let prepared: Prepared = match &name {
            Some(_) if !options.lowers.is_empty() => {
                return Err(Failure::usage(
                    "--name is for images; lowerdir= goes with upperdir=",
                ));
            }
            Some(name) => self.container(global, name, options)?,
            None if options.lowers.is_empty() => self.image(global, options)?.into(),
            None => self.layers(options)?.into(),
        };
        let is_write_protected = prepared.is_write_protected();
        let what = format!("cannot mount {}", prepared.source().to_string_lossy());
        if self.foreground {
            prepared.mount_here()
        } else {
            prepared.mount_detached().map(drop)
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
        if let Some(manifest) = &options.manifest {
            let manifest = manifest.parse().map_err(Failure::usage)?;
            let root = environment::store_root(global)?;
            let target = Target::from_path(directory);
            return serving_manifest(&root, name, manifest, target, options)
                .map_err(|error| failure(name, error));
        }
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

    fn container(&self, global: &Global, name: &str, options: MountOptions) -> Result<Prepared> {
        let (image, directory) = match (&self.image, &self.directory) {
            (Some(image), Some(directory)) => (Some(utf8(image)?), directory.clone()),
            (Some(directory), None) => (None, PathBuf::from(directory)),
            (None, _) => return Err(Failure::usage("a directory to mount on is needed")),
        };
        let store = environment::open_store(global)?;
        let request = ContainerRequest {
            name,
            image,
            platform: self.platform.as_ref(),
            ephemeral: self.rm,
            target: Target::from_path(&directory),
            options,
            helper: helper(),
        };
        mount::prepare_container(store, request).map_err(|error| unprepared(name, image, error))
    }
}

/// This program, to mount an image for the containers that share it.
pub fn helper() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("plyfs").arg("mount");
    command
}

fn unprepared(name: &str, image: Option<&str>, error: mount::Error) -> Failure {
    let tried = format!("cannot mount container {name}");
    match (error, image) {
        (error @ mount::Error::ContainerName(_), _) => Failure::usage(error.chain())
            .or_hint("letters, digits, '_', '.' and '-', and a letter or digit first"),
        (error @ mount::Error::NoContainer, _) => Failure::new(tried, error)
            .or_hint(format!("plyfs mount --name {name} IMAGE DIR makes it")),
        (error @ mount::Error::ContainerKept, _) => {
            Failure::new(format!("{tried} with --rm"), error)
                .or_hint(format!("plyfs container rm {name}, or leave --rm out"))
        }
        (error @ mount::Error::OtherImage(_), _) => Failure::new(tried, error)
            .or_hint(format!("plyfs mount --name {name} DIR mounts it as it is")),
        (mount::Error::Image(error), image) => match (*error, image) {
            (image::Error::Store(error), _) => Failure::new(tried, error),
            (error, Some(image)) => Failure::of_image("mount", image, error),
            (error, None) => Failure::new(tried, error),
        },
        (error, _) => Failure::new(tried, error),
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
