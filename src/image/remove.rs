//! Removes images: names first, then, with an image's last name, what only it needed.

use std::time::SystemTime;

use crate::cause;
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
    let by_id = request.name.parse::<Reference>().map_or(true, |name| {
        record.reference.as_ref() != Some(&name) && name.digest().is_none()
    });
    let hex = request.name.strip_prefix("sha256:").unwrap_or(request.name);
    // An ID means every image that has it, however its layers are compressed.
    let is_meant_by_id = by_id && id.hex().starts_with(hex);
    let same_digest = |other: &Record| other.descriptor.digest == record.descriptor.digest;
    let mut same_id = store.images()?;
    same_id.retain(|other| {
        !before.contains(other) && (same_digest(other) || has_id(store, other, id))
    });
    let mut same_image = same_id.clone();
    same_image.retain(|other| is_meant_by_id || same_digest(other));
    let gone = meant(request.name, &record, &same_image);
    if gone.is_empty() {
        return Err(Error::NotStored);
    }
    if by_id && gone.len() > 1 && !request.force {
        let names: Vec<String> = gone.iter().map(called).collect();
        return Err(Error::SeveralNames {
            names: names.join(", "),
        });
    }
    let last = gone.len() == same_image.len();
    // An image that was compressed in another way has the same ID, and stays.
    let id = match last && same_id.iter().any(|other| !gone.contains(other)) {
        true => record.descriptor.digest,
        false => id,
    };
    if last && !request.force {
        for image in &gone {
            refuse_if_used(store, lock, &image.descriptor.digest)?;
        }
    }
    let left: Vec<&str> = same_image
        .iter()
        .filter(|other| !gone.contains(other))
        .filter_map(|other| other.repository.as_deref())
        .collect();
    let mut digests: Vec<Reference> = Vec::new();
    for image in &gone {
        let repository = image.repository.as_deref().unwrap_or_default();
        if let Ok(name) = repository.parse::<Reference>() {
            let name = name.with_digest(image.descriptor.digest);
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

/// Whether an image has this ID, for one of its platforms. One that is damaged is no reason to keep another.
fn has_id(store: &Store, image: &Record, id: Digest) -> bool {
    match store.manifests(&image.descriptor) {
        Ok(manifests) => manifests
            .iter()
            .any(|(_, manifest)| manifest.config.digest == id),
        Err(error) => {
            let why = cause::chain(&error);
            log::warn!("{} is not taken into account: {why}", called(image));
            false
        }
    }
}

/// What an image is called, so that it is found by that.
fn called(image: &Record) -> String {
    match &image.reference {
        Some(reference) => reference.familiar(),
        None => image.descriptor.digest.short(),
    }
}

/// The records that `name` means: one by its name, those of a repository by a digest in it, or all
/// of the image.
fn meant(name: &str, record: &Record, same_image: &[Record]) -> Vec<Record> {
    let Ok(reference) = name.parse::<Reference>() else {
        return same_image.to_vec();
    };
    if reference.digest() == Some(record.descriptor.digest) {
        let repository = reference.name();
        let within = |other: &&Record| other.repository.as_deref() == Some(repository.as_str());
        return same_image.iter().filter(within).cloned().collect();
    }
    let exact = |other: &&Record| other.reference.as_ref() == Some(&reference);
    if record.reference.as_ref() == Some(&reference) {
        return same_image.iter().filter(exact).cloned().collect();
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
