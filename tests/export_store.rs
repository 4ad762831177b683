//! The store as an additional image store of containers/storage: a real podman runs and builds from it.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::unistd::User as Account;
use support::{
    Need, OddImage, Store, User, alive, alone, compare_tree, copy_program, helper_program, is_root,
    make_odd_image, odd_image, plyfs_program, require, script, succeed, temp_dir, text,
    user_with_a_range,
};

fn stored(image: &OddImage) -> Store {
    let store = Store::new();
    let layout = format!("oci:{}:odd", image.layout.display());
    store.run(["pull", "-q", &layout, "--name", "odd"]);
    store
}

/// The kernel's own mount, which goes away with the value.
struct Detached(PathBuf);

impl Drop for Detached {
    fn drop(&mut self) {
        let flags = nix::mount::MntFlags::MNT_DETACH;
        if let Err(errno) = nix::mount::umount2(&self.0, flags) {
            eprintln!("umount {}: {errno}", self.0.display());
        }
    }
}

#[test]
fn layers_side_by_side_are_the_image_when_the_kernel_stacks_them() {
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    // Character devices 0:0 of an image are none in a union file system.
    let odd = make_odd_image("without-devices", &["--without", "devices"]);
    let store = stored(&odd);
    let _guard = store.mount("odd", &["layers"]);
    let layers = fs::read_dir(store.mountpoint()).unwrap().count();
    let lowers: Vec<String> = (0..layers)
        .rev()
        .map(|n| store.mountpoint().join(n.to_string()).display().to_string())
        .collect();
    let stacked = store.root().with_file_name("stacked");
    fs::create_dir(&stacked).unwrap();
    let _stack = Detached(stacked.clone());
    let mut mount = Command::new("mount");
    mount.args(["-t", "overlay", "overlay", "-o"]);
    mount.arg(format!("ro,lowerdir={}", lowers.join(":")));
    succeed(mount.arg(&stacked));
    // No union file system has links between layers.
    compare_tree(User::Same, &["--ignore", "links"], &stacked, &odd.expected);
}

const PODMAN: [Need; 6] = [
    Need::Fuse,
    Need::Helper,
    Need::Program("podman"),
    Need::Program("skopeo"),
    Need::Program("runc"),
    Need::Program("busybox"),
];

/// Runs `scripts/podman-exported` as root or as an ordinary user.
fn suite(user: Option<Account>) {
    let scripts = temp_dir();
    for name in ["podman-exported", "demo-image", "tar_writer.py"] {
        copy_program(&script(name), &scripts.path().join(name));
    }
    let mut suite = Command::new("setpriv");
    if let Some(user) = user.filter(|_| is_root()) {
        let (uid, gid) = (user.uid, user.gid);
        suite.args([&format!("--reuid={uid}"), &format!("--regid={gid}")]);
        suite.args(["--clear-groups", "--inh-caps=-all"]);
    }
    suite.arg("--").arg(scripts.path().join("podman-exported"));
    suite.arg(plyfs_program()).arg(helper_program());
    let output = succeed(&mut alone(suite.env_remove("TMPDIR").current_dir("/")));
    assert!(text(&output).contains("all is well"), "{}", text(&output));
}

#[test]
fn podman_uses_the_images_as_root() {
    if require(&[&PODMAN[..], &[Need::Root, Need::Program("setpriv")]].concat()) {
        suite(None);
    }
}

#[test]
fn podman_uses_the_images_as_an_ordinary_user() {
    let more = [Need::Program("newuidmap"), Need::Program("setpriv")];
    if !require(&[&PODMAN[..], &more].concat()) {
        return;
    }
    match user_with_a_range() {
        Some(user) => suite(Some(user)),
        None => {
            assert!(
                std::env::var_os("CI").is_none(),
                "no ordinary user is in /etc/subuid, and CI is set"
            );
            eprintln!("SKIP: no ordinary user is in /etc/subuid");
        }
    }
}

#[test]
fn what_is_exported_stays_and_what_is_not_ours_is_left_alone() {
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    let store = stored(odd_image());
    let export = store.root().with_file_name("export");
    let run = |words: &[&str]| {
        let mut command = store.command(["export-store"]);
        command.args(words).arg(&export).output().unwrap()
    };
    let said = run(&[]);
    assert!(text(&said).starts_with("1 images in "), "{}", text(&said));
    let said = store.fails(1, ["image", "rm", "odd"]);
    assert!(said.contains("is mounted on"), "{said}");
    // What is there is not made again.
    let mounts = || -> Vec<PathBuf> {
        let all = fs::read_dir(export.join("mounts")).unwrap();
        all.map(|entry| entry.unwrap().path()).collect()
    };
    let server = |path: &PathBuf| store.listed(path).unwrap()["pid"].as_u64().unwrap();
    let first = mounts();
    let pid = server(&first[0]);
    assert!(run(&[]).status.success());
    assert_eq!((mounts(), server(&first[0])), (first.clone(), pid));
    // A server that was killed has a successor.
    let pid = u32::try_from(pid).unwrap();
    let process = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
    // Where there is no init it stays as a zombie.
    support::wait_for("its end", || !alive(pid));
    assert!(run(&[]).status.success());
    assert!(first[0].join("0").is_dir());
    // An image that is gone goes.
    store.run(["image", "rm", "--force", "odd"]);
    assert!(run(&[]).status.success());
    assert_eq!(mounts(), Vec::<PathBuf>::new());
    let images = fs::read_to_string(export.join("overlay-images/images.json")).unwrap();
    assert_eq!(images, "[]");
    assert!(run(&["--remove"]).status.success());
    assert!(!export.exists());
    // Neither written to nor removed.
    fs::create_dir(&export).unwrap();
    fs::write(export.join("own"), "").unwrap();
    assert!(text(&run(&[])).contains("is not empty"));
    assert!(text(&run(&["--remove"])).contains("did not make it"));
    assert!(export.join("own").exists());
}
