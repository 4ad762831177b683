//! Packed layers and chains in the store.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Result, Store, files};
use crate::oci::{ChainId, DiffId, Digest};

/// The blob that a layer was packed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerSource {
    /// Digest of the blob, as it was distributed.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What `layer.json` tells of a packed layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerRecord {
    /// SHA-256 of the uncompressed archive.
    pub diff_id: DiffId,
    /// The blob it was packed from.
    pub source: LayerSource,
    /// Bytes of the uncompressed archive.
    pub uncompressed_bytes: u64,
    /// Bytes of the contents of its files.
    pub content_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of `pack`.
    pub pack_bytes: u64,
    /// Files in `files/`.
    pub large_files: u32,
}

impl Store {
    /// Whether the packed layer is there.
    #[must_use]
    pub fn has_layer(&self, layer: &DiffId) -> bool {
        self.layer_path(layer).join("layer.json").is_file()
    }

    /// Whether the packed layer is there and known to be what this blob holds.
    ///
    /// # Errors
    /// As [`Store::layer_record`].
    pub fn has_layer_of(&self, layer: &DiffId, source: &LayerSource) -> Result<bool> {
        if !self.has_layer(layer) {
            return Ok(false);
        }
        let known = self.layer_record(layer)?.source == *source;
        Ok(known || self.source_mark(layer, source).exists())
    }

    /// Notes that this blob, which the caller has verified, holds the packed layer too.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn add_layer_source(&self, layer: &DiffId, source: &LayerSource) -> Result<()> {
        let path = self.source_mark(layer, source);
        std::fs::write(&path, b"").map_err(|error| Error::io(error, "writing", &path))
    }

    fn source_mark(&self, layer: &DiffId, source: &LayerSource) -> PathBuf {
        let (digest, size) = (source.digest, source.size);
        let name = format!("source-{}-{}-{size}", digest.algorithm(), digest.hex());
        self.layer_path(layer).join(name)
    }

    /// What is recorded of a packed layer.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`] or [`Error::Json`].
    pub fn layer_record(&self, layer: &DiffId) -> Result<LayerRecord> {
        let path = self.layer_path(layer).join("layer.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Missing {
                    what: "layer",
                    digest: layer.0,
                });
            }
            Err(error) => return Err(Error::io(error, "reading", &path)),
        };
        serde_json::from_slice(&bytes).map_err(|error| Error::json(error, &path))
    }

    /// Writes `layer.json` into a layer that is being made.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_layer_record(&self, directory: &Path, record: &LayerRecord) -> Result<()> {
        let path = directory.join("layer.json");
        let bytes = serde_json::to_vec(record).map_err(|error| Error::json(error, &path))?;
        std::fs::write(&path, bytes).map_err(|error| Error::io(error, "writing", &path))
    }

    /// Moves a packed layer, which must be complete and synced, to its place. When another process
    /// was faster, its layer stays and this one is removed. The caller does not hold the store's lock.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit_layer(&self, staged: &Path, layer: &DiffId) -> Result<()> {
        let target = self.layer_path(layer);
        if target.exists() && !self.has_layer(layer) {
            // What a crash left of one that was being deleted in its place.
            let _lock = self.lock()?;
            if !self.has_layer(layer) {
                self.trash(&target)?;
            }
        }
        commit_directory(staged, &target)
    }

    /// Whether the chain index is there.
    #[must_use]
    pub fn has_chain(&self, chain: &ChainId) -> bool {
        self.chain_path(chain).join("index").is_file()
    }

    /// Stores a chain index that `write` produces.
    ///
    /// # Errors
    /// [`Error::Io`], also for what `write` reports.
    pub fn write_chain(
        &self,
        chain: &ChainId,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<()> {
        let staging = self.staging()?;
        let staged = staging.path();
        let path = staged.join("index");
        let written = std::fs::File::create(&path).and_then(|file| {
            let mut out = io::BufWriter::with_capacity(1 << 20, file);
            write(&mut out)?;
            out.into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .sync_all()
        });
        written.map_err(|error| Error::io(error, "writing", &path))?;
        commit_directory(staged, &self.chain_path(chain))
    }
}

fn commit_directory(staged: &Path, target: &Path) -> Result<()> {
    if let Some(parent) = target.parent() {
        let made = std::fs::create_dir_all(parent);
        made.map_err(|error| Error::io(error, "making", parent))?;
    }
    match std::fs::rename(staged, target) {
        Ok(()) => files::sync_parent(target),
        // rename(2) refuses to replace a directory that is not empty.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
            ) =>
        {
            files::remove_tree_if_there(staged)
        }
        Err(error) => Err(Error::io(error, "storing", target)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_what_is_left_of_a_layer_is_not_taken_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        let layer = DiffId(Digest::of(b"layer"));
        let path = store.layer_path(&layer);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("pack"), b"half").unwrap();
        let staging = store.staging().unwrap();
        std::fs::write(staging.path().join("pack"), b"whole").unwrap();
        std::fs::write(staging.path().join("layer.json"), b"{}").unwrap();
        store.commit_layer(staging.path(), &layer).unwrap();
        assert_eq!(std::fs::read(path.join("pack")).unwrap(), b"whole");

        // The other way round: no moment shows half a layer as a whole one.
        std::fs::create_dir(path.join("files")).unwrap();
        let stuck = files::stuck_in_tests(&path.join("files"));
        assert!(files::remove_in_place(&path).is_err());
        assert!(!store.has_layer(&layer) && path.exists());
        drop(stuck);
    }
}
