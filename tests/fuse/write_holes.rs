//! Holes of files that are written.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::writable::each;

const SIZE: usize = 1 << 20;

fn new_file(path: &Path) -> File {
    let mut how = File::options();
    how.read(true).write(true).create_new(true);
    how.open(path).unwrap()
}

/// Copies `new` in every way that looks for holes, while `write` has it open. The copying processes are
/// there before: starting one closes descriptors, and closing sends what was collected.
fn copied_while_open(mount: &Path, write: impl FnOnce(&Path) -> (File, Vec<u8>)) {
    let copies = tempfile::tempdir().unwrap();
    let script =
        "read go; tar -cSf \"$0/tar\" new; cp new \"$0/copy\"; tar -xf \"$0/tar\" -C \"$0\"";
    let mut copy = Command::new("sh");
    copy.args(["-euc", script])
        .arg(copies.path())
        .current_dir(mount)
        .stdin(Stdio::piped());
    let mut copying = copy.spawn().unwrap();
    let (file, expected) = write(&mount.join("new"));
    copying.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(copying.wait().unwrap().success());
    drop(file);
    for copy in ["new", "copy"] {
        let copied = fs::read(copies.path().join(copy)).unwrap();
        assert!(copied == expected, "{copy}");
    }
}

/// What the kernel has collected is neither in the upper nor a hole.
#[test]
fn regression_what_is_not_yet_written_is_no_hole() {
    each(|_, mount| {
        copied_while_open(mount, |path| {
            let file = new_file(path);
            file.write_all_at(&[7; SIZE], SIZE as u64 / 2).unwrap();
            file.sync_all().unwrap();
            file.write_all_at(&[7; SIZE], 2 * SIZE as u64).unwrap();
            let data = lseek(&file, 2 * SIZE as i64, Whence::SeekData);
            assert!(data != Err(Errno::ENXIO), "{data:?}");
            let mut expected = vec![0; 3 * SIZE];
            expected[SIZE / 2..][..SIZE].fill(7);
            expected[2 * SIZE..].fill(7);
            (file, expected)
        });
    });
}

/// A file that has just been made, of which nothing was written to the upper.
#[test]
fn regression_a_new_file_that_is_still_open_is_not_one_hole() {
    for listed in [false, true] {
        each(|_, mount| {
            copied_while_open(mount, |path| {
                let file = new_file(path);
                file.write_all_at(&[7; SIZE], 0).unwrap();
                let data = lseek(&file, 0, Whence::SeekData);
                assert!(matches!(data, Ok(0) | Err(Errno::EINVAL)), "{data:?}");
                if listed {
                    // Tells the kernel the attributes anew.
                    assert!(fs::read_dir(mount).unwrap().count() > 1);
                }
                (file, vec![7; SIZE])
            });
        });
    }
}

#[test]
fn holes_of_a_closed_file_are_shown() {
    each(|_, mount| {
        let path = mount.join("sparse");
        let file = new_file(&path);
        file.set_len(2 * SIZE as u64).unwrap();
        file.write_all_at(&[7; 8192], SIZE as u64).unwrap();
        drop(file);
        // RELEASE is not waited for.
        crate::support::wait_for("the end of writing", || {
            lseek(File::open(&path).unwrap(), 0, Whence::SeekData) != Err(Errno::EINVAL)
        });
        let file = File::open(&path).unwrap();
        let found = lseek(&file, 0, Whence::SeekData).unwrap();
        assert_eq!(found, SIZE as i64);
        let found = lseek(&file, found, Whence::SeekHole).unwrap();
        assert_eq!(found, SIZE as i64 + 8192);
        let end = lseek(&file, found, Whence::SeekData);
        assert_eq!(end, Err(Errno::ENXIO));
    });
}
