//! The mount helper, called the way that each of its callers does.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::layout;
use super::support::{
    Need, Store, User, command_as, compare_tree, fail, helper_program, is_mounted, odd_image,
    require, succeed, temp_dir,
};

fn stored() -> Store {
    let store = Store::new();
    store.run([
        "pull",
        "-q",
        &layout(&odd_image().layout, "odd"),
        "--name",
        "odd",
    ]);
    store
}

/// mount(8) finds its helpers in /sbin only, so a private /usr/sbin lends it one.
const MOUNT_8: &str = r#"
set -eu
mkdir "$work/upper" "$work/work"
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$work/upper,workdir=$work/work" /usr/sbin
# One that is installed is hidden, for us alone.
rm -f /usr/sbin/mount.plyfs /usr/sbin/mount.fuse.plyfs
cp "$helper" /usr/sbin/mount.plyfs
ln -s mount.plyfs /usr/sbin/mount.fuse.plyfs
for type in plyfs fuse.plyfs; do
    mount -t "$type" odd "$mnt" -o "root=$store,noatime,x-systemd.automount"
    mountpoint -q "$mnt"
    "$compare" "$mnt" "$expected"
    umount "$mnt"
done
"#;

#[test]
fn by_mount_8() {
    if !require(&[Need::Root, Need::Fuse, Need::Helper]) {
        return;
    }
    let (store, work) = (stored(), temp_dir());
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", MOUNT_8]);
    command
        .env("work", work.path())
        .env("helper", helper_program())
        .env("store", store.root());
    command
        .env("mnt", store.mountpoint())
        .env("expected", &odd_image().expected);
    command.env("compare", super::support::script("compare-tree"));
    succeed(&mut command);
}

/// As containerd does for a snapshot of the type `fuse3.mount.plyfs`.
#[test]
fn by_mount_fuse3() {
    if !require(&[
        Need::Root,
        Need::Fuse,
        Need::Helper,
        Need::Program("mount.fuse3"),
    ]) {
        return;
    }
    let store = stored();
    let places = format!(
        "{}:{}",
        helper_program().parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let mut command = Command::new("mount.fuse3");
    command
        .arg("odd")
        .arg(store.mountpoint())
        .args(["-o", &format!("root={}", store.root().display())]);
    command
        .args(["-o", "ro", "-t", "mount.plyfs"])
        .env("PATH", places);
    succeed(&mut command);
    let unmount = Unmount(store.mountpoint());
    compare_tree(User::Same, &[], &unmount.0, &odd_image().expected);
}

/// As podman calls a `mount_program`: directories, no source, and a pipe that must be closed.
#[test]
fn by_podman() {
    if !require(&[Need::Fuse, Need::Helper]) {
        return;
    }
    let work = temp_dir();
    for name in ["a", "b", "mnt"] {
        fs::create_dir(work.path().join(name)).unwrap();
    }
    fs::write(work.path().join("a/top"), "a").unwrap();
    fs::write(work.path().join("b/bottom"), "b").unwrap();
    let target = work.path().join("mnt");
    let lowers = format!("lowerdir={0}/a:{0}/b,volatile", work.path().display());
    // `output` returns when nobody holds the other end of the pipes any more.
    succeed(
        command_as(User::Same, helper_program())
            .args(["-o", &lowers])
            .arg(&target),
    );
    let unmount = Unmount(target);
    assert_eq!(fs::read_to_string(unmount.0.join("top")).unwrap(), "a");
    assert_eq!(fs::read_to_string(unmount.0.join("bottom")).unwrap(), "b");
}

/// The exit statuses of mount(8): 1 for wrong usage, 32 for a failed mount.
#[test]
fn failures_have_the_status_that_mount_8_expects() {
    if !require(&[Need::Helper]) {
        return;
    }
    let (store, directory) = (stored(), temp_dir());
    let root = format!("root={}", store.root().display());
    let helper = || Command::new(helper_program());
    fail(&mut helper(), 1);
    fail(
        helper()
            .args(["odd", "-o", "data=sideways"])
            .arg(directory.path()),
        1,
    );
    let said = fail(
        helper().args(["absent", "-o", &root]).arg(directory.path()),
        32,
    );
    assert!(said.contains("absent"), "{said}");
    fail(helper().args(["odd", "-o", &root, "/does/not/exist"]), 32);
    assert!(!is_mounted(directory.path()));
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let done = Command::new("fusermount3").arg("-uz").arg(&self.0).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}
