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
    /// What else it is called there.
    pub misnamed: Vec<String>,
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
            let images = entries.map(|entry| (entry.digest, called_in_full(entry).collect()));
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
        let images = together(listed);
        let source = Box::new(archive);
        Ok(Self { source, images })
    }
}

/// Each image once, with all its names.
fn together(listed: impl Iterator<Item = (Digest, Vec<String>)>) -> Vec<SavedImage> {
    let mut images: Vec<SavedImage> = Vec::new();
    for (digest, names) in listed {
        let at = images.iter().position(|image| image.digest == digest);
        let at = at.unwrap_or_else(|| {
            images.push(SavedImage {
                digest,
                names: Vec::new(),
                misnamed: Vec::new(),
            });
            images.len() - 1
        });
        let Some(image) = images.get_mut(at) else {
            continue;
        };
        for name in names {
            match name.parse::<Reference>() {
                Ok(known) if image.names.contains(&known) => {}
                // A digest is no name of another image.
                Ok(known) if known.digest().is_none_or(|own| own == digest) => {
                    image.names.push(known);
                }
                Ok(_) | Err(_) => image.misnamed.push(name),
            }
        }
    }
    images
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::tar_of;
    use super::super::{IMAGE_NAME, ManifestName, REF_NAME};
    use super::*;
    use crate::oci::{Descriptor, DiffId, ImageConfig, Index, Manifest, MediaType, Platform};

    fn open(files: &[(&str, &[u8])]) -> Result<SavedImages, Error> {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&tar_of(files)).unwrap();
        SavedImages::open(file, Path::new("saved.tar"))
    }

    fn names(image: &SavedImage) -> Vec<String> {
        image.names.iter().map(Reference::familiar).collect()
    }

    #[test]
    fn each_image_once_with_all_its_names() {
        let config = Descriptor::of(MediaType::OciConfig, b"{}");
        let manifest = serde_json::to_vec(&Manifest::new(config, Vec::new())).unwrap();
        let entry = |notes: &[(&str, &str)]| {
            let mut entry = Descriptor::of(MediaType::OciManifest, &manifest);
            let notes = notes.iter();
            let notes = notes.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            entry.annotations.extend(notes);
            entry
        };
        let index = Index {
            manifests: vec![
                entry(&[(IMAGE_NAME, "docker.io/library/x:1"), (REF_NAME, "1")]),
                entry(&[(REF_NAME, "example.org/y:2")]),
                entry(&[(REF_NAME, "tag")]),
                entry(&[(REF_NAME, "x:1")]),
            ],
            ..Index::default()
        };
        let blob = format!("blobs/sha256/{}", Digest::of(&manifest).hex());
        let docker = br#"[{"Config":"none","RepoTags":["other:1"],"Layers":[]}]"#;
        let saved = open(&[
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
            ("index.json", &serde_json::to_vec(&index).unwrap()),
            ("manifest.json", docker),
            (&blob, &manifest),
        ]);
        let saved = saved.unwrap();
        assert_eq!(saved.images.len(), 1);
        assert_eq!(names(&saved.images[0]), ["x:1", "example.org/y:2"]);
        let digest = saved.images[0].digest;
        assert_eq!(digest, Digest::of(&manifest));
        saved
            .source
            .manifest(&ManifestName::Digest(digest))
            .unwrap();
    }

    #[test]
    fn a_docker_archive_without_a_layout() {
        let diff_ids = vec![DiffId(Digest::of(b"layer"))];
        let config = ImageConfig::new(Platform::new("linux", "amd64", None), diff_ids);
        let config = config.to_bytes().unwrap();
        let manifest = br#"[{"Config":"c.json","RepoTags":["x:1","y:2"],"Layers":["l.tar"]},
            {"Config":"c.json","RepoTags":["no name!"],"Layers":["l.tar"]}]"#;
        let saved = open(&[
            ("c.json", &config),
            ("l.tar", b"layer"),
            ("manifest.json", manifest),
        ]);
        let saved = saved.unwrap();
        assert_eq!(saved.images.len(), 1);
        assert_eq!(names(&saved.images[0]), ["x:1", "y:2"]);
        assert_eq!(saved.images[0].misnamed, ["no name!"]);
        let error = open(&[("etc/passwd", b"")]).err().unwrap().to_string();
        assert!(error.contains("there are no images in it"), "{error}");
    }
}
