//! Between the words of the engine and those of the FUSE library.
//!
//! # Invariants
//! Nothing here panics, whatever a layer holds: times are any `i64` second, before 1970 too.

use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileType, INodeNo, OpenFlags, TimeOrNow};

use super::files::Wanted;
use crate::layer::{FileKind, Timestamp};
use crate::overlay::{Attributes, Error, NodeNumber, TimeChange, XattrChange};

/// How long the kernel may believe what it was told: we are the only writer, so for ever.
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

pub(super) fn node(number: INodeNo) -> NodeNumber {
    NodeNumber(number.0)
}

pub(super) fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::Regular => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
    }
}

/// Exact for every `i64` second; a number of nanoseconds that is none counts as zero.
pub(super) fn time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    let nanoseconds = if time.nanoseconds < 1_000_000_000 {
        time.nanoseconds
    } else {
        0
    };
    whole
        .and_then(|whole| whole.checked_add(Duration::from_nanos(u64::from(nanoseconds))))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What the library made of a time, undone: before 1970 it takes the nanoseconds away from the
/// second instead of adding them.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let (seconds, nanoseconds) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = 0_i64.checked_sub_unsigned(before.as_secs());
            (Ok(seconds.unwrap_or(i64::MIN)), before.subsec_nanos())
        }
    };
    Timestamp {
        seconds: seconds.unwrap_or(i64::MAX),
        nanoseconds,
    }
}

pub(super) fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::Now => TimeChange::Now,
        TimeOrNow::SpecificTime(time) => TimeChange::At(timestamp(time)),
    }
}

/// The other way round than [`device`].
pub(super) fn device_pair(number: u32) -> (u32, u32) {
    (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & !0xff),
    )
}

/// What the flags of open(2) ask for.
pub(super) fn wanted(flags: OpenFlags) -> Wanted {
    Wanted {
        write: flags.0 & (libc::O_ACCMODE | libc::O_TRUNC) != libc::O_RDONLY,
        truncate: flags.0 & libc::O_TRUNC != 0,
    }
}

/// What the flags of setxattr(2) ask for.
pub(super) fn xattr_change(flags: i32) -> XattrChange {
    if flags & libc::XATTR_CREATE != 0 {
        XattrChange::Create
    } else if flags & libc::XATTR_REPLACE != 0 {
        XattrChange::Replace
    } else {
        XattrChange::Set
    }
}

/// The `07777` bits.
pub(super) fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

/// A device number as the FUSE protocol (and `new_encode_dev` of the kernel) has it.
fn device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

pub(super) fn attributes(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.node.0),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: time(attributes.atime),
        mtime: time(attributes.mtime),
        ctime: time(attributes.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind(attributes.kind),
        perm: attributes.permissions,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: device(attributes.device),
        blksize: 4096,
        flags: 0,
    }
}

/// The answer to a lookup that tells the kernel to remember that there is no such name.
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn error(error: &Error) -> Errno {
    Errno::from_i32(error.errno as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(time: SystemTime) -> (i64, u32) {
        // What the library makes of a time before it goes to the kernel.
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => (
                i64::try_from(after.as_secs()).unwrap(),
                after.subsec_nanos(),
            ),
            Err(before) => {
                let before = before.duration();
                match before.subsec_nanos() {
                    0 => (0_i64.checked_sub_unsigned(before.as_secs()).unwrap(), 0),
                    nanos => (
                        -1 - i64::try_from(before.as_secs()).unwrap(),
                        1_000_000_000 - nanos,
                    ),
                }
            }
        }
    }

    #[test]
    fn every_time_survives() {
        for seconds in [i64::MIN, i64::MIN + 1, -2, -1, 0, 1, 1 << 40, i64::MAX] {
            for nanoseconds in [0, 1, 500_000_000, 999_999_999] {
                let made = time(Timestamp {
                    seconds,
                    nanoseconds,
                });
                assert_eq!(back(made), (seconds, nanoseconds));
            }
        }
    }

    #[test]
    fn times_that_are_set_survive_the_library() {
        for (seconds, nanoseconds) in [(0, 1), (5, 999_999_999), (-1, 0), (-1, 1), (-86_400, 3)] {
            let length = Duration::new(i64::unsigned_abs(seconds), nanoseconds);
            let mangled = if seconds < 0 {
                SystemTime::UNIX_EPOCH - length
            } else {
                SystemTime::UNIX_EPOCH + length
            };
            let expected = Timestamp {
                seconds,
                nanoseconds,
            };
            assert_eq!(timestamp(mangled), expected);
        }
    }

    #[test]
    fn impossible_nanoseconds_do_not_panic() {
        let made = time(Timestamp {
            seconds: i64::MAX,
            nanoseconds: u32::MAX,
        });
        assert_eq!(back(made), (i64::MAX, 0));
    }

    #[test]
    fn large_device_numbers_are_encoded_like_the_kernel_does() {
        assert_eq!(device((1, 3)), 0x103);
        assert_eq!(device((0xfff, 0xfffff)), 0xffff_ffff);
        for pair in [(1, 3), (0xfff, 0xfffff), (8, 0x1234), (0x123, 7)] {
            assert_eq!(device_pair(device(pair)), pair);
        }
    }
}
