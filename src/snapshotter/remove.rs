//! Removes snapshots, and what calls that were cut short have left.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::{Result, Snapshotter, served};

impl Snapshotter {
    /// Removes a snapshot with all that was written to it.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound);
    /// [`Error::FailedPrecondition`](super::Error::FailedPrecondition) when others build on it; or
    /// what changing the metadata reports. Once those say that it is gone, a directory that cannot
    /// be removed is left to [`Snapshotter::cleanup`].
    pub fn remove(&self, key: &str) -> Result<()> {
        let record = self.metadata.remove(key)?;
        if record.is_image {
            self.images_to_sweep.store(true, Ordering::Relaxed);
        }
        if let Err(error) = self.discard(record.number) {
            log::warn!(
                "what was snapshot {key} is removed later: {}",
                error.chain()
            );
        }
        Ok(())
    }

    /// Removes directories that no snapshot has, and what of the store only removed ones needed.
    /// containerd asks for it when it has collected its own garbage.
    ///
    /// # Errors
    /// [`Error::Store`](super::Error::Store), [`Error::Mount`](super::Error::Mount) or
    /// [`Error::Database`](super::Error::Database).
    pub fn cleanup(&self) -> Result<()> {
        let mut left = Vec::new();
        // Nobody makes a directory for a new snapshot while this looks.
        self.metadata.with_numbers(|known| {
            let found = self.store.snapshot_numbers()?;
            left = found.into_iter().filter(|it| !known.contains(it)).collect();
            for &number in &left {
                served::end(&self.store, number)?;
                self.store.discard_snapshot(number)?;
            }
            Ok(())
        })?;
        if !left.is_empty() {
            log::info!("removing what is left of {} snapshots", left.len());
        }
        self.store.clear_trash();
        if self.images_to_sweep.swap(false, Ordering::Relaxed) {
            let done = self.sweep().unwrap_or_else(|error| {
                // An image that is damaged is no reason to serve nothing.
                log::warn!("what images have left is removed later: {}", error.chain());
                false
            });
            self.images_to_sweep.fetch_or(!done, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes what nothing in the store needs, and tells whether that was all: a server whose mount
    /// is on its way out may still keep something.
    fn sweep(&self) -> Result<bool> {
        let unused = self.store.leases()?.is_empty();
        let swept = self.store.sweep(SystemTime::now())?;
        if !swept.objects.is_empty() {
            log::info!("removed {} objects of images", swept.objects.len());
        }
        Ok(unused)
    }

    fn discard(&self, number: u64) -> Result<()> {
        served::end(&self.store, number)?;
        self.store.discard_snapshot(number)?;
        self.store.clear_trash();
        Ok(())
    }
}
