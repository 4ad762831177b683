//! The documents of an image that is looked up in a source: manifests and indexes, before any layer.

use crate::cause::chain;
use crate::oci::{
    Descriptor, DiffId, Digest, Document, ImageConfig, Index, Manifest, Platform, attested,
};
use crate::registry::{self, Fetched, ManifestName, Source};

use super::pull::{Platforms, layers_of};
use super::{Error, Result, find};

/// The largest image configuration that is read, in bytes.
pub(super) const MAX_CONFIG_SIZE: u64 = 8 << 20;

/// What a name stands for in a source.
pub(super) struct Documents {
    /// The manifest or index.
    pub top: Fetched,
    /// The images of the platforms that were asked for; at least one.
    pub images: Vec<PlatformImage>,
    /// What an index says about its images, if all of it was asked for and as far as the source has
    /// it.
    pub attestations: Vec<Attestation>,
}

/// A statement about an image: a manifest whose blobs are no layers.
pub(super) struct Attestation {
    /// As the index has it.
    pub descriptor: Descriptor,
    /// The manifest as it came.
    pub bytes: Vec<u8>,
    /// The manifest.
    pub manifest: Manifest,
}

impl Attestation {
    /// All that belongs to it but the manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifest.layers.iter().chain([&self.manifest.config])
    }
}

/// The image of one platform.
pub(super) struct PlatformImage {
    /// As the index has it.
    pub descriptor: Descriptor,
    /// The manifest as it came.
    pub bytes: Vec<u8>,
    /// The manifest.
    pub manifest: Manifest,
    /// The platforms that were asked for and that it was chosen for.
    wanted: Vec<Platform>,
}

impl PlatformImage {
    /// Its diffIDs, if its configuration is for the platform that was asked for.
    pub fn layers(&self, config: &[u8]) -> Result<Vec<DiffId>> {
        if !self.wanted.is_empty() {
            let config = ImageConfig::parse(config)?;
            for wanted in &self.wanted {
                find::require_platform(wanted, &config)?;
            }
        }
        layers_of(&self.manifest, config)
    }
}

/// Fetches what `name` stands for, and the manifests of the platforms.
pub(super) fn fetch_documents(
    source: &dyn Source,
    name: &ManifestName,
    platforms: Platforms<'_>,
) -> Result<Documents> {
    let top = source.manifest(name)?;
    let index = match top.document()? {
        Document::Manifest(manifest) => {
            let image = PlatformImage {
                descriptor: top.descriptor(),
                bytes: top.bytes.clone(),
                manifest,
                wanted: match platforms {
                    Platforms::One(platform) => platform.into_iter().cloned().collect(),
                    Platforms::Each(platforms) => platforms.to_vec(),
                    Platforms::All | Platforms::Available | Platforms::Among(_) => Vec::new(),
                },
            };
            return Ok(Documents {
                top,
                images: vec![image],
                attestations: Vec::new(),
            });
        }
        Document::Index(index) => index,
    };
    let mut images = Vec::new();
    for (descriptor, wanted) in chosen(&index, platforms)? {
        let fetched = match source.manifest(&ManifestName::Digest(descriptor.digest)) {
            Err(registry::Error::NotFound { .. }) if matches!(platforms, Platforms::Available) => {
                continue;
            }
            fetched => fetched?,
        };
        let Document::Manifest(manifest) = fetched.document()? else {
            return Err(Error::NotAnImage(fetched.media_type.to_string()));
        };
        if matches!(platforms, Platforms::Available) && !has_blobs(source, &manifest)? {
            continue;
        }
        images.push(PlatformImage {
            descriptor,
            bytes: fetched.bytes,
            manifest,
            wanted,
        });
    }
    if images.is_empty() {
        return Err(Error::NotAnImage("an index without images".to_owned()));
    }
    let attestations = match platforms {
        Platforms::All | Platforms::Available | Platforms::Among(_) => {
            attestations(source, &index, platforms)?
        }
        Platforms::One(_) | Platforms::Each(_) => Vec::new(),
    };
    Ok(Documents {
        top,
        images,
        attestations,
    })
}

/// The attestations of an index that the source has; images do not need them.
fn attestations(
    source: &dyn Source,
    index: &Index,
    platforms: Platforms<'_>,
) -> Result<Vec<Attestation>> {
    let mut found = Vec::new();
    let is_wanted = |entry: &&Descriptor| match platforms {
        Platforms::Among(manifests) => manifests.contains(&entry.digest),
        _ => true,
    };
    let entries = index.manifests.iter().filter(is_wanted);
    for descriptor in entries.filter(|entry| attested(entry).is_some()) {
        let fetched = match source.manifest(&ManifestName::Digest(descriptor.digest)) {
            Err(error @ registry::Error::NotFound { .. }) => {
                // What was saved may have been meant to be without.
                match platforms {
                    Platforms::Available => log::info!("{}", chain(&error)),
                    _ => warn_left_out(source, &descriptor.digest, &error),
                }
                continue;
            }
            fetched => fetched?,
        };
        let Document::Manifest(manifest) = fetched.document()? else {
            continue;
        };
        if matches!(platforms, Platforms::Available) && !has_blobs(source, &manifest)? {
            continue;
        }
        found.push(Attestation {
            descriptor: descriptor.clone(),
            bytes: fetched.bytes,
            manifest,
        });
    }
    Ok(found)
}

/// Tells that an image comes without an attestation of it, and why.
pub(super) fn warn_left_out(
    source: &dyn Source,
    attestation: &Digest,
    why: &(dyn std::error::Error + 'static),
) {
    let (image, digest) = (source.describe(), attestation.short());
    log::warn!("{image}: attestation {digest} is left out: {}", chain(why));
}

/// Whether a source has all blobs of an image.
fn has_blobs(source: &dyn Source, manifest: &Manifest) -> Result<bool> {
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        match source.blob(blob, 0) {
            Ok(_) => {}
            Err(registry::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// The entries of an index that are meant, each once, with the platforms that were asked for.
fn chosen(index: &Index, platforms: Platforms<'_>) -> Result<Vec<(Descriptor, Vec<Platform>)>> {
    let mut chosen: Vec<(Descriptor, Vec<Platform>)> = Vec::new();
    let mut add = |entry: &Descriptor, wanted: Option<&Platform>| {
        let known = chosen
            .iter_mut()
            .find(|(known, _)| known.digest == entry.digest);
        match known {
            Some((_, platforms)) => platforms.extend(wanted.cloned()),
            None => chosen.push((entry.clone(), wanted.into_iter().cloned().collect())),
        }
    };
    match platforms {
        Platforms::One(platform) => {
            let host = Platform::host();
            add(index.choose(platform.unwrap_or(&host))?, platform);
        }
        Platforms::Each(platforms) => {
            for platform in platforms {
                add(index.choose(platform)?, Some(platform));
            }
        }
        Platforms::All | Platforms::Available => {
            let manifests = index
                .images()
                .filter(|entry| entry.media_type.is_manifest());
            manifests.for_each(|entry| add(entry, None));
        }
        Platforms::Among(wanted) => {
            let manifests = index
                .images()
                .filter(|entry| wanted.contains(&entry.digest));
            manifests.for_each(|entry| add(entry, None));
            if chosen.is_empty() {
                return self::chosen(index, Platforms::One(None));
            }
        }
    }
    Ok(chosen)
}
