//! The images of the store: `index.json` of the OCI image layout.
//!
//! An image with a name is a descriptor with the annotation `org.opencontainers.image.ref.name`
//! whose value is the full reference, which is also what skopeo and podman look for. An image that
//! lost its name to another keeps its descriptor without it, and is dangling.

use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Error, Result, Store, StoreLock, files};
use crate::oci::{Descriptor, Digest, Document, Manifest, Platform, Reference, attested};

/// Names the image.
pub const REFERENCE_ANNOTATION: &str = "org.opencontainers.image.ref.name";
/// The repository that a dangling image had a tag of.
const REPOSITORY_ANNOTATION: &str = "io.github.plyfs.repository";

pub(super) const EMPTY_INDEX: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// When it got its name, in seconds since 1970.
const TAGGED_ANNOTATION: &str = "io.github.plyfs.tagged";

/// An image as `index.json` has it. Two are the same whenever they got their names.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its name; `None` for a dangling image, or one that another tool stored without one.
    pub reference: Option<Reference>,
    /// The repository it came from, if known.
    pub repository: Option<String>,
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// When it got its name, in seconds since 1970, if that is known.
    pub tagged: Option<u64>,
}

impl PartialEq for Record {
    fn eq(&self, other: &Record) -> bool {
        (&self.reference, &self.repository, &self.descriptor)
            == (&other.reference, &other.repository, &other.descriptor)
    }
}

impl Eq for Record {}

/// The list of images.
pub(super) const INDEX: &str = "index.json";
/// A copy of it, for when it is damaged.
pub(super) const BACKUP: &str = "index.backup";
/// Where it goes when it is.
pub(super) const DAMAGED: &str = "index.json.damaged";

/// The content of `index.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IndexFile {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

impl IndexFile {
    /// The file that has these images.
    pub(super) fn of(records: &[Record]) -> IndexFile {
        let empty = serde_json::from_slice(EMPTY_INDEX);
        let mut file = empty.unwrap_or(IndexFile {
            manifests: Vec::new(),
            rest: serde_json::Map::new(),
        });
        file.manifests = records
            .iter()
            .cloned()
            .map(Record::into_descriptor)
            .collect();
        file
    }

    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<IndexFile> {
        serde_json::from_slice(bytes).map_err(|error| Error::json(error, path))
    }

    pub(super) fn to_bytes(&self, path: &Path) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::json(error, path))
    }

    pub(super) fn records(self) -> Vec<Record> {
        self.manifests
            .into_iter()
            .map(Record::from_descriptor)
            .collect()
    }
}

/// What was asked for by a digest has no tag, even if one was named beside it: that may be another image's.
fn without_pinned_tag(reference: Reference) -> Reference {
    match reference.digest() {
        Some(digest) => reference.with_digest(digest),
        None => reference,
    }
}

impl Record {
    /// A named image.
    #[must_use]
    pub fn named(reference: Reference, descriptor: Descriptor) -> Record {
        let reference = without_pinned_tag(reference);
        Record {
            repository: Some(reference.name()),
            reference: Some(reference),
            descriptor,
            tagged: None,
        }
    }

    /// An image without a name.
    #[must_use]
    pub fn nameless(descriptor: Descriptor) -> Record {
        Record {
            reference: None,
            repository: None,
            descriptor,
            tagged: None,
        }
    }

    fn from_descriptor(mut descriptor: Descriptor) -> Record {
        let name = descriptor.annotations.remove(REFERENCE_ANNOTATION);
        // A name that is no reference was given by another tool; the image is shown without it.
        let reference: Option<Reference> = name.as_deref().and_then(|name| name.parse().ok());
        let reference = reference.map(without_pinned_tag);
        let tagged = descriptor.annotations.remove(TAGGED_ANNOTATION);
        let repository = descriptor
            .annotations
            .remove(REPOSITORY_ANNOTATION)
            .or_else(|| reference.as_ref().map(Reference::name));
        if reference.is_none()
            && let Some(name) = name
        {
            descriptor
                .annotations
                .insert(REFERENCE_ANNOTATION.to_owned(), name);
        }
        Record {
            reference,
            repository,
            descriptor,
            tagged: tagged.and_then(|seconds| seconds.parse().ok()),
        }
    }

    fn into_descriptor(self) -> Descriptor {
        let mut descriptor = self.descriptor;
        if let Some(reference) = self.reference {
            let name = reference.to_string();
            let notes = &mut descriptor.annotations;
            notes.insert(REFERENCE_ANNOTATION.to_owned(), name);
            if let Some(seconds) = self.tagged {
                notes.insert(TAGGED_ANNOTATION.to_owned(), seconds.to_string());
            }
        } else if let Some(repository) = self.repository {
            descriptor
                .annotations
                .insert(REPOSITORY_ANNOTATION.to_owned(), repository);
        }
        descriptor
    }
}

impl Store {
    /// All images, in the order in which they were stored.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`].
    pub fn images(&self) -> Result<Vec<Record>> {
        Ok(self.read_index()?.records())
    }

    /// Whether an image with this manifest or index is in the store still: another process may have
    /// removed it since it was found.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn lists(&self, digest: &Digest) -> Result<bool> {
        let mut images = self.images()?.into_iter();
        Ok(images.any(|image| image.descriptor.digest == *digest))
    }

    /// Publishes an image: from now on it is in the store. A name it takes from another image
    /// leaves that one dangling.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`]; then nothing has changed.
    pub fn publish(&self, lock: &StoreLock, image: Record) -> Result<()> {
        self.publish_all(lock, vec![image])
    }

    /// As [`Store::publish`], for several at once: all are published, or none.
    ///
    /// # Errors
    /// As [`Store::publish`].
    pub fn publish_all(&self, lock: &StoreLock, new: Vec<Record>) -> Result<()> {
        self.update(lock, files::write_file, |images| {
            for image in new {
                publish_one(images, image);
            }
        })
    }

    /// Takes images out of the index; what only they needed becomes garbage. It succeeds on a full
    /// disk too, while there is space that was kept back.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`]; then nothing has changed.
    pub fn unpublish(&self, lock: &StoreLock, gone: &[Record]) -> Result<()> {
        let write = |root: &Path, path: &Path, content: &[u8]| {
            self.expect_garbage()?;
            files::write_file_always(root, path, content)
        };
        self.update(lock, write, |images| {
            images.retain(|image| !gone.contains(image));
        })
    }

    fn update(
        &self,
        _lock: &StoreLock,
        write: impl FnOnce(&Path, &Path, &[u8]) -> Result<()>,
        change: impl FnOnce(&mut Vec<Record>),
    ) -> Result<()> {
        let mut file = self.read_index()?;
        let before = file.manifests.clone();
        let mut images = file
            .manifests
            .into_iter()
            .map(Record::from_descriptor)
            .collect();
        change(&mut images);
        file.manifests = images.into_iter().map(Record::into_descriptor).collect();
        if file.manifests == before {
            return Ok(());
        }
        let path = self.root().join(INDEX);
        let bytes = file.to_bytes(&path)?;
        write(self.root(), &path, &bytes)?;
        // Best effort: only a damaged index.json makes it needed.
        if let Err(error) = files::write_copy(self.root(), &self.root().join(BACKUP), &bytes) {
            log::debug!("no copy of the list of images is kept: {error}");
        }
        Ok(())
    }

    fn read_index(&self) -> Result<IndexFile> {
        let path = self.root().join(INDEX);
        let bytes = std::fs::read(&path).map_err(|error| Error::io(error, "reading", &path))?;
        IndexFile::parse(&bytes, &path)
    }

    /// Reads a stored manifest or index.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Damaged`] or [`Error::Document`].
    pub fn document(&self, descriptor: &Descriptor) -> Result<Document> {
        let bytes = self.read_blob(&descriptor.digest)?;
        Document::parse(&bytes, Some(descriptor.media_type.as_str())).map_err(|source| {
            Error::Document {
                what: "manifest",
                digest: descriptor.digest,
                source,
            }
        })
    }

    /// The manifests of an image that are stored: one, or those of the platforms that were pulled.
    ///
    /// # Errors
    /// As [`Store::document`].
    pub fn manifests(&self, image: &Descriptor) -> Result<Vec<(Descriptor, Manifest)>> {
        match self.document(image)? {
            Document::Manifest(manifest) => Ok(vec![(image.clone(), manifest)]),
            Document::Index(index) => self.stored_of(index.images()),
        }
    }

    /// The attestations of an image that are stored.
    ///
    /// # Errors
    /// As [`Store::document`].
    pub fn attestations(&self, image: &Descriptor) -> Result<Vec<(Descriptor, Manifest)>> {
        match self.document(image)? {
            Document::Manifest(_) => Ok(Vec::new()),
            Document::Index(index) => {
                let entries = index.manifests.iter();
                self.stored_of(entries.filter(|entry| attested(entry).is_some()))
            }
        }
    }

    fn stored_of<'a>(
        &self,
        entries: impl Iterator<Item = &'a Descriptor>,
    ) -> Result<Vec<(Descriptor, Manifest)>> {
        let stored = entries.filter(|entry| self.has_blob(&entry.digest));
        let manifest = |entry: &Descriptor| match self.document(entry)? {
            Document::Manifest(manifest) => Ok((entry.clone(), manifest)),
            // An index in an index names no platform's image.
            Document::Index(_) => Err(Error::Damaged {
                what: "manifest",
                digest: entry.digest,
            }),
        };
        stored.map(manifest).collect()
    }

    /// The manifest of an image for `platform`; without one that of this machine, or else the
    /// only one that is stored.
    ///
    /// # Errors
    /// As [`Store::document`]; `Ok(None)` when no stored manifest fits.
    pub fn manifest(
        &self,
        image: &Descriptor,
        platform: Option<&Platform>,
    ) -> Result<Option<(Descriptor, Manifest)>> {
        let mut stored = self.manifests(image)?;
        let host = Platform::host();
        let wanted = platform.unwrap_or(&host);
        let best = stored
            .iter()
            .enumerate()
            .filter_map(|(at, (descriptor, _))| {
                let rank = descriptor
                    .platform
                    .as_ref()
                    .and_then(|found| wanted.rank(found))?;
                Some((rank, at))
            })
            .min();
        Ok(match best {
            Some((_, at)) => Some(stored.swap_remove(at)),
            None if stored.len() == 1 && (platform.is_none() || stored[0].0.platform.is_none()) => {
                stored.pop()
            }
            None => None,
        })
    }
}

fn publish_one(images: &mut Vec<Record>, mut image: Record) {
    let named = |other: &Record| other.reference.is_some() && other.reference == image.reference;
    if images
        .iter()
        .any(|other| named(other) && same(other, &image))
    {
        return;
    }
    for other in images.iter_mut().filter(|other| named(other)) {
        other.reference = None;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    image.tagged = now.ok().map(|now| now.as_secs());
    // An image that has a name needs no nameless record beside it.
    images.retain(|other| other.reference.is_some() || !same(other, &image));
    images.push(image);
    let tagged: Vec<Digest> = images
        .iter()
        .filter(|image| image.reference.is_some())
        .map(|image| image.descriptor.digest)
        .collect();
    images.retain(|image| image.reference.is_some() || !tagged.contains(&image.descriptor.digest));
}

fn same(a: &Record, b: &Record) -> bool {
    a.descriptor.digest == b.descriptor.digest
}
