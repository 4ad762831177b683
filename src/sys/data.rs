//! Data of open files: writing, allocating, and copying that keeps holes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use super::fault;

mod clone {
    #![allow(missing_docs)] // the macro has no place for them
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

/// pwrite(2)
///
/// # Errors
/// What it reports.
pub fn write_at(file: &File, data: &[u8], offset: u64) -> io::Result<usize> {
    fault::point("pwrite")?;
    file.write_at(data, offset)
}

/// ftruncate(2)
///
/// # Errors
/// What it reports.
pub fn truncate(file: &File, size: u64) -> io::Result<()> {
    fault::point("ftruncate")?;
    file.set_len(size)
}

/// fsync(2) or fdatasync(2)
///
/// # Errors
/// What it reports.
pub fn sync(file: &File, data_only: bool) -> io::Result<()> {
    fault::point("fsync")?;
    if data_only {
        file.sync_data()
    } else {
        file.sync_all()
    }
}

fn offset(value: u64) -> io::Result<i64> {
    Ok(i64::try_from(value).map_err(|_| Errno::EINVAL)?)
}

/// fallocate(2) with any mode.
///
/// # Errors
/// What it reports.
pub fn allocate(file: &File, mode: i32, start: u64, length: u64) -> io::Result<()> {
    fault::point("fallocate")?;
    let (start, length) = (offset(start)?, offset(length)?);
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::fallocate(file.as_raw_fd(), mode, start, length) })?;
    Ok(())
}

/// lseek(2)
///
/// # Errors
/// What it reports.
pub fn seek(file: &File, to: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: numbers only.
    Ok(Errno::result(unsafe {
        libc::lseek(file.as_raw_fd(), to, whence)
    })?)
}

/// copy_file_range(2)
///
/// # Errors
/// What it reports.
pub fn copy_range(from: &File, start: u64, to: &File, at: u64, length: u64) -> io::Result<u64> {
    fault::point("copy_file_range")?;
    let (mut start, mut at) = (offset(start)?, offset(at)?);
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(1 << 30);
    // SAFETY: both offsets are valid for the call.
    let copied = unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            &raw mut start,
            to.as_raw_fd(),
            &raw mut at,
            length,
            0,
        )
    };
    Ok(Errno::result(copied)? as u64)
}

/// Copies `size` bytes from `start` of `from` to the beginning of the empty file `to`. Holes stay
/// holes; where the file system can, the data are shared (`whole`: `from` has nothing else).
///
/// # Errors
/// What the system calls report; `EIO` when `from` is too short.
pub fn copy(from: &File, start: u64, size: u64, whole: bool, to: &File) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    if whole && start == 0 && from.metadata()?.len() == size {
        fault::point("FICLONE")?;
        // SAFETY: the argument is a descriptor, which lives through the call.
        let cloned = unsafe { clone::ficlone(to.as_raw_fd(), from.as_raw_fd() as libc::c_ulong) };
        if cloned.is_ok() {
            return Ok(());
        }
    }
    truncate(to, size)?;
    let mut done = 0;
    while done < size {
        let (data, end) = extent(from, start + done, start + size)?;
        let Some(begin) = data else { break };
        copy_extent(from, begin, end, to, begin - start)?;
        done = end - start;
    }
    Ok(())
}

/// The next run of data between two offsets: where it begins, if there is one, and where it ends.
fn extent(file: &File, from: u64, limit: u64) -> io::Result<(Option<u64>, u64)> {
    let begin = match seek(file, offset(from)?, libc::SEEK_DATA) {
        Ok(begin) => begin as u64,
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok((None, limit)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok((Some(from), limit)),
        Err(error) => return Err(error),
    };
    if begin >= limit {
        return Ok((None, limit));
    }
    let end = seek(file, offset(begin)?, libc::SEEK_HOLE)? as u64;
    Ok((Some(begin), end.clamp(begin + 1, limit)))
}

fn copy_extent(from: &File, begin: u64, end: u64, to: &File, target: u64) -> io::Result<()> {
    let mut done = 0;
    let length = end - begin;
    while done < length {
        match copy_range(from, begin + done, to, target + done, length - done) {
            Ok(0) => return Err(Errno::EIO.into()),
            Ok(copied) => done += copied,
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(
                    libc::EXDEV | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM,
                ) => {
                    return copy_by_hand(from, begin + done, end, to, target + done);
                }
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, begin: u64, end: u64, to: &File, target: u64) -> io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    let mut done = 0;
    while begin + done < end {
        let want = usize::try_from(end - begin - done)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let part = buffer.get_mut(..want).unwrap_or_default();
        from.read_exact_at(part, begin + done)?;
        fault::point("pwrite")?;
        to.write_all_at(part, target + done)?;
        done += want as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_and_parts_are_copied() -> io::Result<()> {
        let from = tempfile::tempfile()?;
        from.set_len(8 << 20)?;
        from.write_all_at(b"middle", 4 << 20)?;
        let to = tempfile::tempfile()?;
        copy(&from, 0, 8 << 20, true, &to)?;
        let mut read = [0; 6];
        to.read_exact_at(&mut read, 4 << 20)?;
        assert_eq!((&read, to.metadata()?.len()), (b"middle", 8 << 20));
        assert!(to.metadata()?.blocks() <= from.metadata()?.blocks() + 8);
        let part = tempfile::tempfile()?;
        copy(&from, (4 << 20) + 1, 3, false, &part)?;
        let mut read = [0; 3];
        part.read_exact_at(&mut read, 0)?;
        assert_eq!((&read, part.metadata()?.len()), (b"idd", 3));
        copy_by_hand(&from, 4 << 20, (4 << 20) + 6, &part, 0)?;
        assert_eq!(part.metadata()?.len(), 6);
        Ok(())
    }
}
