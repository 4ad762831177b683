//! The scripts: compare-tree sees what it is for, odd-image makes what it says, what is installed is complete.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use support::{
    Need, copy_program, make_odd_image, require, script, succeed, temp_dir, write_program,
};

/// Runs compare-tree; returns its exit status and what it printed.
fn compare(args: &[&str], a: &Path, b: &Path) -> (Option<i32>, String) {
    let output = Command::new(script("compare-tree"))
        .args(args)
        .args([a, b])
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

fn plant(root: &Path) {
    fs::create_dir_all(root.join("d")).unwrap();
    fs::write(root.join("d/one"), "one").unwrap();
    fs::hard_link(root.join("d/one"), root.join("two")).unwrap();
    fs::write(root.join("three"), "three").unwrap();
    symlink("three", root.join("link")).unwrap();
    for name in ["d/one", "three", "d", "."] {
        let file = fs::File::open(root.join(name)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000, 123_456_789);
        file.set_modified(time).unwrap();
    }
}

/// A way to change a tree, and what compare-tree must say of it.
type Case = (&'static str, fn(&Path), &'static str);

#[test]
fn compare_tree_sees_every_kind_of_difference() {
    if !require(&[Need::Program("python3")]) {
        return;
    }
    let cases: &[Case] = &[
        (
            "content",
            |root| fs::write(root.join("three"), "THREE").unwrap(),
            "three: content",
        ),
        (
            "size",
            |root| fs::write(root.join("three"), "3").unwrap(),
            "three: size: 5 | 1",
        ),
        (
            "name",
            |root| fs::write(root.join("new\n"), "").unwrap(),
            "new\\x0a: only in B (file)",
        ),
        (
            "absence",
            |root| fs::remove_file(root.join("three")).unwrap(),
            "three: only in A (file)",
        ),
        (
            "mode",
            |root| {
                fs::set_permissions(root.join("three"), fs::Permissions::from_mode(0o4711)).unwrap()
            },
            "three: mode: 0644 | 4711",
        ),
        (
            "target",
            |root| {
                fs::remove_file(root.join("link")).unwrap();
                symlink("four", root.join("link")).unwrap();
            },
            "link: target: three | four",
        ),
        (
            "kind",
            |root| {
                fs::remove_file(root.join("three")).unwrap();
                fs::create_dir(root.join("three")).unwrap();
            },
            "three: kind: file | dir",
        ),
        (
            "links",
            |root| {
                fs::remove_file(root.join("two")).unwrap();
                fs::copy(root.join("d/one"), root.join("two")).unwrap();
            },
            "two: links: d/one | -",
        ),
        (
            "time",
            |root| {
                let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000, 123_456_788);
                fs::File::open(root.join("three"))
                    .unwrap()
                    .set_modified(time)
                    .unwrap();
            },
            "three: mtime: 1000.123456789 | 1000.123456788",
        ),
    ];
    for (what, change, said) in cases {
        let directory = temp_dir();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        for root in [&a, &b] {
            plant(root);
        }
        assert_eq!(
            compare(&["--ignore", "mtime"], &a, &b),
            (Some(0), String::new()),
            "{what}"
        );
        change(&b);
        let (status, output) = compare(&[], &a, &b);
        assert_eq!(status, Some(1), "{what}");
        assert!(
            output.contains(said),
            "{what}: {said:?} is not said in:\n{output}"
        );
        // A manifest stands for the tree that it was made from.
        let manifest = directory.path().join("a.json");
        succeed(
            Command::new(script("compare-tree"))
                .arg("--write-manifest")
                .args([&manifest, &a]),
        );
        assert_eq!(
            compare(&[], &manifest, &a),
            (Some(0), String::new()),
            "{what}"
        );
        assert_eq!(compare(&[], &manifest, &b).1, output, "{what}");
    }
}

#[test]
fn compare_tree_tells_wrong_usage_from_differences() {
    if !require(&[Need::Program("python3")]) {
        return;
    }
    let directory = temp_dir();
    let missing = directory.path().join("missing");
    assert_eq!(compare(&[], directory.path(), &missing).0, Some(2));
    assert_eq!(
        compare(&["--ignore", "colour"], directory.path(), directory.path()).0,
        Some(2)
    );
}

/// GNU tar reads the lowest layer as the model does, where the two follow the same rules.
#[test]
fn odd_image_agrees_with_tar() {
    if !require(&[Need::Root, Need::Program("python3"), Need::Program("tar")]) {
        return;
    }
    let groups = "hard-links,names,sparse-files,sizes,modes,kinds,owners,devices,contiguous";
    let odd = make_odd_image("odd-tar", &["--gzip", "--layers", "1", "--only", groups]);
    let layers = fs::read_dir(odd.layout.join("blobs/sha256")).unwrap();
    let layer = layers
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| path.metadata().unwrap().len());
    let directory = temp_dir();
    let mut tar = Command::new("tar");
    tar.arg("-C")
        .arg(directory.path())
        .args(["-xpzf"])
        .arg(layer.unwrap())
        .arg("--numeric-owner");
    succeed(&mut tar);
    let (_, said) = compare(&["--ignore", "mtime,mode"], directory.path(), &odd.expected);
    assert_eq!(said, "");
}

#[test]
fn odd_image_is_the_same_at_every_run() {
    if !require(&[Need::Program("python3")]) {
        return;
    }
    let (a, b) = (make_odd_image("odd-a", &[]), make_odd_image("odd-b", &[]));
    assert_eq!(
        fs::read(a.layout.join("index.json")).unwrap(),
        fs::read(b.layout.join("index.json")).unwrap()
    );
    assert_eq!(fs::read(a.expected).unwrap(), fs::read(b.expected).unwrap());
}

/// A copy of what `make install` reads, with `target/release` as `make build` leaves it.
fn built_project() -> tempfile::TempDir {
    let project = temp_dir();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["Makefile", "Cargo.toml", "LICENSE", "scripts/make-deb"] {
        let copy = project.path().join(name);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(ours.join(name), copy).unwrap();
    }
    fs::create_dir(project.path().join("dist")).unwrap();
    for file in fs::read_dir(ours.join("dist")).unwrap() {
        let file = file.unwrap();
        fs::copy(
            file.path(),
            project.path().join("dist").join(file.file_name()),
        )
        .unwrap();
    }
    let release = project.path().join("target/release");
    fs::create_dir_all(release.join("documents/man")).unwrap();
    for name in ["plyfs", "mount-plyfs"] {
        fs::write(release.join(name), name).unwrap();
    }
    for name in [
        "man/plyfs.1",
        "man/plyfs-run.1",
        "plyfs.bash",
        "_plyfs",
        "plyfs.fish",
    ] {
        fs::write(release.join("documents").join(name), name).unwrap();
    }
    project
}

/// What there is below the prefix `usr` once everything is in place.
const INSTALLED: [&str; 14] = [
    "bin/plyfs",
    "bin/plyfs-snapshotter",
    "bin/mount.plyfs",
    "lib/systemd/system/plyfs-snapshotter.service",
    "share/man/man1/plyfs.1",
    "share/man/man1/plyfs-run.1",
    "share/man/man8/mount.plyfs.8",
    "share/man/man8/mount.fuse.plyfs.8",
    "share/bash-completion/completions/plyfs",
    "share/zsh/site-functions/_plyfs",
    "share/fish/vendor_completions.d/plyfs.fish",
    "share/doc/plyfs/examples/containerd.toml",
    "share/doc/plyfs/examples/storage.conf",
    "share/doc/plyfs/examples/plyfs-export-store.service",
];

/// `sudo make install` after `make build` installs what is there: root may have no cargo.
#[test]
fn regression_installing_builds_nothing_that_is_built() {
    if !require(&[Need::Program("make"), Need::Program("install")]) {
        return;
    }
    let (project, target) = (built_project(), temp_dir());
    let mut make = Command::new("make");
    make.args(["install", "CARGO=false", "PREFIX=/usr", "SBINDIR=/sbin"])
        .arg(format!("DESTDIR={}", target.path().display()))
        .current_dir(project.path());
    succeed(&mut make);
    for name in INSTALLED {
        // Through its links.
        let path = target.path().join("usr").join(name);
        assert!(path.is_file(), "{name} is not installed");
    }
    let read = |name: &str| fs::read_to_string(target.path().join("usr").join(name)).unwrap();
    assert_eq!(read("bin/mount.plyfs"), "mount-plyfs");
    for name in ["mount.plyfs", "mount.fuse.plyfs"] {
        let link = fs::read_link(target.path().join("sbin").join(name)).unwrap();
        assert_eq!(link, Path::new("/usr/bin/mount.plyfs"));
    }
    let unit = read("lib/systemd/system/plyfs-snapshotter.service");
    assert!(
        unit.contains("ExecStart=/usr/bin/plyfs-snapshotter"),
        "{unit}"
    );
    let storage = read("share/doc/plyfs/examples/storage.conf");
    assert!(storage.contains("\"/usr/bin/mount.plyfs\""), "{storage}");
}

#[test]
fn the_debian_package_holds_what_is_installed() {
    if !require(&[Need::Program("make"), Need::Program("dpkg-deb")]) {
        return;
    }
    let project = built_project();
    let mut make = Command::new("make");
    succeed(
        make.args(["deb", "CARGO=false"])
            .current_dir(project.path()),
    );
    let packages = fs::read_dir(project.path().join("target")).unwrap();
    let mut packages = packages.map(|entry| entry.unwrap().path());
    let package = packages
        .find(|path| path.extension().is_some_and(|it| it == "deb"))
        .unwrap();
    let listed = succeed(Command::new("dpkg-deb").arg("--contents").arg(&package));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let compressed = |name: &str| if name.contains("/man/") { ".gz" } else { "" };
    for name in INSTALLED {
        let name = name.replace("zsh/site-functions", "zsh/vendor-completions");
        let path = format!(" ./usr/{name}{}", compressed(&name));
        assert!(listed.contains(&path), "{path} is not in\n{listed}");
    }
    for line in [
        "./usr/sbin/mount.plyfs -> /usr/bin/mount.plyfs",
        "root/root",
    ] {
        assert!(listed.contains(line), "{line} is not in\n{listed}");
    }
    let version = succeed(
        Command::new("dpkg-deb")
            .arg("--field")
            .arg(&package)
            .arg("Version"),
    );
    let version = String::from_utf8(version.stdout).unwrap();
    assert_eq!(version.trim(), env!("CARGO_PKG_VERSION"));
}

/// What `install-packages test` calls where no program is there and the user has the number `id`: the calls of
/// apt-get and cargo, in order, and what is said on standard error. Nobody has sudo, and no distribution umoci.
fn calls_of_install_packages(id: u32) -> (String, String) {
    let project = temp_dir();
    let programs = project.path().join("bin");
    for directory in ["bin", "scripts"] {
        fs::create_dir(project.path().join(directory)).unwrap();
    }
    let copy = project.path().join("scripts/install-packages");
    copy_program(&script("install-packages"), &copy);
    symlink("/usr/bin/env", programs.join("env")).unwrap();
    let calls = project.path().join("calls");
    let noted = format!("echo \"${{0##*/}} $*\" >> {}", calls.display());
    for (name, does) in [
        ("id", format!("echo {id}")),
        ("apt-get", noted.clone()),
        ("cargo", noted),
        // As it does for a package that others only mention: nothing, and no failure.
        ("apt-cache", "[ $2 = umoci ] || echo Package: $2".to_owned()),
    ] {
        write_program(&programs.join(name), &format!("#!/bin/sh\n{does}\n"));
    }
    let output = Command::new(copy)
        .arg("test")
        .env("PATH", &programs)
        .output()
        .unwrap();
    (
        fs::read_to_string(calls).unwrap_or_default(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// On a new machine cargo could not link them: it was called before gcc was there.
#[test]
fn regression_test_suites_are_built_once_there_is_a_compiler() {
    let (calls, said) = calls_of_install_packages(0);
    let place = |what: &str| {
        calls
            .find(what)
            .unwrap_or_else(|| panic!("no {what}: {calls}{said}"))
    };
    assert!(place(" install -y --no-install-recommends gcc") < place("cargo install"));
}

#[test]
fn regression_a_package_that_others_only_mention_is_left_out() {
    let (calls, said) = calls_of_install_packages(0);
    assert!(
        calls.contains(" skopeo ") && !calls.contains("umoci"),
        "{calls}"
    );
    assert!(said.contains("not in this distribution: umoci"), "{said}");
}

#[test]
fn who_may_not_install_is_told_what_is_missing() {
    let (calls, said) = calls_of_install_packages(1000);
    assert_eq!(calls, "");
    assert!(
        said.contains("have root run: apt-get install gcc"),
        "{said}"
    );
}
