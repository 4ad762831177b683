//! Images that are made here: a layer is archived, compressed and packed in one pass, and published
//! with its configuration.

use std::fs::{DirBuilder, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use crate::oci::{
    ChainId, Descriptor, DiffId, Digest, Hasher, ImageConfig, Manifest, MediaType, Reference,
};
use crate::pack::{Compression, Compressor, Limits, Packed, Progress, pack_archive};
use crate::store::{self, LeaseKind, LeaseRecord, Record, Staging, Store};

use super::receive::{commit, source_of, write_packed};
use super::{Error, Result, open};

/// Why something could not be archived.
pub type WriteError = Box<dyn std::error::Error + Send + Sync>;

/// A layer in a staging directory: its archive as `blob`, packed as `layer`.
pub(super) struct MadeLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Of the archive.
    pub diff_id: DiffId,
}

impl MadeLayer {
    /// A layer that has been packed into `staging`, whose blob this is.
    pub(super) fn packed(
        store: &Store,
        staging: &Staging,
        packed: &Packed,
        descriptor: Descriptor,
    ) -> Result<MadeLayer> {
        let directory = staging.path().join("layer");
        write_packed(store, packed, &directory, source_of(&descriptor))?;
        let diff_id = DiffId(Digest::from_sha256(packed.diff_id));
        Ok(MadeLayer {
            descriptor,
            diff_id,
        })
    }
}

/// Makes the directory for a packed layer.
pub(super) fn layer_directory(staging: &Staging) -> Result<PathBuf> {
    let directory = staging.path().join("layer");
    let made = DirBuilder::new().mode(0o700).create(&directory);
    made.map_err(|error| store::Error::io(error, "making", &directory))?;
    Ok(directory)
}

/// Archives with `write`, and packs the archive as it is written. `told` is given the bytes of the
/// archive so far.
pub(super) fn archive<T: Send>(
    staging: &Staging,
    compression: Compression,
    limits: &Limits,
    told: &(dyn Fn(u64) + Sync),
    write: impl FnOnce(&mut dyn Write) -> std::result::Result<T, WriteError> + Send,
) -> Result<(Packed, Descriptor, T)> {
    let directory = layer_directory(staging)?;
    let path = staging.path().join("blob");
    let blob = File::create(&path).map_err(|e| store::Error::io(e, "making", &path))?;
    let (reader, plain) = io::pipe().map_err(|error| Error::io(error, "making a pipe"))?;
    let media_type = match compression {
        Compression::Plain => MediaType::OciLayer,
        Compression::Gzip => MediaType::OciLayerGzip,
        Compression::Zstd => MediaType::OciLayerZstd,
    };
    std::thread::scope(|scope| {
        let archiver = scope.spawn(move || -> std::result::Result<_, WriteError> {
            let blob = Hashed {
                file: blob,
                path,
                hasher: Hasher::default(),
                size: 0,
            };
            let both = Both {
                compressed: Compressor::new(compression, blob)?,
                plain,
                done: 0,
                told,
            };
            // What the compressor is given depends on the archive alone, and so does what it gives.
            let mut out = BufWriter::with_capacity(256 << 10, both);
            let written = write(&mut out)?;
            let both = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            Ok((both.compressed.finish()?, written))
        });
        let packed = pack_archive(reader, &directory, limits, &Progress::default());
        match (archiver.join(), packed) {
            (Ok(Ok((blob, written))), Ok(packed)) => {
                let descriptor = Descriptor::new(media_type, blob.hasher.finish(), blob.size);
                Ok((packed, descriptor, written))
            }
            (Ok(Ok(_)), Err(error)) => Err(error.into()),
            // Whichever side failed first broke the pipe of the other.
            (Ok(Err(error)), Err(packing)) if is_broken_pipe(error.as_ref()) => Err(packing.into()),
            (Ok(Err(error)), _) => Err(Error::Archive(error)),
            (Err(_panicked), _) => Err(Error::io(
                io::Error::other("the archiver died"),
                "writing the layer",
            )),
        }
    })
}

/// An image that is complete but for its name.
pub(super) struct MadeImage<'a> {
    /// Its configuration.
    pub config: &'a ImageConfig,
    /// Layers that are in the store already, lowest first.
    pub below: Vec<Descriptor>,
    /// The topmost layer, in the staging directory.
    pub layer: &'a MadeLayer,
    /// Notes about the manifest.
    pub annotations: Vec<(&'static str, String)>,
    /// The name of the image; without one it becomes a dangling image.
    pub name: Option<&'a Reference>,
}

/// Moves the layer to its place and publishes the image; gives its ID.
pub(super) fn publish(store: &Store, staging: &Staging, image: MadeImage<'_>) -> Result<Digest> {
    let config = image.config.to_bytes()?;
    let id = Descriptor::of(MediaType::OciConfig, &config);
    let layer = image.layer;
    let layers = image.below.into_iter().chain([layer.descriptor.clone()]);
    let mut manifest = Manifest::new(id.clone(), layers.collect());
    let annotations = image.annotations.into_iter();
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value));
    manifest.annotations.extend(annotations);
    let manifest_bytes = serde_json::to_vec(&manifest)
        .map_err(|error| Error::io(io::Error::other(error), "writing the manifest"))?;
    let descriptor = Descriptor {
        platform: Some(image.config.platform.clone()),
        ..Descriptor::of(MediaType::OciManifest, &manifest_bytes)
    };
    let diff_ids = &image.config.rootfs.diff_ids;
    let mut digests = vec![descriptor.digest, id.digest];
    digests.extend(manifest.layers.iter().map(|layer| layer.digest));
    digests.extend(diff_ids.iter().map(|diff_id| diff_id.0));
    digests.extend(ChainId::of(diff_ids).map(|chain| chain.0));
    let lease = store.lease(&LeaseRecord {
        kind: LeaseKind::Make,
        pid: std::process::id(),
        image: id.digest.to_string(),
        mount_point: None,
        digests,
    })?;
    store.sync()?;
    let packed = staging.path().join("layer");
    commit(
        store,
        &packed,
        &layer.diff_id,
        &source_of(&layer.descriptor),
    )?;
    store.commit_blob(&staging.path().join("blob"), &layer.descriptor.digest)?;
    store.write_blob(&id.digest, &config)?;
    open::ensure_chain(store, diff_ids)?;
    store.write_blob(&descriptor.digest, &manifest_bytes)?;
    let record = match image.name {
        Some(reference) => Record::named(reference.clone(), descriptor),
        None => Record::nameless(descriptor),
    };
    store.publish(&store.lock()?, record)?;
    lease.end()?;
    Ok(id.digest)
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Writes an archive to both of its readers.
struct Both<'a> {
    compressed: Compressor<Hashed>,
    plain: io::PipeWriter,
    done: u64,
    told: &'a (dyn Fn(u64) + Sync),
}

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.compressed.write_all(bytes)?;
        self.plain.write_all(bytes)?;
        self.done += bytes.len() as u64;
        (self.told)(self.done);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes what is written to a file.
struct Hashed {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes).map_err(|error| {
            let kind = error.kind();
            io::Error::new(kind, store::Error::io(error, "writing", &self.path))
        })?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
