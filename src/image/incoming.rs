//! A blob while it is read: what an earlier attempt left, then what the source gives.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::oci::{Descriptor, Hasher};
use crate::pack::{self, Packed};
use crate::store::{self, Ingest};

use super::receive::{LayerState, Receiver, is_local};
use super::{Error, Result};

/// Observers are told of progress each time this many bytes came.
const STEP: u64 = 256 << 10;

/// A blob while it is read: first what an earlier attempt left, then what the source gives, which
/// is appended to the ingest; all of it is hashed.
pub(super) struct Incoming<'a> {
    receiver: &'a Receiver<'a>,
    layer: &'a Descriptor,
    kept: Option<io::Take<File>>,
    source: Option<Box<dyn Read + Send>>,
    append: Option<(File, PathBuf)>,
    /// Bytes that an earlier attempt left.
    pub(super) resumed_from: u64,
    hasher: Hasher,
    done: u64,
    told: u64,
    failed: Option<Error>,
}

impl<'a> Incoming<'a> {
    fn new(receiver: &'a Receiver<'a>, layer: &'a Descriptor) -> Incoming<'a> {
        Incoming {
            receiver,
            layer,
            kept: None,
            source: None,
            append: None,
            resumed_from: 0,
            hasher: Hasher::new(layer.digest.algorithm()),
            done: 0,
            told: 0,
            failed: None,
        }
    }

    /// A blob that the store has already.
    pub(super) fn stored(
        receiver: &'a Receiver<'a>,
        layer: &'a Descriptor,
        blob: File,
    ) -> Incoming<'a> {
        let kept = Some(blob.take(u64::MAX));
        Incoming {
            kept,
            ..Incoming::new(receiver, layer)
        }
    }

    pub(super) fn open(
        receiver: &'a Receiver<'a>,
        layer: &'a Descriptor,
        ingest: &Ingest,
        reused: &mut bool,
    ) -> Result<Incoming<'a>> {
        let failed = |error| Error::io(error, "receiving the blob");
        let append = ingest.open_blob()?;
        let mut have = append.metadata().map_err(failed)?.len();
        if have > layer.size {
            append.set_len(0).map_err(failed)?;
            have = 0;
        }
        *reused = have > 0;
        let mut incoming = Incoming::new(receiver, layer);
        if have < layer.size || layer.size == 0 {
            let blob = receiver.source.blob(layer, have)?;
            if blob.start != have {
                // The source cannot start in the middle.
                append.set_len(0).map_err(failed)?;
                have = 0;
                *reused = false;
            }
            incoming.source = Some(blob.reader);
        }
        if have > 0 {
            let kept = File::open(ingest.blob_path()).map_err(failed)?;
            incoming.kept = Some(kept.take(have));
            incoming.resumed_from = have;
        }
        incoming.append = Some((append, ingest.blob_path()));
        Ok(incoming)
    }

    /// Reads what is left.
    pub(super) fn drain(&mut self) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(self.failure(error)),
            }
        }
    }

    /// The result of packing, seen in the light of what was received: damage on the way shows as
    /// a damaged archive, but is reported as what it is.
    pub(super) fn judge(
        &mut self,
        packed: std::result::Result<Packed, pack::Error>,
    ) -> Result<Packed> {
        match packed {
            Ok(packed) => {
                self.drain()?;
                Ok(packed)
            }
            Err(error) => {
                if let Some(failed) = self.failed.take() {
                    return Err(failed);
                }
                if !is_local(&error) && !self.receiver.progress.is_cancelled() {
                    self.drain()?;
                    self.verify()?;
                }
                Err(error.into())
            }
        }
    }

    /// Checks size and digest of all that was read.
    pub(super) fn verify(&mut self) -> Result<()> {
        if self.done != self.layer.size {
            return Err(Error::SizeMismatch {
                expected: self.layer.size,
                found: self.done,
            });
        }
        let empty = Hasher::new(self.layer.digest.algorithm());
        let found = std::mem::replace(&mut self.hasher, empty).finish();
        if found != self.layer.digest {
            return Err(Error::DigestMismatch {
                expected: self.layer.digest,
                found,
            });
        }
        Ok(())
    }

    fn failure(&mut self, error: io::Error) -> Error {
        self.failed
            .take()
            .unwrap_or_else(|| Error::io(error, "receiving the blob"))
    }

    fn read_part(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(kept) = &mut self.kept {
            let count = kept.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            self.kept = None;
        }
        let Some(source) = &mut self.source else {
            return Ok(0);
        };
        let count = source.read(buffer)?;
        if let (Some((append, path)), Some(received)) = (&mut self.append, buffer.get(..count))
            && let Err(error) = append.write_all(received)
        {
            let copy = io::Error::new(error.kind(), error.to_string());
            self.failed = Some(store::Error::io(error, "writing", path).into());
            return Err(copy);
        }
        Ok(count)
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.read_part(buffer) {
            Ok(count) => {
                self.hasher.update(buffer.get(..count).unwrap_or_default());
                self.done += count as u64;
                // What is only read again was shown as received from the start.
                if self.done > self.resumed_from && self.done - self.told >= STEP {
                    self.told = self.done;
                    self.receiver
                        .tell(self.layer, LayerState::Receiving { done: self.done });
                }
                Ok(count)
            }
            Err(error) => {
                // The packer sees a copy; the cause is kept for the report.
                let copy = io::Error::new(error.kind(), error.to_string());
                self.failed
                    .get_or_insert_with(|| Error::io(error, "receiving the blob"));
                Err(copy)
            }
        }
    }
}
