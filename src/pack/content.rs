//! Contents of regular files, written into the staging directory under names of our own.
//!
//! Small contents go one after another into `pack`, because an inode costs more than the bytes;
//! large ones get a file each, which passthrough needs.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::reader::Archive;
use super::sink::{Buffer, Sink};
use super::{Error, Problem, Statistics};
use crate::layer::{Content, Place};

/// Contents of at least this size get a file of their own.
const LARGE_FILE: u64 = 128 * 1024;

static ZEROS: [u8; 65536] = [0; 65536];

/// The contents of one layer.
pub(super) struct Contents {
    files: PathBuf,
    pack: Sink,
    pack_bytes: u64,
    /// What large files are gathered in, one after another.
    buffer: Option<Buffer>,
    large_files: u32,
    large_bytes: u64,
    holes: u64,
    max_holes: u64,
}

impl Contents {
    /// Begins `pack` and `files` in `staging`.
    pub(super) fn new(staging: &Path, max_holes: u64) -> Result<Contents, Error> {
        let files = staging.join("files");
        let made = DirBuilder::new().mode(0o755).create(&files);
        made.map_err(|e| cannot_write(&files, e))?;
        Ok(Contents {
            files,
            pack: Sink::create(staging.join("pack"), Buffer::new())?,
            pack_bytes: 0,
            buffer: None,
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
        let mut hasher = blake3::Hasher::new();
        let place = if size == 0 {
            Place::Empty
        } else if size < LARGE_FILE {
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
    pub(super) fn finish(self, statistics: &mut Statistics) -> Result<(), Error> {
        self.pack.finish()?;
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
        let size = archive.entry.size;
        let place = Place::Pack(self.pack_bytes);
        if archive.entry.sparse {
            let segments = std::mem::take(&mut archive.entry.map.segments);
            let mut end = 0;
            for (offset, length) in &segments {
                self.hash_hole(archive, hasher, offset - end)?;
                self.pack.append_zeros(offset - end)?;
                each_piece(archive, *length, |piece| {
                    hasher.update(piece);
                    self.pack.append(piece)
                })?;
                end = offset + length;
            }
            archive.entry.map.segments = segments;
            self.hash_hole(archive, hasher, size - end)?;
            self.pack.append_zeros(size - end)?;
        } else {
            each_piece(archive, size, |piece| {
                hasher.update(piece);
                self.pack.append(piece)
            })?;
        }
        self.pack_bytes += size;
        Ok(place)
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
        let path = self.files.join(number.to_string());
        let size = archive.entry.size;
        if archive.entry.sparse {
            self.store_sparse(archive, hasher, &path)?;
        } else {
            let buffer = self.buffer.take().unwrap_or_else(Buffer::new);
            let mut sink = Sink::create(path, buffer)?.sparse();
            each_piece(archive, size, |piece| {
                hasher.update(piece);
                sink.append(piece)
            })?;
            self.buffer = Some(sink.finish()?);
        }
        self.large_bytes += size;
        Ok(Place::File(number))
    }

    fn store_sparse<'scope, R: Read + Send + 'scope>(
        &mut self,
        archive: &mut Archive<'scope, '_, R>,
        hasher: &mut blake3::Hasher,
        path: &Path,
    ) -> Result<(), Error> {
        let file = create(path)?;
        let size = archive.entry.size;
        let segments = std::mem::take(&mut archive.entry.map.segments);
        let mut end = 0;
        for (offset, length) in &segments {
            self.hash_hole(archive, hasher, offset - end)?;
            let mut at = *offset;
            each_piece(archive, *length, |piece| {
                hasher.update(piece);
                file.write_all_at(piece, at)
                    .map_err(|e| cannot_write(path, e))?;
                at += piece.len() as u64;
                Ok(())
            })?;
            end = offset + length;
        }
        archive.entry.map.segments = segments;
        self.hash_hole(archive, hasher, size - end)?;
        file.set_len(size).map_err(|e| cannot_write(path, e))
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

fn create(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path);
    file.map_err(|e| cannot_write(path, e))
}

fn cannot_write(path: &Path, source: io::Error) -> Error {
    Error::Write {
        path: path.into(),
        source,
    }
}
