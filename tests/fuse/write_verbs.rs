//! Every verb that changes something, through a mount and in every way of reading and writing.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;

use crate::support::succeed;
use crate::writable::{Writable, each, large};

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn files_are_made_written_and_read_back() {
    each(|union, mount| {
        let path = mount.join("dir/new");
        assert!(!path.exists());
        let mut file = File::create_new(&path).unwrap();
        file.write_all(b"first ").unwrap();
        file.write_all(b"second").unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 12);
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"first second");
        assert_eq!(
            fs::read(union.upper().join("dir/new")).unwrap(),
            b"first second"
        );
        let again = File::create_new(&path).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::EEXIST));
        fs::write(&path, "short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"er")
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"shorter");
        assert_eq!(names(&mount.join("dir")), ["file", "new", "sub", "twin"]);
    });
}

#[test]
fn lower_files_are_changed_in_the_upper_only() {
    each(|union, mount| {
        for name in ["small", "large", "dir/sub/deep"] {
            let path = mount.join(name);
            let number = fs::metadata(&path).unwrap().ino();
            let mut expected = fs::read(&path).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"XY", 1).unwrap();
            expected[1..3].copy_from_slice(b"XY");
            drop(file);
            assert!(fs::read(&path).unwrap() == expected, "{name}");
            assert!(
                fs::read(union.upper().join(name)).unwrap() == expected,
                "{name}"
            );
            assert_eq!(fs::metadata(&path).unwrap().ino(), number, "{name}");
        }
    });
}

#[test]
fn everything_that_can_be_made_is_made() {
    each(|_, mount| {
        fs::create_dir(mount.join("d")).unwrap();
        symlink("some/where", mount.join("d/l")).unwrap();
        mknod(
            &mount.join("d/p"),
            SFlag::S_IFIFO,
            Mode::from_bits_truncate(0o640),
            0,
        )
        .unwrap();
        let device = nix::sys::stat::makedev(1, 7);
        mknod(
            &mount.join("d/c"),
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o600),
            device,
        )
        .unwrap();
        assert_eq!(
            fs::read_link(mount.join("d/l")).unwrap(),
            Path::new("some/where")
        );
        let look = |name: &str| fs::symlink_metadata(mount.join("d").join(name)).unwrap();
        assert!(look("p").file_type().is_fifo() && look("p").mode() & 0o777 == 0o640);
        assert!(look("c").file_type().is_char_device());
        assert_eq!(look("c").rdev(), device);
        let odd = mount.join(OsStr::from_bytes(b"d/\xff\xfe"));
        fs::write(&odd, "odd").unwrap();
        assert_eq!(fs::read(&odd).unwrap(), b"odd");
        let longest = mount.join("d").join("n".repeat(255));
        fs::write(&longest, "").unwrap();
        fs::remove_file(&longest).unwrap();
        let longer = fs::write(mount.join("d").join("n".repeat(256)), "").unwrap_err();
        assert_eq!(longer.raw_os_error(), Some(libc::ENAMETOOLONG));
    });
}

#[test]
fn names_are_removed_and_used_again() {
    each(|_, mount| {
        fs::remove_file(mount.join("small")).unwrap();
        let gone = fs::metadata(mount.join("small")).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ENOENT));
        fs::create_dir(mount.join("small")).unwrap();
        assert_eq!(names(&mount.join("small")), Vec::<String>::new());
        fs::remove_dir(mount.join("small")).unwrap();
        fs::write(mount.join("small"), "again").unwrap();
        assert_eq!(fs::read(mount.join("small")).unwrap(), b"again");
        let full = fs::remove_dir(mount.join("dir")).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOTEMPTY));
        fs::remove_dir_all(mount.join("dir")).unwrap();
        fs::create_dir(mount.join("dir")).unwrap();
        assert_eq!(names(&mount.join("dir")), Vec::<String>::new());
        for round in 0..50 {
            let path = mount.join("dir/again");
            fs::write(&path, format!("{round}")).unwrap();
            assert_eq!(fs::read(&path).unwrap(), format!("{round}").as_bytes());
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            fs::remove_dir(&path).unwrap();
        }
    });
}

#[test]
fn names_are_moved() {
    each(|_, mount| {
        fs::rename(mount.join("small"), mount.join("dir/moved")).unwrap();
        assert_eq!(fs::read(mount.join("dir/moved")).unwrap(), b"small\n");
        assert!(!mount.join("small").exists());
        fs::rename(mount.join("dir/moved"), mount.join("dir/file")).unwrap();
        assert_eq!(fs::read(mount.join("dir/file")).unwrap(), b"small\n");
        fs::create_dir(mount.join("a")).unwrap();
        fs::write(mount.join("a/in"), "in").unwrap();
        fs::rename(mount.join("a"), mount.join("b")).unwrap();
        assert_eq!(fs::read(mount.join("b/in")).unwrap(), b"in");
        let rename = |from: &str, to: &str, flags| {
            renameat2(
                AT_FDCWD,
                &mount.join(from),
                AT_FDCWD,
                &mount.join(to),
                flags,
            )
        };
        let taken = rename("b/in", "dir/file", RenameFlags::RENAME_NOREPLACE);
        assert_eq!(taken, Err(Errno::EEXIST));
        rename("b/in", "dir/file", RenameFlags::RENAME_EXCHANGE).unwrap();
        assert_eq!(fs::read(mount.join("dir/file")).unwrap(), b"in");
        assert_eq!(fs::read(mount.join("b/in")).unwrap(), b"small\n");
    });
}

#[test]
fn lower_directories_move_with_redirects_and_without() {
    for option in ["redirect_dir=off", "redirect_dir=on"] {
        let Some(union) = Writable::new() else { return };
        let mount = union.mount(&[option]);
        fs::rename(mount.path().join("dir"), mount.path().join("moved")).unwrap();
        let deep = |mount: &Path| fs::read(mount.join("moved/sub/deep")).unwrap();
        assert_eq!(deep(mount.path()), b"deep\n");
        mount.unmount();
        let mount = union.mount(&[]);
        assert_eq!(deep(mount.path()), b"deep\n");
        assert!(!mount.path().join("dir").exists());
        let copied = union.upper().join("moved/sub/deep").exists();
        assert_eq!(copied, option == "redirect_dir=off");
    }
}

#[test]
fn names_of_one_file_stay_one_file() {
    each(|_, mount| {
        fs::hard_link(mount.join("small"), mount.join("dir/other")).unwrap();
        fs::write(mount.join("dir/other"), "one").unwrap();
        assert_eq!(fs::read(mount.join("small")).unwrap(), b"one");
        let both = ["small", "dir/other"].map(|name| fs::metadata(mount.join(name)).unwrap());
        assert_eq!(both[0].ino(), both[1].ino());
        assert_eq!(both[0].nlink(), 2);
        OpenOptions::new()
            .append(true)
            .open(mount.join("large"))
            .unwrap()
            .write_all(b"more")
            .unwrap();
        let twin = fs::read(mount.join("dir/twin")).unwrap();
        assert!(twin.ends_with(b"more") && twin.len() == large().len() + 4);
        fs::remove_file(mount.join("large")).unwrap();
        assert_eq!(fs::metadata(mount.join("dir/twin")).unwrap().nlink(), 1);
    });
}

#[test]
fn attributes_are_set() {
    each(|_, mount| {
        for name in ["small", "large", "dir", "closed"] {
            let path = mount.join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o751)).unwrap();
            std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
            let look = fs::metadata(&path).unwrap();
            assert_eq!(
                (look.mode() & 0o7777, look.uid(), look.gid()),
                (0o751, 1234, 4321)
            );
        }
        assert!(fs::read(mount.join("large")).unwrap() == large());
        std::os::unix::fs::lchown(mount.join("link"), Some(5), Some(6)).unwrap();
        assert_eq!(fs::symlink_metadata(mount.join("link")).unwrap().uid(), 5);
        assert_eq!(fs::metadata(mount.join("small")).unwrap().uid(), 1234);
    });
}

#[test]
fn any_time_can_be_set() {
    each(|_, mount| {
        let path = mount.join("small");
        for (seconds, nanoseconds) in [
            (-86_400, 250_000_000),
            (-1, 1),
            (-1, 999_999_999),
            (0, 0),
            (1 << 32, 5),
        ] {
            let time = TimeSpec::new(seconds, nanoseconds);
            utimensat(
                AT_FDCWD,
                &path,
                &time,
                &time,
                UtimensatFlags::NoFollowSymlink,
            )
            .unwrap();
            for _ in 0..2 {
                let look = fs::metadata(&path).unwrap();
                assert_eq!((look.mtime(), look.mtime_nsec()), (seconds, nanoseconds));
                assert_eq!((look.atime(), look.atime_nsec()), (seconds, nanoseconds));
                fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            }
        }
    });
}

#[test]
fn sizes_are_set_and_space_is_allocated() {
    each(|_, mount| {
        let path = mount.join("large");
        nix::unistd::truncate(&path, 10).unwrap();
        assert_eq!(fs::read(&path).unwrap(), large()[..10]);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        file.set_len(100_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 100_000);
        file.write_all_at(&[1; 50_000], 0).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, 200_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 200_000);
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, punch, 4096, 8192).unwrap();
        let mut read = vec![9; 20_000];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read[..4096].iter().all(|&byte| byte == 1));
        assert!(read[4096..12_288].iter().all(|&byte| byte == 0));
        assert!(read[12_288..].iter().all(|&byte| byte == 1));
        let from = File::open(mount.join("dir/sub/deep")).unwrap();
        let copied = plyfs::sys::data::copy_range(&from, 0, &file, 3, 5).unwrap();
        assert_eq!(copied, 5);
        file.read_exact_at(&mut read[..10], 0).unwrap();
        assert_eq!(&read[..9], b"\x01\x01\x01deep\n\x01");
    });
}

#[test]
fn extended_attributes_are_set_and_removed() {
    each(|_, mount| {
        let run = |program: &str, args: &[&str]| {
            succeed(Command::new(program).args(args).current_dir(mount))
        };
        for name in ["small", "large", "dir"] {
            run("setfattr", &["-n", "user.plyfs", "-v", "value", name]);
            let shown = run("getfattr", &["-n", "user.plyfs", "--only-values", name]);
            assert_eq!(shown.stdout, b"value");
            run("setfattr", &["-x", "user.plyfs", name]);
            let listed = run("getfattr", &["-d", "-m", "-", name]);
            assert_eq!(String::from_utf8(listed.stdout).unwrap(), "", "{name}");
        }
    });
}

#[test]
fn the_umask_and_set_group_id_directories_are_respected() {
    each(|union, mount| {
        // Not here: it would be the umask of all tests that run meanwhile.
        union.shell("umask 027; : > masked; mkdir masked.d");
        let mode = |name: &str| fs::metadata(mount.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("masked"), mode("masked.d")), (0o640, 0o750));
        let shared = mount.join("dir");
        std::os::unix::fs::chown(&shared, None, Some(77)).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o2775)).unwrap();
        fs::create_dir(shared.join("inherits")).unwrap();
        fs::write(shared.join("too"), "").unwrap();
        let look = fs::metadata(shared.join("inherits")).unwrap();
        assert_eq!((look.gid(), look.mode() & 0o2000), (77, 0o2000));
        assert_eq!(fs::metadata(shared.join("too")).unwrap().gid(), 77);
        assert_eq!(mode("closed"), 0o700);
    });
}

#[test]
fn files_live_on_without_a_name() {
    each(|_, mount| {
        for name in ["small", "large", "fresh"] {
            let path = mount.join(name);
            if name == "fresh" {
                fs::write(&path, "fresh").unwrap();
            }
            let expected = fs::read(&path).unwrap();
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            fs::remove_file(&path).unwrap();
            let left = if name == "large" { 1 } else { 0 };
            assert_eq!(file.metadata().unwrap().nlink(), left, "{name}");
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert!(read == expected, "{name}");
            file.write_all(b"more").unwrap();
            file.seek(SeekFrom::Start(expected.len() as u64)).unwrap();
            read.clear();
            file.read_to_end(&mut read).unwrap();
            assert_eq!(read, b"more");
            file.set_len(2).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 2);
        }
    });
}

#[test]
fn open_files_survive_being_replaced() {
    each(|_, mount| {
        for name in ["small", "large"] {
            let path = mount.join(name);
            let old = fs::read(&path).unwrap();
            let mut file = File::open(&path).unwrap();
            fs::write(mount.join("new"), "new").unwrap();
            fs::rename(mount.join("new"), &path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert!(read == old, "{name}");
        }
    });
}

#[test]
fn listings_stay_true_while_names_come_and_go() {
    each(|_, mount| {
        let busy = mount.join("busy");
        fs::create_dir(&busy).unwrap();
        for number in 0..500 {
            fs::write(busy.join(format!("keep-{number}")), "").unwrap();
        }
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (busy, done) = (&busy, &done);
            for worker in 0..2 {
                scope.spawn(move || {
                    for round in 0..400 {
                        let path = busy.join(format!("temporary-{worker}-{round}"));
                        fs::write(&path, "").unwrap();
                        fs::remove_file(&path).unwrap();
                    }
                    done.store(true, std::sync::atomic::Ordering::Relaxed);
                });
            }
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let kept = names(busy);
                    let kept = kept.iter().filter(|name| name.starts_with("keep-"));
                    assert_eq!(kept.count(), 500);
                }
            });
        });
        assert_eq!(names(&busy).len(), 500);
        fs::remove_dir_all(&busy).unwrap();
    });
}

#[test]
fn everything_is_there_after_another_mount() {
    each(|union, mount| {
        fs::write(mount.join("kept"), "kept").unwrap();
        fs::remove_file(mount.join("small")).unwrap();
        fs::set_permissions(mount.join("closed"), fs::Permissions::from_mode(0o711)).unwrap();
        let number = |name: &str| fs::metadata(mount.join(name)).unwrap().ino();
        let before = [number("kept"), number("large"), number("closed")];
        union.store.run(["umount".as_ref(), mount.as_os_str()]);
        succeed(&mut union.command(&[]));
        assert_eq!(fs::read(mount.join("kept")).unwrap(), b"kept");
        assert!(!mount.join("small").exists());
        assert_eq!([number("kept"), number("large"), number("closed")], before);
        assert_eq!(
            fs::metadata(mount.join("closed")).unwrap().mode() & 0o777,
            0o711
        );
    });
}

#[test]
fn the_figures_are_those_of_the_upper() {
    each(|union, mount| {
        let (here, there) = (
            nix::sys::statvfs::statvfs(mount).unwrap(),
            nix::sys::statvfs::statvfs(&union.upper()).unwrap(),
        );
        assert_eq!(here.blocks(), there.blocks());
        assert!(here.blocks_available() > 0);
    });
}

/// An entry that cannot be told does not take away those that were told before it.
#[test]
fn regression_an_error_ends_a_listing_after_what_was_found() {
    let Some(union) = Writable::new() else { return };
    let broken = union.upper().join("dir/broken");
    fs::create_dir_all(&broken).unwrap();
    let mut mark = Command::new("setfattr");
    mark.args(["-n", "trusted.overlay.redirect", "-v", "not/a/redirect"]);
    succeed(mark.arg(&broken));
    let mount = union.mount(&[]);
    let list = fs::read_dir(mount.path().join("dir")).unwrap();
    let (found, errors): (Vec<_>, Vec<_>) = list.partition(|entry| entry.is_ok());
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(errors.len(), 1, "{errors:?}");
}
