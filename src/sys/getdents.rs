//! Reading directories by getdents64(2): names as bytes, with the kernel's hints of type and number.
//!
//! `std::fs::ReadDir` needs a path or a `DIR *`, allocates per entry and hides `d_ino`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Large enough that most directories need one call and the one that says "no more".
const BUFFER: usize = 64 << 10;
/// Offset of the name in `struct linux_dirent64`.
const NAME: usize = 19;

/// One entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name, without a zero byte or a slash.
    pub name: &'a [u8],
    /// `DT_*`, which may be `DT_UNKNOWN`.
    pub d_type: u8,
    /// Inode number; of the directory below where something is mounted on it.
    pub ino: u64,
}

/// Reads the open directory `fd` from its current position to its end; `buffer` is reused between
/// calls.
pub(super) fn read_all(
    fd: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    emit: &mut dyn FnMut(Entry<'_>),
) -> io::Result<()> {
    buffer.clear();
    buffer.reserve(BUFFER);
    loop {
        buffer.clear();
        let room = buffer.spare_capacity_mut();
        // SAFETY: the kernel writes at most `room.len()` bytes into the spare capacity.
        let read = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                fd.as_raw_fd(),
                room.as_mut_ptr(),
                room.len(),
            )
        };
        let read = usize::try_from(Errno::result(read)?).map_err(io::Error::other)?;
        if read == 0 {
            return Ok(());
        }
        // SAFETY: the kernel has initialised the first `read` bytes.
        unsafe { buffer.set_len(read) };
        parse(buffer, emit).ok_or(Errno::EIO)?;
    }
}

/// Splits what getdents64(2) returned; `None` when it is no sequence of whole records.
fn parse(mut records: &[u8], emit: &mut dyn FnMut(Entry<'_>)) -> Option<()> {
    while !records.is_empty() {
        let ino = u64::from_ne_bytes(records.get(..8)?.try_into().ok()?);
        let length = usize::from(u16::from_ne_bytes(records.get(16..18)?.try_into().ok()?));
        let d_type = *records.get(18)?;
        let padded = records.get(NAME..length)?;
        let name = padded.split(|byte| *byte == 0).next()?;
        if name != b"." && name != b".." && !name.is_empty() && !name.contains(&b'/') {
            emit(Entry { name, d_type, ino });
        }
        records = records.get(length..)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_records_end_the_reading() {
        let mut seen = 0;
        for records in [&[0u8; 5][..], &[0; 19], &[0xff; 30]] {
            assert_eq!(parse(records, &mut |_| seen += 1), None);
        }
        assert_eq!(seen, 0);
    }
}
