//! Pushes an image: its blobs in parallel, then its manifests, then what its name stands for.
//!
//! # Invariants
//! * Blobs and documents go out as they are stored, byte for byte. Only an index that is asked for
//!   with fewer platforms is written anew.
//! * A manifest is sent when everything it names is there, and the tag's last.
//! * What is sent is held open, so that it is not lost to a removal meanwhile.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;

use crate::oci::{
    Descriptor, Digest, Document, Hasher, Index, Manifest, MediaType, Platform, Reference,
};
use crate::registry::{self, BlobSource, ManifestName, Repository, Upload};
use crate::store::{self, Record, Store};

use super::pull::Platforms;
use super::{Error, Result, find_record, parallel};

/// How many repositories are asked for a blob that is not there.
const MOST_MOUNTS: usize = 2;

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
    bytes: Vec<u8>,
    /// The manifests of an index.
    manifests: Vec<(Descriptor, Vec<u8>)>,
    blobs: Vec<OutgoingBlob>,
}

#[derive(Debug)]
struct OutgoingBlob {
    descriptor: Descriptor,
    /// None where the store has it no more.
    file: Option<File>,
    is_layer: bool,
}

/// What a blob is going through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushState {
    /// It is being sent.
    Sending {
        /// Bytes so far.
        done: u64,
    },
    /// It is in the repository.
    Pushed(Upload),
    /// It is left where its `urls` say that it is.
    Foreign,
}

/// Who is told of layers.
pub type PushObserver<'a> = &'a (dyn Fn(&Descriptor, PushState) + Sync);

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
    let top = &record.descriptor;
    let bytes = store.read_blob(&top.digest)?;
    let index = match store.document(top)? {
        Document::Manifest(manifest) => {
            if let Some(Platforms::One(Some(platform))) = platforms {
                super::find::load(store, record.clone(), Some(platform))?;
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
                .partition(|entry| crate::oci::attested(entry).is_some());
            let left_out = attested.into_iter().map(called).collect();
            if missing.is_empty() {
                let wanted = wanted(store, &record, &index, Platforms::All)?;
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
            let found = super::find::load(store, record, platform)?;
            let entry = &found.manifest_descriptor;
            let bytes = store.read_blob(&entry.digest)?;
            gathered.image(entry, bytes, &found.manifest, None)
        }
        Some(platforms) => {
            let wanted = wanted(store, &record, &index, platforms)?;
            gathered.part_of(top, &bytes, &index, &wanted)
        }
    }
}

/// Pushes it under the tag of `name`.
///
/// # Errors
/// [`Error::BlobsMissing`], what reading the store reports, and whatever the registry says.
pub fn push(
    store: &Store,
    image: &Outgoing,
    name: &Reference,
    repository: &Repository,
    workers: usize,
    observer: PushObserver<'_>,
) -> Result<()> {
    let elsewhere = elsewhere(store, name)?;
    let push = |blob: &OutgoingBlob| push_blob(blob, repository, &elsewhere, observer);
    let (stored, lost): (Vec<_>, Vec<_>) = image.blobs.iter().partition(|blob| blob.file.is_some());
    let mut missing = Vec::new();
    for blob in lost {
        match push(blob) {
            Err(Error::Source(registry::Error::NotFound { .. })) => {
                missing.push(blob.descriptor.digest);
            }
            pushed => pushed?,
        }
    }
    if !missing.is_empty() {
        let from = origin(store, name, &image.descriptor)?;
        return Err(Error::BlobsMissing { missing, from });
    }
    let mut stored = stored;
    // The largest first, so that it does not run alone at the end.
    stored.sort_by_key(|blob| blob.descriptor.size);
    parallel::each(stored, workers, push)?;
    for (descriptor, bytes) in &image.manifests {
        let which = ManifestName::Digest(descriptor.digest);
        repository.push_manifest(&which, &descriptor.media_type, bytes)?;
    }
    let kind = &image.descriptor.media_type;
    Ok(repository.push_manifest(&name.into(), kind, &image.bytes)?)
}

fn push_blob(
    blob: &OutgoingBlob,
    repository: &Repository,
    elsewhere: &HashMap<Digest, Vec<String>>,
    observer: PushObserver<'_>,
) -> Result<()> {
    let descriptor = &blob.descriptor;
    let tell = |state| {
        if blob.is_layer {
            observer(descriptor, state);
        }
    };
    if descriptor.media_type.is_foreign() && !descriptor.urls.is_empty() {
        tell(PushState::Foreign);
        return Ok(());
    }
    let pushed = repository.push_blob(&BlobSource {
        descriptor,
        file: blob.file.as_ref(),
        elsewhere: elsewhere.get(&descriptor.digest).map_or(&[], Vec::as_slice),
        sent: &|done| tell(PushState::Sending { done }),
    });
    match pushed {
        Ok(upload) => {
            tell(PushState::Pushed(upload));
            Ok(())
        }
        Err(error) => {
            // A registry that is right to refuse it knows the digest only.
            if let (registry::Error::Server { status: 400, .. }, Some(file)) = (&error, &blob.file)
            {
                verify(descriptor, file)?;
            }
            Err(match error {
                // These say nothing of this blob.
                registry::Error::Unauthorized { .. }
                | registry::Error::Denied { .. }
                | registry::Error::RateLimited { .. }
                | registry::Error::NotFound { .. } => error.into(),
                error => Error::of_layer(descriptor.digest, error.into()),
            })
        }
    }
}

/// Checks the content of a stored blob.
fn verify(blob: &Descriptor, mut file: &File) -> Result<()> {
    let failed = |error| Error::io(error, format!("reading blob {}", blob.digest));
    let mut hasher = HashWriter(Hasher::new(blob.digest.algorithm()));
    io::Seek::rewind(&mut file).map_err(failed)?;
    io::copy(&mut file, &mut hasher).map_err(failed)?;
    match hasher.0.finish() == blob.digest {
        true => Ok(()),
        false => Err(damaged(blob.digest)),
    }
}

struct HashWriter(Hasher);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn damaged(digest: Digest) -> Error {
    let what = "blob";
    store::Error::Damaged { what, digest }.into()
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
        Platforms::One(_) | Platforms::All => {
            let stored = index.manifests.iter();
            let stored = stored.filter(|entry| store.has_blob(&entry.digest));
            return Ok(stored.map(|entry| entry.digest).collect());
        }
    };
    let found = each
        .iter()
        .map(|platform| super::find::load(store, record.clone(), Some(platform)));
    found
        .map(|found| Ok(found?.manifest_descriptor.digest))
        .collect()
}

/// An index with only these of its entries, and all else as it was.
fn reduced(index: &[u8], wanted: &HashSet<Digest>) -> Result<Vec<u8>> {
    let invalid = |error: serde_json::Error| crate::oci::ParseError::Document {
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
    match (&entry.platform, crate::oci::attested(entry)) {
        (_, Some(_)) => format!("an attestation ({})", entry.digest.short()),
        (Some(platform), None) => platform.to_string(),
        (None, None) => entry.digest.to_string(),
    }
}

/// The repositories of the same registry that have a blob, as far as the store knows.
fn elsewhere(store: &Store, target: &Reference) -> Result<HashMap<Digest, Vec<String>>> {
    let mut places: HashMap<Digest, Vec<String>> = HashMap::new();
    let registry = format!("{}/", target.registry());
    for record in store.images()? {
        let name = record.reference.as_ref().map(Reference::name);
        let Some(name) = name.or_else(|| record.repository.clone()) else {
            continue;
        };
        let Some(repository) = name.strip_prefix(&registry) else {
            continue;
        };
        if repository == target.repository() {
            continue;
        }
        let manifests = match store.manifests(&record.descriptor) {
            Ok(manifests) => manifests,
            Err(error) => {
                log::info!("{name} is not looked at: {error}");
                continue;
            }
        };
        for (_, manifest) in manifests {
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                let known = places.entry(blob.digest).or_default();
                if known.len() < MOST_MOUNTS && !known.iter().any(|known| known == repository) {
                    known.push(repository.to_owned());
                }
            }
        }
    }
    Ok(places)
}

/// Another name that the image has, under which it can be pulled again.
fn origin(store: &Store, name: &Reference, image: &Descriptor) -> Result<Option<String>> {
    let same = |record: &Record| record.descriptor.digest == image.digest;
    let names = store.images()?.into_iter().filter(same);
    let mut names = names.filter_map(|record| record.reference);
    Ok(names
        .find(|other| other.name() != name.name())
        .map(|other| other.familiar()))
}
