//! All images of an archive, whichever tool saved them.

use std::fs::File;
use std::path::Path;

use super::archive::TarFile;
use super::layout::called_in_full;
use super::{DockerArchive, Error, Layout, Source};
use crate::oci::{Digest, Reference};

/// An archive of images.
pub struct SavedImages {
    /// Where they are read from.
    pub source: Box<dyn Source>,
    /// They, in the order of the archive; each once.
    pub images: Vec<SavedImage>,
}

/// An image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedImage {
    /// Its manifest or index in the source.
    pub digest: Digest,
    /// What it is called in the archive, if those can be names of images.
    pub names: Vec<Reference>,
}

impl SavedImages {
    /// Reads an uncompressed archive that is called `path`: an OCI layout, what `docker save`
    /// writes, or both in one, of which the layout is read, since it has the digests.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Archive`] if it is no such archive.
    pub fn open(file: File, path: &Path) -> Result<Self, Error> {
        let tar = TarFile::of(file, path)?;
        let has = |name: &str| tar.find(name.as_bytes()).is_some();
        if has("oci-layout") && has("index.json") {
            let layout = Layout::in_archive(tar, path)?;
            let entries = layout.index().images();
            let images = entries.map(|entry| {
                let names = called_in_full(entry).into_iter().collect();
                (entry.digest, names)
            });
            let images = together(images);
            let source = Box::new(layout);
            return Ok(Self { source, images });
        }
        if !has("manifest.json") {
            return Err(tar.lacks(
                "there are no images in it: it has neither index.json with oci-layout nor manifest.json",
            ));
        }
        let archive = DockerArchive::in_archive(tar, path)?;
        let listed = archive.list()?.into_iter();
        let images = together(listed.map(|(digest, names)| {
            let names = names.into_iter().filter_map(|name| name.parse().ok());
            (digest, names.collect())
        }));
        let source = Box::new(archive);
        Ok(Self { source, images })
    }
}

/// Each image once, with all its names.
fn together(listed: impl Iterator<Item = (Digest, Vec<Reference>)>) -> Vec<SavedImage> {
    let mut images: Vec<SavedImage> = Vec::new();
    for (digest, names) in listed {
        match images.iter_mut().find(|image| image.digest == digest) {
            Some(image) => image.names.extend(names),
            None => images.push(SavedImage { digest, names }),
        }
    }
    for image in &mut images {
        let mut known = Vec::new();
        image.names.retain(|name| {
            let is_new = !known.contains(name);
            known.push(name.clone());
            is_new
        });
    }
    images
}
