//! Readers that give exactly the bytes they promise.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A range of a file that others read at the same time.
#[derive(Debug)]
pub(super) struct Section {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Section {
    /// The bytes of `file` from `position` up to `end`.
    pub(super) fn new(file: Arc<File>, position: u64, end: u64) -> Self {
        Self {
            file,
            position,
            end,
        }
    }

    /// Leaves out the first bytes; `false` if there are not so many.
    pub(super) fn skip(&mut self, count: u64) -> bool {
        match self.position.checked_add(count) {
            Some(position) if position <= self.end => {
                self.position = position;
                true
            }
            _ => false,
        }
    }
}

impl Read for Section {
    /// Fails with [`io::ErrorKind::UnexpectedEof`] if the file has become shorter meanwhile.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        if length == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..length], self.position)?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file ends {left} bytes too early"),
            ));
        }
        self.position += count as u64;
        Ok(count)
    }
}

/// Reads all of a source that may have at most `limit` bytes; `None` if it has more.
pub(super) fn read_limited(source: impl Read, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}
