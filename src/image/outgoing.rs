//! What is sent when an image is pushed, gathered from the store.
//!
//! # Invariants
//! * Documents are as they are stored, byte for byte. Only an index that goes out with fewer entries
//!   is written anew.
//! * What is to be sent is held open, so that it is not lost to a removal meanwhile.

use std::collections::HashSet;
use std::fs::File;
use std::io;

use crate::oci::{
    Descriptor, Digest, Document, Index, Manifest, MediaType, ParseError, Platform, Reference,
    attested,
};
use crate::registry::{ManifestName, Repository};
use crate::store::{self, Record, Store};

use super::pull::Platforms;
use super::{Error, Result, find, find_record};

/// An image that is about to be pushed.
#[derive(Debug)]
pub struct Outgoing {
    /// What the tag will stand for: a manifest or an index.
    pub descriptor: Descriptor,
    /// The platform, where only one of several that the image is made for is stored.
    pub only: Option<Platform>,
    /// Attestations of the image, as people call them, that are not stored and so left out.
    pub left_out: Vec<String>,
    /// What the tag will stand for, as bytes.
    pub(super) bytes: Vec<u8>,
    /// The manifests of an index.
    pub(super) manifests: Vec<(Descriptor, Vec<u8>)>,
    pub(super) blobs: Vec<OutgoingBlob>,
}

#[derive(Debug)]
pub(super) struct OutgoingBlob {
    pub(super) descriptor: Descriptor,
    /// None where the store has it no more.
    pub(super) file: Option<File>,
    pub(super) is_layer: bool,
}

impl Outgoing {
    /// The layers, each once.
    pub fn layers(&self) -> impl Iterator<Item = &Descriptor> {
        let layers = self.blobs.iter().filter(|blob| blob.is_layer);
        layers.map(|blob| &blob.descriptor)
    }
}

/// Gathers what is to be pushed of the image that has this name.
///
/// Of an index every platform must be stored, or be in the repository already; attestations are left
/// out where that is not so. If no platforms are asked for and only one is stored, that is what is
/// pushed.
///
/// # Errors
/// [`Error::NotStored`] and the like, [`Error::PlatformsMissing`], or what reading the store and
/// asking the registry report.
pub fn outgoing(
    store: &Store,
    name: &Reference,
    repository: &Repository,
    platforms: Option<Platforms<'_>>,
) -> Result<Outgoing> {
    let record = find_record(store, &name.to_string())?;
    find::while_listed(store, &record.descriptor.digest, || {
        gather(store, &record, repository, platforms)
    })
}

fn gather(
    store: &Store,
    record: &Record,
    repository: &Repository,
    platforms: Option<Platforms<'_>>,
) -> Result<Outgoing> {
    let top = &record.descriptor;
    let bytes = store.read_blob(&top.digest)?;
    let index = match store.document(top)? {
        Document::Manifest(manifest) => {
            if let Some(Platforms::One(Some(platform))) = platforms {
                find::load(store, record.clone(), Some(platform))?;
            }
            return Gathered::new(store).image(top, bytes, &manifest, None);
        }
        Document::Index(index) => index,
    };
    let mut gathered = Gathered::new(store);
    match platforms {
        None => {
            let mut missing = Vec::new();
            for entry in &index.manifests {
                let which = ManifestName::Digest(entry.digest);
                if !store.has_blob(&entry.digest) && repository.digest_of(&which)?.is_none() {
                    missing.push(entry);
                }
            }
            if missing.is_empty() {
                gathered.manifests(&index, |_| true)?;
                return Ok(gathered.done(top.clone(), bytes));
            }
            let (attested, missing): (Vec<_>, Vec<_>) = missing
                .into_iter()
                .partition(|entry| attested(entry).is_some());
            let left_out = attested.into_iter().map(called).collect();
            if missing.is_empty() {
                let wanted = wanted(store, record, &index, Platforms::All)?;
                let outgoing = gathered.part_of(top, &bytes, &index, &wanted)?;
                return Ok(Outgoing {
                    left_out,
                    ..outgoing
                });
            }
            let mut stored = store.manifests(top)?;
            if let (1, Some((entry, manifest))) = (stored.len(), stored.pop()) {
                let bytes = store.read_blob(&entry.digest)?;
                let only = entry.platform.clone();
                return gathered.image(&entry, bytes, &manifest, only);
            }
            Err(Error::PlatformsMissing {
                missing: missing.into_iter().map(called).collect(),
            })
        }
        Some(Platforms::One(platform)) => {
            let found = find::load(store, record.clone(), platform)?;
            let entry = &found.manifest_descriptor;
            let bytes = store.read_blob(&entry.digest)?;
            gathered.image(entry, bytes, &found.manifest, None)
        }
        Some(platforms) => {
            let wanted = wanted(store, record, &index, platforms)?;
            gathered.part_of(top, &bytes, &index, &wanted)
        }
    }
}

/// What was gathered of an image so far.
struct Gathered<'a> {
    store: &'a Store,
    manifests: Vec<(Descriptor, Vec<u8>)>,
    blobs: Vec<OutgoingBlob>,
    known: HashSet<Digest>,
}

impl<'a> Gathered<'a> {
    fn new(store: &'a Store) -> Gathered<'a> {
        Gathered {
            store,
            manifests: Vec::new(),
            blobs: Vec::new(),
            known: HashSet::new(),
        }
    }

    fn done(self, descriptor: Descriptor, bytes: Vec<u8>) -> Outgoing {
        Outgoing {
            descriptor,
            only: None,
            left_out: Vec::new(),
            bytes,
            manifests: self.manifests,
            blobs: self.blobs,
        }
    }

    /// The image of one manifest.
    fn image(
        mut self,
        descriptor: &Descriptor,
        bytes: Vec<u8>,
        manifest: &Manifest,
        only: Option<Platform>,
    ) -> Result<Outgoing> {
        self.blobs_of(manifest)?;
        let outgoing = self.done(descriptor.clone(), bytes);
        Ok(Outgoing { only, ..outgoing })
    }

    /// An index with only some of its entries.
    fn part_of(
        mut self,
        top: &Descriptor,
        bytes: &[u8],
        index: &Index,
        wanted: &HashSet<Digest>,
    ) -> Result<Outgoing> {
        self.manifests(index, |entry| wanted.contains(&entry.digest))?;
        let bytes = reduced(bytes, wanted)?;
        let descriptor = Descriptor::of(top.media_type.clone(), &bytes);
        Ok(self.done(descriptor, bytes))
    }

    /// Adds the stored manifests of an index that are wanted.
    fn manifests(&mut self, index: &Index, wanted: impl Fn(&Descriptor) -> bool) -> Result<()> {
        let stored = index.manifests.iter();
        let stored = stored.filter(|entry| self.store.has_blob(&entry.digest) && wanted(entry));
        for entry in stored.cloned().collect::<Vec<_>>() {
            let Document::Manifest(manifest) = self.store.document(&entry)? else {
                return Err(Error::NotAnImage(MediaType::OciIndex.to_string()));
            };
            self.blobs_of(&manifest)?;
            let bytes = self.store.read_blob(&entry.digest)?;
            self.manifests.push((entry, bytes));
        }
        Ok(())
    }

    fn blobs_of(&mut self, manifest: &Manifest) -> Result<()> {
        let layers = manifest.layers.iter().map(|layer| (layer, true));
        for (descriptor, is_layer) in layers.chain([(&manifest.config, false)]) {
            if !self.known.insert(descriptor.digest) {
                continue;
            }
            let failed = |error| Error::io(error, format!("opening blob {}", descriptor.digest));
            let file = match File::open(self.store.blob_path(&descriptor.digest)) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(failed(error)),
            };
            if let Some(file) = &file
                && file.metadata().map_err(failed)?.len() != descriptor.size
            {
                return Err(damaged(descriptor.digest));
            }
            self.blobs.push(OutgoingBlob {
                descriptor: descriptor.clone(),
                file,
                is_layer,
            });
        }
        Ok(())
    }
}

/// The entries of an index that are pushed when several platforms are asked for.
fn wanted(
    store: &Store,
    record: &Record,
    index: &Index,
    platforms: Platforms<'_>,
) -> Result<HashSet<Digest>> {
    let each = match platforms {
        Platforms::Each(each) => each,
        Platforms::One(_) | Platforms::All | Platforms::Available | Platforms::Among(_) => {
            let stored = index.manifests.iter();
            let stored = stored.filter(|entry| store.has_blob(&entry.digest));
            return Ok(stored.map(|entry| entry.digest).collect());
        }
    };
    let mut wanted = HashSet::new();
    for platform in each {
        let found = find::load(store, record.clone(), Some(platform))?;
        wanted.insert(found.manifest_descriptor.digest);
    }
    for (entry, _) in store.attestations(&record.descriptor)? {
        if attested(&entry)
            .flatten()
            .is_some_and(|of| wanted.contains(&of))
        {
            wanted.insert(entry.digest);
        }
    }
    Ok(wanted)
}

/// An index with only these of its entries, and all else as it was.
fn reduced(index: &[u8], wanted: &HashSet<Digest>) -> Result<Vec<u8>> {
    let invalid = |error: serde_json::Error| ParseError::Document {
        what: "index",
        why: error.to_string(),
    };
    let mut value: serde_json::Value = serde_json::from_slice(index).map_err(invalid)?;
    if let Some(entries) = value["manifests"].as_array_mut() {
        entries.retain(|entry| {
            let digest = entry["digest"].as_str().and_then(|text| text.parse().ok());
            digest.is_some_and(|digest| wanted.contains(&digest))
        });
    }
    Ok(serde_json::to_vec(&value).map_err(invalid)?)
}

/// What an entry of an index is called in messages.
fn called(entry: &Descriptor) -> String {
    match (&entry.platform, attested(entry)) {
        (_, Some(_)) => format!("an attestation ({})", entry.digest.short()),
        (Some(platform), None) => platform.to_string(),
        (None, None) => entry.digest.to_string(),
    }
}

/// The error for a stored blob that is not what it should be.
pub(super) fn damaged(digest: Digest) -> Error {
    let what = "blob";
    store::Error::Damaged { what, digest }.into()
}
