//! Contents of regular files, written into the staging directory under names of our own.
//!
//! Small contents go one after another into `pack`, because an inode costs more than the bytes;
//! large ones get a file each, which passthrough needs.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::reader::Archive;
use super::{Error, Problem, Statistics};
use crate::layer::{Content, Place};

/// Contents of at least this size get a file of their own.
const LARGE_FILE: u64 = 128 * 1024;

/// Bytes of `pack` gathered before they are written.
const PACK_BUFFER: usize = 1 << 20;

static ZEROS: [u8; 65536] = [0; 65536];

/// The contents of one layer.
pub(super) struct Contents {
    staging: PathBuf,
    pack: File,
    buffer: Vec<u8>,
    pack_bytes: u64,
    large_files: u32,
    large_bytes: u64,
    holes: u64,
    max_holes: u64,
}

impl Contents {
    /// Begins `pack` and `files` in `staging`.
    pub(super) fn new(staging: &Path, max_holes: u64) -> Result<Contents, Error> {
        let files = staging.join("files");
        DirBuilder::new()
            .mode(0o755)
            .create(&files)
            .map_err(|e| cannot_write(files, e))?;
        let pack = create(staging.join("pack"))?;
        Ok(Contents {
            staging: staging.into(),
            pack,
            buffer: Vec::with_capacity(PACK_BUFFER + LARGE_FILE as usize),
            pack_bytes: 0,
            large_files: 0,
            large_bytes: 0,
            holes: 0,
            max_holes,
        })
    }

    /// Takes the data of the archive's current entry, a regular file.
    pub(super) fn store<'scope, R: Read + Send + 'scope>(
        &mut self,
        archive: &mut Archive<'scope, '_, R>,
    ) -> Result<Content, Error> {
        let size = archive.entry.size;
        if size == 0 {
            let digest = blake3::hash(b"").into();
            return Ok(Content {
                place: Place::Empty,
                size,
                digest,
            });
        }
        let mut hasher = blake3::Hasher::new();
        let place = if size < LARGE_FILE {
            self.store_small(archive, &mut hasher)?
        } else {
            self.store_large(archive, &mut hasher)?
        };
        Ok(Content {
            place,
            size,
            digest: hasher.finalize().into(),
        })
    }

    /// Writes what is still in memory.
    pub(super) fn finish(&mut self, statistics: &mut Statistics) -> Result<(), Error> {
        self.write_pack()?;
        statistics.pack_bytes = self.pack_bytes;
        statistics.large_files = self.large_files;
        statistics.large_bytes = self.large_bytes;
        Ok(())
    }

    fn store_small<'scope, R: Read + Send + 'scope>(
        &mut self,
        archive: &mut Archive<'scope, '_, R>,
        hasher: &mut blake3::Hasher,
    ) -> Result<Place, Error> {
        let place = Place::Pack(self.pack_bytes);
        let start = self.buffer.len();
        if archive.entry.sparse {
            let segments = std::mem::take(&mut archive.entry.map.segments);
            for (offset, length) in &segments {
                // The map was checked: offsets ascend within a size below the threshold.
                self.buffer.resize(start + *offset as usize, 0);
                self.append(archive, *length)?;
            }
            archive.entry.map.segments = segments;
            self.buffer.resize(start + archive.entry.size as usize, 0);
        } else {
            self.append(archive, archive.entry.size)?;
        }
        hasher.update(self.buffer.get(start..).unwrap_or_default());
        self.pack_bytes += (self.buffer.len() - start) as u64;
        if self.buffer.len() >= PACK_BUFFER {
            self.write_pack()?;
        }
        Ok(place)
    }

    /// Appends `length` bytes of data to the buffer of the pack.
    fn append<'scope, R: Read + Send + 'scope>(
        &mut self,
        archive: &mut Archive<'scope, '_, R>,
        length: u64,
    ) -> Result<(), Error> {
        each_piece(archive, length, |piece| {
            self.buffer.extend_from_slice(piece);
            Ok(())
        })
    }

    fn store_large<'scope, R: Read + Send + 'scope>(
        &mut self,
        archive: &mut Archive<'scope, '_, R>,
        hasher: &mut blake3::Hasher,
    ) -> Result<Place, Error> {
        let number = self.large_files;
        let next = number.checked_add(1);
        self.large_files = next.ok_or(Error::TooLarge {
            what: "files",
            limit: u32::MAX.into(),
        })?;
        let path = self.staging.join("files").join(number.to_string());
        let mut file = create(path.clone())?;
        let size = archive.entry.size;
        if archive.entry.sparse {
            let segments = std::mem::take(&mut archive.entry.map.segments);
            let mut end = 0;
            for (offset, length) in &segments {
                self.hash_hole(archive, hasher, offset - end)?;
                let mut at = *offset;
                each_piece(archive, *length, |piece| {
                    hasher.update(piece);
                    file.write_all_at(piece, at)
                        .map_err(|e| cannot_write(path.clone(), e))?;
                    at += piece.len() as u64;
                    Ok(())
                })?;
                end = offset + length;
            }
            archive.entry.map.segments = segments;
            self.hash_hole(archive, hasher, size - end)?;
            file.set_len(size).map_err(|e| cannot_write(path, e))?;
        } else {
            each_piece(archive, size, |piece| {
                hasher.update(piece);
                file.write_all(piece)
                    .map_err(|e| cannot_write(path.clone(), e))
            })?;
        }
        self.large_bytes += size;
        Ok(Place::File(number))
    }

    fn hash_hole<'scope, R: Read + Send + 'scope>(
        &mut self,
        archive: &Archive<'scope, '_, R>,
        hasher: &mut blake3::Hasher,
        length: u64,
    ) -> Result<(), Error> {
        self.holes = self.holes.saturating_add(length);
        if self.holes > self.max_holes {
            let (what, limit) = ("bytes of holes in the layer's sparse files", self.max_holes);
            return Err(archive.entry.error(Problem::TooLarge { what, limit }));
        }
        let mut rest = length;
        while rest > 0 {
            if archive.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let count = rest.min(ZEROS.len() as u64);
            hasher.update(ZEROS.get(..count as usize).unwrap_or_default());
            rest -= count;
        }
        Ok(())
    }

    fn write_pack(&mut self) -> Result<(), Error> {
        let result = self.pack.write_all(&self.buffer);
        self.buffer.clear();
        result.map_err(|e| cannot_write(self.staging.join("pack"), e))
    }
}

/// Gives the next `length` bytes of the entry's data to `take`, piece by piece.
fn each_piece<'scope, R: Read + Send + 'scope>(
    archive: &mut Archive<'scope, '_, R>,
    length: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut rest = length;
    while rest > 0 {
        let data = archive.data()?;
        let count = data.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        if count == 0 {
            return Err(archive.entry.error(Problem::Short(length)));
        }
        take(data.get(..count).unwrap_or_default())?;
        archive.consume(count);
        rest -= count as u64;
    }
    Ok(())
}

fn create(path: PathBuf) -> Result<File, Error> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&path);
    file.map_err(|e| cannot_write(path, e))
}

fn cannot_write(path: PathBuf, source: io::Error) -> Error {
    Error::Write { path, source }
}
