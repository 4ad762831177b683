//! Looks at an image where it comes from, without pulling it.

use crate::oci::{Descriptor, ImageConfig, Platform};
use crate::registry::{ManifestName, Source};

use super::documents::{MAX_CONFIG_SIZE, fetch_documents};
use super::inspect::{IndexEntry, Summary, entries, summarise};
use super::pull::Platforms;
use super::receive::fetch_small;
use super::{Error, Result};

/// An image in a source.
#[derive(Clone, Debug)]
pub struct Remote {
    /// What the name stands for: a manifest or an index.
    pub descriptor: Descriptor,
    /// The entries of the index, if it is one.
    pub entries: Vec<IndexEntry>,
    /// What the documents tell; nothing is known of its layers' contents.
    pub summary: Summary,
}

/// Looks up an image.
///
/// # Errors
/// As [`super::pull`].
pub fn look_up(
    source: &dyn Source,
    name: &ManifestName,
    platform: Option<&Platform>,
) -> Result<Remote> {
    let documents = fetch_documents(source, name, Platforms::One(platform))?;
    let descriptor = documents.top.descriptor();
    let entries = entries(&documents.top.document()?, &|_| false);
    let Some(image) = documents.images.into_iter().next() else {
        return Err(Error::NotAnImage(descriptor.media_type.to_string()));
    };
    let bytes = fetch_small(source, &image.manifest.config, MAX_CONFIG_SIZE)?;
    image.layers(&bytes)?;
    let config = ImageConfig::parse(&bytes)?;
    let summary = summarise(image.descriptor, &image.manifest, config, |_| Ok(None))?;
    Ok(Remote {
        descriptor,
        entries,
        summary,
    })
}
