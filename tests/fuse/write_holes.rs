//! Holes of files that are written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::support::succeed;
use crate::writable::each;

const SIZE: usize = 1 << 20;

fn new_file(path: &std::path::Path) -> File {
    let mut how = File::options();
    how.read(true).write(true).create_new(true);
    how.open(path).unwrap()
}

/// What cp(1) makes of a file.
fn copied(path: &std::path::Path) -> Vec<u8> {
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("copy");
    succeed(Command::new("cp").arg(path).arg(&copy));
    fs::read(copy).unwrap()
}

/// What the kernel has collected is neither in the upper nor a hole.
#[test]
fn regression_what_is_not_yet_written_is_no_hole() {
    each(|_, mount| {
        let path = mount.join("new");
        let file = new_file(&path);
        file.set_len(2 * SIZE as u64).unwrap();
        file.write_all_at(&[7; SIZE], SIZE as u64 / 2).unwrap();
        file.write_all_at(&[7; SIZE], 2 * SIZE as u64).unwrap();
        // Nobody may read it by name before: closing a file sends what was collected.
        let mut expected = vec![0; 3 * SIZE];
        expected[SIZE / 2..][..SIZE].fill(7);
        expected[2 * SIZE..].fill(7);
        let data = lseek(&file, SIZE as i64, Whence::SeekData);
        assert_eq!(data, Ok(SIZE as i64));
        let data = lseek(&file, 0, Whence::SeekData);
        assert_eq!(data, Ok(SIZE as i64 / 2));
        let hole = lseek(&file, SIZE as i64, Whence::SeekHole);
        assert_eq!(hole, Ok(SIZE as i64 * 3 / 2));
        let data = lseek(&file, 2 * SIZE as i64 + 5, Whence::SeekData);
        assert_eq!(data, Ok(2 * SIZE as i64 + 5));
        assert!(copied(&path) == expected);
    });
}

/// A file that has just been made, of which nothing was written to the upper.
#[test]
fn regression_a_new_file_that_is_still_open_is_not_one_hole() {
    each(|_, mount| {
        let path = mount.join("new");
        let file = new_file(&path);
        file.write_all_at(&[7; SIZE], 0).unwrap();
        let data = lseek(&file, 0, Whence::SeekData);
        assert_eq!(data, Ok(0));
        assert!(copied(&path) == [7; SIZE]);
    });
}

/// Stores through a mapping, of which nobody is told, and a file that is read alone at the time.
#[test]
fn stores_through_a_mapping_are_no_holes() {
    each(|_, mount| {
        let path = mount.join("new");
        let file = new_file(&path);
        file.set_len(SIZE as u64).unwrap();
        let script = "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); m[70000] = 7
print(f.seek(0, 3), f.seek(70000, 4))";
        let mut python = Command::new("python3");
        let found = succeed(python.args(["-c", script]).arg(&path)).stdout;
        let found = String::from_utf8(found).unwrap();
        assert_eq!(found.trim(), "69632 73728");
        let data = lseek(File::open(&path).unwrap(), 0, Whence::SeekData);
        assert_eq!(data, Ok(69632));
    });
}

#[test]
fn holes_of_a_closed_file_are_shown() {
    each(|_, mount| {
        let path = mount.join("sparse");
        let file = new_file(&path);
        file.set_len(2 * SIZE as u64).unwrap();
        file.write_all_at(&[7; 8192], SIZE as u64).unwrap();
        drop(file);
        let file = File::open(&path).unwrap();
        let found = lseek(&file, 0, Whence::SeekData).unwrap();
        assert_eq!(found, SIZE as i64);
        let found = lseek(&file, found, Whence::SeekHole).unwrap();
        assert_eq!(found, SIZE as i64 + 8192);
        let end = lseek(&file, found, Whence::SeekData);
        assert_eq!(end, Err(Errno::ENXIO));
    });
}
