//! Mounts: how data reaches readers, how they begin and end.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use super::support::{
    Need, Store, User, alone, command_as, is_mounted, odd_image, require, succeed, temp_dir,
    wait_for,
};
use super::{compare_with_expected, layout, odd_store};

fn stored(user: User) -> Store {
    let store = Store::of(user);
    store.run(["pull", &layout(&odd_image().layout, "odd"), "--name", "odd"]);
    store
}

#[test]
fn every_way_of_serving_data_gives_the_same_tree() {
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    let store = stored(User::Same);
    for data in ["data=auto", "data=cached", "data=passthrough"] {
        let mount = store.mount("odd", &[data]);
        // Once from nothing, once from what the kernel keeps.
        compare_with_expected(&mount, odd_image(), User::Same);
        compare_with_expected(&mount, odd_image(), User::Same);
        mount.unmount();
    }
}

#[test]
fn an_ordinary_user_sees_the_same_tree() {
    if !require(&[Need::PlainUser, Need::Fuse]) {
        return;
    }
    let store = stored(User::Plain);
    let mount = store.mount("odd", &[]);
    compare_with_expected(&mount, odd_image(), User::Plain);
    mount.unmount();
}

#[test]
fn two_mounts_of_one_image_live_side_by_side() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let (store, other) = (stored(User::Same), temp_dir());
    let first = store.mount("odd", &[]);
    let second = store.mount_on("odd", other.path(), &[]);
    for mount in [&first, &second] {
        let listed = store.listed(mount.path());
        assert!(listed.is_some(), "{} is not listed", mount.path().display());
    }
    first.unmount();
    compare_with_expected(&second, odd_image(), User::Same);
    second.unmount();
    assert_eq!(store.listed(&store.mountpoint()), None);
    assert_eq!(store.listed(other.path()), None);
}

#[test]
fn nothing_can_be_written() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = stored(User::Same);
    let mount = store.mount("odd", &[]);
    let error = fs::write(mount.path().join("new"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
    let error = fs::remove_file(mount.path().join("sizes/1")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
}

/// Whatever unmounts, the daemon goes.
#[test]
fn the_daemon_ends_with_its_mount() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = stored(User::Same);
    for program in ["plyfs", "fusermount3", "umount"] {
        if program == "umount" && !require(&[Need::Root]) {
            continue;
        }
        let mount = store.mount("odd", &[]);
        let pid = mount.pid();
        match program {
            "plyfs" => mount.unmount(),
            "umount" => drop(succeed(Command::new("umount").arg(mount.path()))),
            _ => drop(succeed(
                Command::new("fusermount3").arg("-u").arg(mount.path()),
            )),
        }
        wait_for(format!("the daemon to end after {program}"), || {
            !running(pid)
        });
    }
}

fn running(pid: u64) -> bool {
    // A daemon whose parent does not wait for it may stay as a zombie where there is no init.
    let status = fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|line| {
        line.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.starts_with(" Z"))
    })
}

#[test]
fn a_terminated_daemon_leaves_no_mount() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = stored(User::Same);
    let mount = store.mount("odd", &[]);
    let pid = mount.pid().to_string();
    succeed(Command::new("kill").arg(&pid));
    wait_for("the mount to go", || !is_mounted(mount.path()));
}

#[test]
fn in_the_foreground_until_interrupted() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = stored(User::Same);
    let path = store.mountpoint();
    let mut command = store.command(["mount", "--foreground", "odd"]);
    let mut child = command.arg(&path).spawn().unwrap();
    wait_for("the mount", || is_mounted(&path));
    assert!(fs::read_dir(&path).unwrap().count() > 10);
    succeed(Command::new("kill").args(["-INT", &child.id().to_string()]));
    let status = child.wait().unwrap();
    assert!(!is_mounted(&path));
    assert!(status.success(), "{status}");
}

#[test]
fn failures_say_what_and_leave_nothing() {
    let (store, directory) = (odd_store(), temp_dir());
    let said = store.fails(
        1,
        [
            "mount".as_ref(),
            "absent:1".as_ref(),
            directory.path().as_os_str(),
        ],
    );
    assert!(said.starts_with("plyfs: cannot mount "), "{said}");
    assert!(said.contains("hint: plyfs pull absent:1"), "{said}");
    let said = store.fails(1, ["mount", "odd", "/does/not/exist"]);
    assert!(said.contains("/does/not/exist"), "{said}");
    let said = store.fails(1, ["umount".as_ref(), directory.path().as_os_str()]);
    assert!(said.starts_with("plyfs: "), "{said}");
    assert_eq!(store.listed(directory.path()), None);
}

/// Directories instead of an image; the kernel's overlay is the oracle.
#[test]
fn a_union_of_directories() {
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    let (store, work) = (Store::new(), temp_dir());
    let at = |name: &str| work.path().join(name);
    for name in [
        "upper/dir",
        "upper/opaque",
        "lower/dir",
        "lower/opaque",
        "lower/deep/er",
        "kernel",
    ] {
        fs::create_dir_all(at(name)).unwrap();
    }
    for name in [
        "lower/gone",
        "lower/dir/lower",
        "lower/opaque/hidden",
        "lower/deep/er/x",
        "upper/dir/upper",
        "upper/opaque/new",
    ] {
        fs::write(at(name), name).unwrap();
    }
    for name in ["lower/both", "upper/both"] {
        fs::write(at(name), name).unwrap();
    }
    succeed(
        Command::new("mknod")
            .arg(at("upper/gone"))
            .args(["c", "0", "0"]),
    );
    let mut opaque = Command::new("setfattr");
    succeed(
        opaque
            .args(["-n", "trusted.overlay.opaque", "-v", "y"])
            .arg(at("upper/opaque")),
    );
    let lowers = format!(
        "lowerdir={}:{}",
        at("upper").display(),
        at("lower").display()
    );
    succeed(
        store
            .command(["mount", "-o", &lowers])
            .arg(store.mountpoint()),
    );
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &format!("ro,{lowers}")])
        .arg(at("kernel"))
        .status();
    let same = super::support::script("compare-tree");
    let compared = Command::new(same)
        .arg("--ignore-xattr")
        .arg("trusted.overlay.")
        .arg(store.mountpoint())
        .arg(at("kernel"))
        .output();
    for path in [store.mountpoint(), at("kernel")] {
        succeed(command_as(User::Same, "umount").arg(path));
    }
    assert!(mounted.unwrap().success());
    let compared = compared.unwrap();
    assert!(
        compared.status.success(),
        "{}",
        super::support::text(&compared)
    );
}

/// Anybody can open a FIFO whose link in `/proc` looks like that of a server's record.
#[test]
fn regression_a_fifo_with_the_name_of_a_record_holds_nobody_up() {
    if !require(&[Need::Root, Need::Fuse, Need::Program("unshare")]) {
        return;
    }
    let store = stored(User::Same);
    let mount = store.mount("odd", &[]);
    // Of the same user as the mount, which an attacker can have a mount of his own for.
    let script = "mount -t tmpfs none /mnt && cd /mnt && mkfifo memfd:plyfs-mount \
        && exec 3<>memfd:plyfs-mount && rm memfd:plyfs-mount && echo there && exec sleep 60";
    let mut attacker = alone(Command::new("sh").args(["-c", script]))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    attacker
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(&said, b"there\n");
    let listed = store.listed(mount.path());
    mount.unmount();
    // It would have been waited for.
    let there = attacker.try_wait().unwrap().is_none();
    attacker.kill().unwrap();
    attacker.wait().unwrap();
    assert!(there, "the list came when the attacker had ended");
    assert!(listed.is_some());
}

#[test]
fn regression_a_mount_never_covers_its_store() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = stored(User::Same);
    let parent = store.root().parent().unwrap().to_owned();
    for place in [store.root(), parent] {
        let said = store.fails(1, ["mount".as_ref(), "odd".as_ref(), place.as_os_str()]);
        assert!(said.contains("holds the store"), "{said}");
    }
    store.run(["ls", "odd"]);
}

#[test]
fn regression_what_another_user_mounted_is_not_shown_as_dead() {
    if !require(&[Need::Root, Need::PlainUser, Need::Fuse]) {
        return;
    }
    let store = stored(User::Same);
    let place = temp_dir();
    let mount = store.mount_on("odd", place.path(), &[]);
    let mut command = command_as(User::Plain, super::support::plyfs_program());
    let table = super::support::text(&succeed(command.arg("mounts")));
    let line = table
        .lines()
        .find(|line| line.contains(place.path().to_str().unwrap()));
    assert!(
        line.is_some_and(|line| line.ends_with("?   ?") || line.ends_with('?')),
        "{table}"
    );
    mount.unmount();
}

#[test]
fn regression_options_about_owners_count_for_images_too() {
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let store = stored(User::Same);
    for (options, expected) in [
        ("squash_to_uid=5,squash_to_gid=6", (5, 6)),
        ("uidmapping=0:7:1,gidmapping=0:8:1", (7, 8)),
    ] {
        let mount = store.mount("odd", &[options]);
        let root = fs::metadata(mount.path()).unwrap();
        assert_eq!((root.uid(), root.gid()), expected, "{options}");
        mount.unmount();
    }
}

#[test]
fn regression_an_image_without_attributes_lists_none() {
    if !require(&[Need::Fuse, Need::Program("getfattr")]) {
        return;
    }
    let store = Store::new();
    super::import(&store, "plain:1", b"plain");
    let mount = store.mount("plain:1", &[]);
    let file = mount.path().join("file");
    let mut list = Command::new("getfattr");
    assert_eq!(
        super::support::text(&succeed(list.arg("-d").arg(&file))),
        ""
    );
    let mut tar = Command::new("tar");
    let tar = tar.args([
        "--xattrs",
        "--create",
        "--to-stdout",
        "--file=/dev/null",
        "--directory",
    ]);
    assert_eq!(
        super::support::text(&succeed(tar.arg(mount.path()).arg("."))),
        ""
    );
    mount.unmount();
    let mount = store.mount("plain:1", &["noxattrs"]);
    let mut list = Command::new("getfattr");
    let said = super::support::fail(list.arg("-d").arg(&file), 1);
    assert!(said.contains("not supported"), "{said}");
    mount.unmount();
}

#[test]
fn regression_umount_goes_on_after_one_that_fails() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let (store, other) = (stored(User::Same), temp_dir());
    let _first = store.mount("odd", &[]);
    let _second = store.mount_on("odd", other.path(), &[]);
    let none = temp_dir();
    let mut umount = store.command(["umount"]);
    let umount = umount.arg(store.mountpoint()).arg(none.path());
    let said = super::support::fail(umount.arg(other.path()), 1);
    assert!(said.contains("is not a plyfs mount"), "{said}");
    assert!(!is_mounted(&store.mountpoint()) && !is_mounted(other.path()));
}
