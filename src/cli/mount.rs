//! `plyfs mount`

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use super::{Global, Result, environment};
use crate::mount::image::{ImageRequest, serving};
use crate::mount::{self, Target, layers};
use crate::oci::Platform;
use crate::options::MountOptions;

/// Mount an image, or a union of directories
///
/// With -o lowerdir=A:B:C and no IMAGE the directories are shown as one, A on top.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs mount alpine:3.20 /mnt
  plyfs mount -o lowerdir=/srv/new:/srv/base /mnt
  plyfs mount --foreground -o data=passthrough debian /mnt

Options of -o, among others:
  data=auto|passthrough|cached   how file contents reach the kernel
  allow_other                    let other users in (ordinary users; see /etc/fuse.conf)
  nosuid,nodev,noexec,noatime    as everywhere
  strict                         refuse options that are not known, instead of warning")]
pub struct Mount {
    /// The image; left out with -o lowerdir=
    #[arg(value_name = "IMAGE")]
    image: Option<OsString>,
    /// Where it appears
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
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
    pub fn run(self, global: &Global) -> Result<()> {
        let options = MountOptions::parse(&self.options)
            .map_err(|error| Failure::usage(format!("cannot read the options: {error}")))?;
        for warning in &options.warnings {
            log::warn!("{warning}");
        }
        let serving = if options.lowers.is_empty() {
            let (Some(image), Some(directory)) = (&self.image, &self.directory) else {
                return Err(Failure::usage("an image and a directory are needed")
                    .or_hint("plyfs mount IMAGE DIR, or plyfs mount -o lowerdir=A:B DIR"));
            };
            let name = image
                .to_str()
                .ok_or_else(|| Failure::usage("the name of an image is UTF-8"))?;
            let store = environment::open_store(global)?;
            let target = Target::from_path(directory);
            let platform = self.platform.as_ref();
            serving(
                store,
                ImageRequest {
                    name,
                    platform,
                    target,
                    options,
                },
            )
            .map_err(|error| Failure::of_image("mount", name, error))?
        } else {
            let directory = match (self.image, self.directory) {
                (Some(directory), None) => PathBuf::from(directory),
                (Some(_), Some(_)) => {
                    return Err(Failure::usage("lowerdir= goes without an image"));
                }
                (None, _) => return Err(Failure::usage("a directory to mount on is needed")),
            };
            layers::serving(Target::from_path(&directory), options)
                .map_err(|error| Failure::new("cannot mount the layers", error))?
        };
        let what = format!("cannot mount {}", serving.source.to_string_lossy());
        if self.foreground {
            mount::serve_foreground(serving).map_err(|error| Failure::new(what, error))
        } else {
            mount::serve_detached(serving)
                .map(drop)
                .map_err(|error| Failure::new(what, error))
        }
    }
}
