//! Writes images into one archive: an OCI layout that is a `docker save` archive at the same time.
//!
//! # Invariants
//! * Manifests, configurations and layers go out as they are stored, so every digest stays.
//! * A blob that does not have its digest any more ends it with an error.
//! * The archive depends on the images and their order alone.
//!
//! # See
//! image-spec `image-layout.md`; Docker writes such archives since version 25

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use serde::Serialize;

use crate::layer::Metadata;
use crate::oci::{Descriptor, Digest, Hasher, Index, MediaType, Platform, Reference, attested};
use crate::pack::{TarEntry, TarKind, TarWriter};
use crate::registry::{IMAGE_NAME, REF_NAME};
use crate::store::{self, Record, Store};

use super::find::{find_record, load, load_all, while_listed};
use super::{Error, Found, Result};

/// Images that are about to be saved: found and opened, so that nothing that is removed from the
/// store meanwhile is missing.
#[derive(Debug, Default)]
pub struct Saving {
    index: Vec<Descriptor>,
    images: Vec<DockerImage>,
    blobs: BTreeMap<Digest, (File, u64)>,
}

/// An entry of `manifest.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Saving {
    /// Adds what `name` means: a name, digest or ID; a name without a tag means all tags of its
    /// repository. Of images for several platforms those in `platforms` are saved, or else all that
    /// are stored; with each the attestations of it that are stored.
    ///
    /// # Errors
    /// As [`super::find`], and what opening blobs reports.
    pub fn add(&mut self, store: &Store, name: &str, platforms: &[Platform]) -> Result<()> {
        for record in records(store, name)? {
            let image = record.descriptor.digest;
            while_listed(store, &image, || {
                self.add_record(store, record.clone(), platforms)
            })?;
        }
        Ok(())
    }

    /// Bytes of all blobs together.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blobs.values().map(|(_, size)| size).sum()
    }

    /// Writes the archive; `told` is given the number of bytes of blobs so far.
    ///
    /// # Errors
    /// [`Error::Pack`] with [`crate::pack::Error::WriteArchive`] when `out` fails;
    /// [`store::Error::Damaged`].
    pub fn write(self, out: &mut dyn Write, told: &dyn Fn(u64)) -> Result<()> {
        let json = |what: &'static str, bytes: serde_json::Result<Vec<u8>>| {
            bytes.map_err(|error| Error::io(error.into(), format!("writing {what}")))
        };
        let index = Index {
            manifests: self.index.clone(),
            media_type: Some(MediaType::OciIndex),
            ..Index::default()
        };
        // Smaller than what contents are copied with, which therefore passes it by.
        let mut tar = TarWriter::new(BufWriter::with_capacity(64 << 10, out));
        for (path, content) in [
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            (
                "index.json",
                json("index.json", serde_json::to_vec(&index))?,
            ),
            (
                "manifest.json",
                json("manifest.json", serde_json::to_vec(&self.images))?,
            ),
        ] {
            append(&mut tar, path, Some(content.len() as u64), &mut &*content)?;
        }
        let mut directory = String::new();
        append(&mut tar, "blobs", None, &mut io::empty())?;
        let mut done = 0;
        for (digest, (file, size)) in &self.blobs {
            let parent = format!("blobs/{}", digest.algorithm());
            if directory != parent {
                append(&mut tar, &parent, None, &mut io::empty())?;
                directory = parent;
            }
            let mut content = Verified {
                file,
                hasher: Hasher::new(digest.algorithm()),
                done,
                told,
            };
            append(&mut tar, &path_of(digest), Some(*size), &mut content)?;
            if content.hasher.finish() != *digest {
                let (what, digest) = ("blob", *digest);
                return Err(store::Error::Damaged { what, digest }.into());
            }
            done += size;
        }
        Ok(tar.finish().map(drop)?)
    }

    fn add_record(&mut self, store: &Store, record: Record, platforms: &[Platform]) -> Result<()> {
        let mut found = Vec::new();
        for platform in platforms {
            found.push(load(store, record.clone(), Some(platform))?);
        }
        if platforms.is_empty() {
            found = load_all(store, &record)?;
        }
        self.open(store, &record.descriptor)?;
        for image in &found {
            let blobs = image.manifest.layers.iter();
            let documents = [&image.manifest_descriptor, &image.manifest.config];
            for blob in blobs.chain(documents) {
                self.open(store, blob)?;
            }
        }
        for (entry, manifest) in store.attestations(&record.descriptor)? {
            let of = attested(&entry).flatten();
            let is_about = |image: &Found| of == Some(image.manifest_descriptor.digest);
            if platforms.is_empty() || found.iter().any(is_about) {
                for blob in manifest.layers.iter().chain([&manifest.config, &entry]) {
                    self.open(store, blob)?;
                }
            }
        }
        // Docker knows one image by a name: that of this machine, if it is there.
        if let Some(image) = found.first() {
            self.add_docker(image);
        }
        let entry = entry(record);
        if !self.index.contains(&entry) {
            self.index.push(entry);
        }
        Ok(())
    }

    fn add_docker(&mut self, image: &Found) {
        let config = path_of(&image.manifest.config.digest);
        let layers = image.manifest.layers.iter();
        let layers: Vec<String> = layers.map(|layer| path_of(&layer.digest)).collect();
        // In full, since tools do not agree on what a short name means.
        let tag = tagged(&image.record).map(Reference::to_string);
        let known = self.images.iter_mut();
        let mut known = known.filter(|known| known.config == config && known.layers == layers);
        match (known.next(), tag) {
            (Some(known), Some(tag)) => {
                let tags = known.repo_tags.get_or_insert_default();
                if !tags.contains(&tag) {
                    tags.push(tag);
                }
            }
            (Some(_), None) => {}
            (None, tag) => self.images.push(DockerImage {
                config,
                repo_tags: tag.map(|tag| vec![tag]),
                layers,
            }),
        }
    }

    fn open(&mut self, store: &Store, blob: &Descriptor) -> Result<()> {
        let digest = blob.digest;
        if self.blobs.contains_key(&digest) {
            return Ok(());
        }
        let path = store.blob_path(&digest);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => store::Error::Missing {
                what: "blob",
                digest,
            },
            _ => store::Error::io(error, "opening", &path),
        };
        let file = File::open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        if size != blob.size {
            return Err(store::Error::Damaged {
                what: "blob",
                digest,
            }
            .into());
        }
        self.blobs.insert(digest, (file, size));
        Ok(())
    }
}

/// The images that a name means.
fn records(store: &Store, name: &str) -> Result<Vec<Record>> {
    let untagged = |name: &&str| !name.rsplit('/').next().unwrap_or(name).contains([':', '@']);
    let repository = Some(name).filter(untagged);
    if let Some(Ok(repository)) = repository.map(str::parse::<Reference>) {
        let mut images = store.images()?;
        let name = repository.name();
        images.retain(|image| tagged(image).is_some_and(|reference| reference.name() == name));
        if !images.is_empty() {
            return Ok(images);
        }
    }
    let mut record = find_record(store, name)?;
    let asked = name.parse::<Reference>().ok();
    // An ID is no name: the archive would take that of another image where it is loaded.
    if !asked
        .is_some_and(|asked| Some(&asked) == record.reference.as_ref() || asked.digest().is_some())
    {
        record.reference = None;
    }
    Ok(vec![record])
}

/// The name of an image, if it has a tag in it.
fn tagged(record: &Record) -> Option<&Reference> {
    let reference = record.reference.as_ref();
    reference.filter(|reference| reference.tag().is_some())
}

/// How the archive's index lists an image.
fn entry(record: Record) -> Descriptor {
    let mut entry = record.descriptor.clone();
    if let Some(reference) = tagged(&record) {
        let tag = reference.tag().unwrap_or_default();
        let names = [
            (IMAGE_NAME, reference.to_string()),
            (REF_NAME, tag.to_owned()),
        ];
        let names = names.map(|(key, name)| (key.to_owned(), name));
        entry.annotations.extend(names);
    }
    entry
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Adds a file of `size` bytes, or a directory.
fn append<W: Write>(
    tar: &mut TarWriter<W>,
    path: &str,
    size: Option<u64>,
    content: &mut dyn Read,
) -> Result<()> {
    let (kind, permissions) = match size {
        Some(size) => (TarKind::Regular(size), 0o644),
        None => (TarKind::Directory, 0o755),
    };
    let metadata = Metadata {
        permissions,
        ..Metadata::default()
    };
    let entry = TarEntry {
        path: path.as_bytes(),
        metadata,
        kind,
        xattrs: &[],
    };
    Ok(tar.append(&entry, content)?)
}

/// Hashes what is read.
struct Verified<'a> {
    file: &'a File,
    hasher: Hasher,
    done: u64,
    told: &'a dyn Fn(u64),
}

impl Read for Verified<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.done += count as u64;
        (self.told)(self.done);
        Ok(count)
    }
}
