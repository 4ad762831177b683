//! SEEK_DATA and SEEK_HOLE within a content that is part of a larger file.

use nix::errno::Errno;
use nix::unistd::Whence;

use crate::overlay::{OpenContent, Result};

/// The next data or hole of `content` at or after `offset`.
///
/// The file position that lseek(2) moves is used by nobody: contents are read with pread(2).
pub(super) fn within(content: &OpenContent, offset: i64, whence: i32) -> Result<i64> {
    let whence = match whence {
        libc::SEEK_DATA => Whence::SeekData,
        libc::SEEK_HOLE => Whence::SeekHole,
        _ => return Err(Errno::EINVAL.into()),
    };
    let size = i64::try_from(content.size).map_err(|_| Errno::EOVERFLOW)?;
    let start = i64::try_from(content.start).map_err(|_| Errno::EOVERFLOW)?;
    if offset < 0 || offset >= size {
        return Err(Errno::ENXIO.into());
    }
    let from = start.checked_add(offset).ok_or(Errno::EOVERFLOW)?;
    match nix::unistd::lseek(&content.file, from, whence) {
        // Data that begins behind the end of this content is another file's.
        Ok(found) if found - start >= size && matches!(whence, Whence::SeekData) => {
            Err(Errno::ENXIO.into())
        }
        // The end of a file is a hole.
        Ok(found) => Ok((found - start).min(size)),
        Err(Errno::EINVAL) if matches!(whence, Whence::SeekData) => Ok(offset),
        Err(Errno::EINVAL) => Ok(size),
        Err(errno) => Err(errno.into()),
    }
}
