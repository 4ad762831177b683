//! Makes snapshots that can be mounted, and tells their mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::cause;

use super::metadata::{New, Snapshot};
use super::mounts::Purpose;
use super::{Error, Kind, Labels, Mount, Result, Snapshotter, served};

impl Snapshotter {
    /// Prepares an active snapshot over `parent` (none if empty), and tells its mounts.
    ///
    /// If the labels offer an image whose layer this would be, and that can be had, a committed
    /// snapshot stands for it afterwards and the answer is [`Error::AlreadyExists`]: there is
    /// nothing left to do for the caller.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], also for a key that is taken; [`Error::NotFound`] or
    /// [`Error::InvalidArgument`] about the parent; [`Error::Store`], [`Error::Io`],
    /// [`Error::Database`].
    pub fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        if let Some(name) = self.stand_in(parent, &labels)? {
            return Err(Error::AlreadyExists(name));
        }
        self.create(Kind::Active, key, parent, labels)
    }

    /// As [`Snapshotter::prepare`], for reading only.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    pub fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::View, key, parent, labels)
    }

    /// The mounts of an active snapshot or a view.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::FailedPrecondition`] for a committed one;
    /// [`Error::Database`].
    pub fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.mounts_of(&self.metadata.mountable(key)?, Purpose::of(key))
    }

    fn create(&self, kind: Kind, name: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let new = New {
            name,
            parent,
            kind,
            labels,
            is_image: false,
        };
        let snapshot = self.create_placed(new, |snapshot| {
            let directory = self.store.create_snapshot(snapshot.number)?;
            self.inherit_root(snapshot, &directory.upper())
        })?;
        let mounts = self.mounts_of(&snapshot, Purpose::of(name));
        if mounts.is_err()
            && let Err(error) = self.remove(name)
        {
            log::warn!(
                "snapshot {name}, which cannot be mounted, stays: {}",
                error.chain()
            );
        }
        mounts
    }

    /// Makes a snapshot with a directory that `place` makes; an error leaves neither.
    pub(super) fn create_placed(
        &self,
        new: New<'_>,
        place: impl FnOnce(&Snapshot) -> Result<()>,
    ) -> Result<Snapshot> {
        let mut number = None;
        let created = self.metadata.create(new, |snapshot| {
            // A call that was cut short may have left something there.
            self.store.discard_snapshot(snapshot.number)?;
            number = Some(snapshot.number);
            place(snapshot)
        });
        if let (Err(_), Some(number)) = (&created, number) {
            // The caller is to hear why there is none; the next cleanup removes what is left.
            if let Err(error) = self.store.discard_snapshot(number) {
                log::warn!(
                    "snapshot {number} is removed later: {}",
                    cause::chain(&error)
                );
            }
            self.store.clear_trash();
        }
        created
    }

    /// The root of an upper directory hides that of the layers below, so it begins as that is.
    fn inherit_root(&self, snapshot: &Snapshot, upper: &Path) -> Result<()> {
        let Some(parent) = snapshot.parents.first() else {
            return Ok(());
        };
        let (mode, uid, gid) = if parent.is_image {
            served::root_of(&self.store, parent.number)?
        } else {
            let below = self.store.snapshot(parent.number).upper();
            let root = fs::metadata(&below).map_err(|error| Error::io(error, "reading", &below))?;
            (root.mode() & 0o7777, root.uid(), root.gid())
        };
        chown(upper, Some(uid), Some(gid))
            .and_then(|()| fs::set_permissions(upper, PermissionsExt::from_mode(mode)))
            .map_err(|error| Error::io(error, "making", upper))
    }
}
