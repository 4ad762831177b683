//! `plyfs upgrade`

use std::path::{Path, PathBuf};

use clap::Args;

use super::Result;
use super::failure::{Failure, each};
use crate::mount::{self, upgrade};

/// Let this version of plyfs serve live mounts
///
/// Whoever uses such a mount notices nothing: open and mapped files stay, and what is asked meanwhile is answered a
/// moment later. Mounts of images, which cannot change, are taken over; all others (containers that are written
/// to, unions of directories, mounts in the foreground) go on with the program that made them, until they are
/// mounted again. If this version cannot serve a mount, it stays with the one that does.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs upgrade /mnt
  plyfs upgrade --all")]
pub struct Upgrade {
    /// The mount points
    #[arg(
        value_name = "DIR",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    directories: Vec<PathBuf>,
    /// All mounts of images that this user has made, or of everybody for root
    #[arg(short, long)]
    all: bool,
}

impl Upgrade {
    pub fn run(self) -> Result<()> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::new("cannot tell where this program is", error))?;
        let directories = if self.all { all()? } else { self.directories };
        each(&directories, |directory| {
            upgrade::upgrade(directory, &program).or_else(|error| match error {
                mount::Error::NotHeld if self.all => {
                    let place = directory.display();
                    log::info!("{place} goes on with the program that mounted it: {error}");
                    Ok(())
                }
                error => Err(failure(directory, error)),
            })
        })
    }
}

fn failure(directory: &Path, error: mount::Error) -> Failure {
    let hint = match error {
        mount::Error::Upgrade(_) => Some("it goes on with the program that serves it"),
        mount::Error::NotHeld => Some("unmount it, and mount it again"),
        mount::Error::NotYours { .. } => Some("upgrade it as that user, or as root"),
        _ => None,
    };
    let failure = Failure::new(format!("cannot upgrade {}", directory.display()), error);
    match hint {
        Some(hint) => failure.or_hint(hint),
        None => failure,
    }
}

/// One place of each mount that this user may ask for.
fn all() -> Result<Vec<PathBuf>> {
    let mounts = mount::mounts().map_err(|error| Failure::new("cannot list the mounts", error))?;
    let user = nix::unistd::geteuid();
    let mut seen = Vec::new();
    let mut places = Vec::new();
    for mount in mounts {
        let is_ours = user.is_root() || mount.user_id() == Some(user.as_raw());
        if is_ours && !seen.contains(&mount.device) {
            seen.push(mount.device);
            places.push(mount.point);
        }
    }
    Ok(places)
}
