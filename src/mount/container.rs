//! Containers: found or made, taken for use, and mounted in the way that is asked for.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::{Error, Result};
use super::image::serving_container;
use super::{Prepared, Target, keeper};
use crate::image::{self, Found};
use crate::oci::Platform;
use crate::options::{MountOptions, WritableLayer};
use crate::store::{
    self, Container, ContainerRecord, LeaseKind, LeaseRecord, Store, is_container_name,
};

/// Which container to mount, and where.
#[derive(Debug)]
pub struct ContainerRequest<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is made of if it is not there, and must have been made of if it is.
    pub image: Option<&'a str>,
    /// Which platform's image, if it is stored for several.
    pub platform: Option<&'a Platform>,
    /// One that is made is removed when it is unmounted.
    pub ephemeral: bool,
    /// Where it appears.
    pub target: Target,
    /// How.
    pub options: MountOptions,
    /// What can serve its image, below the kernel's overlay: a program that takes what `mount.plyfs` takes.
    pub helper: Command,
}

/// Takes a container for use, which is made if it must be, and prepares its mount.
///
/// # Errors
/// [`Error::ContainerName`], [`Error::NoContainer`], [`Error::ContainerKept`], [`Error::OtherImage`]; that it is in use; what
/// finding its image reports, or why the kernel's overlay cannot write it, if it must.
pub fn prepare_container(store: Store, request: ContainerRequest<'_>) -> Result<Prepared> {
    let options = &request.options;
    if options.upper.is_some() || options.work.is_some() {
        let reason = "upperdir= and workdir= go without a container, which has its own";
        return Err(Error::Unsupported(reason.into()));
    }
    let container = take(&store, &request)?;
    let found = image::find_recorded(&store, &container.record)?;
    let ContainerRequest {
        target,
        options,
        helper,
        ..
    } = request;
    if is_the_kernels(&store, &target, &options)? {
        let mount = keeper::prepare(store, container, &found, &target, &options, helper)?;
        return Ok(Prepared::Kept(Box::new(mount)));
    }
    Ok(serving_container(store, container, &found, target, options)?.into())
}

/// [`prepare_container`] from the store at `root`, which must exist.
///
/// # Errors
/// What opening the store reports, and as [`prepare_container`].
pub fn prepare_container_from(root: &Path, request: ContainerRequest<'_>) -> Result<Prepared> {
    prepare_container(Store::open(root)?, request)
}

fn is_the_kernels(store: &Store, target: &Target, options: &MountOptions) -> Result<bool> {
    if options.writable == WritableLayer::Fuse {
        return Ok(false);
    }
    match keeper::is_possible(store, target, options) {
        Ok(()) => Ok(true),
        Err(error) if options.writable == WritableLayer::Auto => {
            log::info!("the container is written through plyfs: {}", error.chain());
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn take(store: &Store, request: &ContainerRequest<'_>) -> Result<Container> {
    let name = request.name;
    if !is_container_name(name) {
        return Err(Error::ContainerName(name.to_owned()));
    }
    store.remove_abandoned_containers()?;
    loop {
        match (store.container(name)?, request.image) {
            (Some(_), _) if request.ephemeral => return Err(Error::ContainerKept),
            (Some(container), None) => return Ok(container),
            (Some(container), Some(image)) => return same_image(store, request, container, image),
            (None, Some(image)) => {
                if let Some(container) = make(store, request, image)? {
                    return Ok(container);
                }
            }
            (None, None) => return Err(Error::NoContainer),
        }
    }
}

/// Refuses to use a container for another image than its own.
fn same_image(
    store: &Store,
    request: &ContainerRequest<'_>,
    container: Container,
    image: &str,
) -> Result<Container> {
    let found = image::find(store, image, request.platform)?;
    let record = &container.record;
    if record.manifest_digest == found.manifest_descriptor.digest {
        return Ok(container);
    }
    let (name, theirs) = (&container.name, &record.image);
    let same_name = found.record.reference;
    let what = if same_name.is_some_and(|it| it.to_string() == *theirs) {
        let manifest = record.manifest_digest;
        format!("container {name} was made of an earlier {theirs} ({manifest})")
    } else {
        format!("container {name} was made of {theirs}, not of {image}")
    };
    Err(Error::OtherImage(what))
}

/// Makes a container, unless somebody else does at the same time.
fn make(store: &Store, request: &ContainerRequest<'_>, image: &str) -> Result<Option<Container>> {
    let find = || image::find(store, image, request.platform);
    let mut found = find()?;
    loop {
        let record = record(&found, request.ephemeral);
        let lease = store.lease(&LeaseRecord {
            kind: LeaseKind::Mount,
            pid: std::process::id(),
            image: record.image.clone(),
            mount_point: None,
            digests: vec![record.image_digest, record.manifest_digest],
        })?;
        // From here on it stays; before, it may have been removed, or its name given to another.
        let kept = find()?;
        if kept.record.descriptor.digest == record.image_digest
            && kept.manifest_descriptor.digest == record.manifest_digest
        {
            let made = match store.create_container(request.name, record) {
                Err(store::Error::ContainerExists(_)) => None,
                made => Some(made?),
            };
            drop(lease);
            return Ok(made);
        }
        found = kept;
    }
}

fn record(found: &Found, ephemeral: bool) -> ContainerRecord {
    let reference = found.record.reference.as_ref();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    ContainerRecord {
        image: reference.map_or_else(|| found.id().to_string(), ToString::to_string),
        image_digest: found.record.descriptor.digest,
        manifest_digest: found.manifest_descriptor.digest,
        created: rfc3339(now.unwrap_or_default().as_secs()),
        ephemeral,
    }
}

/// Seconds since 1970 as a date and time of day.
fn rfc3339(seconds: u64) -> String {
    let (mut days, of_day) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [
        31,
        28 + u64::from(is_leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
    ] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let day = days + 1;
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_772_323_200, "2026-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
