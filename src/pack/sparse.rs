//! Sparse maps: where the stored bytes of a file with holes belong.
//!
//! # Invariants
//! A checked map is ascending and without overlaps, lies within the real size, and its lengths add
//! up to the number of stored bytes.

use super::header::{decimal, unsigned};
use super::{Limits, Problem};

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
