//! Finds an image of the store by what people call it: a name, a digest or an ID.

use crate::oci::{
    Descriptor, Digest, Document, ImageConfig, Manifest, MediaType, Platform, Reference,
};
use crate::store::{self, ContainerRecord, Record, SnapshotImage, Store};

use super::{Error, Result};
use crate::registry::closest;

/// The shortest beginning of an ID that is taken for one.
const SHORTEST_ID: usize = 4;

/// An image of the store with its documents.
#[derive(Clone, Debug)]
pub struct Found {
    /// As the store lists it.
    pub record: Record,
    /// Its manifest, for the chosen platform.
    pub manifest_descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The configuration.
    pub config: ImageConfig,
}

impl Found {
    /// The image ID: the digest of the configuration.
    #[must_use]
    pub fn id(&self) -> Digest {
        self.manifest.config.digest
    }
}

/// Finds the image that `name` means.
///
/// # Errors
/// [`Error::NotStored`], [`Error::Misspelt`], [`Error::NotStoredFor`], [`Error::OtherPlatform`], [`Error::Ambiguous`], or what reading reports.
pub fn find(store: &Store, name: &str, platform: Option<&Platform>) -> Result<Found> {
    let record = find_record(store, name)?;
    let digest = record.descriptor.digest;
    while_listed(store, &digest, || load(store, record.clone(), platform))
}

/// Reads of an image that other processes may remove meanwhile, which is no damage.
///
/// # Errors
/// [`Error::NotStored`] if it was removed, or what `read` reports.
pub(super) fn while_listed<T>(
    store: &Store,
    image: &Digest,
    mut read: impl FnMut() -> Result<T>,
) -> Result<T> {
    match read() {
        Err(Error::Store(store::Error::Missing { .. })) => {
            if !store.lists(image)? {
                return Err(Error::NotStored);
            }
            // It may have been removed and brought back.
            read()
        }
        done => done,
    }
}

/// Finds the record that `name` means: a reference, a digest, or the beginning of an image ID.
///
/// # Errors
/// As [`find`].
pub fn find_record(store: &Store, name: &str) -> Result<Record> {
    let images = store.images()?;
    let reference: std::result::Result<Reference, _> = name.parse();
    if let Ok(reference) = &reference {
        let exact = images
            .iter()
            .find(|image| image.reference.as_ref() == Some(reference));
        if let Some(image) = exact {
            return Ok(image.clone());
        }
        if let Some(digest) = reference.digest() {
            let repository = reference.name();
            let same = |image: &&Record| {
                image.descriptor.digest == digest
                    && image.repository.as_deref() == Some(repository.as_str())
            };
            if let Some(image) = images.iter().find(same) {
                return Ok(image.clone());
            }
        }
    }
    if let Some(image) = find_by_id(store, &images, name)? {
        return Ok(image);
    }
    // Only now, so that an ID is not judged as a reference.
    reference?;
    let closest = called_nearly(&images, name);
    Err(if closest.is_empty() {
        Error::NotStored
    } else {
        Error::Misspelt { closest }
    })
}

/// The names of images that are most like `name`; without a tag in it, only repositories count.
fn called_nearly(images: &[Record], name: &str) -> Vec<String> {
    let tagged = name
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains(':'));
    let key = |reference: &Reference| match tagged {
        true => reference.familiar(),
        false => reference.familiar_name(),
    };
    let names = images.iter().filter_map(|image| image.reference.as_ref());
    let names: Vec<(String, String)> = names.map(|r| (key(r), r.familiar())).collect();
    let found = closest(name, names.iter().map(|(key, _)| key.as_str()));
    let shown = found
        .iter()
        .flat_map(|found| names.iter().filter(move |(key, _)| key == found));
    shown.map(|(_, shown)| shown.clone()).take(5).collect()
}

/// The one image whose ID, or whose manifest's digest, begins with `text`.
fn find_by_id(store: &Store, images: &[Record], text: &str) -> Result<Option<Record>> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if hex.len() < SHORTEST_ID || !hex.bytes().all(digits) {
        return Ok(None);
    }
    let mut found: Option<(Digest, &Record)> = None;
    for image in images {
        let manifests = match store.manifests(&image.descriptor) {
            Ok(manifests) => manifests,
            // It was removed meanwhile.
            Err(_) if !store.lists(&image.descriptor.digest)? => continue,
            Err(error) => {
                log::warn!("looking for image {text}: {error}");
                continue;
            }
        };
        for (descriptor, manifest) in manifests {
            let id = manifest.config.digest;
            let digests = [id, descriptor.digest, image.descriptor.digest];
            if !digests.iter().any(|digest| digest.hex().starts_with(hex)) {
                continue;
            }
            match found {
                Some((other, _)) if other != id => return Err(Error::Ambiguous),
                // A record with a name says more than one without.
                Some((_, other)) if other.reference.is_some() => {}
                _ => found = Some((id, image)),
            }
        }
    }
    Ok(found.map(|(_, image)| image.clone()))
}

/// Finds the image of a container, be it listed still or not.
///
/// # Errors
/// What reading reports.
pub fn find_recorded(store: &Store, container: &ContainerRecord) -> Result<Found> {
    let mut found = find_manifest(store, &container.image, container.manifest_digest)?;
    found.record.descriptor.digest = container.image_digest;
    Ok(found)
}

/// Finds the image that a snapshot stands for, with no more of its layers than the snapshot shows.
///
/// # Errors
/// What reading reports.
pub fn find_snapshot(store: &Store, snapshot: &SnapshotImage) -> Result<Found> {
    let mut found = find_manifest(store, &snapshot.image, snapshot.manifest_digest)?;
    found.config.rootfs.diff_ids.truncate(snapshot.layers);
    Ok(found)
}

/// Finds the image with this manifest, which people called `name`.
///
/// # Errors
/// What reading reports.
pub fn find_manifest(store: &Store, name: &str, digest: Digest) -> Result<Found> {
    let bytes = store.read_blob(&digest)?;
    let Document::Manifest(manifest) = Document::parse(&bytes, None)? else {
        return Err(Error::NotAnImage("index".to_owned()));
    };
    let kind = manifest.media_type.clone();
    let kind = kind.unwrap_or(MediaType::OciManifest);
    let descriptor = Descriptor::new(kind, digest, bytes.len() as u64);
    Ok(Found {
        record: Record {
            reference: name.parse().ok(),
            ..Record::nameless(descriptor.clone())
        },
        manifest_descriptor: descriptor,
        config: ImageConfig::parse(&store.read_blob(&manifest.config.digest)?)?,
        manifest,
    })
}

/// Refuses an image whose configuration says that it is made for another platform.
pub(super) fn require_platform(wanted: &Platform, config: &ImageConfig) -> Result<()> {
    let found = &config.platform;
    if found.architecture.is_empty()
        || wanted.rank(found).is_some()
        || wanted.is_same_but_for_variant(found)
    {
        return Ok(());
    }
    Err(Error::OtherPlatform {
        wanted: wanted.clone(),
        found: found.clone(),
    })
}

/// Reads the documents of an image for every platform that it is stored for, that of this machine
/// first.
///
/// # Errors
/// What reading reports; and [`Error::NotStoredFor`] when it is stored for none.
pub(super) fn load_all(store: &Store, record: &Record) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for (manifest_descriptor, manifest) in store.manifests(&record.descriptor)? {
        let config = ImageConfig::parse(&store.read_blob(&manifest.config.digest)?)?;
        all.push(Found {
            record: record.clone(),
            manifest_descriptor,
            manifest,
            config,
        });
    }
    if all.is_empty() {
        return Err(Error::NotStoredFor {
            wanted: Box::new(Platform::host()),
            available: "none".to_owned(),
        });
    }
    let host = Platform::host();
    all.sort_by_key(|found| host.rank(&found.config.platform).unwrap_or(usize::MAX));
    Ok(all)
}

/// Reads the documents of an image.
pub(super) fn load(store: &Store, record: Record, platform: Option<&Platform>) -> Result<Found> {
    let Some((manifest_descriptor, manifest)) = store.manifest(&record.descriptor, platform)?
    else {
        let stored = store.manifests(&record.descriptor)?;
        let platforms: Vec<String> = stored
            .iter()
            .filter_map(|(descriptor, _)| descriptor.platform.as_ref())
            .map(ToString::to_string)
            .collect();
        return Err(Error::NotStoredFor {
            wanted: Box::new(platform.cloned().unwrap_or_else(Platform::host)),
            available: platforms.join(", "),
        });
    };
    let config = ImageConfig::parse(&store.read_blob(&manifest.config.digest)?)?;
    if let Some(wanted) = platform {
        require_platform(wanted, &config)?;
    }
    Ok(Found {
        record,
        manifest_descriptor,
        manifest,
        config,
    })
}
