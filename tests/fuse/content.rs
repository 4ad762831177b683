//! What programs see in a mount, in every way in which contents reach them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::fixture::{LARGE, Lab, MANY, WAYS, large, small};
use crate::support::{User, compare_tree, temp_dir};

/// Runs `test` on a mount in each way.
fn each(test: impl Fn(&Lab, &Path)) {
    let Some(lab) = Lab::new() else { return };
    for way in WAYS {
        let mount = lab.mount(&[way]);
        test(&lab, mount.path());
        mount.unmount();
    }
}

#[test]
fn the_tree_is_the_one_that_was_imported() {
    each(|lab, mount| compare_tree(User::Same, &[], lab.source.path(), mount));
}

#[test]
fn small_files_read_in_order_and_backwards_have_their_contents() {
    each(|_, mount| {
        for number in (0..MANY).chain((0..MANY).rev()) {
            let read = fs::read(mount.join(format!("many/{number:04}"))).unwrap();
            assert!(read == small(number), "file {number}");
        }
    });
}

#[test]
fn contents_survive_a_dropped_page_cache() {
    each(|_, mount| {
        for round in 0..4 {
            for number in 0..MANY {
                let read = fs::read(mount.join(format!("many/{number:04}"))).unwrap();
                assert!(read == small(number), "file {number}, round {round}");
            }
            // 1: pages; 2: names and nodes; 3: both.
            fs::write("/proc/sys/vm/drop_caches", format!("{}", round % 3 + 1)).unwrap();
        }
    });
}

#[test]
fn many_readers_at_once_see_the_same() {
    each(|_, mount| {
        std::thread::scope(|scope| {
            for reader in 0..8 {
                scope.spawn(move || {
                    for step in 0..MANY {
                        let number = (step + reader * 50) % MANY;
                        let read = fs::read(mount.join(format!("many/{number:04}"))).unwrap();
                        assert!(read == small(number), "file {number}");
                    }
                    assert!(fs::read(mount.join("large")).unwrap() == large());
                });
            }
        });
    });
}

#[test]
fn a_large_file_is_read_anywhere() {
    each(|_, mount| {
        let (file, expected) = (File::open(mount.join("large")).unwrap(), large());
        for (offset, length) in [
            (0, 10),
            ((1 << 20) - 5, 10),
            (LARGE - 5001, 5001),
            (1 << 21, 4096),
        ] {
            let mut buffer = vec![1; length];
            file.read_exact_at(&mut buffer, offset).unwrap();
            let offset = offset as usize;
            assert!(buffer == expected[offset..offset + length], "at {offset}");
        }
        assert_eq!(file.read_at(&mut [0; 10], LARGE).unwrap(), 0);
        assert_eq!(file.read_at(&mut [0; 10], LARGE - 3).unwrap(), 3);
    });
}

#[test]
fn data_and_holes_are_found() {
    each(|_, mount| {
        let file = File::open(mount.join("large")).unwrap();
        let hole = lseek(&file, 0, Whence::SeekHole).unwrap();
        assert_eq!(hole, 1 << 20);
        let data = lseek(&file, hole, Whence::SeekData).unwrap();
        assert!(data > 1 << 20 && data <= LARGE as i64 - 5000, "{data}");
        let small = File::open(mount.join("hello")).unwrap();
        assert_eq!(lseek(&small, 2, Whence::SeekData), Ok(2));
        assert_eq!(lseek(&small, 2, Whence::SeekHole), Ok(6));
        assert_eq!(lseek(&small, 6, Whence::SeekData), Err(Errno::ENXIO));
    });
}

#[test]
fn mapped_files_show_their_contents() {
    each(|_, mount| {
        for (name, expected) in [("large", large()), ("many/0399", small(399))] {
            let file = File::open(mount.join(name)).unwrap();
            let mapping = plyfs::sys::mapping::Mapping::new(&file).unwrap();
            assert!(mapping[..] == expected[..], "{name}");
        }
    });
}

#[test]
fn attributes_are_exact() {
    each(|lab, mount| {
        for name in ["hello", "link", "fifo", "old", "empty", "secret"] {
            let (there, here) = (
                fs::symlink_metadata(mount.join(name)).unwrap(),
                fs::symlink_metadata(lab.source.path().join(name)).unwrap(),
            );
            assert_eq!(there.mode(), here.mode(), "{name}");
            assert_eq!(
                (there.mtime(), there.mtime_nsec()),
                (here.mtime(), here.mtime_nsec())
            );
            assert_eq!(
                (there.size(), there.nlink()),
                (here.size(), here.nlink()),
                "{name}"
            );
        }
        let old = fs::metadata(mount.join("old")).unwrap();
        assert_eq!((old.mtime(), old.mtime_nsec()), (-86_400, 250_000_000));
        assert!(
            fs::symlink_metadata(mount.join("fifo"))
                .unwrap()
                .file_type()
                .is_fifo()
        );
        let twins = ["hello", "deep/er/also"].map(|name| fs::metadata(mount.join(name)).unwrap());
        assert_eq!(twins[0].ino(), twins[1].ino());
        assert_eq!(
            fs::read_link(mount.join("link")).unwrap(),
            Path::new("deep/er/also")
        );
    });
}

#[test]
fn node_numbers_are_the_same_at_every_mount() {
    let Some(lab) = Lab::new() else { return };
    let numbers = || {
        let mount = lab.mount(&[]);
        let numbers = ["hello", "deep", "many/0007"]
            .map(|name| fs::metadata(mount.path().join(name)).unwrap().ino());
        mount.unmount();
        numbers
    };
    assert_eq!(numbers(), numbers());
}

#[test]
fn missing_names_stay_missing_and_long_names_are_told() {
    each(|_, mount| {
        for _ in 0..3 {
            let missing = fs::metadata(mount.join("missing")).unwrap_err();
            assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        }
        let long = fs::metadata(mount.join("x".repeat(256))).unwrap_err();
        assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
        let under = fs::metadata(mount.join("hello/x")).unwrap_err();
        assert_eq!(under.raw_os_error(), Some(libc::ENOTDIR));
    });
}

#[test]
fn nothing_can_be_changed() {
    each(|_, mount| {
        let errors = [
            fs::write(mount.join("new"), "x").unwrap_err(),
            fs::write(mount.join("hello"), "x").unwrap_err(),
            fs::remove_file(mount.join("hello")).unwrap_err(),
            fs::create_dir(mount.join("d")).unwrap_err(),
            fs::rename(mount.join("hello"), mount.join("h")).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
        }
        assert_eq!(fs::read(mount.join("hello")).unwrap(), b"hello\n");
    });
}

#[test]
fn attributes_that_no_layer_has_are_not_supported() {
    each(|_, mount| {
        let root = plyfs::sys::at::RootFd::open(mount).unwrap();
        for _ in 0..2 {
            let error = root.xattr(b"hello", b"user.none").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
        }
    });
}

#[test]
fn the_file_system_tells_its_size() {
    each(|_, mount| {
        let figures = nix::sys::statvfs::statvfs(mount).unwrap();
        assert_eq!(figures.name_max(), 255);
        assert!(figures.blocks() >= LARGE / 4096);
        assert!(figures.files() > MANY as u64);
        assert_eq!((figures.blocks_free(), figures.files_free()), (0, 0));
        let kind = nix::sys::statfs::statfs(mount).unwrap().filesystem_type();
        assert_eq!(kind, nix::sys::statfs::FUSE_SUPER_MAGIC);
    });
}

#[test]
fn a_directory_of_ten_thousand_is_listed_whole_and_from_anywhere() {
    if !crate::support::require(&[crate::support::Need::Fuse, crate::support::Need::Root]) {
        return;
    }
    const COUNT: usize = 10_000;
    let source = temp_dir();
    for number in 0..COUNT {
        fs::write(source.path().join(format!("entry-{number:05}")), "").unwrap();
    }
    let lab = Lab::with(User::Same, source);
    let mount = lab.mount(&[]);
    let names = || -> Vec<_> {
        fs::read_dir(mount.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    };
    std::thread::scope(|scope| {
        for reader in [scope.spawn(names), scope.spawn(names), scope.spawn(names)] {
            let names = reader.join().unwrap();
            assert_eq!(names.len(), COUNT);
            assert_eq!(names.iter().collect::<HashSet<_>>().len(), COUNT);
        }
    });
    // Seeking back gives the same entries again, also while another reader goes on.
    let mut directory = nix::dir::Dir::open(
        mount.path(),
        nix::fcntl::OFlag::O_RDONLY,
        nix::sys::stat::Mode::empty(),
    )
    .unwrap();
    let first: Vec<_> = directory.iter().map(|entry| entry.unwrap().ino()).collect();
    let again: Vec<_> = directory.iter().map(|entry| entry.unwrap().ino()).collect();
    assert_eq!(first, again);
    assert_eq!(first.len(), COUNT + 2);
}

#[test]
fn a_file_stays_readable_while_its_name_is_forgotten() {
    each(|_, mount| {
        let mut file = File::open(mount.join("large")).unwrap();
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == large());
    });
}
