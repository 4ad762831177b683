//! What the owners of live leases need.

use std::collections::HashSet;

use super::{Error, LeaseKind, LeaseRecord, Object, Result, Store, StoreLock};

impl Store {
    /// All that the owners of live leases need.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`].
    pub fn leased(&self, lock: &StoreLock) -> Result<HashSet<Object>> {
        self.needed_by(self.leases_under(lock)?)
    }

    /// All that live mounts need.
    ///
    /// # Errors
    /// As [`Store::leased`].
    pub fn mounted(&self, lock: &StoreLock) -> Result<HashSet<Object>> {
        let mut leases = self.leases_under(lock)?;
        leases.retain(|lease| lease.kind == LeaseKind::Mount);
        self.needed_by(leases)
    }

    fn needed_by(&self, leases: Vec<LeaseRecord>) -> Result<HashSet<Object>> {
        let mut live = HashSet::new();
        for lease in leases {
            match self.mark_lease(&mut live, lease) {
                Ok(()) => {}
                Err(error @ Error::Io { .. }) => return Err(error),
                // What it needs cannot be told: it may be anything.
                Err(_) => live.extend(self.objects()?),
            }
        }
        Ok(live)
    }
}
