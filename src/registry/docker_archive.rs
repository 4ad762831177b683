//! Archives that `docker save` writes.
//!
//! They have a configuration and layers but no manifest. One is made up here, the same for the same archive,
//! so that an image from an archive is like any other.
//!
//! # See
//!
//! <https://github.com/moby/docker-image-spec>, "Combined Image JSON + Filesystem Changeset Format"

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;
use serde::Deserialize;

use super::archive::{TarFile, start_of};
use super::closest::closest;
use super::{BlobReader, Error, Fetched, ManifestName, Source};
use crate::oci::{
    Compression, Descriptor, Digest, Hasher, ImageConfig, MAX_DOCUMENT_SIZE, Manifest, MediaType,
    ParseError, Reference, quoted,
};

/// Images in an archive of `docker save`.
#[derive(Debug)]
pub struct DockerArchive {
    path: PathBuf,
    tar: TarFile,
    images: Vec<Image>,
    /// Where the blobs lie that the manifests made so far speak of: position and size.
    blobs: Mutex<HashMap<Digest, (u64, u64)>>,
}

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
    /// The manifest that was made up, once it was: layers may have been hashed for it.
    #[serde(skip)]
    made: OnceLock<Fetched>,
}

impl DockerArchive {
    /// Opens an archive.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Archive`] if it is not such an archive.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::in_archive(TarFile::open(path)?, path)
    }

    /// The images in an archive that is called `path`.
    pub(super) fn in_archive(tar: TarFile, path: &Path) -> Result<Self, Error> {
        let manifest = tar.read("manifest.json", MAX_DOCUMENT_SIZE)?.ok_or_else(|| {
            tar.lacks("it has no manifest.json, so it does not come from docker save since Docker 1.10")
        })?;
        let images: Vec<Image> = serde_json::from_slice(&manifest)
            .map_err(|e| tar.wrong(format!("its manifest.json is invalid: {e}")))?;
        Ok(Self {
            path: path.to_owned(),
            tar,
            images,
            blobs: Mutex::default(),
        })
    }

    /// The references of the images in the archive, in its order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.images
            .iter()
            .flat_map(|image| image.repo_tags.iter().flatten())
            .map(String::as_str)
    }

    /// Each image of the archive, with the names that it has there.
    ///
    /// # Errors
    ///
    /// As [`Source::manifest`].
    pub(super) fn list(&self) -> Result<Vec<(Digest, Vec<String>)>, Error> {
        let images = self.images.iter();
        let listed = images.map(|image| {
            let names = image.repo_tags.iter().flatten();
            let names = names.cloned().collect();
            Ok((self.make(image)?.digest, names))
        });
        listed.collect()
    }

    /// Makes the manifest of an image up.
    fn make(&self, image: &Image) -> Result<Fetched, Error> {
        if let Some(made) = image.made.get() {
            return Ok(made.clone());
        }
        let made = self.make_anew(image)?;
        Ok(image.made.get_or_init(|| made).clone())
    }

    fn make_anew(&self, image: &Image) -> Result<Fetched, Error> {
        let bytes = self
            .tar
            .read(&image.config, MAX_DOCUMENT_SIZE)?
            .ok_or_else(|| {
                let config = quoted(&image.config);
                self.tar
                    .lacks(&format!("the configuration {config} is missing"))
            })?;
        let config = ImageConfig::parse(&bytes)?;
        let names = image.layers.as_deref().unwrap_or_default();
        let diff_ids = &config.rootfs.diff_ids;
        if names.len() != diff_ids.len() {
            return Err(self.tar.wrong(format!(
                "the image has {} layers, its configuration {}",
                names.len(),
                diff_ids.len()
            )));
        }
        let mut layers = Vec::new();
        for (name, diff_id) in names.iter().zip(diff_ids) {
            layers.push(self.layer(name, diff_id.0)?);
        }
        let descriptor = Descriptor::of(MediaType::OciConfig, &bytes);
        if let Some(place) = self.tar.find(image.config.as_bytes()) {
            self.blobs.lock().insert(descriptor.digest, place);
        }
        let manifest = serde_json::to_vec(&Manifest::new(descriptor, layers)).map_err(|e| {
            ParseError::Document {
                what: "manifest",
                why: e.to_string(),
            }
        })?;
        Fetched::new(manifest, None, None)
    }

    fn layer(&self, name: &str, diff_id: Digest) -> Result<Descriptor, Error> {
        let io = |source| Error::Io {
            path: self.path.clone(),
            source,
        };
        let (position, size) = self.tar.find(name.as_bytes()).ok_or_else(|| {
            self.tar
                .lacks(&format!("the layer {} is missing", quoted(name)))
        })?;
        let section = || self.tar.section(position, position + size);
        let (media_type, digest) = match Compression::sniff(&start_of(section()).map_err(io)?) {
            // The digest of a plain layer is its DiffID, and who reads the layer verifies that.
            Compression::None => (MediaType::OciLayer, diff_id),
            Compression::Gzip => (MediaType::OciLayerGzip, hash(section()).map_err(io)?),
            Compression::Zstd => (MediaType::OciLayerZstd, hash(section()).map_err(io)?),
        };
        self.blobs.lock().insert(digest, (position, size));
        Ok(Descriptor::new(media_type, digest, size))
    }

    fn select(&self, which: &ManifestName) -> Result<Option<Fetched>, Error> {
        let image = match which {
            ManifestName::Default if self.images.len() > 1 => {
                let names = |image: &Image| match image.repo_tags.iter().flatten().next() {
                    Some(name) => name.clone(),
                    None => format!("one without a name ({})", quoted(&image.config)),
                };
                return Err(Error::SeveralImages {
                    path: self.path.clone(),
                    images: self.images.iter().map(names).collect(),
                });
            }
            ManifestName::Default => self.images.first(),
            ManifestName::Tag(tag) => self.images.iter().find(|image| image.is_named(tag)),
            ManifestName::Digest(digest) => {
                for image in &self.images {
                    let made = self.make(image)?;
                    if made.digest == *digest {
                        return Ok(Some(made));
                    }
                }
                None
            }
        };
        image.map(|image| self.make(image)).transpose()
    }
}

impl Image {
    fn is_named(&self, wanted: &str) -> bool {
        let names = || self.repo_tags.iter().flatten();
        if names().any(|name| name == wanted) {
            return true;
        }
        match wanted.parse::<Reference>() {
            Ok(wanted) => {
                names().any(|name| name.parse::<Reference>().is_ok_and(|it| it == wanted))
            }
            Err(_) => false,
        }
    }
}

fn hash(mut content: impl Read) -> std::io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

impl Source for DockerArchive {
    fn describe(&self) -> String {
        format!("docker-archive:{}", self.path.display())
    }

    fn manifest(&self, which: &ManifestName) -> Result<Fetched, Error> {
        self.select(which)?.ok_or_else(|| Error::NotFound {
            reference: format!("{which} in {}", self.path.display()),
            closest: match which {
                ManifestName::Tag(tag) => closest(tag, self.names()),
                _ => Vec::new(),
            },
        })
    }

    fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader, Error> {
        let what = || format!("blob {} in {}", descriptor.digest, self.path.display());
        let place = self.blobs.lock().get(&descriptor.digest).copied();
        let (position, size) = place.ok_or_else(|| Error::NotFound {
            reference: what(),
            closest: Vec::new(),
        })?;
        if size != descriptor.size {
            return Err(self.tar.wrong(format!(
                "blob {} has {size} bytes instead of {}",
                descriptor.digest, descriptor.size
            )));
        }
        let mut reader = self.tar.section(position, position + size);
        if !reader.skip(offset) {
            return Err(Error::RangeNotSatisfiable {
                url: what(),
                offset,
            });
        }
        Ok(BlobReader {
            start: offset,
            reader: Box::new(reader),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::archive::tests::tar_of;
    use super::*;
    use crate::oci::{DiffId, Document, Platform};

    fn archive(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Result<DockerArchive, Error>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        std::fs::write(&path, tar_of(files)).unwrap();
        let archive = DockerArchive::open(&path);
        (directory, archive)
    }

    #[test]
    fn plain_and_compressed_layers() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"second").unwrap();
        let gzip = gzip.finish().unwrap();
        let diff_ids = [&b"first"[..], b"second"].map(|layer| DiffId(Digest::of(layer)));
        let config = ImageConfig::new(Platform::new("linux", "amd64", None), diff_ids.to_vec());
        let config = config.to_bytes().unwrap();
        let manifest = br#"[{"Config":"c.json","RepoTags":["x:1","y:2"],"Layers":["a/layer.tar","b/layer.tar"]},
            {"Config":"c.json","RepoTags":null,"Layers":["a/layer.tar"]}]"#;
        let (_directory, archive) = archive(&[
            ("a/layer.tar", b"first"),
            ("b/layer.tar", &gzip),
            ("c.json", &config),
            ("manifest.json", manifest),
            ("repositories", b"{}"),
        ]);
        let archive = archive.unwrap();
        let error = archive.manifest(&ManifestName::Default).unwrap_err();
        assert!(matches!(error, Error::SeveralImages { images, .. } if images[0] == "x:1"));
        let first = ManifestName::Tag("x:1".into());
        let fetched = archive.manifest(&first).unwrap();
        for name in ["x:1", "docker.io/library/y:2"] {
            assert_eq!(
                archive.manifest(&ManifestName::Tag(name.into())).unwrap(),
                fetched
            );
        }
        assert_eq!(
            archive
                .manifest(&ManifestName::Digest(fetched.digest))
                .unwrap(),
            fetched
        );
        let Document::Manifest(manifest) = fetched.document().unwrap() else {
            panic!()
        };
        assert_eq!(
            manifest.layers[0],
            Descriptor::of(MediaType::OciLayer, b"first")
        );
        assert_eq!(
            manifest.layers[1],
            Descriptor::of(MediaType::OciLayerGzip, &gzip)
        );
        for (descriptor, content) in [(&manifest.config, &config), (&manifest.layers[1], &gzip)] {
            let mut read = Vec::new();
            archive
                .blob(descriptor, 3)
                .unwrap()
                .reader
                .read_to_end(&mut read)
                .unwrap();
            assert_eq!(read, content[3..]);
        }
        let error = archive
            .manifest(&ManifestName::Tag("x:2".into()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("closest tags are x:1"), "{error}");
        let unknown = ManifestName::Digest(Digest::of(b""));
        let error = archive.manifest(&unknown).unwrap_err().to_string();
        assert!(error.contains("1 layers, its configuration 2"), "{error}");
    }

    #[test]
    fn what_is_refused() {
        let (_directory, none) = archive(&[("repositories", b"{}")]);
        assert!(none.unwrap_err().to_string().contains("no manifest.json"));
        let (_directory, bad) = archive(&[("manifest.json", b"{}")]);
        assert!(
            bad.unwrap_err()
                .to_string()
                .contains("manifest.json is invalid")
        );
        let (_directory, missing) =
            archive(&[("manifest.json", br#"[{"Config":"../x","Layers":[]}]"#)]);
        let error = missing
            .unwrap()
            .manifest(&ManifestName::Default)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(r#"configuration "../x" is missing"#),
            "{error}"
        );
    }
}
