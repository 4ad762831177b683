//! `plyfs umount`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::failure::Failure;
use super::{Global, Result, environment};
use crate::mount;
use crate::store::{LeaseKind, Store};

/// How long a daemon may take to end after its mount is gone.
const PATIENCE: Duration = Duration::from_secs(2);

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
    pub fn run(self, global: &Global) -> Result<()> {
        for directory in &self.directories {
            let daemon = daemon_of(global, directory);
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
            if let Some((store, pid)) = daemon
                && !self.lazy
            {
                wait_for(&store, pid)?;
            }
        }
        Ok(())
    }
}

/// The process that serves the mount, if our store knows it.
fn daemon_of(global: &Global, directory: &Path) -> Option<(Store, u32)> {
    let store = Store::open(&environment::store_root(global).ok()?).ok()?;
    let mount_point = directory.canonicalize().ok()?.display().to_string();
    let leases = store.leases().ok()?;
    let lease = leases
        .iter()
        .find(|l| l.mount_point.as_ref() == Some(&mount_point))?;
    let pid = lease.pid;
    Some((store, pid))
}

/// Waits until a daemon has given its lease back, so that the image can be removed at once.
fn wait_for(store: &Store, pid: u32) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let leases = store
            .leases()
            .map_err(|e| Failure::new("cannot read the leases", e))?;
        if !leases
            .iter()
            .any(|lease| lease.pid == pid && lease.kind == LeaseKind::Mount)
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
