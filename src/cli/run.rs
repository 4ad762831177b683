//! `plyfs run`

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::container_spec::{self, Circumstances, ContainerArguments};
use super::failure::Failure;
use super::runtime::{NOT_STARTED, Runtime};
use super::{Global, Result, complete, container_image, environment, mount_points, rootless};
use crate::mount;
use crate::oci::{ImageConfig, Rights, RuntimeSpec};
use crate::options::WritableLayer;

/// How long the server of a container may take to end when that is over.
const PATIENCE: Duration = Duration::from_secs(10);

/// Run a command in a container of an image, with runc or crun
///
/// The image is pulled if it is not stored. What is changed is kept in a container, which `plyfs
/// container ls` lists and --name runs again; --rm removes it at the end. The container shares the
/// network of the machine; there is no other. An ordinary user is root of the container, with the
/// other users from /etc/subuid and /etc/subgid.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs run --rm alpine:3.20 cat /etc/os-release
  plyfs run --rm -it -v ./src:/src -w /src python:3 bash
  plyfs run --name web -e PORT=8000 example.org/web

Exit status: that of the command; 125 when it could not be started, 126 and 127 when the command
cannot be run or is not there. Signals are handed on to it.")]
pub struct Run {
    #[command(flatten)]
    arguments: ContainerArguments,
    /// Remove the container at the end
    #[arg(long)]
    rm: bool,
    /// What the container is written through: fuse, kernel (root) or auto
    #[arg(long, value_name = "LAYER")]
    writable: Option<WritableLayer>,
    /// Give the container a terminal
    #[arg(short, long)]
    tty: bool,
    /// Let the container read our input
    #[arg(short, long)]
    interactive: bool,
    /// The OCI runtime
    #[arg(long, value_name = "PROGRAM")]
    runtime: Option<PathBuf>,
    /// The image, and what is run instead of its command
    #[arg(
        required = true,
        value_names = ["IMAGE", "COMMAND"],
        trailing_var_arg = true,
        allow_hyphen_values = true,
        add = complete::images()
    )]
    image: Vec<OsString>,
}

impl Run {
    pub fn run(self, global: &Global) -> Result<ExitCode> {
        self.start(global)
            .map(ExitCode::from)
            .map_err(|failure| failure.or_code(NOT_STARTED))
    }

    fn start(&self, global: &Global) -> Result<u8> {
        let [image, command @ ..] = self.image.as_slice() else {
            return Err(Failure::usage("an image is needed"));
        };
        if image.to_string_lossy().starts_with('-') {
            let image = image.to_string_lossy();
            return Err(Failure::usage(format!("there is no option {image}"))
                .or_hint("plyfs run --help; options of the command stand behind the image"));
        }
        if self.tty && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return Err(Failure::usage("--tty needs a terminal").or_hint("leave -t out"));
        }
        self.arguments.check()?;
        mount::close_inherited(Path::new(""))
            .map_err(|error| Failure::new("cannot close what was inherited", error))?;
        let runtime = Runtime::find(self.runtime.as_deref())?;
        // Root of a user namespace would look for it elsewhere.
        let root = environment::store_root(global)?;
        let global = &Global {
            root: Some(fs::canonicalize(&root).unwrap_or(root)),
            ..*global
        };
        let found = container_image::find(global, &self.arguments, image, true)?;
        let signals = Runtime::take_signals()?;
        let place = Place::make()?;
        let container = match &self.arguments.name {
            Some(name) => name.clone(),
            None => unused_name()?,
        };
        let mut rights = rootless::rights();
        let mut options = Vec::new();
        if let Some(writable) = self.writable {
            options.push(format!("writable={}", writable.as_str()).into());
        }
        if let Rights::Plain { .. } = rights {
            rootless::enter().map_err(|error| {
                Failure::new("cannot make a user namespace", error)
                    .or_hint("the administrator may have forbidden it; root needs none")
            })?;
            rights = Rights::Namespace;
            // As the same user's other mounts keep them: owners of files that nobody can be given.
            options.push("xattr_permissions=2".into());
        }
        let kept = Some(container.clone());
        let rm = self.rm;
        container_image::mount(
            global,
            &self.arguments,
            image,
            kept,
            rm,
            &place.rootfs(),
            options,
        )?;
        let spec = self.spec(&found.config, command, &place, rights)?;
        let store = environment::open_store(global)?;
        mount_points::make(&store, &container, &place.rootfs(), &spec.mounts)?;
        container_spec::write(&spec, &place.bundle)?;
        let result = runtime.run(
            &place.bundle,
            &container,
            self.interactive || self.tty,
            &signals,
        );
        runtime.delete(&place.bundle, &container);
        result
    }

    fn spec(
        &self,
        image: &ImageConfig,
        command: &[OsString],
        place: &Place,
        rights: Rights,
    ) -> Result<RuntimeSpec> {
        let around = Circumstances {
            rootfs: &place.rootfs(),
            rights,
            terminal: self.tty,
            writable: true,
        };
        self.arguments.spec(image, command, &around)
    }
}

/// A bundle that goes away with its value, and the mount in it.
struct Place {
    bundle: PathBuf,
}

impl Place {
    fn make() -> Result<Place> {
        let parent = std::env::temp_dir();
        let template = parent.join("plyfs-run.XXXXXX");
        let cannot = |error: io::Error| {
            Failure::new(
                format!("cannot make a bundle in {}", parent.display()),
                error,
            )
        };
        let bundle = nix::unistd::mkdtemp(&template).map_err(|errno| cannot(errno.into()))?;
        let place = Place { bundle };
        fs::create_dir(place.rootfs()).map_err(cannot)?;
        Ok(place)
    }

    fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let rootfs = self.rootfs();
        let server = mount::server_of(&rootfs).unwrap_or_default();
        let unmounted = mount::unmount(&rootfs, false).or_else(|error| match error {
            mount::Error::Busy { .. } => mount::unmount(&rootfs, true),
            mount::Error::NotMounted { .. } => Ok(()),
            error => Err(error),
        });
        if let Err(error) = unmounted {
            log::warn!("the container stays mounted: {}", error.chain());
            return;
        }
        // A container with --rm is gone when its server is.
        let started = Instant::now();
        while server.as_ref().is_some_and(mount::Server::is_there) && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Never the tree below a mount: what is not empty stays.
        let left = fs::remove_dir(&rootfs).and_then(|()| fs::remove_dir_all(&self.bundle));
        if let Err(error) = left {
            log::warn!("{} stays: {error}", self.bundle.display());
        }
    }
}

/// A name for a container that was given none.
fn unused_name() -> Result<String> {
    let mut bytes = [0; 6];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(|error| Failure::new("cannot name the container", error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
