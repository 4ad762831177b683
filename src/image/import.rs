//! Makes an image of one layer from a root filesystem: a tar archive or a directory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::layer::tree::{Target, Tree};
use crate::oci::{
    Compression, Config, Descriptor, Digest, Hasher, History, ImageConfig, MediaType, Platform,
    Reference,
};
use crate::pack::{self, Limits, Packed, Progress, Skipped, TarWriter, pack_archive};
use crate::store::{self, Staging, Store};

use super::made::{MadeImage, MadeLayer, archive, layer_directory, publish};
use super::{Error, Result, find};

/// Where the root filesystem comes from.
pub enum ImportSource<'a> {
    /// A tar archive, plain or compressed.
    Archive(Box<dyn Read + Send + 'a>),
    /// A directory.
    Directory(&'a Path),
}

/// What to import.
pub struct ImportRequest<'a> {
    /// From where.
    pub source: ImportSource<'a>,
    /// As people wrote it, for the history.
    pub described: &'a str,
    /// The name of the image; without one it becomes a dangling image.
    pub name: Option<&'a Reference>,
    /// What it runs on.
    pub platform: Platform,
    /// How to run it.
    pub config: Config,
    /// The time of its making, RFC 3339.
    pub created: &'a str,
    /// A remark for its history.
    pub message: Option<&'a str>,
    /// What the archive may ask for.
    pub limits: &'a Limits,
    /// Is told how many bytes of the archive were read.
    pub told: &'a (dyn Fn(u64) + Sync),
}

/// Is told how many bytes were read.
type Told<'a> = dyn Fn(u64) + Sync + 'a;

/// An image that was imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its ID: the digest of its configuration.
    pub id: Digest,
    /// What the directory holds that a layer cannot.
    pub skipped: Vec<Skipped>,
}

/// What begins the history of an import.
const CREATED_BY: &str = "plyfs import ";

/// Whether an image of the store was imported, so that no pull brings it again; `None` if that
/// cannot be read.
#[must_use]
pub fn is_import(store: &Store, name: &str) -> Option<bool> {
    let found = find(store, name, None).ok()?;
    let first = found.config.history.first();
    let made = first.and_then(|history| history.created_by.as_deref());
    Some(made.is_some_and(|made| made.starts_with(CREATED_BY)))
}

/// Imports an image; it is in the store when this returns.
///
/// # Errors
/// [`Error`]; then the store is as it was.
pub fn import(store: &Store, request: ImportRequest<'_>) -> Result<Imported> {
    let staging = store.staging()?;
    let mut skipped = Vec::new();
    let (packed, blob) = match request.source {
        ImportSource::Archive(reader) => pack_into(&staging, reader, request.limits, request.told)?,
        ImportSource::Directory(path) => {
            let (compression, limits, told) =
                (pack::Compression::Gzip, request.limits, request.told);
            let (packed, blob, left_out) = archive(&staging, compression, limits, told, |out| {
                let mut writer = TarWriter::new(out);
                let skipped = pack::write_directory(path, Some(store.root()), &mut writer)?;
                writer.finish()?;
                Ok(skipped)
            })?;
            skipped = left_out;
            (packed, blob)
        }
    };
    if let Some(kind) = saved_image(&packed.tree) {
        return Err(Error::SavedImage(kind));
    }
    let layer = MadeLayer::packed(store, &staging, &packed, blob)?;
    drop(packed);
    let history = History {
        created: Some(request.created.to_owned()),
        created_by: Some(format!("{CREATED_BY}{}", request.described)),
        comment: request.message.map(str::to_owned),
        ..History::default()
    };
    let config = ImageConfig {
        created: Some(request.created.to_owned()),
        config: request.config,
        history: vec![history],
        ..ImageConfig::new(request.platform, vec![layer.diff_id])
    };
    let key = "org.opencontainers.image.created";
    let image = MadeImage {
        config: &config,
        below: Vec::new(),
        layer: &layer,
        annotations: vec![(key, request.created.to_owned())],
        name: request.name,
    };
    let id = publish(store, &staging, image)?;
    Ok(Imported { id, skipped })
}

/// Packs an archive into the staging directory: its bytes as `blob`, the layer as `layer`.
fn pack_into(
    staging: &Staging,
    reader: Box<dyn Read + Send + '_>,
    limits: &Limits,
    told: &Told<'_>,
) -> Result<(Packed, Descriptor)> {
    let directory = layer_directory(staging)?;
    let blob: PathBuf = staging.path().join("blob");
    let copy = File::create(&blob).map_err(|e| store::Error::io(e, "making", &blob))?;
    let mut tee = Tee {
        reader,
        copy,
        path: blob,
        failed: None,
        told,
        hasher: Hasher::default(),
        size: 0,
        start: Vec::new(),
    };
    let packed = pack_archive(&mut tee, &directory, limits, &Progress::default());
    let packed = match packed {
        Ok(packed) => packed,
        Err(error) => return Err(tee.failed.take().unwrap_or_else(|| error.into())),
    };
    if let Err(error) = io::copy(&mut tee, &mut io::sink()) {
        let read = || Error::io(error, "reading the archive");
        return Err(tee.failed.take().unwrap_or_else(read));
    }
    let media_type = match Compression::sniff(&tee.start) {
        Compression::Gzip => MediaType::OciLayerGzip,
        Compression::Zstd => MediaType::OciLayerZstd,
        _ => MediaType::OciLayer,
    };
    let descriptor = Descriptor::new(media_type, tee.hasher.finish(), tee.size);
    Ok((packed, descriptor))
}

/// Whether the tree is that of an archive in which images are saved, and which.
fn saved_image(tree: &Tree) -> Option<&'static str> {
    let has = |name: &str| tree.lookup(Tree::ROOT, name.as_bytes());
    let is_root = ["etc", "bin", "usr", "lib"]
        .into_iter()
        .any(|name| has(name).is_some());
    let layers = |node| tree.lookup(node, b"layer.tar").is_some();
    let legacy = || {
        has("repositories").is_some()
            || tree
                .children(Tree::ROOT)
                .any(|(_, target)| matches!(target, Target::Node(node) if layers(node)))
    };
    match () {
        () if is_root => None,
        () if has("manifest.json").is_some() && (has("oci-layout").is_some() || legacy()) => {
            Some("docker-archive")
        }
        () if has("oci-layout").is_some() && has("index.json").is_some() => Some("oci-archive"),
        () => None,
    }
}

/// Copies and hashes what is read.
struct Tee<'a> {
    reader: Box<dyn Read + Send + 'a>,
    copy: File,
    path: PathBuf,
    /// Why the copy could not be written.
    failed: Option<Error>,
    told: &'a Told<'a>,
    hasher: Hasher,
    size: u64,
    start: Vec<u8>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if let Err(error) = self.copy.write_all(bytes) {
            let copy = io::Error::new(error.kind(), error.to_string());
            self.failed = Some(store::Error::io(error, "writing", &self.path).into());
            return Err(copy);
        }
        self.hasher.update(bytes);
        self.size += count as u64;
        (self.told)(self.size);
        if self.start.len() < 8 {
            self.start.extend(bytes.iter().take(8));
        }
        Ok(count)
    }
}
