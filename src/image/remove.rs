//! Removes images: names first, then, with an image's last name, what only it needed.

use std::time::SystemTime;

use crate::oci::{Digest, Reference};
use crate::store::{self, LeaseKind, Record, Store, StoreLock, Swept};

use super::{Error, Result, find};

/// What to remove.
#[derive(Clone, Copy, Debug)]
pub struct RemoveRequest<'a> {
    /// A name, a digest, or the beginning of an ID.
    pub name: &'a str,
    /// Remove an image with several names by its ID, and one that is mounted: what the mount needs
    /// stays until it ends.
    pub force: bool,
}

/// What was removed.
#[derive(Debug)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<Reference>,
    /// The ID of the image, if its last name went.
    pub deleted: Option<Digest>,
    /// What became free, or why nothing could be collected: the names are gone either way.
    pub swept: store::Result<Swept>,
}

/// Removes an image, or one of its names.
///
/// # Errors
/// [`Error::Mounted`], [`Error::UsedByContainer`], [`Error::SeveralNames`], or as [`find`].
pub fn remove(store: &Store, request: &RemoveRequest<'_>, now: SystemTime) -> Result<Removed> {
    // From here to the removal nobody can take a lease on the image, so nobody can mount it, and it
    // gets no other name.
    let lock = store.lock()?;
    let record = super::find_record(store, request.name)?;
    let found = find::load(store, record.clone(), None);
    // An image whose documents are damaged must be removable too.
    let id = found
        .as_ref()
        .map_or(record.descriptor.digest, find::Found::id);
    let by_name = request
        .name
        .parse::<Reference>()
        .is_ok_and(|reference| record.reference.as_ref() == Some(&reference));
    let all = store.images()?;
    let same_image: Vec<Record> = all
        .into_iter()
        .filter(|other| other.descriptor.digest == record.descriptor.digest)
        .collect();
    let gone = if by_name {
        vec![record.clone()]
    } else {
        same_image.clone()
    };
    if !by_name && gone.len() > 1 && !request.force {
        let names: Vec<String> = gone
            .iter()
            .filter_map(|image| image.reference.as_ref())
            .map(Reference::familiar)
            .collect();
        return Err(Error::SeveralNames {
            names: names.join(", "),
        });
    }
    let last = gone.len() == same_image.len();
    if last && !request.force {
        refuse_if_mounted(store, &lock, &record.descriptor.digest)?;
        refuse_if_contained(store, &record.descriptor.digest)?;
    }
    store.unpublish(&lock, &gone)?;
    drop(lock);
    let swept = store.sweep(now);
    Ok(Removed {
        untagged: gone
            .into_iter()
            .filter_map(|image| image.reference)
            .collect(),
        deleted: last.then_some(id),
        swept,
    })
}

fn refuse_if_contained(store: &Store, image: &Digest) -> Result<()> {
    let containers = store.containers()?.into_iter();
    let mut users = containers.filter(|(_, container)| container.image_digest == *image);
    match users.next() {
        Some((name, _)) => Err(Error::UsedByContainer { name }),
        None => Ok(()),
    }
}

fn refuse_if_mounted(store: &Store, lock: &StoreLock, image: &Digest) -> Result<()> {
    for lease in store.leases_under(lock)? {
        if lease.kind == LeaseKind::Mount && lease.digests.contains(image) {
            let mount_point = lease.mount_point.unwrap_or_else(|| "?".to_owned());
            return Err(Error::Mounted {
                mount_point,
                pid: lease.pid,
            });
        }
    }
    Ok(())
}
