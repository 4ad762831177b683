//! Leases: what live processes need from the store.
//!
//! A pull leases what it is about to refer to, a mount what it serves. The lease is a small file
//! that its owner keeps locked; the kernel drops the lock with the process, so a lease never
//! outlives its owner, whatever ends it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::reserve::{self, Reserved};
use super::{Error, Result, Store, StoreLock, files};
use crate::oci::Digest;

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseKind {
    /// A pull or import in progress.
    Pull,
    /// An image that is being loaded or made: nothing of it is kept when that is interrupted.
    Make,
    /// A live mount.
    Mount,
    /// A check of everything: nothing is removed meanwhile.
    Check,
}

/// What a lease says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseRecord {
    /// What for.
    pub kind: LeaseKind,
    /// The process that holds it.
    pub pid: u32,
    /// The image as people know it.
    pub image: String,
    /// Where it is mounted, escaped as text; of mounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<String>,
    /// Digests that must stay: of blobs, layers (diffIDs) and chains alike. A manifest keeps what
    /// it refers to.
    pub digests: Vec<Digest>,
}

/// A lease whose owner has ended.
#[derive(Debug)]
pub(super) struct EndedLease {
    pub(super) path: PathBuf,
    pub(super) modified: SystemTime,
    /// What it says, if it was that of a pull.
    pub(super) pull: Option<LeaseRecord>,
}

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    pub(super) live: Vec<LeaseRecord>,
    pub(super) ended: Vec<EndedLease>,
}

/// A lease, held until dropped, or until the last process that inherited it ends.
#[derive(Debug)]
pub struct Lease {
    file: File,
    path: PathBuf,
}

impl Lease {
    fn write(&mut self, record: &LeaseRecord) -> Result<()> {
        let bytes = serde_json::to_vec(record).map_err(|error| Error::json(error, &self.path))?;
        // Nothing is given up before the new record is written: the disk may be full.
        let written = self
            .file
            .rewind()
            .and_then(|()| self.file.write_all(&bytes))
            .and_then(|()| self.file.set_len(bytes.len() as u64));
        written.map_err(|error| Error::io(error, "writing", &self.path))
    }

    /// Ends the lease and removes its file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn end(self) -> Result<()> {
        files::remove_if_there(&self.path)
    }
}

impl Store {
    /// Takes a lease. Whoever looks for garbage afterwards keeps what it names.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn lease(&self, record: &LeaseRecord) -> Result<Lease> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        // A sweep that is under way has read the leases already; wait until it is over.
        let _lock = self.lock()?;
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!("leases/{}-{count}.json", std::process::id());
            let path = self.root().join(name);
            let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::io(error, "making", &path)),
            };
            file.lock()
                .map_err(|error| Error::io(error, "locking", &path))?;
            let mut lease = Lease { file, path };
            match lease.write(record) {
                Err(Error::Io { source, .. }) if reserve::is_full(&source) => {
                    // A pull would find no space for anything else either.
                    let taken = match record.kind {
                        LeaseKind::Pull | LeaseKind::Make => Ok(None),
                        _ => reserve::take(self.root(), Reserved::Lease, &lease.path),
                    };
                    match taken.map_err(|error| Error::io(error, "making", &lease.path))? {
                        Some(file) => lease.file = file,
                        None => {
                            files::remove_if_there(&lease.path)?;
                            return Err(Error::io(source, "writing", &lease.path));
                        }
                    }
                    lease.write(record)?;
                }
                written => written?,
            }
            return Ok(lease);
        }
    }

    /// Replaces what a lease says.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn update_lease(&self, lease: &mut Lease, record: &LeaseRecord) -> Result<()> {
        // Readers hold the lock too, so they never see half a record.
        let _lock = self.lock()?;
        lease.write(record)
    }

    /// The leases whose owners live.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`].
    pub fn leases(&self) -> Result<Vec<LeaseRecord>> {
        let lock = self.lock()?;
        self.leases_under(&lock)
    }

    /// As [`Store::leases`], for who holds the store's lock: no lease is taken meanwhile.
    ///
    /// # Errors
    /// As [`Store::leases`].
    pub fn leases_under(&self, lock: &StoreLock) -> Result<Vec<LeaseRecord>> {
        Ok(self.read_leases(lock)?.live)
    }

    /// Notes that something is about to become garbage: whoever sweeps or tidies up next looks for
    /// it, also if this process gets no further.
    ///
    /// # Errors
    /// [`Error::Io`], but for a full disk, on which something must be removed first.
    pub fn expect_garbage(&self) -> Result<()> {
        let path = self.root().join("leases/garbage");
        let noted = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .and_then(|file| file.sync_all());
        match noted {
            Err(error) if reserve::is_full(&error) => Ok(()),
            noted => noted.map_err(|error| Error::io(error, "making", &path)),
        }
    }

    /// All leases.
    pub(super) fn read_leases(&self, _lock: &StoreLock) -> Result<Leases> {
        let directory = self.root().join("leases");
        let entries = std::fs::read_dir(&directory)
            .map_err(|error| Error::io(error, "reading", &directory))?;
        let mut leases = Leases::default();
        for entry in entries {
            let path = entry
                .map_err(|error| Error::io(error, "reading", &directory))?
                .path();
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(error, "reading", &path)),
            };
            match file.try_lock_shared() {
                Ok(()) => match read(&mut file, &path) {
                    // Its owner was killed while writing it, or it is that of `expect_garbage`.
                    Err(Error::Json { .. }) => leases.ended.push(ended(file, path, None)?),
                    Err(error) => return Err(error),
                    Ok(record) => {
                        let pull = Some(record).filter(|record| record.kind == LeaseKind::Pull);
                        leases.ended.push(ended(file, path, pull)?);
                    }
                },
                Err(TryLockError::WouldBlock) => leases.live.push(read(&mut file, &path)?),
                Err(TryLockError::Error(error)) => return Err(Error::io(error, "locking", &path)),
            }
        }
        Ok(leases)
    }
}

fn ended(file: File, path: PathBuf, pull: Option<LeaseRecord>) -> Result<EndedLease> {
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    Ok(EndedLease {
        modified: modified.map_err(|error| Error::io(error, "reading", &path))?,
        path,
        pull,
    })
}

fn read(file: &mut File, path: &Path) -> Result<LeaseRecord> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|error| Error::io(error, "reading", path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::json(error, path))
}
