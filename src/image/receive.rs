//! Receives blobs: from a source into an ingest, verified, and layers packed in the same pass.
//!
//! # Invariants
//! * What is committed has its digest, its size and, for layers, its diffID.
//! * What was received of a blob survives an interruption and is used again; what turns out wrong
//!   is removed before the error is reported.

use std::fs::File;
use std::io::{BufWriter, Read, Write};

use crate::oci::{Descriptor, DiffId, Digest};
use crate::pack::{self, Limits, Packed, Progress, pack_layer};
use crate::registry::{self, Source};
use crate::store::{Ingest, LayerRecord, LayerSource, Object, ObjectKind, Store};

use super::incoming::Incoming;
use super::{Error, Result, check};
use crate::{cause, store};

/// What a layer is going through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// Another process is receiving it.
    Waiting,
    /// It goes on where an earlier attempt stopped.
    Resuming {
        /// Bytes that are there already.
        from: u64,
    },
    /// It is being received and packed.
    Receiving {
        /// Bytes so far.
        done: u64,
    },
    /// It is being made durable.
    Storing,
    /// It is in the store now.
    Complete,
    /// It was in the store before.
    AlreadyExists,
}

/// Something that an observer is told.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The layer.
    pub layer: &'a Descriptor,
    /// What it is going through.
    pub state: LayerState,
}

/// Who is told.
pub type Observer<'a> = &'a (dyn Fn(Event<'_>) + Sync);

/// Receives the layers of one image.
pub(super) struct Receiver<'a> {
    pub store: &'a Store,
    pub source: &'a dyn Source,
    pub limits: &'a Limits,
    pub progress: &'a Progress,
    pub observer: Observer<'a>,
    /// Whether what was received of a blob is kept when it is interrupted.
    pub resumable: bool,
}

impl Receiver<'_> {
    pub(super) fn tell(&self, layer: &Descriptor, state: LayerState) {
        (self.observer)(Event { layer, state });
    }

    /// Brings a layer into the store, blob and packed, unless it is there.
    pub fn layer(&self, layer: &Descriptor, diff_id: &DiffId) -> Result<()> {
        self.try_layer(layer, diff_id)
            .map_err(|error| Error::of_layer(layer.digest, error))
    }

    fn try_layer(&self, layer: &Descriptor, diff_id: &DiffId) -> Result<()> {
        self.bring(
            layer,
            || self.is_stored(layer, diff_id),
            |ingest, reused| self.receive_layer(ingest, layer, diff_id, reused),
        )
    }

    /// Brings a blob that is no layer into the store, unless it is there.
    pub fn plain_blob(&self, blob: &Descriptor) -> Result<()> {
        self.bring(
            blob,
            || Ok(self.store.has_blob(&blob.digest)),
            |ingest, reused| {
                let mut incoming = Incoming::open(self, blob, ingest, reused)?;
                incoming.drain()?;
                incoming.verify()?;
                self.tell(blob, LayerState::Storing);
                self.store.sync()?;
                Ok(ingest.commit_blob(self.store)?)
            },
        )
        .map_err(|error| Error::of_layer(blob.digest, error))
    }

    /// Does what `receive` does with the ingest of a blob, unless that is stored; again from the
    /// start where what was there before turns out wrong. `receive` is told to say whether there was
    /// something.
    fn bring(
        &self,
        layer: &Descriptor,
        is_stored: impl Fn() -> Result<bool>,
        receive: impl Fn(&Ingest, &mut bool) -> Result<()>,
    ) -> Result<()> {
        if is_stored()? {
            self.tell(layer, LayerState::AlreadyExists);
            return Ok(());
        }
        let waiting = || self.tell(layer, LayerState::Waiting);
        let mut ingest = self.store.ingest(&layer.digest, waiting)?;
        if !self.resumable {
            ingest = ingest.not_resumable()?;
        }
        if is_stored()? {
            ingest.finish(self.store)?;
            self.tell(layer, LayerState::AlreadyExists);
            return Ok(());
        }
        loop {
            let mut reused = false;
            match receive(&ingest, &mut reused) {
                Ok(()) => break,
                Err(error) if is_interruption(&error) && self.resumable => {
                    // The blob is gone on with; what was packed of it would only fill the disk.
                    if let Err(left) = ingest.drop_layer() {
                        log::warn!("{}", cause::chain(&left));
                    }
                    return Err(error);
                }
                Err(error) => {
                    // What is there is wrong, or of no use; keep nothing of it.
                    ingest.reset()?;
                    self.discard_damaged(layer, &error)?;
                    // Perhaps only what was there before was wrong: start over without it. A
                    // blob that has its digest stays what it is, however often it is read.
                    if !reused || !is_damage(&error) {
                        ingest.finish(self.store)?;
                        return Err(error);
                    }
                    log::warn!("layer {}: starting over: {error}", layer.digest);
                }
            }
        }
        ingest.finish(self.store)?;
        self.tell(layer, LayerState::Complete);
        Ok(())
    }

    /// Whether a layer is there, blob and packed, and as far as a glance shows not damaged.
    fn is_stored(&self, layer: &Descriptor, diff_id: &DiffId) -> Result<bool> {
        let blob = std::fs::metadata(self.store.blob_path(&layer.digest));
        Ok(blob.is_ok_and(|blob| blob.len() == layer.size)
            && self.store.has_layer(diff_id)
            && check::glance(self.store, diff_id).is_ok()
            && self.store.has_layer_of(diff_id, &source_of(layer))?)
    }

    /// Makes room for a layer that is ready where there is one that is damaged, unless a live mount
    /// has that.
    fn discard_damaged_layer(&self, diff_id: &DiffId) -> Result<()> {
        if !self.store.has_layer(diff_id) {
            return Ok(());
        }
        let Err(damage) = check::glance(self.store, diff_id) else {
            return Ok(());
        };
        let (kind, digest) = (ObjectKind::Layer, diff_id.0);
        let layer = Object { kind, digest };
        let lock = self.store.lock()?;
        let damage = cause::chain(&damage);
        if self.store.mounted(&lock)?.contains(&layer) {
            log::warn!("layer {diff_id} is damaged, and left so while it is mounted: {damage}");
            return Ok(());
        }
        log::warn!("layer {diff_id} was damaged, and is made again: {damage}");
        self.store.discard(&layer)?;
        Ok(())
    }

    /// A stored blob that does not have its digest any more is of no use to anybody.
    fn discard_damaged(&self, layer: &Descriptor, error: &Error) -> Result<()> {
        // It may be the descriptor that is wrong about its size.
        if is_damage(error)
            && self.store.has_blob(&layer.digest)
            && check::check_blob(self.store, &layer.digest).is_err()
        {
            let _lock = self.store.lock()?;
            let kind = ObjectKind::Blob;
            self.store.discard(&Object {
                kind,
                digest: layer.digest,
            })?;
        }
        Ok(())
    }

    /// Receives, verifies, packs and commits. Sets `reused` when it begins with bytes that were
    /// there before.
    fn receive_layer(
        &self,
        ingest: &Ingest,
        layer: &Descriptor,
        diff_id: &DiffId,
        reused: &mut bool,
    ) -> Result<()> {
        let stored = self.store.blob_path(&layer.digest);
        let has_blob = stored.is_file();
        let mut incoming = if has_blob {
            *reused = true;
            let file = File::open(&stored).map_err(|error| Error::io(error, "opening the blob"))?;
            Incoming::stored(self, layer, file)
        } else {
            Incoming::open(self, layer, ingest, reused)?
        };
        if incoming.resumed_from > 0 {
            let from = incoming.resumed_from;
            self.tell(layer, LayerState::Resuming { from });
        }
        // Packed even where the layer is there already: only so is it known what the blob holds.
        let directory = ingest.fresh_layer()?;
        let packed = pack_layer(&mut incoming, &directory, self.limits, self.progress);
        let packed = incoming.judge(packed)?;
        incoming.verify()?;
        let found = Digest::from_sha256(packed.diff_id);
        if found != diff_id.0 {
            let expected = diff_id.0;
            return Err(Error::DiffIdMismatch { expected, found });
        }
        self.tell(layer, LayerState::Storing);
        write_packed(self.store, &packed, &directory, source_of(layer))?;
        drop(packed);
        // One sync covers the blob, the index and all contents, and those of other layers that
        // are ready at the same time.
        self.store.sync()?;
        self.discard_damaged_layer(diff_id)?;
        commit(self.store, &directory, diff_id, &source_of(layer))?;
        if !has_blob {
            ingest.commit_blob(self.store)?;
        }
        Ok(())
    }

    /// Reads a small blob, from the store or else from the source, and stores it.
    pub fn small_blob(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        if self.store.has_blob(&blob.digest) {
            match self.store.read_blob(&blob.digest) {
                Ok(bytes) if bytes.len() as u64 == blob.size => return Ok(bytes),
                Ok(bytes) => {
                    let (expected, found) = (blob.size, bytes.len() as u64);
                    return Err(Error::SizeMismatch { expected, found });
                }
                // It is received again, and replaced.
                Err(store::Error::Damaged { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        fetch_small(self.source, blob, limit)
    }
}

/// Reads a small blob from a source, and verifies it.
pub(super) fn fetch_small(source: &dyn Source, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
    if blob.size > limit {
        return Err(registry::Error::TooLarge {
            what: "image configuration".to_owned(),
            limit,
        }
        .into());
    }
    let mut bytes = Vec::new();
    let mut reader = source.blob(blob, 0)?.reader.take(limit + 1);
    reader
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io(error, "reading the blob"))?;
    if bytes.len() as u64 != blob.size {
        return Err(Error::SizeMismatch {
            expected: blob.size,
            found: bytes.len() as u64,
        });
    }
    let found = Digest::with(blob.digest.algorithm(), &bytes);
    if found != blob.digest {
        return Err(Error::DigestMismatch {
            expected: blob.digest,
            found,
        });
    }
    Ok(bytes)
}

/// Moves a packed layer, complete and synced, to its place; where that layer is already it is noted
/// that this blob holds it too.
pub(super) fn commit(
    store: &Store,
    directory: &std::path::Path,
    diff_id: &DiffId,
    source: &LayerSource,
) -> Result<()> {
    store.commit_layer(directory, diff_id)?;
    if !store.has_layer_of(diff_id, source)? {
        store.add_layer_source(diff_id, source)?;
    }
    Ok(())
}

pub(super) fn source_of(layer: &Descriptor) -> LayerSource {
    LayerSource {
        digest: layer.digest,
        size: layer.size,
    }
}

/// Writes `index` and `layer.json` beside the contents of a packed layer.
pub(super) fn write_packed(
    store: &Store,
    packed: &Packed,
    directory: &std::path::Path,
    source: LayerSource,
) -> Result<()> {
    let failed = |error| Error::io(error, "writing the index");
    let file = File::create(directory.join("index")).map_err(failed)?;
    let mut out = BufWriter::with_capacity(256 << 10, file);
    packed.tree.write_layer(&mut out)?;
    out.flush().map_err(failed)?;
    let statistics = packed.statistics;
    let record = LayerRecord {
        diff_id: DiffId(Digest::from_sha256(packed.diff_id)),
        source,
        uncompressed_bytes: statistics.uncompressed,
        content_bytes: statistics.pack_bytes + statistics.large_bytes,
        entries: statistics.entries,
        pack_bytes: statistics.pack_bytes,
        large_files: statistics.large_files,
    };
    Ok(store.write_layer_record(directory, &record)?)
}

/// Whether an error leaves what was received usable for a later attempt.
fn is_interruption(error: &Error) -> bool {
    use registry::Error::{NotFound, RangeNotSatisfiable};
    match error {
        Error::Source(RangeNotSatisfiable { .. } | NotFound { .. }) => false,
        Error::Source(_) | Error::Store(_) | Error::Io { .. } | Error::WriteIndex(_) => true,
        Error::Pack(error) => is_local(error),
        _ => false,
    }
}

/// Whether an error says that bytes from an earlier attempt, or of a stored blob, are not the blob's.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::DigestMismatch { .. } | Error::SizeMismatch { .. } => true,
        Error::Source(error) => matches!(error, registry::Error::RangeNotSatisfiable { .. }),
        _ => false,
    }
}

/// Whether packing failed for a reason on this side, and not for what the archive is.
pub(super) fn is_local(error: &pack::Error) -> bool {
    use pack::Error::{Cancelled, Read, Write};
    matches!(error, Write { .. } | Read(_) | Cancelled)
}
