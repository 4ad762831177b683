//! `plyfs umount`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::Result;
use super::failure::{Failure, each};
use crate::mount;

/// How long a daemon may take to end after its mount is gone.
const PATIENCE: Duration = Duration::from_secs(10);

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
        each(&self.directories, |directory| {
            let server = mount::server_of(directory).unwrap_or_else(|error| {
                log::debug!("cannot tell which process serves it: {}", error.chain());
                None
            });
            mount::unmount(directory, self.lazy).map_err(|error| {
                let hint = hint(&error);
                let failure =
                    Failure::new(format!("cannot unmount {}", directory.display()), error);
                match hint {
                    Some(hint) => failure.or_hint(hint),
                    None => failure,
                }
            })?;
            if let Some(server) = server.filter(|server| !self.lazy && !ends(server)) {
                log::warn!(
                    "a copy of the mount on {} is left, in another mount namespace or bound elsewhere: process {} \
                     serves it on, and has in use what it had",
                    directory.display(),
                    server.pid
                );
            }
            Ok(())
        })
    }
}

fn hint(error: &mount::Error) -> Option<String> {
    match error {
        mount::Error::Busy { .. } => Some("plyfs umount --lazy, or end what uses it".into()),
        mount::Error::NotYours { user_id: 0, .. } => Some("unmount it as root".into()),
        mount::Error::NotYours { .. } => Some("unmount it as that user, or as root".into()),
        _ => None,
    }
}

/// Waits until a server has given back what it held, so that the image can be removed, or the upper
/// directory used again, at once. `false` if it does not.
fn ends(server: &mount::Server) -> bool {
    let started = Instant::now();
    while server.is_there() {
        if started.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}
