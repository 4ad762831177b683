//! Turns an active snapshot into one that others build on.

use super::{Error, Kind, Labels, Result, Snapshotter};
use crate::store::Usage;

impl Snapshotter {
    /// Commits the active snapshot `key` as `name`. Its labels become those given. `parent`, unless
    /// empty, becomes its parent if it was prepared without one.
    ///
    /// What was written is durable when the name is there.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] for a name that is taken, [`Error::NotFound`],
    /// [`Error::FailedPrecondition`] for what is not active, [`Error::InvalidArgument`] about the
    /// parent, or what reading the tree and writing the metadata report.
    pub fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let usage = match self.metadata.record(key) {
            Ok(record) if record.kind == Kind::Active => {
                let usage = Usage::of_tree(&self.store.snapshot(record.number).upper())?;
                self.store.sync()?;
                usage
            }
            // The transaction below finds the right words.
            Ok(_) | Err(Error::NotFound(_)) => Usage::default(),
            Err(error) => return Err(error),
        };
        self.metadata.commit(name, key, parent, labels, usage)
    }
}
