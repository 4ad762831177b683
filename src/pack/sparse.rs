//! Sparse maps: where the stored bytes of a file with holes belong.
//!
//! # Invariants
//! A checked map is ascending and without overlaps, lies within the real size, and its lengths add
//! up to the number of stored bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::header::{BLOCK, decimal, unsigned};
use super::{Error, Limits, Problem, TarEntry, TarKind, TarWriter};

/// The data segments of a sparse file.
#[derive(Debug, Default)]
pub(super) struct Map {
    /// Size of the file with its holes.
    pub(super) real_size: u64,
    /// Offset and length of each segment.
    pub(super) segments: Vec<(u64, u64)>,
}

impl Map {
    pub(super) fn clear(&mut self) {
        self.real_size = 0;
        self.segments.clear();
    }

    pub(super) fn push(
        &mut self,
        offset: u64,
        length: u64,
        limits: &Limits,
    ) -> Result<(), Problem> {
        if self.segments.len() >= limits.sparse_segments {
            let what = "segments of a sparse file";
            return Err(Problem::TooLarge {
                what,
                limit: limits.sparse_segments as u64,
            });
        }
        self.segments.push((offset, length));
        Ok(())
    }

    /// Takes the entries of an old GNU header up to the first that is unused.
    pub(super) fn push_gnu(
        &mut self,
        entries: &[tar::GnuSparseHeader],
        limits: &Limits,
    ) -> Result<(), Problem> {
        for entry in entries {
            if entry.offset.first() == Some(&0) || entry.numbytes.first() == Some(&0) {
                break;
            }
            let offset = unsigned(&entry.offset, "offset of a sparse segment")?;
            let length = unsigned(&entry.numbytes, "length of a sparse segment")?;
            self.push(offset, length, limits)?;
        }
        Ok(())
    }

    /// Checks the map against the number of stored bytes.
    pub(super) fn check(&self, stored: u64) -> Result<(), Problem> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for (offset, length) in &self.segments {
            if *offset < end {
                return Err(Problem::Sparse("the segments overlap or are not ascending"));
            }
            end = offset
                .checked_add(*length)
                .ok_or(Problem::Sparse("a segment is too long"))?;
            sum += length;
        }
        if end > self.real_size {
            return Err(Problem::Sparse("a segment lies behind the end of the file"));
        }
        if sum != stored {
            return Err(Problem::Sparse(
                "the segments do not add up to the stored size",
            ));
        }
        Ok(())
    }
}

/// A file with fewer bytes of holes is written whole.
pub(super) const LEAST_HOLES: u64 = 1 << 30;

/// A file with more data segments than this is written whole: the map would be large.
const MOST_SEGMENTS: usize = 1 << 14;

/// Offset and length of each run of data in a file of `size` bytes; `None` if there is no hole in
/// it, or too many, or if the file system cannot tell.
pub(super) fn data_segments(file: &File, size: u64) -> Option<Vec<(u64, u64)>> {
    let length = i64::try_from(size).ok()?;
    let mut segments = Vec::new();
    let (mut at, mut data) = (0, 0);
    while at < length {
        let start = match lseek(file, at, Whence::SeekData) {
            Ok(start) => start.min(length),
            // No more data.
            Err(Errno::ENXIO) => break,
            Err(_) => return None,
        };
        at = lseek(file, start, Whence::SeekHole).ok()?.min(length);
        if at > start {
            segments.push((start as u64, (at - start) as u64));
            data += at - start;
        }
        if segments.len() > MOST_SEGMENTS {
            return None;
        }
    }
    (data < length).then_some(segments)
}

/// The map of PAX format 1.0, in whole blocks. An empty segment at the end gives the size, which
/// some readers want.
pub(super) fn map_text(segments: &[(u64, u64)], size: u64) -> Vec<u8> {
    let last = [(size, 0)];
    let mut text = format!("{}\n", segments.len() + 1);
    for (offset, length) in segments.iter().chain(&last) {
        text.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut text = text.into_bytes();
    text.resize(text.len().next_multiple_of(BLOCK), 0);
    text
}

/// Reads the data segments of a file, one after another.
pub(super) struct DataReader<'a> {
    file: &'a File,
    segments: &'a [(u64, u64)],
    /// Bytes of the first segment that were read.
    done: u64,
}

impl<'a> DataReader<'a> {
    pub(super) fn new(file: &'a File, segments: &'a [(u64, u64)]) -> DataReader<'a> {
        DataReader {
            file,
            segments,
            done: 0,
        }
    }
}

impl Read for DataReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(((offset, length), rest)) = self.segments.split_first() {
            let left = length - self.done;
            if left == 0 {
                (self.segments, self.done) = (rest, 0);
                continue;
            }
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let room = buffer.get_mut(..wanted).unwrap_or_default();
            let count = self.file.read_at(room, offset + self.done)?;
            self.done += count as u64;
            return Ok(count);
        }
        Ok(0)
    }
}

impl<W: Write> TarWriter<W> {
    /// From now on [`TarWriter::append_file`] leaves all holes out.
    #[must_use]
    pub fn keeping_holes(mut self) -> TarWriter<W> {
        self.least_holes = 1;
        self
    }

    /// Writes a regular file: `size` bytes of `file` from `start` on; `kind` of the entry is not
    /// looked at. `allocated` is what of them takes space on the disk, in bytes.
    ///
    /// Holes are left out where there is much of them: containers/storage and Docker read layers with
    /// sparse files, but cannot write them again, and where holes are depends on the file system and on the
    /// moment.
    ///
    /// # Errors
    /// As [`TarWriter::append`].
    pub fn append_file(
        &mut self,
        entry: &TarEntry<'_>,
        file: &File,
        (start, size): (u64, u64),
        allocated: u64,
    ) -> Result<(), Error> {
        let holes = (start == 0 && size.saturating_sub(allocated) >= self.least_holes)
            .then(|| data_segments(file, size))
            .flatten();
        let whole = [(start, size)];
        let (kind, segments) = match &holes {
            Some(segments) => (TarKind::Sparse { size, segments }, segments.as_slice()),
            None => (TarKind::Regular(size), &whole[..]),
        };
        // Where its holes were looked for, it was not left at its beginning.
        let mut data = DataReader::new(file, segments);
        self.append(&TarEntry { kind, ..*entry }, &mut data)
    }
}

/// Reads the map that stands before the content in the PAX format 1.0, line by line.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    remaining: Option<u64>,
    offset: Option<u64>,
    number: Option<u64>,
}

impl MapReader {
    /// Takes one block of the map; whether it was the last.
    pub(super) fn block(
        &mut self,
        block: &[u8],
        map: &mut Map,
        limits: &Limits,
    ) -> Result<bool, Problem> {
        for byte in block {
            if *byte != b'\n' {
                let digit = decimal(&[*byte]).ok_or(Problem::Sparse("not a number"))?;
                let number = self.number.unwrap_or(0).checked_mul(10);
                let number = number.and_then(|number| number.checked_add(digit));
                self.number = Some(number.ok_or(Problem::Sparse("a number is too large"))?);
                continue;
            }
            let number = self.number.take().ok_or(Problem::Sparse("an empty line"))?;
            match (self.remaining, self.offset.take()) {
                (None, _) => self.remaining = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(remaining), Some(offset)) => {
                    map.push(offset, number, limits)?;
                    self.remaining = Some(remaining.saturating_sub(1));
                }
            }
            if self.remaining == Some(0) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
