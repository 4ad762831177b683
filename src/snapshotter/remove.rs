//! Removes snapshots, and what calls that were cut short have left.

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
        if let Err(error) = self.discard(record.number) {
            log::warn!(
                "what was snapshot {key} is removed later: {}",
                error.chain()
            );
        }
        Ok(())
    }

    /// Removes directories that no snapshot has.
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
        Ok(self.store.empty_trash()?)
    }

    fn discard(&self, number: u64) -> Result<()> {
        served::end(&self.store, number)?;
        self.store.discard_snapshot(number)?;
        Ok(self.store.empty_trash()?)
    }
}
