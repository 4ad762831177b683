//! Containers that the kernel's overlay writes, over the one mount of their image.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};

use crate::fixture::{Lab, ends, signal};
use crate::support::{
    MountGuard, Need, Store, User, compare_tree, fail, helper_program, is_mounted, require, script,
    succeed, wait_for,
};

/// Mounts a container on a directory beside the store.
fn mount<'a>(store: &'a Store, name: &str, words: &[&str], writable: &str) -> MountGuard<'a> {
    let point = store.root().with_file_name(name);
    fs::create_dir_all(&point).unwrap();
    let guard = MountGuard::of(store, &point);
    let mut command = store.command(["mount", "--name", name]);
    let writable = format!("writable={writable}");
    command.args(["-o", &writable]).args(words).arg(&point);
    succeed(&mut command);
    guard
}

fn kind(path: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4).map(Path::new) == Some(path));
    let kind = line.and_then(|line| line.split(" - ").nth(1)?.split(' ').next());
    kind.unwrap_or_else(|| panic!("{} is no mount", path.display()))
        .to_owned()
}

/// The mounts of images that containers share, and who serves them.
fn images(store: &Store) -> Vec<(PathBuf, u32)> {
    let table = store.stdout(["mounts", "--json"]);
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let served = store.root().canonicalize().unwrap().join("served");
    let mounts = table.as_array().unwrap().iter();
    mounts
        .map(|mount| {
            let pid = mount["pid"].as_u64().unwrap_or_default();
            let point = PathBuf::from(mount["mountPoint"].as_str().unwrap());
            (point, u32::try_from(pid).unwrap())
        })
        .filter(|(point, _)| point.starts_with(&served))
        .collect()
}

/// Changes something of everything; `round` makes each time different.
fn change(root: &Path, round: usize) {
    let at = |name: &str| root.join(name);
    fs::write(at(&format!("new{round}")), "new").unwrap();
    // No file with several names: of those the kernel sees only the one that was written.
    fs::write(at("secret"), format!("changed {round}")).unwrap();
    fs::set_permissions(at("old"), fs::Permissions::from_mode(0o4700 + round as u32)).unwrap();
    for number in 0..20 {
        fs::remove_file(at(&format!("many/{:04}", round * 20 + number))).unwrap();
    }
    let names = ["deep".to_owned()].into_iter();
    let mut names = names.chain((1..).map(|n| format!("deep{n}"))).skip(round);
    let (from, to) = (names.next().unwrap(), names.next().unwrap());
    let moved = at(&from).join(format!("moved{round}"));
    fs::rename(at(&format!("many/{:04}", 300 + round)), moved).unwrap();
    fs::rename(at(&from), at(&to)).unwrap();
    fs::create_dir_all(at(&format!("{to}/er/new{round}"))).unwrap();
    if round == 1 {
        fs::remove_dir_all(at("many")).unwrap();
        fs::create_dir(at("many")).unwrap();
        for number in 0..400 {
            fs::write(at(&format!("many/{number:04}")), "again").unwrap();
        }
    }
    symlink("nowhere", at(&format!("link{round}"))).unwrap();
}

#[test]
fn a_container_is_the_same_by_both_ways() {
    let Some(lab) = Lab::new() else { return };
    let store = &lab.store;
    let manifest = store.root().with_file_name("manifest");
    let ways = ["fuse", "kernel", "kernel", "fuse", "auto", "fuse"];
    for (round, way) in ways.into_iter().enumerate() {
        let words: &[&str] = if round == 0 { &["fixture"] } else { &[] };
        let guard = mount(store, "web", words, way);
        let expected = if way == "fuse" {
            "fuse.plyfs"
        } else {
            "overlay"
        };
        assert_eq!(kind(guard.path()), expected);
        if round > 0 {
            compare_tree(User::Same, &["--nlink"], guard.path(), &manifest);
        }
        change(guard.path(), round);
        let mut write = Command::new(script("compare-tree"));
        succeed(
            write
                .arg("--write-manifest")
                .arg(&manifest)
                .arg(guard.path()),
        );
        guard.unmount();
    }
    assert_eq!(images(store), []);
}

#[test]
fn containers_of_an_image_share_its_mount_and_the_last_takes_it_along() {
    let Some(lab) = Lab::new() else { return };
    let store = &lab.store;
    let one = mount(store, "one", &["fixture"], "kernel");
    let two = mount(store, "two", &["fixture"], "kernel");
    let shared = images(store);
    let [(image, server)] = &shared[..] else {
        panic!("{shared:?}")
    };
    for guard in [&one, &two] {
        assert_eq!(kind(guard.path()), "overlay");
        assert_eq!(fs::read(guard.path().join("hello")).unwrap(), b"hello\n");
        let listed = store.listed(guard.path()).unwrap();
        assert_eq!(listed["image"], "docker.io/library/fixture:latest");
        fs::write(
            guard.path().join("own"),
            guard.path().as_os_str().as_encoded_bytes(),
        )
        .unwrap();
    }
    let own = fs::read(one.path().join("own")).unwrap();
    assert_eq!(own, one.path().as_os_str().as_encoded_bytes());
    assert_eq!(store.stdout(["container", "diff", "one"]), "A /own\n");
    let said = store.fails(1, ["container", "rm", "one"]);
    assert!(said.contains("in use"), "{said}");
    let twice = store.mountpoint();
    for writable in ["writable=kernel", "writable=fuse"] {
        let mut again = store.command(["mount", "--name", "one", "-o", writable]);
        let said = fail(again.arg(&twice), 1);
        assert!(said.contains("in use"), "{said}");
    }
    let said = store.fails(1, ["image", "rm", "fixture"]);
    assert!(
        said.contains("is mounted on") || said.contains("uses it"),
        "{said}"
    );

    // Unmounted by others than us.
    let keeper = u32::try_from(one.pid()).unwrap();
    succeed(Command::new("umount").arg(one.path()));
    ends(keeper);
    assert_eq!(images(store), shared);
    store.run(["container", "rm", "one"]);
    store.run(["commit", "two", "made:1"]);
    assert_eq!(
        store.stdout(["cat", "made:1:/own"]),
        two.path().display().to_string()
    );
    two.unmount();
    assert_eq!(images(store), []);
    ends(*server);
    assert!(!image.exists());
}

#[test]
fn a_container_goes_when_its_last_file_is_closed() {
    let Some(lab) = Lab::new() else { return };
    let store = &lab.store;
    let guard = mount(store, "once", &["--rm", "fixture"], "kernel");
    let point = guard.path().to_owned();
    let keeper = u32::try_from(guard.pid()).unwrap();
    let file = fs::File::create(point.join("new")).unwrap();
    store.run(["umount".as_ref(), "--lazy".as_ref(), point.as_os_str()]);
    assert!(!is_mounted(&point));
    let said = store.fails(1, ["container", "rm", "once"]);
    assert!(said.contains("in use"), "{said}");
    drop(file);
    ends(keeper);
    assert_eq!(store.stdout(["container", "ls", "--json"]).trim(), "[]");
    assert_eq!(images(store), []);

    let guard = mount(store, "once", &["--rm", "fixture"], "kernel");
    let keeper = u32::try_from(guard.pid()).unwrap();
    signal(keeper, SIGTERM);
    ends(keeper);
    assert!(!is_mounted(guard.path()));
    assert_eq!(store.stdout(["container", "ls", "--json"]).trim(), "[]");
}

#[test]
fn who_is_killed_takes_no_container_along() {
    let Some(lab) = Lab::new() else { return };
    let store = &lab.store;
    let guard = mount(store, "once", &["--rm", "fixture"], "kernel");
    let keeper = u32::try_from(guard.pid()).unwrap();
    signal(keeper, SIGKILL);
    ends(keeper);
    fs::write(guard.path().join("hello"), "written on").unwrap();
    // The mount itself tells that it is in use.
    let listed = store.stdout(["container", "ls"]);
    assert!(listed.contains("in use"), "{listed}");
    for verb in [
        &["container", "rm", "once"][..],
        &["mount", "--name", "once", "/mnt"],
    ] {
        let said = store.fails(1, verb);
        assert!(said.contains("in use"), "{said}");
    }
    let shared = images(store);
    assert_eq!(shared.len(), 1);
    guard.unmount();
    assert_eq!(images(store), []);
    ends(shared[0].1);
    assert_eq!(store.stdout(["container", "ls", "--json"]).trim(), "[]");

    // The server of the image: who comes next has another one.
    let guard = mount(store, "web", &["fixture"], "kernel");
    let (image, server) = images(store).remove(0);
    signal(server, SIGKILL);
    ends(server);
    let other = mount(store, "other", &["fixture"], "kernel");
    assert_eq!(fs::read(other.path().join("hello")).unwrap(), b"hello\n");
    for guard in [guard, other] {
        umount2(guard.path(), MntFlags::MNT_DETACH).unwrap();
    }
    wait_for("the end of the image", || !is_mounted(&image));
}

#[test]
fn where_the_kernel_cannot_there_is_our_own_way() {
    if !require(&[Need::Fuse, Need::PlainUser]) {
        return;
    }
    let lab = Lab::of(User::Plain);
    let store = &lab.store;
    let guard = store.guard();
    let point = store.mountpoint().display().to_string();
    let mut must = store.command(["mount", "--name", "web", "-o", "writable=kernel", "fixture"]);
    let said = fail(must.arg(&point), 1);
    assert!(said.contains("the kernel's overlay cannot write"), "{said}");
    let mut may = store.command(["mount", "--name", "web", "-o", "writable=auto", "fixture"]);
    let output = succeed(may.arg(&point));
    assert_eq!(crate::support::text(&output), "");
    assert_eq!(kind(&store.mountpoint()), "fuse.plyfs");
    guard.unmount();
    let wrong = "writable=kernel,uidmapping=0:1000:1";
    let said = store.fails(
        1,
        ["mount", "--name", "web", "-o", wrong, "fixture", &point],
    );
    assert!(said.contains("mappings go with writable=fuse"), "{said}");
}

#[test]
fn the_helper_mounts_containers_too() {
    let Some(lab) = Lab::new() else { return };
    if !require(&[Need::Helper]) {
        return;
    }
    let store = &lab.store;
    let guard = store.guard();
    let point = store.mountpoint();
    let root = store.root();
    let options = format!("root={},name=web,writable=kernel,nosuid", root.display());
    let helper = |options: &str| {
        let mut command = Command::new(helper_program());
        command.arg("fixture").arg(&point).args(["-o", options]);
        command
    };
    succeed(&mut helper(&options));
    assert_eq!(kind(&point), "overlay");
    let listed = store.listed(&point).unwrap();
    assert_eq!(listed["source"], "fixture", "as it stands in fstab");
    succeed(&mut helper("remount,ro"));
    let refused = fs::write(point.join("new"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    succeed(&mut helper("remount,rw"));
    fs::write(point.join("new"), "").unwrap();
    let said = fail(&mut helper(&options), 32);
    assert!(said.contains("in use"), "{said}");
    guard.unmount();
    let listed = store.stdout(["container", "ls"]);
    assert!(listed.contains("web "), "{listed}");
    // Read-only from the start, with what was changed.
    let guard = store.guard();
    succeed(&mut helper(&format!("{options},ro")));
    assert!(point.join("new").exists());
    let refused = fs::write(point.join("newer"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    guard.unmount();
}

#[test]
fn regression_a_store_may_have_any_name() {
    let Some(lab) = Lab::new() else { return };
    let odd = lab.store.root().with_file_name("a:b,c\\d \"e\"");
    fs::rename(lab.store.root(), &odd).unwrap();
    let point = lab.store.mountpoint();
    let mut command = crate::support::command_as(User::Same, crate::support::plyfs_program());
    command
        .arg("--root")
        .arg(&odd)
        .args(["mount", "--name", "web"]);
    let words: [&OsStr; 4] = [
        "-o".as_ref(),
        "writable=kernel".as_ref(),
        "fixture".as_ref(),
        point.as_ref(),
    ];
    succeed(command.args(words));
    fs::write(point.join("new"), "").unwrap();
    let mut remove = crate::support::command_as(User::Same, crate::support::plyfs_program());
    let said = fail(
        remove
            .arg("--root")
            .arg(&odd)
            .args(["container", "rm", "web"]),
        1,
    );
    assert!(said.contains("in use"), "{said}");
    lab.store.run(["umount".as_ref(), point.as_os_str()]);
    assert!(!is_mounted(&point));
    assert_eq!(fs::read_dir(odd.join("served")).unwrap().count(), 1);
    fs::rename(&odd, lab.store.root()).unwrap();
}
