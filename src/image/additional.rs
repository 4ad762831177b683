//! Images of the store as an additional image store of containers/storage, from which podman, buildah and
//! CRI-O use them without a copy.
//!
//! ```text
//! overlay-images/  images.json, images.lock
//!                  <image ID>/manifest, <image ID>/=<base64 of the key of a document>
//! overlay-layers/  layers.json, layers.lock, <layer>.tar-split.gz
//! overlay/         <layer>/link, <layer>/lower, <layer>/diff -> ../../mounts/<manifest>/<n>
//!                  l/<link> -> ../<layer>/diff
//! mounts/          <manifest>/<n>: the layers of an image, mounted by the caller
//! ```
//!
//! # Invariants
//! * A layer has the identifier that containers/storage would give it, and its true digests: layers that it has
//!   by itself, or is about to pull, are known to be the same.
//! * What `images.json` names is there.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use super::tar_splits::{self, TarSplit};
use super::{Error, Found, Result, find};
use crate::cause;
use crate::oci::{Compression, DiffId, Digest};
use crate::store::Store;

/// An image that can be exported.
#[derive(Debug)]
pub struct Exportable {
    /// The image.
    pub found: Found,
    /// What it is called.
    pub names: BTreeSet<String>,
}

impl Exportable {
    /// Where its layers are to be mounted, below the directory of the additional store.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        Path::new(EXPORT_MOUNTS).join(self.found.manifest_descriptor.digest.hex())
    }
}

/// Where what is known of layers stands.
const LAYERS: &str = "overlay-layers";

fn tar_split_name(id: &str) -> String {
    format!("{id}.tar-split.gz")
}

/// The directory of the mounts in an additional store.
pub const EXPORT_MOUNTS: &str = "mounts";

/// The images of the store with all their names, for this machine's platform. One that cannot be read is left out
/// with a warning.
///
/// # Errors
/// What reading the list of images reports.
pub fn exportable(store: &Store) -> Result<Vec<Exportable>> {
    let mut all: Vec<Exportable> = Vec::new();
    for record in store.images()? {
        let name = record.reference.as_ref().map(ToString::to_string);
        let found = match find::load(store, record, None) {
            Ok(found) => found,
            Err(error @ Error::NotStoredFor { .. }) => {
                log::info!("{} is left out: {error}", name.unwrap_or_default());
                continue;
            }
            Err(error) => {
                let why = cause::chain(&error);
                log::warn!("{} is left out: {why}", name.unwrap_or_default());
                continue;
            }
        };
        let digest = found.manifest_descriptor.digest;
        let same = |it: &&mut Exportable| it.found.manifest_descriptor.digest == digest;
        match all.iter_mut().find(same) {
            Some(known) => known.names.extend(name),
            None => all.push(Exportable {
                found,
                names: name.into_iter().collect(),
            }),
        }
    }
    // Two manifests of one configuration are one image to containers/storage.
    let mut ids = BTreeSet::new();
    all.retain(|image| ids.insert(image.found.id().hex()));
    Ok(all)
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ImageEntry {
    id: String,
    digest: Digest,
    names: BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<String>,
    metadata: &'static str,
    big_data_names: Vec<String>,
    big_data_sizes: BTreeMap<String, usize>,
    big_data_digests: BTreeMap<String, Digest>,
    created: String,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct LayerEntry {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    created: String,
    compressed_diff_digest: Digest,
    compressed_size: u64,
    diff_digest: Digest,
    diff_size: u64,
    /// As containers/storage numbers them.
    compression: u8,
}

/// Writes the additional store of `images`, whose layers are mounted at their [`Exportable::place`], into
/// `directory`, an absolute path, and removes from it what belongs to others.
///
/// # Errors
/// What reading the images, or writing, reports. Then the store before is there still.
pub fn write_additional(store: &Store, directory: &Path, images: &[Exportable]) -> Result<()> {
    let mut writing = Writing {
        store,
        directory,
        images: Vec::new(),
        layers: Vec::new(),
        links: BTreeSet::new(),
        splits: Vec::new(),
    };
    for name in ["overlay/l", "overlay-images", "overlay-layers"] {
        make_directory(&directory.join(name))?;
    }
    for name in ["overlay-images/images.lock", "overlay-layers/layers.lock"] {
        let path = directory.join(name);
        let made = File::options().append(true).create(true).open(&path);
        made.map_err(|error| failed(error, "making", &path))?;
    }
    for image in images {
        writing.image(image)?;
    }
    tar_splits::write(store, std::mem::take(&mut writing.splits))?;
    replace(
        &directory.join("overlay-layers/layers.json"),
        &writing.layers,
    )?;
    replace(
        &directory.join("overlay-images/images.json"),
        &writing.images,
    )?;
    writing.remove_others()
}

/// An additional store while it is written.
struct Writing<'a> {
    store: &'a Store,
    directory: &'a Path,
    images: Vec<ImageEntry>,
    layers: Vec<LayerEntry>,
    /// The names in `overlay/l`.
    links: BTreeSet<String>,
    splits: Vec<TarSplit>,
}

impl Writing<'_> {
    fn image(&mut self, image: &Exportable) -> Result<()> {
        let found = &image.found;
        let created = found.config.created.clone();
        let created = created.unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned());
        let mut parents: Vec<(String, String)> = Vec::new();
        for (number, diff_id) in found.config.rootfs.diff_ids.iter().enumerate() {
            let parent = parents.first().map(|(id, _)| id.as_str());
            let id = layer_id(parent, diff_id);
            let link = link_name(&id);
            if self.links.insert(link.clone()) {
                let target = self.directory.join(image.place()).join(number.to_string());
                self.layer(&id, &link, &parents, &target)?;
                let record = self.store.layer_record(diff_id)?;
                let blob = found.manifest.layers.get(number);
                self.splits.extend(blob.map(|blob| TarSplit {
                    path: self.directory.join(LAYERS).join(tar_split_name(&id)),
                    diff_id: *diff_id,
                    blob: blob.digest,
                }));
                self.layers.push(LayerEntry {
                    id: id.clone(),
                    parent: parents.first().map(|(id, _)| id.clone()),
                    created: created.clone(),
                    compressed_diff_digest: blob.map_or(diff_id.0, |blob| blob.digest),
                    compressed_size: blob.map_or(record.uncompressed_bytes, |blob| blob.size),
                    diff_digest: diff_id.0,
                    diff_size: record.uncompressed_bytes,
                    compression: match blob.and_then(|blob| blob.media_type.compression()) {
                        Some(Compression::Gzip) => 2,
                        Some(Compression::Zstd) => 4,
                        Some(Compression::None) | None => 0,
                    },
                });
            }
            parents.insert(0, (id, link));
        }
        let documents = self.documents(found)?;
        let sizes = documents
            .iter()
            .map(|(key, bytes)| (key.clone(), bytes.len()));
        let digests = documents
            .iter()
            .map(|(key, it)| (key.clone(), Digest::of(it)));
        self.images.push(ImageEntry {
            id: found.id().hex(),
            digest: found.record.descriptor.digest,
            names: image.names.clone(),
            layer: parents.into_iter().next().map(|(id, _)| id),
            metadata: "{}",
            big_data_names: documents.keys().cloned().collect(),
            big_data_sizes: sizes.collect(),
            big_data_digests: digests.collect(),
            created,
        });
        Ok(())
    }

    /// The directory of a layer above `parents`, topmost first.
    fn layer(
        &self,
        id: &str,
        link: &str,
        parents: &[(String, String)],
        target: &Path,
    ) -> Result<()> {
        let directory = self.directory.join("overlay").join(id);
        make_directory(&directory)?;
        replace_link(&directory.join("diff"), target)?;
        let links = self.directory.join("overlay/l");
        replace_link(&links.join(link), &Path::new("..").join(id).join("diff"))?;
        write(&directory.join("link"), link.as_bytes())?;
        if parents.is_empty() {
            return Ok(());
        }
        let lowers: Vec<String> = parents
            .iter()
            .map(|(_, link)| format!("l/{link}"))
            .collect();
        write(&directory.join("lower"), lowers.join(":").as_bytes())
    }

    /// Writes the documents of an image, and tells them by their keys.
    fn documents(&self, found: &Found) -> Result<BTreeMap<String, Vec<u8>>> {
        let (manifest, id) = (found.manifest_descriptor.digest, found.id());
        let listed = found.record.descriptor.digest;
        let mut documents = BTreeMap::from([
            ("manifest".to_owned(), self.store.read_blob(&manifest)?),
            (format!("manifest-{listed}"), self.store.read_blob(&listed)?),
            (id.to_string(), self.store.read_blob(&id)?),
        ]);
        let own = format!("manifest-{manifest}");
        if let Some(bytes) = documents.get("manifest").cloned() {
            documents.insert(own, bytes);
        }
        let directory = self.directory.join("overlay-images").join(id.hex());
        make_directory(&directory)?;
        for (key, bytes) in &documents {
            let name = match key.contains(':') {
                true => format!("={}", BASE64_STANDARD.encode(key)),
                false => key.clone(),
            };
            write(&directory.join(name), bytes)?;
        }
        Ok(documents)
    }

    /// Removes what belongs to images that are no longer here.
    fn remove_others(&self) -> Result<()> {
        let layers: BTreeSet<&str> = self.layers.iter().map(|layer| layer.id.as_str()).collect();
        let images: BTreeSet<&str> = self.images.iter().map(|image| image.id.as_str()).collect();
        let remove = |place: &str, is_kept: &dyn Fn(&str) -> bool| {
            let directory = self.directory.join(place);
            let listing = |error| failed(error, "listing", &directory);
            for entry in fs::read_dir(&directory).map_err(listing)? {
                let entry = entry.map_err(listing)?;
                if entry.file_name().to_str().is_none_or(is_kept) {
                    continue;
                }
                let path = entry.path();
                let removed = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    true => fs::remove_dir_all(&path),
                    false => fs::remove_file(&path),
                };
                removed.map_err(|error| failed(error, "removing", &path))?;
            }
            Ok(())
        };
        remove("overlay/l", &|name| self.links.contains(name))?;
        remove("overlay", &|name| name == "l" || layers.contains(name))?;
        let splits: BTreeSet<String> = layers.iter().map(|id| tar_split_name(id)).collect();
        remove(LAYERS, &|name| {
            name.starts_with("layers.") || splits.contains(name)
        })?;
        remove("overlay-images", &|name| {
            name.starts_with("images.") || images.contains(name)
        })
    }
}

/// What containers/storage calls a layer: the lowest by its digest, another by its parent and its own.
fn layer_id(parent: Option<&str>, diff_id: &DiffId) -> String {
    let own = diff_id.0.hex();
    match parent {
        None => own,
        Some(parent) => Digest::of(format!("{parent}+{own}").as_bytes()).hex(),
    }
}

/// A short name for a layer, so that many of them fit into the options of a mount: 26 letters and digits, as
/// containers/storage has them.
fn link_name(id: &str) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Digest::of(id.as_bytes());
    let letters = digest.as_bytes().iter().take(26);
    let letter = |byte: &u8| {
        LETTERS
            .get(usize::from(byte % 32))
            .map(|&it| char::from(it))
    };
    letters.filter_map(letter).collect()
}

fn failed(error: io::Error, doing: &str, path: &Path) -> Error {
    Error::io(error, format!("{doing} {}", path.display()))
}

fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| failed(error, "making", path))
}

/// Writes a file that is there whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    let new = beside(path);
    fs::write(&new, bytes)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| failed(error, "writing", path))
}

fn replace(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value);
    let bytes = bytes.map_err(|error| failed(error.into(), "writing", path))?;
    write(path, &bytes)
}

fn replace_link(path: &Path, target: &Path) -> Result<()> {
    if fs::read_link(path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let new = beside(path);
    let made = match symlink(target, &new) {
        // Of a process that was killed.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&new).and_then(|()| symlink(target, &new))
        }
        made => made,
    };
    made.and_then(|()| fs::rename(&new, path))
        .map_err(|error| failed(error, "writing", path))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(OsStr::to_owned).unwrap_or_default();
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_the_names_of_containers_storage() {
        let diff_id = |n: u8| DiffId(Digest::from_sha256([n; 32]));
        let lowest = layer_id(None, &diff_id(1));
        assert_eq!(lowest, "01".repeat(32));
        let upper = layer_id(Some(&lowest), &diff_id(2));
        let joined = format!("{}+{}", "01".repeat(32), "02".repeat(32));
        assert_eq!(upper, Digest::of(joined.as_bytes()).hex());
        assert_eq!(link_name(&upper).len(), 26);
    }
}
