//! Which images nothing uses, and their removal at one stroke. Which of them go is the caller's to say.

use std::collections::HashSet;
use std::time::SystemTime;

use crate::oci::{Digest, Reference};
use crate::store::{self, LeaseKind, LeaseRecord, Record, Store, Swept};

use super::{Result, Row, list};

/// An image with all its names.
#[derive(Clone, Debug)]
pub struct Group {
    /// The manifest or index.
    pub digest: Digest,
    /// Its names, newest first; there is at least one row.
    pub rows: Vec<Row>,
    /// What uses it.
    pub users: Vec<User>,
    /// Whether an image with a tag has the same ID, which then does not mean this one.
    is_shadowed: bool,
}

/// Something that uses an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// A container.
    Container(String),
    /// A live mount.
    Mount {
        /// Where, escaped as text.
        mount_point: String,
        /// The process that serves it.
        pid: u32,
    },
}

impl Group {
    /// The names of the image.
    pub fn names(&self) -> impl Iterator<Item = &Reference> {
        self.rows
            .iter()
            .filter_map(|row| row.record.reference.as_ref())
    }

    /// Whether no tag stands for it.
    #[must_use]
    pub fn is_dangling(&self) -> bool {
        self.names().all(|name| name.tag().is_none())
    }

    /// The image ID: the digest of the configuration, or of the manifest where that cannot be read, or
    /// where the ID means an image with a tag, whose layers are compressed in another way.
    #[must_use]
    pub fn id(&self) -> Digest {
        match self.is_shadowed {
            true => self.digest,
            false => self.configuration(),
        }
    }

    fn configuration(&self) -> Digest {
        let first = self.rows.first().and_then(|row| row.summary().ok());
        first.map_or(self.digest, |summary| summary.id)
    }
}

/// All images with what uses them, newest first as they were stored. `leases` are those of the
/// mounts that are to be told, from [`Store::leases`], which needs a store that can be written to.
///
/// # Errors
/// What reading the store reports.
pub fn groups(store: &Store, leases: &[LeaseRecord]) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for row in list(store)? {
        let digest = row.record.descriptor.digest;
        match groups.iter_mut().find(|group| group.digest == digest) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group {
                digest,
                rows: vec![row],
                users: users(store, leases, &digest)?,
                is_shadowed: false,
            }),
        }
    }
    let tagged = groups.iter().filter(|group| !group.is_dangling());
    let tagged: HashSet<Digest> = tagged.map(Group::configuration).collect();
    for group in &mut groups {
        group.is_shadowed = group.is_dangling() && tagged.contains(&group.configuration());
    }
    Ok(groups)
}

/// What uses the image whose manifest or index this is.
pub(super) fn users(store: &Store, leases: &[LeaseRecord], image: &Digest) -> Result<Vec<User>> {
    let mut users = Vec::new();
    for lease in leases {
        if lease.kind == LeaseKind::Mount && lease.digests.contains(image) {
            users.push(User::Mount {
                mount_point: lease.mount_point.clone().unwrap_or_else(|| "?".to_owned()),
                pid: lease.pid,
            });
        }
    }
    // Callers that remove what nothing uses look at those that are damaged before.
    let containers = store.containers()?.into_iter();
    let ours = containers.filter(|(_, container)| container.image_digest == *image);
    users.extend(ours.map(|(name, _)| User::Container(name)));
    Ok(users)
}

/// What a prune removed.
#[derive(Debug)]
pub struct Pruned {
    /// The images, as the store listed them.
    pub removed: Vec<Record>,
    /// What became free, or why nothing could be collected: the images are gone either way.
    pub swept: store::Result<Swept>,
}

/// Removes images, each with all its names, and sweeps. An image stays that was given a name, taken
/// into use or removed since `chosen` was made.
///
/// # Errors
/// What reading the store reports; then nothing was removed. [`store::Error::Json`] for a container whose record is
/// damaged, which may need any of them.
pub fn prune(store: &Store, chosen: &[Record], now: SystemTime) -> Result<Pruned> {
    // From here to the removal nobody can mount an image, nor give it a name.
    let lock = store.lock()?;
    let leases = store.leases_under(&lock)?;
    for (_, container) in store.recorded_containers()? {
        container?;
    }
    let listed = store.images()?;
    let mut removed = Vec::new();
    for record in chosen.iter().filter(|record| listed.contains(record)) {
        let digest = record.descriptor.digest;
        let same = |other: &&Record| other.descriptor.digest == digest;
        let renamed = listed
            .iter()
            .filter(same)
            .any(|other| !chosen.contains(other));
        if !renamed && users(store, &leases, &digest)?.is_empty() {
            removed.push(record.clone());
        }
    }
    store.unpublish(&lock, &removed)?;
    drop(lock);
    let swept = store.sweep(now);
    Ok(Pruned { removed, swept })
}
