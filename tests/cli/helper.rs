//! The mount helper, called the way that each of its callers does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::odd_store;
use super::support::{
    Need, User, alone, command_as, compare_tree, fail, helper_program, is_mounted, odd_image,
    require, succeed, temp_dir,
};

/// mount(8) finds its helpers in /sbin only, so a private /usr/sbin lends it one.
const OWN_HELPERS: &str = r#"
set -eu
mkdir "$work/upper" "$work/work"
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$work/upper,workdir=$work/work" /usr/sbin
# One that is installed is hidden, for us alone.
rm -f /usr/sbin/mount.plyfs /usr/sbin/mount.fuse.plyfs
cp "$helper" /usr/sbin/mount.plyfs
ln -s mount.plyfs /usr/sbin/mount.fuse.plyfs
"#;

/// Runs a script with these helpers; `work` is a directory for their making.
fn with_own_helpers(script: &str, work: &Path) -> Command {
    let script = format!("{OWN_HELPERS}{script}");
    let mut command = alone(Command::new("sh").args(["-c", &script]));
    command.env("work", work).env("helper", helper_program());
    command
}

const MOUNT_8: &str = r#"
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
    let (store, work) = (odd_store(), temp_dir());
    let mut command = with_own_helpers(MOUNT_8, work.path());
    command
        .env("store", store.root())
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
    let store = odd_store();
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

/// Two lower directories, an upper and a work directory, and a place to mount on.
fn layers() -> tempfile::TempDir {
    let work = temp_dir();
    for name in ["a", "b", "u", "w", "mnt", "l"] {
        fs::create_dir(work.path().join(name)).unwrap();
    }
    fs::write(work.path().join("a/top"), "a").unwrap();
    fs::write(work.path().join("b/bottom"), "b").unwrap();
    work
}

/// The line of the table of mounts for `point`.
fn table_line(point: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let point = format!(" {} ", point.display());
    let line = table.lines().find(|line| line.contains(&point));
    line.unwrap_or_else(|| panic!("{point} is not mounted"))
        .to_owned()
}

fn helper_path() -> String {
    let place = helper_program().parent().unwrap().display();
    format!("{place}:{}", std::env::var("PATH").unwrap())
}

/// With everything that containers/storage puts on the line: relative links to the lower layers,
/// a label with a comma, mappings, and options that were meant for the kernel.
#[test]
fn by_podman_with_an_upper_directory() {
    if !require(&[Need::Root, Need::Fuse, Need::Helper]) {
        return;
    }
    let work = layers();
    for (name, target) in [("AAA", "../a"), ("BBB", "../b")] {
        std::os::unix::fs::symlink(target, work.path().join("l").join(name)).unwrap();
    }
    let target = work.path().join("mnt");
    let at = work.path().display();
    let options = format!(
        "metacopy=on,lowerdir=l/AAA:l/BBB/../a:l/BBB,upperdir={at}/u,workdir={at}/w,volatile,\
         context=\"system_u:object_r:container_file_t:s0:c1,c2\",\
         uidmapping=0:0:1:1:1:65536,gidmapping=0:0:1:1:1:65536"
    );
    for round in 0..2 {
        let mut command = command_as(User::Same, helper_program());
        command
            .args(["-o", &options])
            .arg(&target)
            .current_dir(work.path());
        let output = succeed(&mut command);
        assert_eq!(super::support::text(&output), "");
        let unmount = Unmount(target.clone());
        fs::write(unmount.0.join(format!("new{round}")), "new").unwrap();
        fs::write(unmount.0.join("top"), "changed").unwrap();
        fs::remove_file(unmount.0.join("bottom")).unwrap_or_default();
        assert!(!unmount.0.join("bottom").exists());
        assert_eq!(table_line(&target).split(' ').next(), Some("plyfs"));
        // As podman unmounts, and mounts again at once.
        succeed(Command::new("fusermount3").arg("-u").arg(&target));
        std::mem::forget(unmount);
    }
    assert_eq!(fs::read_to_string(work.path().join("a/top")).unwrap(), "a");
    assert!(work.path().join("u/new0").exists() && work.path().join("u/new1").exists());
}

/// What tests need that mount through mount.fuse3.
const MOUNT_FUSE3: &[Need] = &[
    Need::Root,
    Need::Fuse,
    Need::Helper,
    Need::Program("mount.fuse3"),
];

/// As containerd mounts the snapshots of a fuse-overlayfs snapshotter.
#[test]
fn by_containerd_with_an_upper_directory() {
    if !require(MOUNT_FUSE3) {
        return;
    }
    let work = layers();
    let (at, target) = (work.path().display(), work.path().join("mnt"));
    let mut command = Command::new("mount.fuse3");
    command
        .arg("overlay")
        .arg(&target)
        .env("PATH", helper_path());
    for option in [
        format!("workdir={at}/w"),
        format!("upperdir={at}/u"),
        format!("lowerdir={at}/a:{at}/b"),
    ] {
        command.args(["-o", &option]);
    }
    let output = succeed(command.args(["-t", "mount.plyfs"]));
    assert_eq!(super::support::text(&output), "");
    let unmount = Unmount(target);
    fs::write(unmount.0.join("new"), "new").unwrap();
    assert!(work.path().join("u/new").exists());
    let line = table_line(&unmount.0);
    assert!(
        line.starts_with("overlay ") && line.contains(" fuse.plyfs rw,"),
        "{line}"
    );
    assert!(
        !line.contains("nodev") && !line.contains("nosuid"),
        "{line}"
    );
}

/// mount.fuse3 opens the device itself, mounts, and passes `/dev/fd/N`.
#[test]
fn on_a_device_that_somebody_else_has_mounted() {
    if !require(MOUNT_FUSE3) {
        return;
    }
    let work = layers();
    let (at, target) = (work.path().display(), work.path().join("mnt"));
    let mut command = Command::new("mount.fuse3");
    command.arg("shown").arg(&target).env("PATH", helper_path());
    let options = format!("lowerdir={at}/a:{at}/b,ro,drop_privileges,allow_other");
    succeed(command.args(["-o", &options, "-t", "mount.plyfs"]));
    let unmount = Unmount(target);
    assert_eq!(fs::read_to_string(unmount.0.join("top")).unwrap(), "a");
    assert_eq!(fs::read_to_string(unmount.0.join("bottom")).unwrap(), "b");
}

/// It was read from as if it were one.
#[test]
fn regression_what_is_passed_must_be_a_fuse_device() {
    let work = layers();
    let file = work.path().join("file");
    fs::write(&file, "content").unwrap();
    let script = "exec mount.plyfs none /dev/fd/7 -o \"lowerdir=$1/a\" 7< \"$1/file\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(work.path());
    let said = fail(command.env("PATH", helper_path()), 32);
    assert!(said.contains("it is no FUSE device"), "{said}");
}

/// mount(8) with directories, by both types, writable and remounted; what df and findmnt show.
const MOUNT_8_LAYERS: &str = r#"
options="lowerdir=$tree/a:$tree/b,upperdir=$tree/u,workdir=$tree/w"
for type in plyfs fuse.plyfs; do
    said=$(mount -t "$type" mine "$tree/mnt" -o "$options,nofail,_netdev,x-systemd.automount,comment=x,user,noauto,group" 2>&1)
    test -z "$said"
    test "$(findmnt -no SOURCE,FSTYPE "$tree/mnt" | tr -s ' ')" = "mine fuse.plyfs"
    test "$(df --output=source,fstype "$tree/mnt" | tail -1 | tr -s ' ')" = "mine fuse.plyfs"
    echo "$type" >> "$tree/mnt/top"
    umount "$tree/mnt"
done
test "$(cat "$tree/u/top")" = "aplyfs
fuse.plyfs"
# From a line of fstab, and named otherwise.
echo "none $tree/mnt plyfs $options,fsname=other,noauto,users 0 0" > "$work/fstab"
mount -T "$work/fstab" "$tree/mnt"
test "$(findmnt -no SOURCE "$tree/mnt")" = other
umount "$tree/mnt"
# The statuses of mount(8): usage, and failure.
status=0; mount -t plyfs mine "$tree/mnt" -o "$options,data=sideways" 2>/dev/null || status=$?
test "$status" = 1
status=0; mount -t plyfs mine "$tree/mnt" -o lowerdir=/nowhere 2>/dev/null || status=$?
test "$status" = 32
"#;

#[test]
fn by_mount_8_with_directories() {
    if !require(&[Need::Root, Need::Fuse, Need::Helper]) {
        return;
    }
    let (work, tree) = (temp_dir(), layers());
    let mut command = with_own_helpers(MOUNT_8_LAYERS, work.path());
    command.env("tree", tree.path());
    succeed(&mut command);
}

#[test]
fn the_store_is_where_the_environment_or_the_options_say() {
    if !require(&[Need::Fuse, Need::Helper]) {
        return;
    }
    let (store, target) = (odd_store(), temp_dir());
    let mount = |options: &str, root: Option<PathBuf>| {
        let mut command = command_as(User::Same, helper_program());
        command.args(["odd", "-o", options]).arg(target.path());
        command.envs(root.map(|root| ("PLYFS_ROOT", root)));
        command
    };
    let rooted = format!("ro,root={}", store.root().display());
    for mut command in [
        mount("ro", Some(store.root())),
        mount(&rooted, None),
        mount(&rooted, Some("/nowhere".into())),
    ] {
        succeed(&mut command);
        drop(Unmount(target.path().to_owned()));
    }
    let said = fail(&mut mount("ro", Some("/nowhere".into())), 32);
    assert!(said.contains("there is no store at /nowhere"), "{said}");
    assert!(
        said.contains("hint: plyfs pull IMAGE makes a store; -o root=DIR"),
        "{said}"
    );
    succeed(&mut mount(&format!("{rooted},platform=linux/amd64"), None));
    drop(Unmount(target.path().to_owned()));
    fail(&mut mount(&format!("{rooted},platform=a/b/c/d"), None), 1);
    let said = fail(mount("ro", Some(store.root())).arg("--quick"), 1);
    assert!(said.contains("unknown option '--quick'"), "{said}");
}

/// Flags change in place; a read-only image stays read-only.
#[test]
fn flags_of_a_mount_change_by_remount() {
    if !require(&[Need::Root, Need::Fuse, Need::Helper]) {
        return;
    }
    let (store, work, tree) = (odd_store(), temp_dir(), layers());
    let script = r#"
        flags() { findmnt -no VFS-OPTIONS "$1"; }
        mount -t plyfs odd "$mnt" -o "ro,root=$store"
        mount -o remount,nosuid,noexec "$mnt"
        flags "$mnt" | grep -q ro,nosuid,noexec
        umount "$mnt"
        mount -t plyfs mine "$tree/mnt" -o "lowerdir=$tree/a:$tree/b,upperdir=$tree/u,workdir=$tree/w"
        echo one > "$tree/mnt/new"
        mount -o remount,ro "$tree/mnt"
        ! (echo two > "$tree/mnt/new") 2>/dev/null
        mount -o remount,rw,nodev "$tree/mnt"
        echo three > "$tree/mnt/new"
        flags "$tree/mnt" | grep -q rw,nodev
        "$plyfs" mount -o remount,noatime "$tree/mnt"
        flags "$tree/mnt" | grep -q noatime
        test "$(grep -c " $tree/mnt " /proc/self/mounts)" = 1
        umount "$tree/mnt"
        "$plyfs" mount -o remount,ro "$tree/mnt" 2>&1 | grep "is not a plyfs mount"
    "#;
    let mut command = with_own_helpers(script, work.path());
    command
        .env("store", store.root())
        .env("mnt", store.mountpoint())
        .env("tree", tree.path())
        .env("plyfs", super::support::plyfs_program());
    succeed(&mut command);
}

/// mount(8) compares the source of a line of fstab with those in the table of mounts.
#[test]
fn regression_mount_a_mounts_a_short_name_once() {
    if !require(&[Need::Root, Need::Fuse, Need::Helper]) {
        return;
    }
    let store = odd_store();
    let script = r#"
        printf 'odd %s plyfs ro,root=%s 0 0\n' "$mnt" "$store" > "$table"
        for round in 1 2; do mount -a -T "$table"; done
        test "$(grep -c " $mnt " /proc/self/mounts)" = 1
        findmnt -no SOURCE "$mnt"
        umount "$mnt"
    "#;
    let (work, table) = (temp_dir(), temp_dir());
    let mut command = with_own_helpers(script, work.path());
    command
        .env("store", store.root())
        .env("mnt", store.mountpoint())
        .env("table", table.path().join("fstab"));
    assert_eq!(super::support::text(&succeed(&mut command)).trim(), "odd");
}

/// Lines of fstab that name a container, by everything that mount(8) does with them.
const CONTAINERS_OF_FSTAB: &str = r#"
count() { grep -c " $mnt " /proc/self/mounts || true; }
line() { printf 'odd %s plyfs root=%s,name=%s,writable=%s,nofail 0 0\n' "$mnt" "$store" "$1" "$writable"; }
line web > "$table"
for how in "-T $table $mnt" "-a -T $table" "-T $table odd"; do
    mount $how
    # A second one finds it mounted.
    mount -a -T "$table"
    test "$(count)" = 1
    test "$(findmnt -no SOURCE "$mnt")" = odd
    echo "$how" >> "$mnt/kept"
    # With the calls of Linux 5.2 that util-linux 2.41 prefers, the kernel's overlay refuses to be told its own
    # options again.
    LIBMOUNT_FORCE_MOUNT2=always mount -o remount,ro "$mnt"
    ! (echo refused > "$mnt/kept") 2>/dev/null
    findmnt -no OPTIONS "$mnt" | grep -q '^ro\b'
    LIBMOUNT_FORCE_MOUNT2=always mount -o remount,rw,nodev "$mnt"
    echo again >> "$mnt/kept"
    findmnt -no OPTIONS "$mnt" | grep -q nodev
    # Somewhere else it is in use.
    mkdir -p "$work/else"
    status=0
    mount -t plyfs odd "$work/else" -o "root=$store,name=web,writable=$writable" 2> "$work/said" || status=$?
    test "$status" = 32
    grep -q 'in use' "$work/said"
    umount "$mnt"
    test "$(count)" = 0
done
mount -T "$table" "$mnt"
test "$(grep -c . "$mnt/kept")" = 6
findmnt -no FSTYPE "$mnt"
umount "$mnt"
# One of two lines fails: some succeeded.
{ line web; printf 'absent %s plyfs root=%s,name=none 0 0\n' "$work/else" "$store"; } > "$table"
status=0
mount -a -T "$table" 2> "$work/said" || status=$?
test "$status" = 64
grep -q absent "$work/said"
umount "$mnt"
status=0
mount -T "$table" "$work/else" 2>/dev/null || status=$?
test "$status" = 32
"#;

#[test]
fn containers_of_fstab() {
    if !require(&[Need::Root, Need::Fuse, Need::Helper]) {
        return;
    }
    for (writable, kind) in [("fuse", "fuse.plyfs"), ("kernel", "overlay")] {
        let (store, work, table) = (odd_store(), temp_dir(), temp_dir());
        let mut command = with_own_helpers(CONTAINERS_OF_FSTAB, work.path());
        command
            .env("store", store.root())
            .env("mnt", store.mountpoint())
            .env("writable", writable)
            .env("table", table.path().join("fstab"));
        let said = super::support::text(&succeed(&mut command));
        assert_eq!(said.trim(), kind);
        store.run(["container", "rm", "web"]);
    }
}

#[test]
fn regression_options_of_a_writable_layer_are_refused_without_one() {
    if !require(&[Need::Fuse, Need::Helper]) {
        return;
    }
    let store = odd_store();
    let root = store.root();
    for option in ["volatile", "metacopy=on", "redirect_dir=on", "workdir=/tmp"] {
        let options = format!("ro,{option},strict,root={}", root.display());
        let mut command = command_as(User::Same, helper_program());
        let said = fail(
            command
                .args(["odd", "-o", &options])
                .arg(store.mountpoint()),
            32,
        );
        assert!(
            said.contains("has no effect without a writable layer"),
            "{said}"
        );
    }
    store.mount("odd", &["volatile"]).unmount();
}

#[test]
fn writing_to_an_image_is_not_promised() {
    if !require(&[Need::Fuse, Need::Helper]) {
        return;
    }
    let store = odd_store();
    let root = format!("rw,root={}", store.root().display());
    let mut command = command_as(User::Same, helper_program());
    let output = succeed(command.args(["odd", "-o", &root]).arg(store.mountpoint()));
    let unmount = Unmount(store.mountpoint());
    let said = super::support::text(&output);
    assert!(
        said.contains("WARNING: source write-protected, mounted read-only"),
        "{said}"
    );
    assert!(table_line(&unmount.0).contains(" ro,"));
    drop(unmount);
    let mut command = store.command(["mount", "-o", "rw", "odd"]);
    let said = super::support::text(&succeed(command.arg(store.mountpoint())));
    let unmount = Unmount(store.mountpoint());
    assert!(
        said.contains("source write-protected, mounted read-only"),
        "{said}"
    );
    drop(unmount);
}

/// A store on a medium that cannot be written, with and without its derived index.
#[test]
fn a_store_that_cannot_be_written_is_mounted_from() {
    if !require(&[Need::Root, Need::Fuse, Need::Helper]) {
        return;
    }
    for chains in [true, false] {
        let store = odd_store();
        if !chains {
            fs::remove_dir_all(store.root().join("chains/sha256")).unwrap();
            fs::create_dir(store.root().join("chains/sha256")).unwrap();
        }
        let script = r#"
            mount --bind "$store" "$store"; mount -o remount,bind,ro "$store"
            "$plyfs" --root "$store" mount odd "$mnt"; "$compare" "$mnt" "$expected"; umount "$mnt"
            "$helper" odd "$mnt" -o "ro,root=$store"; "$compare" "$mnt" "$expected"; umount "$mnt"
        "#;
        let mut command = alone(Command::new("sh").args(["-euc", script]));
        command
            .env("store", store.root())
            .env("mnt", store.mountpoint())
            .env("helper", helper_program())
            .env("plyfs", super::support::plyfs_program())
            .env("expected", &odd_image().expected)
            .env("compare", super::support::script("compare-tree"));
        succeed(&mut command);
    }
}

/// Options of every dialect: what has no effect says so, what is not known too, and `strict` refuses.
#[test]
fn options_are_taken_warned_of_or_refused() {
    if !require(&[Need::Root, Need::Fuse, Need::Helper]) {
        return;
    }
    let work = layers();
    let (at, target) = (work.path().display(), work.path().join("mnt"));
    let all = format!("lowerdir={at}/a:{at}/b,upperdir={at}/u,workdir={at}/w");
    let mount = |options: &str| {
        let mut command = command_as(User::Same, helper_program());
        command
            .args(["-o", &format!("{all},{options}")])
            .arg(&target);
        command
    };
    for silent in [
        "fd=9,user_id=0,group_id=0,rootmode=40000,nofail,_netdev,x-a=b,auto,owner",
        "static_nlink,fast_ino=1,threaded=0,writeback=1,fsync=1,noacl,subtype=other",
        "redirect_dir=on,metacopy=on,userxattr",
        "redirect_dir=nofollow,metacopy=off",
        "squash_to_root,strict",
        "xattr_permissions=2",
    ] {
        assert_eq!(
            super::support::text(&succeed(&mut mount(silent))),
            "",
            "{silent}"
        );
        drop(Unmount(target.clone()));
    }
    for (noted, reason) in [
        ("timeout=5", "'timeout=5' has no effect in plyfs"),
        ("xino=on", "'xino=on' has no effect"),
        ("index=off", "'index=off' has no effect"),
        ("nfs_export=on", "'nfs_export=on' has no effect"),
        ("provenance", "'provenance' is not known"),
        ("wobble=1", "'wobble=1' is not known"),
    ] {
        let said = super::support::text(&succeed(&mut mount(noted)));
        drop(Unmount(target.clone()));
        assert!(said.contains(reason), "{said}");
        let said = fail(&mut mount(&format!("{noted},strict")), 1);
        assert!(said.contains(reason), "{said}");
        assert!(!is_mounted(&target));
    }
}

/// Colons, commas and backslashes in the names of layers.
#[test]
fn layers_with_odd_names_are_mounted() {
    if !require(&[Need::Root, Need::Fuse, Need::Helper]) {
        return;
    }
    let work = temp_dir();
    for name in ["a:b", "c,d", r"e\f", "u,:", "w,:", "mnt", "data"] {
        fs::create_dir(work.path().join(name)).unwrap();
        fs::write(work.path().join(name).join("in ".to_owned() + name), name).unwrap();
    }
    let (at, target) = (work.path().display(), work.path().join("mnt"));
    let options = format!(
        r"lowerdir={at}/a\:b:{at}/c\,d,lowerdir+={at}/e\\f,datadir+={at}/data,upperdir={at}/u\,:,workdir={at}/w\,:"
    );
    let mut command = command_as(User::Same, helper_program());
    succeed(command.args(["-o", &options]).arg(&target));
    let unmount = Unmount(target);
    let mut names: Vec<_> = fs::read_dir(&unmount.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["in a:b", "in c,d", r"in e\f", "in u,:"]);
}

/// The exit statuses of mount(8): 1 for wrong usage, 32 for a failed mount.
#[test]
fn failures_have_the_status_that_mount_8_expects() {
    if !require(&[Need::Helper]) {
        return;
    }
    let (store, directory) = (odd_store(), temp_dir());
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
