//! A container as it is at present, mounted or not, to be read without a mount of one's own.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::writable::{self, Readers};
use super::{mountinfo, path_text, record};
use crate::image::{self, Found};
use crate::options::MountOptions;
use crate::overlay::{Namespace, Overlay};
use crate::store::{self, Container, Store};

/// A container that is looked at.
#[derive(Debug)]
pub struct ContainerView {
    /// What it shows.
    pub overlay: Overlay,
    /// The directory that holds its changes.
    pub upper: PathBuf,
    /// What is in it for mounts only: no changes.
    pub mount_points: BTreeSet<Vec<u8>>,
    /// The image below.
    pub image: Found,
    /// Whether another process uses it, so that it may change.
    pub in_use: bool,
    /// Keeps others from using it if nobody did.
    _held: Option<Container>,
}

/// Opens a container to look at it; `None` if there is none of that name. Nobody else can use it until
/// the value is dropped, unless somebody does already.
///
/// # Errors
/// What opening it and its image reports.
pub fn container_view(store: &Store, name: &str) -> Result<Option<ContainerView>> {
    let (record, held) = match store.container(name) {
        Ok(Some(container)) => (container.record.clone(), Some(container)),
        Ok(None) => return Ok(None),
        Err(store::Error::ContainerInUse { .. }) => {
            match store.container_record(name).map_err(image::Error::from)? {
                Some(record) => (record, None),
                None => return Ok(None),
            }
        }
        Err(error) => return Err(image::Error::from(error).into()),
    };
    let image = image::find_recorded(store, &record)?;
    let base = image::open(store, &image)?;
    let upper = store.container_upper(name);
    let mount_points = store.mount_points(name).map_err(image::Error::from)?;
    let work = upper.with_file_name("work");
    let kept = writable::kept(&MountOptions::default(), Readers::Nobody)?;
    let in_use = held.is_none();
    let opened = match in_use {
        true => Overlay::beside(base, &upper, &work, kept),
        false => Overlay::writable(base, &upper, &work, kept),
    };
    let overlay = opened.map_err(|source| Error::Upper {
        path: upper.clone(),
        source,
    })?;
    Ok(Some(ContainerView {
        overlay,
        upper,
        mount_points,
        image,
        in_use,
        _held: held,
    }))
}

/// The marks that count in the directories of this user's containers.
#[must_use]
pub fn container_marks() -> Namespace {
    writable::marks(&MountOptions::default())
}

/// Brings what programs have written in a container that is mounted into its directory; `false` if its
/// mount cannot be seen from here.
///
/// # Errors
/// What reading the table of mounts, or syncfs(2), reports.
pub fn flush_container(store: &Store, name: &str) -> Result<bool> {
    let upper = path_text(&store.container_upper(name));
    let servers = record::servers().map_err(Error::system("cannot read the table of processes"))?;
    let mounts = mountinfo::ours().map_err(Error::system("cannot read the table of mounts"))?;
    let serves = |server: &&record::Server| server.record.upper.as_ref() == Some(&upper);
    for server in servers.iter().filter(serves) {
        if let Some(mount) = mounts.iter().find(|mount| server.serves(mount)) {
            flush(&mount.point).map_err(Error::system("cannot sync the mount"))?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn flush(mount_point: &Path) -> std::io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(mount_point)?)?)
}
