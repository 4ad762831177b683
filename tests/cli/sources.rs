//! Every place that an image can come from gives the same tree.

use std::fs;
use std::process::Command;

use super::support::{
    Need, Registry, Store, User, compare_tree, make_odd_image, odd_image, require, skopeo_copy,
    succeed, temp_dir,
};
use super::{compare_with_expected, import, import_from, layout};

#[test]
fn from_a_registry_as_root() {
    from_a_registry(&[Need::Root], User::Same);
}

#[test]
fn from_a_registry_as_an_ordinary_user() {
    from_a_registry(&[Need::PlainUser], User::Plain);
}

fn from_a_registry(needs: &[Need], user: User) {
    let common = [
        Need::Fuse,
        Need::Program("docker-registry"),
        Need::Program("skopeo"),
    ];
    if !require(needs) || !require(&common) {
        return;
    }
    let (registry, store, odd) = (Registry::start(), Store::of(user), odd_image());
    registry.push(&odd.layout, "odd", "test/odd:1");
    let reference = registry.reference("test/odd:1");
    store.run(["pull", "--insecure", &reference]);
    let mount = store.mount(&reference, &[]);
    compare_with_expected(&mount, odd, user);
    mount.unmount();
    store.run(["check"]);
}

#[test]
fn from_a_registry_that_wants_a_password() {
    let programs = [
        Need::Program("docker-registry"),
        Need::Program("skopeo"),
        Need::Program("htpasswd"),
    ];
    if !require(&programs) {
        return;
    }
    let (registry, store) = (Registry::with_password("user", "word"), Store::new());
    registry.push(&odd_image().layout, "odd", "odd:1");
    let reference = registry.reference("odd:1");
    let said = store.fails(1, ["pull", "--insecure", &reference]);
    assert_eq!(
        said.lines()
            .filter(|line| line.starts_with("plyfs: "))
            .count(),
        1,
        "{said}"
    );

    let home = temp_dir();
    let file = home.path().join("auth.json");
    // "user:word" in base64.
    let auth = format!(
        r#"{{"auths": {{"{}": {{"auth": "dXNlcjp3b3Jk"}}}}}}"#,
        registry.address()
    );
    fs::write(&file, auth).unwrap();
    succeed(
        store
            .command(["pull", "--insecure", &reference])
            .env("REGISTRY_AUTH_FILE", &file),
    );
}

#[test]
fn from_an_oci_layout() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let (store, odd) = (Store::new(), odd_image());
    store.run(["pull", &layout(&odd.layout, "odd"), "--name", "odd"]);
    compare_with_expected(&store.mount("odd", &[]), odd, User::Same);
}

#[test]
fn from_an_oci_archive() {
    if !require(&[Need::Fuse, Need::Program("skopeo")]) {
        return;
    }
    let (store, odd, files) = (Store::new(), odd_image(), temp_dir());
    let source = format!("oci-archive:{}/odd.tar:odd", files.path().display());
    skopeo_copy(&[], &layout(&odd.layout, "odd"), &source);
    store.run(["pull", &source, "--name", "odd"]);
    compare_with_expected(&store.mount("odd", &[]), odd, User::Same);
}

#[test]
fn from_a_docker_archive() {
    if !require(&[Need::Fuse, Need::Program("skopeo")]) {
        return;
    }
    // Docker's manifests know gzip only.
    let (store, odd, files) = (
        Store::new(),
        make_odd_image("odd-gzip", &["--gzip"]),
        temp_dir(),
    );
    let source = format!("docker-archive:{}/odd.tar", files.path().display());
    skopeo_copy(&[], &layout(&odd.layout, "odd"), &format!("{source}:odd:1"));
    store.run(["pull", &source, "--name", "odd"]);
    compare_with_expected(&store.mount("odd", &[]), &odd, User::Same);
}

/// A directory becomes an image of one layer, with all that root can see of it.
#[test]
fn from_a_directory_and_from_its_archive() {
    if !require(&[Need::Root, Need::Fuse, Need::Program("tar")]) {
        return;
    }
    let (store, odd) = (Store::new(), odd_image());
    store.run(["pull", &layout(&odd.layout, "odd"), "--name", "odd"]);
    let mount = store.mount("odd", &[]);
    import_from(&store, mount.path(), "copy:directory");
    let archive = store.root().with_file_name("odd.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C")
        .arg(mount.path())
        .args(["--xattrs", "--xattrs-include=*", "--format=pax", "-cf"])
        .arg(&archive);
    succeed(tar.arg("."));
    import_from(&store, &archive, "copy:archive");
    // GNU tar forgets that pipes are hard links of each other.
    for (image, ignored) in [("copy:directory", ""), ("copy:archive", "links")] {
        let copies = temp_dir();
        let copy = store.mount_on(image, copies.path(), &[]);
        compare_tree(
            User::Same,
            &["--ignore", ignored],
            copy.path(),
            &odd.expected,
        );
    }
}

#[test]
fn regression_an_archive_of_one_image_says_what_it_is_called() {
    let files = temp_dir();
    let store = Store::new();
    import(&store, "own.example/app:7", b"x");
    let archive = files.path().join("some-file.tar");
    store.run([
        "save".as_ref(),
        "-o".as_ref(),
        archive.as_os_str(),
        "own.example/app:7".as_ref(),
    ]);
    let directory = files.path().join("layout");
    fs::create_dir(&directory).unwrap();
    succeed(
        Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(&directory),
    );
    for source in [
        format!("oci-archive:{}", archive.display()),
        format!("docker-archive:{}", archive.display()),
        format!("oci:{}", directory.display()),
    ] {
        let store = Store::new();
        store.run(["pull", &source]);
        let names = store.stdout(["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
        assert_eq!(names.trim(), "own.example/app:7", "{source}");
    }
}
