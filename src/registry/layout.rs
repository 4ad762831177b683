//! OCI image layouts, in a directory or in a tar archive.
//!
//! # See
//!
//! image-spec `image-layout.md`; containerd adds `io.containerd.image.name` to the entries of the index

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::archive::TarFile;
use super::closest::closest;
use super::exact::{Section, read_limited};
use super::{BlobReader, Error, Fetched, ManifestName, Source};
use crate::oci::{Descriptor, Digest, Document, Index, MAX_DOCUMENT_SIZE, Reference};

/// The annotation that gives an entry of the index its tag, or any other name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation with the full reference.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// Images in an OCI layout.
#[derive(Debug)]
pub struct Layout {
    files: Files,
    path: PathBuf,
    index: Index,
}

#[derive(Debug)]
enum Files {
    Directory,
    Archive(TarFile),
}

#[derive(Deserialize)]
struct Marker {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

impl Layout {
    /// Opens the layout in a directory.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Archive`] if it is not an OCI layout.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Self::read(directory, Files::Directory)
    }

    /// Opens the layout in an uncompressed tar archive.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Archive`] if it is not such an archive.
    pub fn open_archive(file: &Path) -> Result<Self, Error> {
        Self::in_archive(TarFile::open(file)?, file)
    }

    /// The layout in an archive that is called `path`.
    pub(super) fn in_archive(tar: TarFile, path: &Path) -> Result<Self, Error> {
        Self::read(path, Files::Archive(tar))
    }

    fn read(path: &Path, files: Files) -> Result<Self, Error> {
        let mut layout = Self {
            files,
            path: path.to_owned(),
            index: Index::default(),
        };
        let marker = layout.file("oci-layout")?;
        let marker: Marker = serde_json::from_slice(&marker)
            .map_err(|e| layout.wrong(format!("its file oci-layout is invalid: {e}")))?;
        if !marker.version.starts_with("1.") {
            return Err(layout.wrong("it is an OCI layout of an unknown version"));
        }
        let index = layout.file("index.json")?;
        match Document::parse(&index, None)? {
            Document::Index(index) => layout.index = index,
            Document::Manifest(_) => return Err(layout.wrong("its index.json is not an index")),
        }
        Ok(layout)
    }

    /// The index: what images there are.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The name in full of the only image that there is, if it has one.
    pub fn own_name(&self) -> Option<String> {
        let mut images = self.index.images();
        match (images.next(), images.next()) {
            (Some(only), None) => called_in_full(only).next(),
            _ => None,
        }
    }

    fn wrong(&self, why: impl Into<String>) -> Error {
        Error::Archive {
            path: self.path.clone(),
            why: why.into(),
        }
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, Error> {
        let bytes = match &self.files {
            Files::Archive(tar) => tar.read(name, MAX_DOCUMENT_SIZE)?,
            Files::Directory => {
                let path = self.path.join(name);
                match open_file(&path) {
                    Ok((file, _)) => Some(
                        read_limited(file, MAX_DOCUMENT_SIZE)
                            .map_err(|source| Error::Io { path, source })?
                            .ok_or_else(|| Error::TooLarge {
                                what: format!("{name} in {}", self.path.display()),
                                limit: MAX_DOCUMENT_SIZE,
                            })?,
                    ),
                    Err(e) if e.kind() == io::ErrorKind::NotFound && self.path.is_dir() => None,
                    Err(source) => return Err(Error::Io { path, source }),
                }
            }
        };
        bytes.ok_or_else(|| {
            let why = format!("it is not an OCI layout: it has no {name}");
            match &self.files {
                Files::Archive(tar) => tar.lacks(&why),
                Files::Directory => self.wrong(why),
            }
        })
    }

    /// Opens a blob: the file it is in, where it starts there, and its size.
    fn open_blob(&self, digest: &Digest) -> Result<(Section, u64), Error> {
        let name = format!("blobs/{}/{}", digest.algorithm(), digest.hex());
        let missing = || Error::NotFound {
            reference: format!("blob {digest} in {}", self.path.display()),
            closest: Vec::new(),
        };
        match &self.files {
            Files::Archive(tar) => {
                let found = tar.find(name.as_bytes());
                let missing = || match tar.is_whole() {
                    true => missing(),
                    false => tar.lacks(&format!("it has no blob {digest}")),
                };
                let (position, size) = found.ok_or_else(missing)?;
                Ok((tar.section(position, position + size), size))
            }
            Files::Directory => {
                let path = self.path.join(name);
                match open_file(&path) {
                    Ok((file, size)) => Ok((Section::new(Arc::new(file), 0, size), size)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing()),
                    Err(source) => Err(Error::Io { path, source }),
                }
            }
        }
    }

    fn select(&self, which: &ManifestName) -> Result<Option<Descriptor>, Error> {
        let entries = &self.index.manifests;
        Ok(match which {
            ManifestName::Default => {
                let first = self.index.images().next();
                let other = |entry: &&Descriptor| first.is_some_and(|f| f.digest != entry.digest);
                if self.index.images().any(|entry| other(&entry)) {
                    return Err(Error::SeveralImages {
                        path: self.path.clone(),
                        images: self.index.images().map(called).collect(),
                    });
                }
                first.or(entries.first()).cloned()
            }
            ManifestName::Tag(tag) => entries.iter().find(|entry| is_named(entry, tag)).cloned(),
            ManifestName::Digest(digest) => entries
                .iter()
                .find(|entry| entry.digest == *digest)
                .cloned(),
        })
    }
}

/// What an entry of the index is called, or else its digest.
fn called(entry: &Descriptor) -> String {
    let named = [REF_NAME, IMAGE_NAME].map(|key| entry.annotations.get(key));
    let name = named.into_iter().flatten().next();
    name.map_or_else(|| format!("@{}", entry.digest), Clone::clone)
}

/// The name of an entry of the index where that is meant to name an image, and is not a tag alone.
pub(super) fn called_in_full(entry: &Descriptor) -> impl Iterator<Item = String> {
    let full = entry.annotations.get(IMAGE_NAME);
    let name = full.or_else(|| {
        let name = entry.annotations.get(REF_NAME);
        name.filter(|name| name.contains(['/', ':']))
    });
    name.cloned().into_iter()
}

/// Whether an entry of the index has this name: literally, or as a reference that means the same.
fn is_named(entry: &Descriptor, name: &str) -> bool {
    let names = [REF_NAME, IMAGE_NAME].map(|key| entry.annotations.get(key));
    if names.iter().flatten().any(|known| *known == name) {
        return true;
    }
    match (
        name.parse::<Reference>(),
        names[1].map(|full| full.parse::<Reference>()),
    ) {
        (Ok(wanted), Some(Ok(known))) => wanted == known,
        _ => false,
    }
}

/// Opens a regular file; a pipe in its place would make us wait for ever.
fn open_file(path: &Path) -> io::Result<(File, u64)> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

impl Source for Layout {
    fn describe(&self) -> String {
        let kind = match self.files {
            Files::Directory => "oci",
            Files::Archive(_) => "oci-archive",
        };
        format!("{kind}:{}", self.path.display())
    }

    fn manifest(&self, which: &ManifestName) -> Result<Fetched, Error> {
        let entry = self.select(which)?;
        let not_found = || {
            let names = [REF_NAME, IMAGE_NAME].into_iter().flat_map(|key| {
                self.index
                    .manifests
                    .iter()
                    .filter_map(move |entry| entry.annotations.get(key))
            });
            Error::NotFound {
                reference: format!("{which} in {}", self.path.display()),
                closest: match which {
                    ManifestName::Tag(tag) => closest(tag, names.map(String::as_str)),
                    _ => Vec::new(),
                },
            }
        };
        let digest = match (&entry, which) {
            (Some(entry), _) => entry.digest,
            // An image of one platform is named by an index that is a blob itself.
            (None, ManifestName::Digest(digest)) => *digest,
            (None, _) => return Err(not_found()),
        };
        let (reader, size) = match self.open_blob(&digest) {
            Err(Error::NotFound { .. }) if entry.is_none() => return Err(not_found()),
            other => other?,
        };
        let too_large = || Error::TooLarge {
            what: format!("manifest {digest}"),
            limit: MAX_DOCUMENT_SIZE,
        };
        if size > MAX_DOCUMENT_SIZE {
            return Err(too_large());
        }
        let bytes = read_limited(reader, MAX_DOCUMENT_SIZE)
            .map_err(|source| Error::Io {
                path: self.path.clone(),
                source,
            })?
            .ok_or_else(too_large)?;
        let media_type = entry.as_ref().map(|entry| entry.media_type.as_str());
        Fetched::new(bytes, media_type, Some(&digest))
    }

    fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader, Error> {
        let (mut reader, size) = self.open_blob(&descriptor.digest)?;
        if size != descriptor.size {
            return Err(self.wrong(format!(
                "blob {} has {size} bytes instead of {}",
                descriptor.digest, descriptor.size
            )));
        }
        if !reader.skip(offset) {
            let url = format!("blob {} in {}", descriptor.digest, self.path.display());
            return Err(Error::RangeNotSatisfiable { url, offset });
        }
        Ok(BlobReader {
            start: offset,
            reader: Box::new(reader),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::archive::tests::tar_of;
    use super::*;
    use crate::oci::{Manifest, MediaType};

    const LAYER: &[u8] = b"not really a tar";

    fn files() -> Vec<(String, Vec<u8>)> {
        let layer = Descriptor::of(MediaType::OciLayer, LAYER);
        let config = Descriptor::of(MediaType::OciConfig, b"{}");
        let manifest = serde_json::to_vec(&Manifest::new(config, vec![layer])).unwrap();
        let mut entry = Descriptor::of(MediaType::OciManifest, &manifest);
        entry.annotations.insert(REF_NAME.into(), "v1.0".into());
        entry
            .annotations
            .insert(IMAGE_NAME.into(), "docker.io/library/x:v1.0".into());
        let index = Index {
            manifests: vec![entry],
            ..Index::default()
        };
        let blob = |content: &[u8]| {
            (
                format!("blobs/sha256/{}", Digest::of(content).hex()),
                content.to_vec(),
            )
        };
        vec![
            (
                "oci-layout".into(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            ("index.json".into(), serde_json::to_vec(&index).unwrap()),
            blob(&manifest),
            blob(LAYER),
            blob(b"{}"),
        ]
    }

    fn on_disk(files: &[(String, Vec<u8>)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        let tar: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(n, c)| (n.as_str(), c.as_slice()))
            .collect();
        std::fs::write(directory.path().join("a.tar"), tar_of(&tar)).unwrap();
        directory
    }

    #[test]
    fn directory_and_archive() {
        let directory = on_disk(&files());
        let layouts = [
            Layout::open(directory.path()).unwrap(),
            Layout::open_archive(&directory.path().join("a.tar")).unwrap(),
        ];
        for layout in layouts {
            let first = layout.manifest(&ManifestName::Default).unwrap();
            assert_eq!(first.media_type, MediaType::OciManifest);
            for name in ["v1.0", "x:v1.0", "docker.io/library/x:v1.0"] {
                assert_eq!(
                    layout.manifest(&ManifestName::Tag(name.into())).unwrap(),
                    first
                );
            }
            assert_eq!(
                layout
                    .manifest(&ManifestName::Digest(first.digest))
                    .unwrap(),
                first
            );

            let Document::Manifest(manifest) = first.document().unwrap() else {
                panic!()
            };
            for offset in [0, 4, LAYER.len()] {
                let mut blob = layout.blob(&manifest.layers[0], offset as u64).unwrap();
                let mut content = Vec::new();
                blob.reader.read_to_end(&mut content).unwrap();
                assert_eq!(
                    (blob.start, &content[..]),
                    (offset as u64, &LAYER[offset..])
                );
            }
            let beyond = layout.blob(&manifest.layers[0], 100).unwrap_err();
            assert!(matches!(beyond, Error::RangeNotSatisfiable { .. }));
            let longer = Descriptor {
                size: 99,
                ..manifest.layers[0].clone()
            };
            assert!(
                layout
                    .blob(&longer, 0)
                    .unwrap_err()
                    .to_string()
                    .contains("instead of 99")
            );

            let error = layout
                .manifest(&ManifestName::Tag("v1".into()))
                .unwrap_err()
                .to_string();
            assert!(error.contains("the closest tag is v1.0"), "{error}");
            let missing = ManifestName::Digest(Digest::of(b"missing"));
            assert!(matches!(
                layout.manifest(&missing),
                Err(Error::NotFound { .. })
            ));
        }
    }

    #[test]
    fn changed_content_is_noticed() {
        let mut files = files();
        files[2].1.push(b' ');
        let directory = on_disk(&files);
        let layout = Layout::open(directory.path()).unwrap();
        let error = layout.manifest(&ManifestName::Default).unwrap_err();
        assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    }

    #[test]
    fn what_is_not_a_layout() {
        let empty = tempfile::tempdir().unwrap();
        let error = Layout::open(empty.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("it is not an OCI layout: it has no oci-layout"),
            "{error}"
        );
        let missing = Layout::open(&empty.path().join("missing")).unwrap_err();
        assert!(matches!(missing, Error::Io { .. }), "{missing}");
        std::fs::write(
            empty.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"2.0.0"}"#,
        )
        .unwrap();
        let error = Layout::open(empty.path()).unwrap_err().to_string();
        assert!(error.contains("unknown version"), "{error}");
    }
}
