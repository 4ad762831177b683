//! Removes what processes left that have ended: every verb that writes begins with it.
//!
//! # Invariants
//! * What a live process uses is locked by it, and stays.
//! * What an interrupted pull can go on with stays for [`RESUMABLE`]: the prefixes of blobs, and
//!   the layers that it had finished. What was packed of an unfinished layer does not.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::garbage::{allocated_bytes, names};
use super::{Error, LeaseKind, Result, Store, files};

/// How long an interrupted pull is kept for whoever wants to go on with it.
pub(super) const RESUMABLE: Duration = Duration::from_secs(7 * 24 * 3600);

impl Store {
    /// Removes what ended processes left: parts of layers, temporary files, and what only mounts
    /// needed that are gone. It looks at little where nothing ended.
    ///
    /// # Errors
    /// [`Error::Io`], or what marking reports.
    pub fn tidy(&self, now: SystemTime) -> Result<()> {
        let lock = self.lock()?;
        self.sweep_ingests(now)?;
        let leases = self.read_leases(&lock)?;
        let ended = |kind| kind != LeaseKind::Pull;
        if leases.ended.iter().any(|lease| ended(lease.record.kind)) {
            self.sweep_locked(&lock, now, RESUMABLE)?;
        }
        drop(lock);
        self.empty_trash()?;
        self.keep_reserve()
    }

    /// Forgets that pulls of `image` were interrupted: what they fetched is part of an image now.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn forget_interrupted(&self, image: &str) -> Result<()> {
        let lock = self.lock()?;
        for lease in self.read_leases(&lock)?.ended {
            if lease.record.kind == LeaseKind::Pull && lease.record.image == image {
                files::remove_if_there(&lease.path)?;
            }
        }
        Ok(())
    }

    /// Removes what interrupted pulls could go on with, whatever its age; returns the bytes that
    /// this freed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn drop_interrupted(&self) -> Result<u64> {
        let lock = self.lock()?;
        let ingests = self.root().join("ingest");
        let before = allocated_bytes(&ingests)?;
        self.sweep_ingests_older(SystemTime::UNIX_EPOCH, Duration::ZERO)?;
        let after = allocated_bytes(&ingests)?;
        drop(lock);
        self.empty_trash()?;
        // A pull that goes on meanwhile receives more than is dropped, perhaps.
        Ok(before.saturating_sub(after))
    }

    pub(super) fn sweep_ingests(&self, now: SystemTime) -> Result<()> {
        self.sweep_ingests_older(now, RESUMABLE)
    }

    /// Removes ingests whose blob is at least `limit` old, of the others what was packed, and
    /// temporary files; all where nobody holds the lock. With a limit of zero the clock is nothing.
    fn sweep_ingests_older(&self, now: SystemTime, limit: Duration) -> Result<()> {
        let directory = self.root().join("ingest");
        for name in names(&directory)? {
            let path = directory.join(&name);
            if name.ends_with(files::TEMPORARY) {
                if let Ended::Yes(_held) = ended(&path)? {
                    self.trash(&path)?;
                }
                continue;
            }
            // The lock is held until the directory has left its place.
            let Ended::Yes(_held) = ended(&path.join("lock"))? else {
                continue;
            };
            let age = match std::fs::metadata(path.join("blob")) {
                Ok(blob) if blob.len() > 0 => {
                    blob.modified().map(|time| now.duration_since(time)).ok()
                }
                _ => None,
            };
            let keep = match age {
                Some(Ok(age)) => age < limit,
                // Made in what this clock takes for the future.
                Some(Err(_)) => !limit.is_zero(),
                None => false,
            };
            if keep {
                self.trash(&path.join("layer"))?;
            } else {
                self.trash(&path)?;
            }
        }
        Ok(())
    }
}

/// Whether the process has ended that had something locked.
enum Ended {
    /// It has; the lock is ours now, if there is one.
    Yes(#[allow(dead_code)] Option<File>),
    No,
}

fn ended(path: &Path) -> Result<Ended> {
    match File::open(path) {
        Ok(file) if file.try_lock().is_err() => Ok(Ended::No),
        Ok(file) => Ok(Ended::Yes(Some(file))),
        // Killed before it was locked for the first time, or done meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ended::Yes(None)),
        Err(error) => Err(Error::io(error, "opening", path)),
    }
}
