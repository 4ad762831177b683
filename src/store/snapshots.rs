//! Snapshots: directories of a container runtime's layers, and the images that some of them stand for.
//!
//! ```text
//! snapshots/  metadata.redb          what the snapshotter knows; locked while one runs
//!             <number>/  fs/, work/  what was changed, and where changes are prepared
//!                        image.json  the image whose first layers this snapshot is
//!                        image/      where that is mounted for the layers of others above it
//! ```
//!
//! The snapshotter decides what is there. The rest of the program only needs to know which images
//! are in use, so that nothing of them is taken for garbage.
//!
//! # Invariants
//! * A snapshot with `image.json` keeps that image for as long as its directory is there.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::garbage::names_if_there;
use super::{Error, Result, Store, files};
use crate::oci::Digest;
use crate::sys::writable::WritableDir;

/// The image that a snapshot stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotImage {
    /// The image as the runtime called it.
    pub image: String,
    /// The manifest of its platform.
    pub manifest_digest: Digest,
    /// How many of its layers, from the lowest on, the snapshot shows.
    pub layers: usize,
}

/// The directory of one snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotDirectory(PathBuf);

impl SnapshotDirectory {
    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What was changed, or all there is when nothing lies below.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.0.join("fs")
    }

    /// Where changes are prepared.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// Where the image is mounted when other layers lie above it.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.0.join("image")
    }
}

impl Store {
    /// The directory of all snapshots, made if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create_snapshots(&self) -> Result<PathBuf> {
        let path = self.snapshots_path();
        files::make_directory(&path, 0o700, true)?;
        Ok(path)
    }

    /// The directory of a snapshot, or where it would be.
    #[must_use]
    pub fn snapshot(&self, number: u64) -> SnapshotDirectory {
        SnapshotDirectory(self.snapshots_path().join(number.to_string()))
    }

    /// Makes the directory of a snapshot that takes changes.
    ///
    /// # Errors
    /// [`Error::Io`]; what was made is garbage then.
    pub fn create_snapshot(&self, number: u64) -> Result<SnapshotDirectory> {
        let directory = self.snapshot(number);
        files::make_directory(&directory.0, 0o700, false)?;
        files::make_directory(&directory.work(), 0o700, false)?;
        let upper = directory.upper();
        files::make_directory(&upper, 0o755, false)?;
        // Whatever the umask and the ACLs above are: it is seen as the root of a container.
        WritableDir::open(&upper)
            .and_then(|directory| directory.at(b"").remove_acls())
            .map_err(|error| Error::io(error, "making", &upper))?;
        std::fs::set_permissions(&upper, PermissionsExt::from_mode(0o755))
            .map_err(|error| Error::io(error, "making", &upper))?;
        Ok(directory)
    }

    /// Makes the directory of a snapshot that stands for an image, durably: from now on the image
    /// stays.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`]; what was made is garbage then.
    pub fn create_image_snapshot(
        &self,
        number: u64,
        image: &SnapshotImage,
    ) -> Result<SnapshotDirectory> {
        let directory = self.snapshot(number);
        files::make_directory(&directory.0, 0o700, false)?;
        files::make_directory(&directory.image(), 0o700, false)?;
        let path = directory.0.join(RECORD);
        let bytes = serde_json::to_vec(image).map_err(|error| Error::json(error, &path))?;
        files::write_file(self.root(), &path, &bytes)?;
        files::sync_parent(&directory.0)?;
        Ok(directory)
    }

    /// The image that a snapshot stands for, if it does.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`].
    pub fn snapshot_image(&self, number: u64) -> Result<Option<SnapshotImage>> {
        files::read_json(&self.snapshot(number).0.join(RECORD))
    }

    /// The images that snapshots stand for.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`].
    pub fn snapshot_images(&self) -> Result<Vec<SnapshotImage>> {
        let mut images = Vec::new();
        for number in self.snapshot_numbers()? {
            images.extend(self.snapshot_image(number)?);
        }
        Ok(images)
    }

    /// The numbers of the snapshots that have a directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn snapshot_numbers(&self) -> Result<Vec<u64>> {
        let names = names_if_there(&self.snapshots_path())?;
        let numbers = names.iter().filter_map(|name| name.parse().ok());
        Ok(numbers.collect())
    }

    /// Moves the directory of a snapshot into the trash; [`Store::empty_trash`] removes it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard_snapshot(&self, number: u64) -> Result<()> {
        self.trash(&self.snapshot(number).0)
    }

    fn snapshots_path(&self) -> PathBuf {
        self.root().join("snapshots")
    }
}

/// The file that names the image of a snapshot.
const RECORD: &str = "image.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Manifest, MediaType};
    use std::time::SystemTime;

    #[test]
    fn an_image_stays_while_a_snapshot_stands_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        store.create_snapshots().unwrap();
        let layer = Descriptor::of(MediaType::from("application/x"), b"layer");
        let config = Descriptor::of(MediaType::from("application/y"), b"{}");
        let manifest = serde_json::to_vec(&Manifest::new(config, vec![layer.clone()])).unwrap();
        let manifest_digest = Digest::of(&manifest);
        store.write_blob(&layer.digest, b"layer").unwrap();
        store.write_blob(&manifest_digest, &manifest).unwrap();
        let image = SnapshotImage {
            image: "example.org/a:b".to_owned(),
            manifest_digest,
            layers: 1,
        };
        store.create_image_snapshot(7, &image).unwrap();
        assert_eq!(store.snapshot_image(7).unwrap(), Some(image.clone()));
        assert_eq!(store.snapshot_images().unwrap(), [image]);

        let swept = store.sweep(SystemTime::now()).unwrap();
        assert!(swept.objects.is_empty(), "{swept:?}");

        store.discard_snapshot(7).unwrap();
        assert!(store.snapshot_images().unwrap().is_empty());
        store.sweep(SystemTime::now()).unwrap();
        assert!(!store.has_blob(&layer.digest) && !store.has_blob(&manifest_digest));
    }
}
