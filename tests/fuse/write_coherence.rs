//! What several readers and writers of one file see of each other.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use plyfs::sys::mapping::Mapping;

use crate::fixture::{daemon, signal};
use crate::support::{Need, User, command_as, require, succeed, text, wait_for};
use crate::writable::{Writable, each, large};

/// What is read through a descriptor, from the beginning.
fn read(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize + 16];
    let length = file.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(length);
    bytes
}

/// A union that is mounted with passthrough, which must work where the kernel has it.
fn with_passthrough(test: impl FnOnce(&Path)) {
    let needs = [Need::Fuse, Need::Root, Need::Passthrough];
    let Some(union) = require(&needs).then(Writable::new).flatten() else {
        return;
    };
    let mount = union.mount(&["data=passthrough", "strict"]);
    test(mount.path());
}

#[test]
fn new_opens_see_what_is_written_and_the_lower_layer_does_not() {
    each(|_, mount| {
        for name in ["small", "large"] {
            let path = mount.join(name);
            let number = fs::metadata(&path).unwrap().ino();
            let old = File::open(&path).unwrap();
            let before = read(&old);
            let writer = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            writer.write_all_at(b"NEW", 2).unwrap();
            let mut expected = before.clone();
            expected[2..5].copy_from_slice(b"NEW");
            assert!(read(&writer) == expected && fs::read(&path).unwrap() == expected);
            assert!(read(&File::open(&path).unwrap()) == expected);
            // An old descriptor shows either, depending on the way, but never a mixture.
            let seen = read(&old);
            assert!(seen == before || seen == expected, "{name}");
            for _ in 0..2 {
                assert_eq!(fs::metadata(&path).unwrap().ino(), number, "{name}");
                assert_eq!(writer.metadata().unwrap().ino(), number, "{name}");
                assert_eq!(old.metadata().unwrap().ino(), number, "{name}");
            }
        }
    });
}

/// Reading it then asks for nothing.
#[test]
fn a_small_file_comes_with_its_first_open() {
    with_passthrough(|mount| {
        for name in ["small", "dir/file"] {
            let file = File::open(mount.join(name)).unwrap();
            let pid = daemon(mount).unwrap();
            signal(pid, Signal::SIGSTOP);
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let mut bytes = [0; 64];
                    let length = file.read_at(&mut bytes, 0).unwrap();
                    bytes[..length].to_vec()
                });
                let arrived = || wait_for("its contents", || reader.is_finished());
                let arrived = std::panic::catch_unwind(AssertUnwindSafe(arrived));
                signal(pid, Signal::SIGCONT);
                arrived.unwrap();
                let expected = fs::read(mount.join(name)).unwrap();
                assert!(!expected.is_empty() && reader.join().unwrap() == expected);
            });
        }
    });
}

#[test]
fn a_cached_mount_shows_old_descriptors_and_mappings_what_is_written() {
    let Some(union) = Writable::new() else { return };
    let mount = union.mount(&["data=cached"]);
    let path = mount.path().join("large");
    let old = File::open(&path).unwrap();
    let mapping = Mapping::new(&old).unwrap();
    assert_eq!(&mapping[..3], &large()[..3]);
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all(b"NEW")
        .unwrap();
    assert_eq!(&mapping[..3], b"NEW");
    assert_eq!(&read(&old)[..3], b"NEW");
}

#[test]
fn with_passthrough_old_descriptors_and_mappings_keep_the_lower_file() {
    with_passthrough(|mount| {
        let (path, twin) = (mount.join("large"), mount.join("dir/twin"));
        let old = File::open(&path).unwrap();
        let mapping = Mapping::new(&old).unwrap();
        // Every way in which a file loses what it had.
        fs::write(&path, "short").unwrap();
        assert!(mapping[..] == large()[..] && read(&old) == large());
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::read(&twin).unwrap(), b"short", "the other name");
        assert_eq!(fs::metadata(&path).unwrap().len(), 5);
        drop((old, mapping));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(fs::metadata(&twin).unwrap().len(), 5);
        assert_eq!(
            fs::metadata(&twin).unwrap().ino(),
            fs::metadata(&path).unwrap().ino()
        );
    });
}

#[test]
fn a_file_that_is_read_can_be_truncated_by_name() {
    each(|union, mount| {
        let path = mount.join("large");
        let old = File::open(&path).unwrap();
        for size in [1000, 0] {
            nix::unistd::truncate(&path, size).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), size as u64);
            assert!(fs::read(&path).unwrap() == large()[..size as usize]);
        }
        drop(old);
        assert_eq!(
            fs::metadata(union.lower().join("large")).unwrap().len(),
            large().len() as u64
        );
    });
}

#[test]
fn a_file_that_is_read_and_changed_in_its_attributes_can_still_be_written() {
    each(|_, mount| {
        let path = mount.join("large");
        let old = File::open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(old.metadata().unwrap().mode() & 0o777, 0o640);
        let again = File::open(&path).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all(b"NEW")
            .unwrap();
        assert_eq!(&fs::read(&path).unwrap()[..3], b"NEW");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        drop((old, again));
        assert_eq!(&fs::read(&path).unwrap()[..3], b"NEW");
    });
}

/// See docs/SEMANTICS.md, open files.
#[test]
fn with_passthrough_attributes_are_changed_by_name_not_by_old_descriptors() {
    with_passthrough(|mount| {
        let path = mount.join("large");
        let old = File::open(&path).unwrap();
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        let stale = Some(libc::ESTALE);
        let mode = fs::Permissions::from_mode(0o640);
        let errors = [
            old.set_permissions(mode.clone())
                .map_err(|e| e.raw_os_error()),
            std::os::unix::fs::fchown(&old, Some(5), None).map_err(|e| e.raw_os_error()),
            old.set_modified(SystemTime::UNIX_EPOCH)
                .map_err(|e| e.raw_os_error()),
        ];
        assert_eq!(errors, [Err(stale); 3]);
        fs::set_permissions(&path, mode).unwrap();
        assert_eq!(writer.metadata().unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    });
}

#[test]
fn appending_is_atomic_among_descriptors() {
    each(|_, mount| {
        for name in ["large", "small", "fresh"] {
            let path = mount.join(name);
            let open = || {
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&path)
                    .unwrap()
            };
            let (mut one, mut two) = (open(), open());
            let before = one.metadata().unwrap().len();
            for round in 0..100 {
                writeln!(one, "one {round}").unwrap();
                writeln!(two, "two {round}").unwrap();
            }
            let text = fs::read(&path).unwrap().split_off(before as usize);
            let expected: String = (0..100).map(|n| format!("one {n}\ntwo {n}\n")).collect();
            assert_eq!(String::from_utf8(text).unwrap(), expected, "{name}");
        }
    });
}

/// Stores bytes through a shared mapping, in another process.
fn store_mapped(path: &Path, offset: usize, text: &str) {
    let program = "import mmap, sys\n\
        with open(sys.argv[1], 'r+b') as file, mmap.mmap(file.fileno(), 0) as map:\n\
        \x20   at = int(sys.argv[2]); text = sys.argv[3].encode()\n\
        \x20   map[at:at + len(text)] = text\n";
    let mut command = Command::new("python3");
    command.args(["-c", program]).arg(path);
    succeed(command.args([offset.to_string().as_str(), text]));
}

#[test]
fn stores_through_mappings_are_kept_and_change_the_time() {
    each(|union, mount| {
        for name in ["large", "small", "dir/sub/deep"] {
            let path = mount.join(name);
            for text in ["AB", "CD"] {
                let then = SystemTime::now() - Duration::from_secs(3600);
                File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_modified(then)
                    .unwrap();
                store_mapped(&path, 1, text);
                // The kernel is told a moment later.
                wait_for(format!("the time of {name}"), || {
                    fs::metadata(&path).unwrap().modified().unwrap() > then
                });
                assert_eq!(&fs::read(&path).unwrap()[1..3], text.as_bytes(), "{name}");
            }
            let bytes = || fs::read(union.upper().join(name)).unwrap()[1..3].to_vec();
            nix::unistd::sync();
            assert_eq!(bytes(), b"CD", "{name}");
        }
    });
}

#[test]
fn sizes_and_times_are_right_after_every_step() {
    each(|_, mount| {
        for name in ["large", "small", "fresh"] {
            let path = mount.join(name);
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path);
            let file = file.unwrap();
            let mut size = file.metadata().unwrap().len();
            for round in 0..20_u64 {
                let end = size + round * 100;
                file.write_all_at(b"x", end).unwrap();
                size = end + 1;
                assert_eq!(fs::metadata(&path).unwrap().len(), size, "{name}");
                if round % 5 == 0 {
                    size /= 2;
                    file.set_len(size).unwrap();
                    assert_eq!(fs::metadata(&path).unwrap().len(), size, "{name}");
                }
            }
            let age = fs::metadata(&path)
                .unwrap()
                .modified()
                .unwrap()
                .elapsed()
                .unwrap();
            assert!(age < Duration::from_secs(60));
        }
    });
}

#[test]
fn set_id_bits_do_not_survive_a_stranger() {
    each(|_, mount| {
        let path = mount.join("setid");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
        let strange = |script: &str| {
            let mut command = command_as(User::Plain, "sh");
            succeed(
                command
                    .args(["-euc", script, "sh"])
                    .arg(&path)
                    .current_dir("/"),
            );
        };
        let reset = || fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        let scripts = [
            "printf x | dd of=\"$1\" conv=notrunc 2>&1",
            "printf x >> \"$1\"",
            "printf x > \"$1\"",
            ": > \"$1\"",
            "truncate -s 3 \"$1\"",
            "exec 3<>\"$1\"; printf y >&3; printf z >&3",
        ];
        for script in scripts {
            reset();
            assert_eq!(mode(), 0o6777);
            strange(script);
            // Without a write the kernel is told a moment later.
            if !script.contains("print") {
                wait_for(script, || mode() == 0o777);
            }
            assert_eq!(mode(), 0o777, "{script}");
        }
        reset();
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"root")
            .unwrap();
        assert_eq!(mode(), 0o6777, "root may");
        std::os::unix::fs::chown(&path, Some(1), Some(1)).unwrap();
        assert_eq!(mode(), 0o777, "a new owner");
    });
}

/// chown(2) that changes nothing clears the set-id bits, and strangers took them from any program.
#[test]
fn regression_set_id_bits_stay_where_a_stranger_may_not_write() {
    if !require(&[Need::Program("setpriv"), Need::Program("fallocate")]) {
        return;
    }
    each(|_, mount| {
        let path = mount.join("setid");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
        let run = |uid: &str, program: &str, arguments: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", uid, "--regid", uid, "--clear-groups", program]);
            command.args(arguments).arg(&path).output().unwrap();
        };
        std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6757)).unwrap();
        run("65533", "chown", &["-h", ":"]);
        run("65533", "chown", &[":"]);
        assert_eq!(mode(), 0o6757);
        run("65533", "fallocate", &["-l", "10000"]);
        assert_eq!(mode(), 0o757);
        for uid in ["0", "65534"] {
            std::os::unix::fs::chown(&path, Some(uid.parse().unwrap()), Some(0)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6757)).unwrap();
            run(uid, "chown", &[":"]);
            assert_eq!(mode(), 0o757, "{uid}");
        }
    });
}

#[test]
fn regression_an_acl_takes_the_set_group_id_bit_from_who_is_not_in_the_group() {
    if !require(&[Need::Program("setfacl"), Need::Program("setpriv")]) {
        return;
    }
    each(|_, mount| {
        let path = mount.join("setid");
        std::os::unix::fs::chown(&path, Some(65534), Some(50)).unwrap();
        for (groups, who, kept) in [
            ("--clear-groups", "65534", false),
            ("--groups=50,51", "65534", true),
            ("--clear-groups", "0", true),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2755)).unwrap();
            let ids = ["--reuid", who, "--regid", who, groups];
            let mut set = Command::new("setpriv");
            set.args(ids).args(["setfacl", "-m", "u:9:r"]).arg(&path);
            succeed(&mut set);
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            let expected = if kept { 0o2755 } else { 0o755 };
            assert_eq!(mode, expected, "{who} {groups}");
        }
    });
}

/// An ACL with so many entries that ext4, for one, has no space for it, and FUSE just so.
#[test]
fn regression_an_acl_that_cannot_be_set_leaves_the_set_group_id_bit() {
    if !require(&[Need::Program("setfacl"), Need::Program("setpriv")]) {
        return;
    }
    each(|_, mount| {
        let path = mount.join("setid");
        std::os::unix::fs::chown(&path, Some(65534), Some(50)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2755)).unwrap();
        let acl: Vec<String> = (1000..1506).map(|user| format!("u:{user}:r")).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), acl.join("\n")).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        let mut set = Command::new("setpriv");
        set.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        let set = set.args(["setfacl", "-M"]).arg(file.path()).arg(&path);
        let was_set = set.output().unwrap().status.success();
        let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
        assert_eq!(mode, if was_set { 0o755 } else { 0o2755 }, "{was_set}");
    });
}

#[test]
fn regression_attributes_that_only_the_administrator_reads_are_listed_for_nobody_else() {
    if !require(&[Need::Program("setfattr"), Need::Program("setpriv")]) {
        return;
    }
    each(|_, mount| {
        let path = mount.join("small");
        for name in ["trusted.mark", "user.mark"] {
            let set = ["-n", name, "-v", "1"];
            succeed(Command::new("setfattr").args(set).arg(&path));
        }
        for (who, trusted) in [("0", true), ("65534", false)] {
            let mut get = Command::new("setpriv");
            get.args(["--reuid", who, "--regid", who, "--clear-groups"]);
            get.args(["getfattr", "--absolute-names", "-d", "-m-"]);
            let names = text(&succeed(get.arg(&path)));
            assert!(names.contains("user.mark"), "{names}");
            assert_eq!(names.contains("trusted.mark"), trusted, "{names}");
        }
    });
}

#[test]
fn small_files_are_coherent_when_they_grow_beyond_what_is_cached() {
    each(|_, mount| {
        let path = mount.join("small");
        let mut expected = fs::read(&path).unwrap();
        for round in 0..30_u8 {
            let bytes = vec![round; 17_000];
            OpenOptions::new()
                .append(true)
                .open(&path)
                .unwrap()
                .write_all(&bytes)
                .unwrap();
            expected.extend_from_slice(&bytes);
            assert!(fs::read(&path).unwrap() == expected, "round {round}");
            if round % 7 == 6 {
                expected.truncate(5000);
                nix::unistd::truncate(&path, 5000).unwrap();
                assert!(fs::read(&path).unwrap() == expected, "round {round}");
            }
        }
    });
}
