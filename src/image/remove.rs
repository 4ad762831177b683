//! Removes images: names first, then, with an image's last name, what only it needed.

use std::time::SystemTime;

use crate::oci::{Digest, Reference};
use crate::store::{self, Record, Store, StoreLock, Swept};

use super::prune::{self, User};
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

/// What a removal takes: planned first, so that it can be shown without being done.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The records that go.
    pub gone: Vec<Record>,
    /// Names that are gone then.
    pub untagged: Vec<Reference>,
    /// `REPOSITORY@DIGEST` of repositories in which no name of the image is left.
    pub digests: Vec<Reference>,
    /// The ID of the image, if its last name goes; the digest of its manifest, if another image has that ID.
    pub deleted: Option<Digest>,
}

/// What was removed.
#[derive(Debug)]
pub struct Removed {
    /// The names and the image.
    pub removal: Removal,
    /// What became free, or why nothing could be collected: the names are gone either way.
    pub swept: store::Result<Swept>,
}

/// Removes an image, or one of its names.
///
/// # Errors
/// [`Error::Mounted`], [`Error::UsedByContainer`], [`Error::SeveralNames`], or as [`find`].
pub fn remove(store: &Store, request: &RemoveRequest<'_>, now: SystemTime) -> Result<Removed> {
    // From here to the removal nobody can take a lease on the image, so nobody can mount it.
    let lock = store.lock()?;
    let removal = plan(store, &lock, request, &[])?;
    store.unpublish(&lock, &removal.gone)?;
    drop(lock);
    let swept = store.sweep(now);
    Ok(Removed { removal, swept })
}

/// What [`remove`] would take, after `before` is gone.
///
/// # Errors
/// As [`remove`].
pub fn plan_removal(
    store: &Store,
    request: &RemoveRequest<'_>,
    before: &[Record],
) -> Result<Removal> {
    let lock = store.lock()?;
    plan(store, &lock, request, before)
}

fn plan(
    store: &Store,
    lock: &StoreLock,
    request: &RemoveRequest<'_>,
    before: &[Record],
) -> Result<Removal> {
    let record = super::find_record(store, request.name)?;
    let found = find::load_all(store, &record);
    // An image whose documents are damaged must be removable too.
    let first = found.as_ref().ok().and_then(|found| found.first());
    let id = first.map_or(record.descriptor.digest, find::Found::id);
    let mut same_image = store.images()?;
    same_image.retain(|other| {
        other.descriptor.digest == record.descriptor.digest && !before.contains(other)
    });
    let gone = meant(request.name, &record, &same_image);
    if gone.is_empty() {
        return Err(Error::NotStored);
    }
    let by_id = request.name.parse::<Reference>().map_or(true, |name| {
        record.reference.as_ref() != Some(&name) && name.digest().is_none()
    });
    if by_id && gone.len() > 1 && !request.force {
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
    // An image that was compressed in another way has the same ID, and stays.
    let is_gone = |other: &Record| gone.contains(other) || before.contains(other);
    let id = match last && has_id(store, id, is_gone)? {
        true => record.descriptor.digest,
        false => id,
    };
    if last && !request.force {
        refuse_if_used(store, lock, &record.descriptor.digest)?;
    }
    let left: Vec<&str> = same_image
        .iter()
        .filter(|other| !gone.contains(other))
        .filter_map(|other| other.repository.as_deref())
        .collect();
    let mut digests: Vec<Reference> = Vec::new();
    for repository in gone.iter().filter_map(|image| image.repository.as_deref()) {
        if let Ok(name) = repository.parse::<Reference>() {
            let name = name.with_digest(record.descriptor.digest);
            if !left.contains(&repository) && !digests.contains(&name) {
                digests.push(name);
            }
        }
    }
    let untagged: Vec<Reference> = gone.iter().filter_map(|r| r.reference.clone()).collect();
    digests.retain(|name| !untagged.contains(name));
    Ok(Removal {
        gone,
        untagged,
        digests,
        deleted: last.then_some(id),
    })
}

/// Whether an image has this ID, of those that do not go.
fn has_id(store: &Store, id: Digest, is_gone: impl Fn(&Record) -> bool) -> Result<bool> {
    let mut others = store.images()?;
    others.retain(|other| !is_gone(other));
    // Those that cannot be read have no ID that anybody could see.
    let ids = others
        .iter()
        .filter_map(|other| find::load_all(store, other).ok());
    Ok(ids.flatten().any(|found| found.id() == id))
}

/// The records that `name` means: one by its name, those of a repository by a digest in it, or all
/// of the image.
fn meant(name: &str, record: &Record, same_image: &[Record]) -> Vec<Record> {
    let Ok(reference) = name.parse::<Reference>() else {
        return same_image.to_vec();
    };
    let exact = |other: &&Record| other.reference.as_ref() == Some(&reference);
    if record.reference.as_ref() == Some(&reference) {
        return same_image.iter().filter(exact).cloned().collect();
    }
    if reference.digest() == Some(record.descriptor.digest) {
        let repository = reference.name();
        let within = |other: &&Record| other.repository.as_deref() == Some(repository.as_str());
        return same_image.iter().filter(within).cloned().collect();
    }
    same_image.to_vec()
}

fn refuse_if_used(store: &Store, lock: &StoreLock, image: &Digest) -> Result<()> {
    let leases = store.leases_under(lock)?;
    match prune::users(store, &leases, image)?.into_iter().next() {
        None => Ok(()),
        Some(User::Mount { mount_point, pid }) => Err(Error::Mounted { mount_point, pid }),
        Some(User::Container(name)) => Err(Error::UsedByContainer { name }),
    }
}
