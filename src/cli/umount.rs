//! `plyfs umount`

use std::path::PathBuf;

use clap::Args;

use super::Result;
use super::failure::Failure;
use crate::mount;

/// Unmount what plyfs mounted
#[derive(Args)]
#[command(after_help = "\
Example:
  plyfs umount /mnt")]
pub struct Umount {
    /// The mount points
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// Hide the mount at once, and end it when its last file is closed
    #[arg(short, long)]
    lazy: bool,
}

impl Umount {
    pub fn run(self) -> Result<()> {
        for directory in &self.directories {
            mount::unmount(directory, self.lazy).map_err(|error| {
                let busy = matches!(error, mount::Error::Busy { .. });
                let failure =
                    Failure::new(format!("cannot unmount {}", directory.display()), error);
                if busy {
                    failure.or_hint("plyfs umount --lazy, or end what uses it")
                } else {
                    failure
                }
            })?;
        }
        Ok(())
    }
}
