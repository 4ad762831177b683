//! Removes what processes left that have ended: every verb that writes begins with it.
//!
//! # Invariants
//! * What a live process uses is locked by it, and stays.
//! * What an interrupted pull can go on with stays for [`RESUMABLE`]: the prefixes of blobs, and
//!   the layers that it had finished. What was packed of an unfinished layer does not.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::garbage::names;
use super::{Error, LeaseRecord, Record, Result, Store, StoreLock, Usage, files};
use crate::oci::{ChainId, DiffId, Digest};

/// How long an interrupted pull is kept for whoever wants to go on with it.
pub(super) const RESUMABLE: Duration = Duration::from_secs(7 * 24 * 3600);

impl Store {
    /// Removes what ended processes left: parts of layers, temporary files, and what only mounts
    /// needed that are gone. It looks at little where nothing ended.
    ///
    /// # Errors
    /// [`Error::Io`], or what marking reports.
    pub fn tidy(&self, now: SystemTime) -> Result<()> {
        self.tidy_locked(self.lock()?, now)?;
        let emptied = self.empty_trash();
        self.keep_reserve()?;
        emptied
    }

    /// As [`Store::tidy`], but waits for nobody: what another process is at stays for the next time.
    ///
    /// # Errors
    /// As [`Store::tidy`].
    pub fn tidy_if_free(&self, now: SystemTime) -> Result<()> {
        let Some(lock) = self.try_lock()? else {
            return Ok(());
        };
        self.tidy_locked(lock, now)?;
        let emptied = self.empty_trash_if_free();
        self.keep_reserve()?;
        emptied
    }

    fn tidy_locked(&self, lock: StoreLock, now: SystemTime) -> Result<()> {
        self.sweep_ingests(now)?;
        let leases = self.read_leases(&lock)?;
        let mut may_be_garbage = false;
        for lease in leases.ended {
            match &lease.pull {
                None => may_be_garbage = true,
                Some(pull) if self.is_complete(pull)? => files::remove_if_there(&lease.path)?,
                Some(_) => {}
            }
        }
        if may_be_garbage {
            self.sweep_locked(&lock, now, RESUMABLE)?;
        }
        Ok(())
    }

    /// Whether a pull is none to go on with: it ended, or power was lost, when its image was listed.
    fn is_complete(&self, pull: &LeaseRecord) -> Result<bool> {
        let has = |digest: &Digest| {
            let (layer, chain) = (DiffId(*digest), ChainId(*digest));
            self.has_blob(digest) || self.has_layer(&layer) || self.has_chain(&chain)
        };
        let top = pull.digests.first();
        let is_listed = |image: &Record| Some(&image.descriptor.digest) == top;
        Ok(pull.digests.iter().all(has) && self.images()?.iter().any(is_listed))
    }

    /// Forgets that pulls of `image` were interrupted: what they fetched is part of an image now.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn forget_interrupted(&self, image: &str) -> Result<()> {
        let lock = self.lock()?;
        let of_image = |pull: &LeaseRecord| pull.image == image;
        for lease in self.read_leases(&lock)?.ended {
            if lease.pull.as_ref().is_some_and(of_image) {
                // The name may have stood for another image then.
                self.expect_garbage()?;
                files::remove_if_there(&lease.path)?;
            }
        }
        Ok(())
    }

    /// How much of blobs lies there for pulls to go on with, interrupted or running.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn interrupted_bytes(&self) -> Result<u64> {
        let directory = self.root().join("ingest");
        let mut bytes = 0;
        for name in names(&directory)? {
            let path = directory.join(name).join("blob");
            match std::fs::metadata(&path) {
                Ok(blob) => bytes += blob.len(),
                // Temporary files lie there, too.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) => {}
                Err(error) => return Err(Error::io(error, "reading", &path)),
            }
        }
        Ok(bytes)
    }

    /// Removes what interrupted pulls could go on with, whatever its age; returns the bytes that
    /// this freed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn drop_interrupted(&self) -> Result<u64> {
        let lock = self.lock()?;
        let ingests = self.root().join("ingest");
        let before = Usage::of_tree_if_there(&ingests)?.bytes;
        self.sweep_ingests_older(SystemTime::UNIX_EPOCH, Duration::ZERO)?;
        let after = Usage::of_tree_if_there(&ingests)?.bytes;
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
                if let Some(_held) = ended(&path)? {
                    self.trash(&path)?;
                }
                continue;
            }
            // The lock is held until the directory has left its place.
            let Some(_held) = abandoned(&path)? else {
                continue;
            };
            // Of a blob that is in the store no part is needed: power was lost before this was gone.
            let is_stored = |digest: Digest| self.has_blob(&digest);
            let is_stored = name.replacen('-', ":", 1).parse().is_ok_and(is_stored);
            let age = match std::fs::metadata(path.join("blob")) {
                Ok(blob) if blob.len() > 0 && !is_stored => {
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

/// The lock of something whose process has ended; it is ours now. `None` if the process lives, or
/// has done with it meanwhile.
fn ended(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => hold(file, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(error, "opening", path)),
    }
}

/// Locks a file, unless somebody else has it locked or has moved it away.
pub(super) fn hold(file: File, path: &Path) -> Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(Error::io(error, "locking", path)),
    }
    let there = files::is_at(&file, path).map_err(|error| Error::io(error, "reading", path))?;
    Ok(there.then_some(file))
}

/// The lock of an ingest that nobody works at.
fn abandoned(directory: &Path) -> Result<Option<File>> {
    let path = directory.join("lock");
    match File::open(&path) {
        Ok(file) => return hold(file, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(error, "opening", &path)),
    }
    // Its process was killed before it made the lock, or is about to. Nothing but the removal of an
    // empty directory is certain not to take from it what it has by now.
    match std::fs::remove_dir(directory) {
        Ok(()) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        Err(error) => return Err(Error::io(error, "removing", directory)),
    }
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    match file {
        Ok(file) => hold(file, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(error, "opening", &path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Manifest, MediaType};
    use crate::store::LeaseKind;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn regression_a_sweep_takes_no_ingest_from_who_works_at_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        store.sweep_ingests(SystemTime::now()).unwrap();
                    }
                });
            }
            for _ in 0..2000 {
                let ingest = store.ingest(&Digest::of(b"blob"), || ()).unwrap();
                let kept = ingest.open_blob().is_ok() && ingest.blob_path().exists();
                // sched_yield(2) gives up more than a turn since Linux 6.18: two that sweep would be first, each time.
                std::thread::sleep(Duration::from_micros(50));
                let kept = kept && ingest.blob_path().exists();
                if !kept {
                    done.store(true, Ordering::Relaxed);
                }
                assert!(kept, "the ingest was taken away");
                ingest.finish(&store).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn regression_an_ingest_without_a_lock_is_removed_only_by_who_locks_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        let empty = directory.path().join("ingest/sha256-00");
        std::fs::create_dir(&empty).unwrap();
        let full = directory.path().join("ingest/sha256-01");
        std::fs::create_dir(&full).unwrap();
        std::fs::write(full.join("layer"), b"").unwrap();
        store.sweep_ingests(SystemTime::now()).unwrap();
        assert!(!empty.exists() && !full.exists());
        // Only one of them was moved.
        assert_eq!(names(&directory.path().join("trash")).unwrap().len(), 1);
    }

    #[test]
    fn regression_a_mount_does_not_wait_for_a_sweep() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        let lock = store.lock().unwrap();
        store.tidy_if_free(SystemTime::now()).unwrap();
        drop(lock);
        let trash = directory.path().join("trash");
        std::fs::write(trash.join("left"), b"").unwrap();
        let held = File::open(&trash).unwrap();
        held.lock().unwrap();
        store.tidy_if_free(SystemTime::now()).unwrap();
        assert!(trash.join("left").exists());
        drop(held);
        store.tidy_if_free(SystemTime::now()).unwrap();
        assert!(!trash.join("left").exists());
    }

    /// A store with one image, whose manifest is its only blob.
    fn store_with_image(directory: &Path) -> (Store, Record) {
        let store = Store::create(directory).unwrap();
        let config = Descriptor::of(MediaType::from("application/x"), b"{}");
        let manifest = serde_json::to_vec(&Manifest::new(config, Vec::new())).unwrap();
        let descriptor = Descriptor::of(MediaType::OciManifest, &manifest);
        store.write_blob(&descriptor.digest, &manifest).unwrap();
        let image = Record::named("a:b".parse().unwrap(), descriptor);
        store.publish(&store.lock().unwrap(), image).unwrap();
        let image = store.images().unwrap().remove(0);
        (store, image)
    }

    fn pull_of(image: &Record, more: &[Digest]) -> LeaseRecord {
        LeaseRecord {
            kind: LeaseKind::Pull,
            pid: 1,
            image: "a:b".to_owned(),
            mount_point: None,
            digests: [&[image.descriptor.digest], more].concat(),
        }
    }

    fn leases(directory: &Path) -> usize {
        names(&directory.join("leases")).unwrap().len()
    }

    #[test]
    fn regression_what_a_killed_removal_left_goes_with_the_next_command() {
        let directory = tempfile::tempdir().unwrap();
        let (store, image) = store_with_image(directory.path());
        let lock = store.lock().unwrap();
        store.unpublish(&lock, &[image]).unwrap();
        // It is killed before it sweeps.
        drop(lock);
        assert_eq!(store.objects().unwrap().len(), 1);
        store.tidy(SystemTime::now()).unwrap();
        assert_eq!(
            (store.objects().unwrap().len(), leases(directory.path())),
            (0, 0)
        );
    }

    #[test]
    fn regression_a_lease_of_which_power_left_nothing_tells_of_garbage() {
        let directory = tempfile::tempdir().unwrap();
        let (store, image) = store_with_image(directory.path());
        let garbage = Digest::of(b"garbage");
        store.write_blob(&garbage, b"garbage").unwrap();
        std::fs::write(directory.path().join("leases/1-0.json"), b"").unwrap();
        store.tidy(SystemTime::now()).unwrap();
        assert!(!store.has_blob(&garbage) && store.has_blob(&image.descriptor.digest));
        assert_eq!(leases(directory.path()), 0);
    }

    #[test]
    fn regression_a_pull_that_listed_its_image_is_not_taken_for_interrupted() {
        let directory = tempfile::tempdir().unwrap();
        let (store, image) = store_with_image(directory.path());
        let missing = Digest::of(b"layer");
        for (record, left) in [(pull_of(&image, &[]), 0), (pull_of(&image, &[missing]), 1)] {
            drop(store.lease(&record).unwrap());
            store.tidy(SystemTime::now()).unwrap();
            assert_eq!(leases(directory.path()), left);
        }
    }

    #[test]
    fn regression_what_an_interrupted_pull_had_of_another_image_goes() {
        let directory = tempfile::tempdir().unwrap();
        let (store, image) = store_with_image(directory.path());
        let layer = Digest::of(b"layer");
        store.write_blob(&layer, b"layer").unwrap();
        drop(
            store
                .lease(&pull_of(&image, &[layer, Digest::of(b"missing")]))
                .unwrap(),
        );
        store.tidy(SystemTime::now()).unwrap();
        assert!(store.has_blob(&layer));
        // The name stands for another image now, which was pulled.
        store.forget_interrupted("a:b").unwrap();
        store.tidy(SystemTime::now()).unwrap();
        assert!(!store.has_blob(&layer));
    }

    #[test]
    fn regression_no_part_of_a_stored_blob_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        for (content, kept) in [(b"here", false), (b"part", true)] {
            let digest = Digest::of(content);
            let ingest = store.ingest(&digest, || ()).unwrap();
            std::fs::write(ingest.blob_path(), content).unwrap();
            let path = ingest.blob_path();
            drop(ingest);
            if !kept {
                store.write_blob(&digest, content).unwrap();
            }
            store.tidy(SystemTime::now()).unwrap();
            assert_eq!(path.exists(), kept);
        }
    }
}
