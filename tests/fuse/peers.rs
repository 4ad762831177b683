//! Defects that other union file systems have or had, each by its name. What is not here is where it belongs by its
//! subject: lower files written to under an open descriptor, set-id bits that survive a write, and stale data in
//! `write_coherence`; link counts of what is open and has lost its name, the umask, directory renames and devices in
//! `write_verbs`; whiteouts that hide nothing, ACLs, random operations and names of 255 bytes in the tests of the
//! engine; dead mounts in `lifecycle`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirEntryExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknod};

use crate::support::{MountGuard, Need, require, succeed, wait_for};
use crate::writable::{WAYS, Writable, fingerprint};

/// As `writable::each`, with more in the lower tree, and the mount itself.
fn each(prepare: impl Fn(&Path), test: impl Fn(&Writable, &MountGuard<'_>)) {
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        prepare(&union.lower());
        let before = fingerprint(&union.lower());
        let mount = union.mount(&[way]);
        test(&union, &mount);
        mount.unmount();
        assert_eq!(
            before,
            fingerprint(&union.lower()),
            "{way}: the lower layer has changed"
        );
    }
}

fn touch(path: &Path, times: &str) {
    succeed(Command::new("touch").args(["-h", "-d", times]).arg(path));
}

#[test]
fn peers_times_before_1970() {
    let prepare = |lower: &Path| touch(&lower.join("small"), "1969-12-31T23:59:58.5Z");
    each(prepare, |_, mount| {
        let path = mount.path().join("small");
        let times = || {
            let found = fs::metadata(&path).unwrap();
            (found.mtime(), found.mtime_nsec())
        };
        assert_eq!(times(), (-2, 500_000_000));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(times(), (-2, 500_000_000));
        assert_eq!(fs::read(&path).unwrap(), b"small\n");
    });
}

#[test]
fn peers_a_closed_directory_is_not_opened_by_copying_it_up() {
    each(
        |_| {},
        |union, mount| {
            fs::write(mount.path().join("closed/new"), "").unwrap();
            for root in [mount.path(), &union.upper()] {
                assert_eq!(
                    fs::metadata(root.join("closed")).unwrap().mode() & 0o7777,
                    0o700
                );
            }
        },
    );
}

#[test]
fn peers_holes_are_kept_by_copying_up() {
    let prepare = |lower: &Path| {
        File::create(lower.join("sparse"))
            .unwrap()
            .set_len(64 << 20)
            .unwrap()
    };
    each(prepare, |_, mount| {
        let path = mount.path().join("sparse");
        let file = File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 1 << 20).unwrap();
        file.sync_all().unwrap();
        assert!(fs::metadata(&path).unwrap().blocks() < 1000);
    });
}

#[test]
fn peers_attributes_of_a_symlink_are_not_those_of_its_target() {
    each(
        |_| {},
        |_, mount| {
            let (link, target) = (mount.path().join("new-link"), mount.path().join("small"));
            symlink("small", &link).unwrap();
            let set = ["-h", "-n", "trusted.mark", "-v", "1"];
            let set = Command::new("setfattr").args(set).arg(&link).status();
            if set.is_ok_and(|status| status.success()) {
                let get = ["--absolute-names", "-n", "trusted.mark"];
                let target = Command::new("getfattr")
                    .args(get)
                    .arg(&target)
                    .status()
                    .unwrap();
                assert!(!target.success(), "the target has it");
            }
            touch(&link, "2001-01-01T00:00:00Z");
            assert!(fs::metadata(&target).unwrap().mtime() > 1_000_000_000);
        },
    );
}

#[test]
fn peers_long_names_of_lower_files_are_removed() {
    let names: Vec<String> = (250..256).map(|length| "n".repeat(length)).collect();
    let prepare = |lower: &Path| {
        names
            .iter()
            .for_each(|name| fs::write(lower.join(name), "").unwrap())
    };
    each(prepare, |_, mount| {
        for name in &names {
            fs::remove_file(mount.path().join(name)).unwrap();
            assert!(!mount.path().join(name).exists());
        }
        let longer = fs::remove_file(mount.path().join("n".repeat(256))).unwrap_err();
        assert_eq!(longer.raw_os_error(), Some(libc::ENAMETOOLONG));
    });
}

#[test]
fn peers_lower_devices_are_removed_without_being_opened() {
    let prepare = |lower: &Path| {
        for (name, kind, device) in [
            ("tty", SFlag::S_IFCHR, (5, 0)),
            ("none", SFlag::S_IFBLK, (250, 250)),
        ] {
            let (major, minor) = device;
            let mode = Mode::from_bits_truncate(0o666);
            mknod(&lower.join(name), kind, mode, makedev(major, minor)).unwrap();
        }
        mknod(
            &lower.join("pipe"),
            SFlag::S_IFIFO,
            Mode::from_bits_truncate(0o666),
            0,
        )
        .unwrap();
    };
    each(prepare, |_, mount| {
        for name in ["tty", "none", "pipe"] {
            let path = mount.path().join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::remove_file(&path).unwrap();
        }
    });
}

#[test]
fn peers_names_do_not_vanish_while_others_come_and_go() {
    each(
        |_| {},
        |_, mount| {
            let directory = mount.path().join("dir");
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let directory = &directory;
                    scope.spawn(move || {
                        for round in 0..100 {
                            let path = directory.join(format!("{thread}-{}", round % 7));
                            File::create_new(&path).unwrap();
                            assert!(path.symlink_metadata().is_ok(), "just created");
                            fs::remove_file(&path).unwrap();
                            assert!(path.symlink_metadata().is_err(), "just removed");
                        }
                        File::create_new(directory.join(format!("{thread}-stays"))).unwrap();
                    });
                }
            });
            let entries = fs::read_dir(&directory).unwrap();
            let stays = entries.filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().ends_with("-stays")
            });
            assert_eq!(stays.count(), 4);
            fs::remove_dir_all(&directory).unwrap();
        },
    );
}

#[test]
fn peers_a_name_is_used_again_for_something_of_another_kind() {
    each(
        |_| {},
        |_, mount| {
            let path = mount.path().join("dir");
            for _ in 0..3 {
                fs::remove_dir_all(&path).unwrap();
                fs::write(&path, "file").unwrap();
                assert_eq!(fs::read(&path).unwrap(), b"file");
                fs::remove_file(&path).unwrap();
                symlink("small", &path).unwrap();
                assert_eq!(fs::read(&path).unwrap(), b"small\n");
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
                assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
                fs::write(path.join("in"), "").unwrap();
                fs::rename(&path, mount.path().join("other")).unwrap();
                fs::rename(mount.path().join("other"), &path).unwrap();
            }
        },
    );
}

#[test]
fn peers_what_was_deleted_stays_deleted() {
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        let mount = union.mount(&[way]);
        let root = mount.path().to_owned();
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::create_dir(root.join("dir/sub")).unwrap();
        fs::remove_file(root.join("small")).unwrap();
        symlink("elsewhere", root.join("small")).unwrap();
        mount.unmount();
        let mount = union.mount(&[way]);
        let root = mount.path();
        // The deepest first: what hides it must not depend on what was looked at before.
        assert!(root.join("dir/sub/deep").symlink_metadata().is_err());
        assert_eq!(fs::read_dir(root.join("dir/sub")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(root.join("dir")).unwrap().count(), 1);
        assert_eq!(
            fs::read_link(root.join("small")).unwrap(),
            Path::new("elsewhere")
        );
        mount.unmount();
    }
}

#[test]
fn peers_opaque_marks_of_lower_layers_count_in_any_order_of_access() {
    for deepest_first in [false, true] {
        let Some(union) = Writable::new() else { return };
        let top = union.lower().with_file_name("top");
        fs::create_dir_all(top.join("dir/sub")).unwrap();
        fs::write(top.join("dir/.wh..wh..opq"), "").unwrap();
        fs::write(top.join("dir/sub/mine"), "").unwrap();
        let options = union
            .layers()
            .replace("lowerdir=", &format!("lowerdir={}:", top.display()));
        let guard = union.store.guard();
        let mut command = union.store.command(["mount", "-o", &options]);
        succeed(command.arg(union.store.mountpoint()));
        let root = guard.path();
        let list = |path: &str| fs::read_dir(root.join(path)).unwrap().count();
        if deepest_first {
            assert!(root.join("dir/sub/deep").symlink_metadata().is_err());
            assert_eq!((list("dir/sub"), list("dir")), (1, 1));
        } else {
            assert_eq!((list("dir"), list("dir/sub")), (1, 1));
            assert!(root.join("dir/file").symlink_metadata().is_err());
        }
        guard.unmount();
    }
}

#[test]
fn peers_a_whiteout_in_the_root_hides_nothing_deeper() {
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        fs::write(union.lower().join("dir/small"), "deeper").unwrap();
        let top = union.lower().with_file_name("top");
        fs::create_dir_all(top.join("dir")).unwrap();
        fs::write(top.join(".wh.small"), "").unwrap();
        let layers = format!("lowerdir={}:", top.display());
        let options = union.layers().replace("lowerdir=", &layers);
        let guard = union.store.guard();
        let mut command = union.store.command(["mount", "-o"]);
        command.arg(format!("{options},{way}"));
        succeed(command.arg(union.store.mountpoint()));
        let root = guard.path();
        assert!(root.join("small").symlink_metadata().is_err());
        assert_eq!(fs::read(root.join("dir/small")).unwrap(), b"deeper");
        fs::write(root.join("small"), "new").unwrap();
        fs::remove_file(root.join("small")).unwrap();
        fs::write(root.join("dir/small"), "changed").unwrap();
        assert!(root.join("small").symlink_metadata().is_err());
        assert_eq!(fs::read(root.join("dir/small")).unwrap(), b"changed");
        guard.unmount();
    }
}

#[test]
fn peers_link_counts_and_numbers_do_not_depend_on_what_was_looked_at() {
    each(
        |_| {},
        |_, mount| {
            let (one, two) = (mount.path().join("dir/twin"), mount.path().join("large"));
            let first = fs::metadata(&one).unwrap();
            assert_eq!(first.nlink(), 2);
            fs::set_permissions(&one, fs::Permissions::from_mode(0o640)).unwrap();
            let (first, second) = (fs::metadata(&one).unwrap(), fs::metadata(&two).unwrap());
            assert_eq!(
                (first.nlink(), first.ino(), first.mode()),
                (2, second.ino(), second.mode())
            );
            fs::rename(mount.path().join("dir"), mount.path().join("moved")).unwrap();
            for directory in ["", "moved", "moved/sub"] {
                for entry in fs::read_dir(mount.path().join(directory)).unwrap() {
                    let entry = entry.unwrap();
                    let found = entry.path().symlink_metadata().unwrap();
                    assert_eq!(entry.ino(), found.ino(), "{}", entry.path().display());
                }
            }
        },
    );
}

#[test]
fn peers_listings_show_what_was_added_after_the_directory_was_opened() {
    each(
        |_| {},
        |_, mount| {
            let directory = mount.path().join("dir");
            let entries = fs::read_dir(&directory).unwrap();
            File::create_new(directory.join("later")).unwrap();
            let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            assert!(names.iter().any(|name| name == "later"), "{names:?}");
        },
    );
}

/// The process that serves a union of directories.
fn daemon_of(mount: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mount = mount.as_os_str().as_bytes();
    let processes = fs::read_dir("/proc").unwrap();
    let found = processes.filter_map(Result::ok).find(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == mount)
    });
    found.unwrap().file_name().into_string().unwrap()
}

#[test]
fn peers_descriptors_do_not_leak() {
    each(
        |_| {},
        |_, mount| {
            let path = mount.path().join("dir/again");
            let pid = daemon_of(mount.path());
            let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
            let step = || {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("f"), "x").unwrap();
                let mut file = File::open(path.join("f")).unwrap();
                fs::remove_file(path.join("f")).unwrap();
                fs::remove_dir(&path).unwrap();
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(text, "x");
            };
            (0..50).for_each(|_| step());
            let before = open();
            (0..500).for_each(|_| step());
            // Of the last ones that were closed the daemon hears later.
            wait_for(format!("{before} descriptors"), || open() <= before + 20);
        },
    );
}

/// A request for an attribute before each write(2) is what a kernel makes that was not told who clears capabilities.
#[test]
fn peers_writing_asks_nothing_before_each_write() {
    each(
        |_| {},
        |_, mount| {
            let pid = daemon_of(mount.path());
            let answers = || -> u64 {
                let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
                let line = io.lines().find(|line| line.starts_with("syscw")).unwrap();
                line.rsplit(' ').next().unwrap().parse().unwrap()
            };
            let mut file = File::options()
                .append(true)
                .open(mount.path().join("large"))
                .unwrap();
            let before = answers();
            (0..2000).for_each(|_| file.write_all(&[1; 100]).unwrap());
            let asked = answers() - before;
            assert!(asked < 200, "{asked} answers for 2000 writes");
        },
    );
}

/// Where paths are built, they are too long some day.
#[test]
fn peers_nothing_is_too_deep() {
    const DEPTH: usize = 20;
    let name = "d".repeat(250);
    let descend = |root: &Path, make: bool| {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut at = nix::fcntl::open(root, flags, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            if make {
                mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
            }
            at = openat(&at, name.as_str(), flags, Mode::empty()).unwrap();
        }
        at
    };
    let write = |at: &OwnedFd, name: &str, text: &[u8]| {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND;
        let file = openat(at, name, flags, Mode::S_IRWXU).unwrap();
        File::from(file).write_all(text).unwrap();
    };
    let prepare = |lower: &Path| write(&descend(lower, true), "file", b"lower");
    each(prepare, |_, mount| {
        let at = descend(mount.path(), false);
        write(&at, "file", b" and more");
        renameat2(&at, "file", &at, "moved", RenameFlags::empty()).unwrap();
        nix::unistd::linkat(&at, "moved", &at, "linked", AtFlags::empty()).unwrap();
        let mut text = String::new();
        let file = openat(&at, "linked", OFlag::O_RDONLY, Mode::empty()).unwrap();
        File::from(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "lower and more");
        fs::remove_dir_all(mount.path().join(&name)).unwrap();
        assert!(!mount.path().join(&name).exists());
    });
}

/// Mounts from a shell that has done this before.
fn mount_after<'a>(union: &'a Writable, before: &str, way: &str) -> MountGuard<'a> {
    let guard = union.store.guard();
    let command = union.command(&[way]);
    let mut under = Command::new("sh");
    under.args(["-c", &format!("{before}; exec \"$@\""), "sh"]);
    under.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => under.env(name, value),
            None => under.env_remove(name),
        };
    }
    succeed(&mut under);
    guard
}

#[test]
fn peers_a_daemon_without_descriptors_says_so_and_recovers() {
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        let mount = mount_after(&union, "ulimit -n 100", way);
        let root = mount.path();
        let pid = daemon_of(root);
        let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let before = descriptors();
        let (mut open, mut refused) = (Vec::new(), 0);
        for number in 0..200 {
            match File::create(root.join(format!("dir/f{number}"))) {
                Ok(file) => open.push(file),
                Err(error) => {
                    let errno = error.raw_os_error();
                    assert!(
                        matches!(errno, Some(libc::EMFILE | libc::ENFILE)),
                        "{error}"
                    );
                    refused += 1;
                }
            }
        }
        // Where the daemon is not told what is open it needs none for it.
        let is_right = (refused > 0) == (way == "data=passthrough");
        assert!(
            is_right && !open.is_empty(),
            "{way}: {refused} of 200 were refused"
        );
        // Removing needs none, even of what is open.
        fs::remove_file(root.join("dir/f0")).unwrap();
        drop(open);
        // The kernel tells of closed files a little later.
        wait_for("descriptors", || descriptors() <= before + 20);
        fs::write(root.join("small"), "again").unwrap();
        assert_eq!(fs::read(root.join("small")).unwrap(), b"again");
        assert_eq!(fs::read(root.join("dir/file")).unwrap(), b"file\n");
        fs::remove_dir_all(root.join("dir")).unwrap();
        mount.unmount();
    }
}

#[test]
fn peers_the_umask_of_the_daemon_is_not_applied() {
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        let guard = mount_after(&union, "umask 077", way);
        let script = "umask 0; : > f; mkdir d; mknod p p; chown 1:1 dir; \
                      setpriv --reuid 1 --regid 1 --clear-groups sh -c ': > dir/g; mkdir dir/h'; \
                      stat -c %a-%u f d p dir/g dir/h";
        let modes = union.shell(script);
        let modes: Vec<&str> = modes.split_whitespace().collect();
        assert_eq!(modes, ["666-0", "777-0", "666-0", "666-1", "777-1"]);
        guard.unmount();
    }
}

#[test]
fn peers_the_group_of_a_directory_is_given_to_strangers_too() {
    each(
        |_| {},
        |union, _| {
            let script = "mkdir shared; chown 0:50 shared; chmod 2777 shared; \
                      setpriv --reuid 1 --regid 1 --clear-groups sh -c 'umask 022; : > shared/f; mkdir shared/d'; \
                      stat -c %u:%g:%a shared/f shared/d";
            let looks = union.shell(script);
            assert_eq!(
                looks.split_whitespace().collect::<Vec<_>>(),
                ["1:50:644", "1:50:2755"]
            );
        },
    );
}

#[test]
fn peers_times_survive_another_mount() {
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        let mount = union.mount(&[way]);
        let root = mount.path().to_owned();
        fs::write(root.join("new"), "new").unwrap();
        fs::set_permissions(root.join("small"), fs::Permissions::from_mode(0o640)).unwrap();
        let times = |name: &str| {
            let found = fs::symlink_metadata(root.join(name)).unwrap();
            let mut pairs = vec![
                (found.atime(), found.atime_nsec()),
                (found.mtime(), found.mtime_nsec()),
            ];
            // A kernel that collects writes stores changed times later, and no ctime.
            if way == "data=passthrough" {
                pairs.push((found.ctime(), found.ctime_nsec()));
            }
            (pairs, found.ino())
        };
        let names = match way {
            "data=passthrough" => &["small", "dir", "large", "new"][..],
            _ => &["small", "dir", "large"],
        };
        let all = || names.iter().map(|name| times(name)).collect::<Vec<_>>();
        let before = all();
        mount.unmount();
        let mount = union.mount(&[way]);
        assert_eq!(before, all());
        mount.unmount();
    }
}

#[test]
fn peers_a_mount_point_may_cover_a_lower_directory() {
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        let place = union.lower().join("dir");
        let guard = union.store.guard();
        let mut command =
            union
                .store
                .command(["mount", "-o", &format!("{},{way}", union.layers())]);
        succeed(command.arg(&place));
        assert_eq!(fs::read(place.join("small")).unwrap(), b"small\n");
        // What the mount covers cannot be seen any more, and asking for it does not hang.
        assert_eq!(fs::read_dir(place.join("dir")).unwrap().count(), 0);
        fs::write(place.join("small"), "changed").unwrap();
        assert_eq!(fs::read(place.join("small")).unwrap(), b"changed");
        succeed(&mut union.store.command(["umount".as_ref(), place.as_os_str()]));
        assert_eq!(fs::read(place.join("file")).unwrap(), b"file\n");
        drop(guard);
    }
}

#[test]
fn peers_devices_of_nested_overlays_are_visible() {
    each(
        |_| {},
        |_, mount| {
            let (null, moved) = (mount.path().join("null"), mount.path().join("moved"));
            mknod(&null, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), 0).unwrap();
            fs::set_permissions(&null, fs::Permissions::from_mode(0o620)).unwrap();
            let flags = RenameFlags::RENAME_WHITEOUT;
            renameat2(
                AT_FDCWD,
                &mount.path().join("small"),
                AT_FDCWD,
                &moved,
                flags,
            )
            .unwrap();
            for (name, mode) in [("null", 0o620), ("small", 0)] {
                let found = fs::symlink_metadata(mount.path().join(name)).unwrap();
                assert!(
                    found.file_type().is_char_device() && found.rdev() == 0,
                    "{name}"
                );
                assert_eq!(found.mode() & 0o7777, mode);
            }
            assert_eq!(fs::read(&moved).unwrap(), b"small\n");
            let opened = File::open(&null).unwrap_err();
            assert_eq!(opened.raw_os_error(), Some(Errno::ENXIO as i32));
        },
    );
}

/// Containers within containers: an overlay of the kernel with its upper directory on a union of ours.
#[test]
fn peers_an_overlay_of_the_kernel_has_its_upper_here() {
    if !require(&[Need::Fuse, Need::Root]) {
        return;
    }
    each(
        |_| {},
        |union, mount| {
            let nested = union.lower().with_file_name("nested");
            fs::create_dir_all(&nested).unwrap();
            let script = "mkdir l u w; mkdir l/d; echo 1 > l/d/a; echo 2 > l/d/b; echo 3 > l/c";
            union.shell(script);
            let root = mount.path().display();
            let options = format!("lowerdir={root}/l,upperdir={root}/u,workdir={root}/w");
            let mounted = Command::new("mount")
                .args(["-t", "overlay", "overlay", "-o", &options])
                .arg(&nested)
                .output();
            let mounted = mounted.unwrap();
            if !mounted.status.success() {
                let said = String::from_utf8_lossy(&mounted.stderr);
                assert!(std::env::var_os("CI").is_none(), "{said}");
                println!("SKIP: no overlay on FUSE with this kernel: {said}");
                return;
            }
            let check = "rm d/a c; mkdir c; mv d/b d/e; echo 4 >> d/e; rm -r c; ls -R; cat d/e";
            let output = Command::new("sh")
                .args(["-euc", check])
                .current_dir(&nested)
                .output()
                .unwrap();
            let unmounted = Command::new("umount").arg(&nested).status().unwrap();
            assert!(unmounted.success());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                ".:\nd\n\n./d:\ne\n2\n4\n"
            );
            let names = union.shell("stat -c %F-%r u/c u/d/a u/d/b");
            assert_eq!(
                names.lines().collect::<Vec<_>>(),
                ["character special file-0"; 3]
            );
        },
    );
    std::io::stdout().flush().unwrap();
}
