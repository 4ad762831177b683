//! Makes a lost or damaged `index.json` again, from the documents that are stored, and the files that
//! mark a store.
//!
//! Which images there are is told by the blobs; their names only by the copy of `index.json` that
//! is kept beside it, and by the containers.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use super::images::{BACKUP, DAMAGED, INDEX, IndexFile};
use super::{Error, MARKS, ObjectKind, Record, Result, Store, files, keeps_layers, lock_at};
use crate::oci::{Descriptor, Digest, Document, MAX_DOCUMENT_SIZE, MediaType, Reference};

/// What was made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Names of images, and images without one.
    pub records: Vec<Record>,
    /// Where the damaged file is now; `None` if there was none.
    pub damaged: Option<PathBuf>,
}

/// Whether `found` is a JSON object with every key that `expected` has.
fn has_keys_of(found: &[u8], expected: &[u8]) -> bool {
    let object =
        |bytes| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes);
    match (object(found), object(expected)) {
        (Ok(found), Ok(expected)) => expected.keys().all(|key| found.contains_key(key)),
        _ => false,
    }
}

impl Store {
    /// The files that are damaged or missing of those that make `root` a store and an OCI layout; none if it
    /// is no store at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn broken_marks(root: &Path) -> Result<Vec<PathBuf>> {
        let mut broken = Vec::new();
        let is_store = root.join("store.json").exists() || keeps_layers(root);
        for (name, content) in MARKS.iter().filter(|_| is_store) {
            let path = root.join(name);
            match std::fs::read(&path) {
                Ok(found) if has_keys_of(&found, content) => {}
                Ok(_) => broken.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => broken.push(path),
                Err(error) => return Err(Error::io(error, "reading", &path)),
            }
        }
        Ok(broken)
    }

    /// Makes the files again that [`Store::broken_marks`] names; gives their paths. A store of another
    /// version has a file that can be read, and keeps it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remake_marks(root: &Path) -> Result<Vec<PathBuf>> {
        if Store::broken_marks(root)?.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = lock_at(root)?;
        let broken = Store::broken_marks(root)?;
        for (name, content) in MARKS {
            let path = root.join(name);
            if broken.contains(&path) {
                files::write_file(root, &path, content)?;
            }
        }
        Ok(broken)
    }

    /// Makes `index.json` again if it is damaged or missing; `None` if it is neither.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`].
    pub fn rebuild_index(&self) -> Result<Option<Rebuilt>> {
        let _lock = self.lock()?;
        match self.images() {
            Ok(_) => return Ok(None),
            Err(Error::Json { .. }) => {}
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let documents = self.documents()?;
        let mut records = Vec::new();
        for named in self.remembered() {
            let digest = named.descriptor.digest;
            let there = documents.iter().any(|(found, _)| found.digest == digest);
            let known = |other: &Record| other.reference == named.reference;
            if there && named.reference.is_some() && !records.iter().any(known) {
                records.push(named);
            }
        }
        for (_, container) in self.containers()? {
            let found = documents.iter().find(|(document, _)| {
                document.digest == container.image_digest
                    && !records
                        .iter()
                        .any(|r| r.descriptor.digest == document.digest)
            });
            if let (Some((descriptor, _)), Ok(reference)) =
                (found, container.image.parse::<Reference>())
                && !records
                    .iter()
                    .any(|r| r.reference.as_ref() == Some(&reference))
            {
                records.push(Record::named(reference, descriptor.clone()));
            }
        }
        let needed: HashSet<Digest> = documents
            .iter()
            .flat_map(|(_, named)| named)
            .copied()
            .collect();
        for (descriptor, _) in documents {
            if needed.contains(&descriptor.digest)
                || records
                    .iter()
                    .any(|r| r.descriptor.digest == descriptor.digest)
            {
                continue;
            }
            records.push(Record::nameless(descriptor));
        }
        let path = self.root().join(INDEX);
        let aside = self.root().join(DAMAGED);
        files::remove_if_there(&aside)?;
        let damaged = match std::fs::hard_link(&path, &aside) {
            Ok(()) => Some(aside),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io(error, "keeping", &path)),
        };
        let bytes = IndexFile::of(&records).to_bytes(&path)?;
        files::write_file_always(self.root(), &path, &bytes)?;
        Ok(Some(Rebuilt { records, damaged }))
    }

    /// The records of the copy of `index.json`, if it can be read.
    fn remembered(&self) -> Vec<Record> {
        let path = self.root().join(BACKUP);
        let read = std::fs::read(&path).map_err(|error| Error::io(error, "reading", &path));
        match read.and_then(|bytes| IndexFile::parse(&bytes, &path)) {
            Ok(file) => file.records(),
            Err(error) => {
                log::info!("the names of images are lost: {error}");
                Vec::new()
            }
        }
    }

    /// All stored manifests and indexes, with the digests of the manifests that they name.
    fn documents(&self) -> Result<Vec<(Descriptor, Vec<Digest>)>> {
        let mut found = Vec::new();
        for object in self.objects()? {
            if object.kind != ObjectKind::Blob {
                continue;
            }
            let path = self.blob_path(&object.digest);
            let size =
                std::fs::metadata(&path).map_err(|error| Error::io(error, "reading", &path))?;
            if size.len() > MAX_DOCUMENT_SIZE {
                continue;
            }
            let bytes = match self.read_blob(&object.digest) {
                Ok(bytes) => bytes,
                // `check` tells of it.
                Err(Error::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            let (media_type, named) = match Document::parse(&bytes, None) {
                Ok(Document::Manifest(manifest)) => (
                    manifest.media_type.unwrap_or(MediaType::OciManifest),
                    Vec::new(),
                ),
                Ok(Document::Index(index)) => (
                    index.media_type.unwrap_or(MediaType::OciIndex),
                    index.manifests.iter().map(|entry| entry.digest).collect(),
                ),
                // A configuration, or a small layer.
                Err(_) => continue,
            };
            let size = bytes.len() as u64;
            found.push((Descriptor::new(media_type, object.digest, size), named));
        }
        Ok(found)
    }
}
