//! Pushes an image: its blobs in parallel, then its manifests, then what its name stands for.
//!
//! # Invariants
//! * A manifest is sent when everything it names is there, and the tag's last.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::cause;
use crate::oci::{Descriptor, Digest, Hasher, Reference};
use crate::registry::{self, BlobSource, KeptUpload, ManifestName, Repository, Upload, Uploads};
use crate::store::{self, Record, Store, UploadFile};

use super::outgoing::{Outgoing, OutgoingBlob, damaged};
use super::{Error, Result, parallel};

/// How many repositories are asked for a blob that is not there.
const MOST_MOUNTS: usize = 2;

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
    let uploads = Kept {
        store,
        ours: Mutex::default(),
    };
    let push = |blob: &OutgoingBlob| push_blob(blob, repository, &uploads, &elsewhere, observer);
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

/// Uploads in the store. That one cannot be kept is no reason not to push.
struct Kept<'a> {
    store: &'a Store,
    /// Those that this push goes on with.
    ours: Mutex<HashMap<Digest, UploadFile>>,
}

impl Kept<'_> {
    fn try_keep(
        &self,
        repository: &str,
        blob: &Digest,
        upload: Option<&KeptUpload>,
    ) -> store::Result<()> {
        let mut ours = self.ours.lock();
        let Some(upload) = upload else {
            return ours.remove(blob).map_or(Ok(()), UploadFile::remove);
        };
        if !ours.contains_key(blob)
            && let Some(file) = self.store.upload_file(repository, blob, true)?
        {
            ours.insert(*blob, file);
        }
        let file = ours.get(blob);
        file.map_or(Ok(()), |file| file.write(&upload.address, upload.least))
    }
}

impl Uploads for Kept<'_> {
    fn recall(&self, repository: &str, blob: &Digest) -> Option<KeptUpload> {
        let file = self.store.upload_file(repository, blob, false);
        let file = file.unwrap_or_else(|error| {
            log::info!("{}", cause::chain(&error));
            None
        })?;
        let (address, least) = file.read(SystemTime::now())?;
        self.ours.lock().insert(*blob, file);
        Some(KeptUpload { address, least })
    }

    fn keep(&self, repository: &str, blob: &Digest, upload: Option<&KeptUpload>) {
        if let Err(error) = self.try_keep(repository, blob, upload) {
            log::info!("no upload is kept: {}", cause::chain(&error));
        }
    }
}

fn push_blob(
    blob: &OutgoingBlob,
    repository: &Repository,
    uploads: &Kept<'_>,
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
        uploads,
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
