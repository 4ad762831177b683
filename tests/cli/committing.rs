//! `commit` and `export`: the image that is made, and the archive, show what the container shows.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::made::{Made, store_image};
use super::reclaim::{Small, noise};
use super::saving::{Podman, load, save};
use super::support::{
    MountGuard, Need, Store, User, command_as, compare_tree, copy_program, fail, odd_image,
    require, script, succeed, temp_dir,
};
use super::{import, import_from, layout, names};

/// A script that changes a mount of the odd image in every way, as whoever runs it.
const CHANGES: &str = r#"
set -e
cd "$1"
mkdir made && echo new > made/file && ln made/file made/hard && ln -s file made/soft
mkfifo made/fifo
chmod 4755 made/file && touch -d '1999-01-02 03:04:05.678' made/soft made/file
setfattr -n user.note -v text made/file
truncate -s 8M made/sparse && echo end >> made/sparse
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("made/socket")'
# Directories that hide, that are new in place of others, and that have moved.
for name in *; do
    test -d "$name" -a ! -L "$name" && test "$name" != made || continue
    case $((n++ % 5)) in
    0) rm -rf "$name" ;;
    1) rm -rf "$name" && mkdir "$name" && echo x > "$name/x" ;;
    2) mv "$name" "moved $name" && echo x > "moved $name/x" ;;
    3) chmod 700 "$name" && find "$name" -type f -links 1 | head -3 | while read -r f; do chmod u+w "$f"; done ;;
    4) find "$name" -type f | head -2 | while read -r f; do echo more >> "$f"; done ;;
    esac
done
"#;

fn change(mount: &Path, user: User) {
    let mut command = command_as(user, "bash");
    succeed(command.args(["-c", CHANGES, "change"]).arg(mount));
}

/// `plyfs mount --name NAME [IMAGE] MOUNTPOINT`, unmounted with the result.
fn container<'a>(store: &'a Store, words: &[&str]) -> MountGuard<'a> {
    let mut command = store.command(["mount", "--name"]);
    succeed(command.args(words).arg(store.mountpoint()));
    store.guard()
}

fn commit(store: &Store, args: &[&str]) -> String {
    let mut command = store.command(["commit"]);
    command.env("SOURCE_DATE_EPOCH", "86400").args(args);
    let output = succeed(&mut command);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What is mounted at `path`, written down.
fn manifest(path: &Path, user: User, to: &Path) {
    let scripts = temp_dir();
    for name in ["compare-tree", "tree_manifest.py"] {
        copy_program(&script(name), &scripts.path().join(name));
    }
    let mut command = command_as(user, scripts.path().join("compare-tree"));
    succeed(command.arg("--write-manifest").arg(to).arg(path));
}

fn committed_shows_what_the_container_shows(user: User) -> Option<(Store, PathBuf)> {
    let tools = ["setfattr", "python3", "bash"].map(Need::Program);
    let mut needs = vec![Need::Fuse];
    needs.extend(tools);
    needs.push(if user == User::Same {
        Need::Root
    } else {
        Need::PlainUser
    });
    if !require(&needs) {
        return None;
    }
    let store = Store::of(user);
    store.run([
        "pull",
        "-q",
        &layout(&odd_image().layout, "odd"),
        "--name",
        "odd:1",
    ]);
    let mount = container(&store, &["web", "odd:1"]);
    change(mount.path(), user);
    // While it is mounted, and when it is not, the same comes out.
    let live = commit(&store, &["web", "new:live"]);
    // The socket is not in the image; without it the directory is as it was.
    let without = r#"cd "$1" && time=$(stat -c @%.9Y .) && rm socket && touch -d "$time" ."#;
    let mut command = command_as(user, "bash");
    command.args(["-c", without, "without"]);
    succeed(command.arg(mount.path().join("made")));
    mount.unmount();
    let expected = store.root().with_file_name("expected");
    // Seen anew: when data and times are sent together, the last word on a time is that of the disk.
    let mount = container(&store, &["web"]);
    manifest(mount.path(), user, &expected);
    mount.unmount();
    assert_eq!(commit(&store, &["web", "new:idle"]), live);
    store.run(["check"]);
    let mount = store.mount("new:live", &[]);
    compare_tree(user, &[], mount.path(), &expected);
    mount.unmount();
    for place in ["ingest", "leases", "trash"] {
        assert_eq!(names(&store, place), [""; 0], "{place}");
    }
    Some((store, expected))
}

#[test]
fn a_committed_container_of_root() {
    let Some((store, expected)) = committed_shows_what_the_container_shows(User::Same) else {
        return;
    };
    // Exported and imported it is the same, too.
    let archive = store.root().with_file_name("web.tar.zst");
    for (what, name) in [("web", "again:container"), ("new:idle", "again:image")] {
        succeed(store.command(["export", what, "-o"]).arg(&archive));
        import_from(&store, &archive, name);
        let mount = store.mount(name, &[]);
        compare_tree(User::Same, &[], mount.path(), &expected);
        mount.unmount();
    }
    let pipes = [&["export", "web"][..], &["container", "export", "web"]];
    let [one, other] = pipes.map(|words| store.run(words).stdout);
    assert!(one == other, "an export depends on more than the container");
}

#[test]
fn a_committed_container_of_an_ordinary_user() {
    committed_shows_what_the_container_shows(User::Plain);
}

/// A directory that the kernel mounts with what the container wrote, and writes to.
#[test]
fn a_container_that_the_kernel_has_written_to() {
    if !require(&[Need::Root, Need::Fuse, Need::Program("mount")]) {
        return;
    }
    let store = Store::new();
    let tree = temp_dir();
    for directory in ["a", "b", "c/deep"] {
        fs::create_dir_all(tree.path().join(directory)).unwrap();
        for name in ["one", "two"] {
            fs::write(
                tree.path().join(directory).join(name),
                format!("{directory}/{name}"),
            )
            .unwrap();
        }
    }
    import_from(&store, tree.path(), "tree:1");
    container(&store, &["web", "tree:1"]).unmount();
    let lower = temp_dir();
    let image = store.mount_on("tree:1", lower.path(), &["as_lower"]);
    let of_web = |name: &str| store.root().join("containers/web").join(name);
    fs::create_dir(of_web("work/kernel")).unwrap();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=on,metacopy=on",
        lower.path().display(),
        of_web("upper").display(),
        of_web("work/kernel").display()
    );
    let point = temp_dir();
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(point.path());
    succeed(&mut mount);
    let at = |name: &str| point.path().join(name);
    fs::rename(at("a"), at("renamed")).unwrap();
    fs::set_permissions(at("renamed/one"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_dir_all(at("b")).unwrap();
    fs::create_dir(at("b")).unwrap();
    fs::write(at("b/new"), "new").unwrap();
    fs::remove_file(at("c/deep/one")).unwrap();
    symlink("two", at("c/deep/link")).unwrap();
    let expected = store.root().with_file_name("expected");
    manifest(point.path(), User::Same, &expected);
    succeed(Command::new("umount").arg(point.path()));
    image.unmount();
    commit(&store, &["web", "new:1"]);
    let mount = store.mount("new:1", &[]);
    compare_tree(User::Same, &[], mount.path(), &expected);
}

/// A name of a changed file that only the image has shows the change too, and so it is in the layer.
#[test]
fn hard_links_of_the_image() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let (store, tree) = (Store::new(), temp_dir());
    fs::create_dir(tree.path().join("below")).unwrap();
    fs::write(tree.path().join("one"), "old").unwrap();
    fs::hard_link(tree.path().join("one"), tree.path().join("two")).unwrap();
    fs::hard_link(tree.path().join("one"), tree.path().join("below/three")).unwrap();
    import_from(&store, tree.path(), "linked:1");
    let mount = container(&store, &["web", "linked:1"]);
    fs::write(mount.path().join("one"), "new").unwrap();
    fs::remove_file(mount.path().join("two")).unwrap();
    commit(&store, &["web", "linked:2"]);
    mount.unmount();
    let mount = store.mount("linked:2", &[]);
    let (one, three) = (mount.path().join("one"), mount.path().join("below/three"));
    assert_eq!(fs::read(&three).unwrap(), b"new");
    let [one, three] = [one, three].map(|path| fs::metadata(path).unwrap());
    assert_eq!((one.ino(), one.nlink()), (three.ino(), 2));
    assert!(!mount.path().join("two").exists());
}

/// A container of an image with x/a and sec/b, two names of one file; sec is of another owner and time.
fn linked_container(store: &Store) -> MountGuard<'_> {
    let tree = temp_dir();
    let at = |name: &str| tree.path().join(name);
    fs::create_dir(at("x")).unwrap();
    fs::create_dir(at("sec")).unwrap();
    fs::write(at("x/a"), "one\n").unwrap();
    fs::hard_link(at("x/a"), at("sec/b")).unwrap();
    chown(at("sec"), Some(5), Some(6)).unwrap();
    fs::set_permissions(at("sec"), fs::Permissions::from_mode(0o2750)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::open(at("sec")).unwrap().set_modified(time).unwrap();
    import_from(store, tree.path(), "linked:1");
    container(store, &["web", "linked:1"])
}

/// What podman has at some paths of an image of the store: owner, mode, time and number of names.
fn seen_by_podman(store: &Store, image: &str, paths: &[&str]) -> String {
    let archive = save(store, "podman.tar", &[image]);
    let podman = Podman::new();
    podman.load(&archive);
    let seen = podman.run(["image", "mount", image]);
    let mut stat = Command::new("stat");
    stat.arg("--format=%n %u:%g %a %Y %h").args(paths);
    let output = succeed(stat.current_dir(seen.trim()));
    podman.run(["image", "umount", image]);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn regression_directories_of_other_names_are_in_the_layer() {
    if !require(&[Need::Root, Need::Fuse, Need::Program("podman")]) {
        return;
    }
    let store = Store::new();
    let mount = linked_container(&store);
    fs::write(mount.path().join("x/a"), "two").unwrap();
    commit(&store, &["web", "docker.io/library/linked:2"]);
    mount.unmount();
    assert_eq!(
        seen_by_podman(&store, "linked:2", &["sec"]),
        "sec 5:6 2750 1000000000 2\n"
    );
}

/// One name in a directory that was renamed, the other where nothing was changed.
#[test]
fn regression_hard_links_out_of_a_renamed_directory() {
    if !require(&[Need::Root, Need::Fuse, Need::Program("podman")]) {
        return;
    }
    let store = Store::new();
    let mount = linked_container(&store);
    fs::rename(mount.path().join("sec"), mount.path().join("sec2")).unwrap();
    commit(&store, &["web", "docker.io/library/linked:2"]);
    mount.unmount();
    let mount = store.mount("linked:2", &[]);
    let names = ["x/a", "sec2/b"].map(|name| fs::metadata(mount.path().join(name)).unwrap());
    assert_eq!(names[0].ino(), names[1].ino());
    assert_eq!(names[0].nlink(), 2);
    mount.unmount();
    let seen = seen_by_podman(&store, "linked:2", &["sec2", "sec2/b"]);
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0], "sec2 5:6 2750 1000000000 2");
    assert!(lines[1].ends_with(" 2"), "{seen}");
}

/// What is left of a container that goes away while it is read is not all that was in it.
#[test]
fn regression_a_container_that_is_removed_while_it_is_read_is_not_exported() {
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    let store = Store::new();
    import(&store, "one:1", b"one");
    let mount = container(&store, &["web", "one:1"]);
    for name in ["a", "b", "c"] {
        fs::write(mount.path().join(name), noise(3 << 20)).unwrap();
    }
    let mut export = store.command(["export", "web"]);
    export.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut export = export.spawn().unwrap();
    let mut start = [0; 1];
    export
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut start)
        .unwrap();
    mount.unmount();
    store.run(["container", "rm", "web"]);
    let output = export.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("there is none of that name any more"),
        "{said}"
    );
}

/// podman and umoci see the same in an image that was committed.
#[test]
fn the_layer_is_understood_by_other_tools() {
    let tools = ["podman", "umoci", "tar", "setfattr", "python3", "bash"].map(Need::Program);
    if !require(&[&[Need::Root, Need::Fuse][..], &tools].concat()) {
        return;
    }
    let (store, tree) = (Store::new(), temp_dir());
    for n in 0..10 {
        let directory = tree.path().join(format!("d{n}/e"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), format!("{n}")).unwrap();
        fs::write(directory.join("../other"), noise(2000)).unwrap();
    }
    import_from(&store, tree.path(), "tree:1");
    let mount = container(&store, &["web", "tree:1"]);
    change(mount.path(), User::Same);
    fs::remove_file(mount.path().join("made/socket")).unwrap();
    let expected = store.root().with_file_name("expected");
    manifest(mount.path(), User::Same, &expected);
    mount.unmount();
    commit(&store, &["web", "docker.io/library/new:1"]);
    let archive = save(&store, "new.tar", &["new:1"]);

    let unpacked = temp_dir();
    succeed(
        Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(unpacked.path()),
    );
    let bundle = unpacked.path().join("bundle");
    let mut umoci = Command::new("umoci");
    umoci
        .args(["unpack", "--image"])
        .arg(format!("{}:1", unpacked.path().display()));
    succeed(umoci.arg(&bundle));
    // umoci gives the root directory the time of its unpacking.
    let root = File::open(bundle.join("rootfs")).unwrap();
    let mount = store.mount("new:1", &[]);
    let time = fs::metadata(mount.path()).unwrap().modified().unwrap();
    mount.unmount();
    root.set_modified(time).unwrap();
    compare_tree(User::Same, &[], &bundle.join("rootfs"), &expected);

    let podman = Podman::new();
    podman.load(&archive);
    // And what podman writes comes back.
    let from_podman = unpacked.path().join("podman.tar").display().to_string();
    podman.run([
        "save",
        "-q",
        "--format=oci-archive",
        "-o",
        &from_podman,
        "new:1",
    ]);
    let seen = podman.run(["image", "mount", "new:1"]);
    let seen = Path::new(seen.trim());
    File::open(seen).unwrap().set_modified(time).unwrap();
    // containers/storage leaves other attributes than capabilities out with this driver.
    compare_tree(User::Same, &["--ignore-xattr", "user."], seen, &expected);
    podman.run(["image", "umount", "new:1"]);
    let other = Store::new();
    assert_eq!(
        load(&other, Path::new(&from_podman)),
        "Loaded image: new:1\n"
    );
    let mount = other.mount("new:1", &[]);
    compare_tree(
        User::Same,
        &["--ignore-xattr", "user."],
        mount.path(),
        &expected,
    );
}

#[test]
fn the_configuration_of_a_committed_image() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = Store::new();
    store_image(&store, "app:1", &Made::default());
    container(&store, &["web", "app:1"]).unmount();
    let id = commit(
        &store,
        &[
            "-a",
            "Ann",
            "-m",
            "with tools",
            "-c",
            "ENV A=$PATH:/opt",
            "-c",
            "ENTRYPOINT [\"/e\"]",
            "-c",
            "LABEL x=y",
            "--compression",
            "zstd",
            "web",
            "app:2",
        ],
    );
    let told = store.stdout(["image", "inspect", "app:2"]);
    let told: Value = serde_json::from_str::<Vec<Value>>(&told).unwrap().remove(0);
    assert_eq!(told["Id"], id.as_str());
    assert_eq!(told["Author"], "Ann");
    assert_eq!(told["Created"], "1970-01-02T00:00:00Z");
    assert_eq!(
        told["Config"]["Env"],
        serde_json::json!(["PATH=/bin", "A=/bin:/opt"])
    );
    assert_eq!(told["Config"]["Entrypoint"], serde_json::json!(["/e"]));
    // The command of the image below was for another entrypoint.
    assert_eq!(told["Config"]["Cmd"], serde_json::json!([]));
    assert_eq!(told["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    let history = store.stdout([
        "history",
        "--format",
        "{{.CreatedBy}}|{{.Comment}}",
        "app:2",
    ]);
    assert_eq!(history.lines().next(), Some("plyfs commit web|with tools"));
    for format in ["zstd", "gzip", "none"] {
        let said = commit(&store, &["--compression", format, "web"]);
        assert!(said.starts_with("sha256:"), "{said}");
    }
    let said = store.fails(2, ["commit", "-c", "RUN make", "web"]);
    assert!(said.contains("none of CMD"), "{said}");
    let said = store.fails(1, ["commit", "none"]);
    assert!(said.contains("there is none of that name"), "{said}");
    let said = store.fails(1, ["export", "none"]);
    assert!(
        said.contains("cannot export none") && said.contains("neither a container nor an image"),
        "{said}"
    );
}

#[test]
fn a_name_that_a_layer_would_take_for_a_whiteout_is_refused() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = Store::new();
    import(&store, "app:1", b"content");
    let mount = container(&store, &["web", "app:1"]);
    fs::write(mount.path().join(".wh.file"), "").unwrap();
    mount.unmount();
    let said = store.fails(1, ["commit", "web"]);
    assert!(said.contains(".wh.file"), "{said}");
    assert_eq!(names(&store, "ingest"), [""; 0]);
}

/// A socket where the image has a file: neither is in the image that is made.
#[test]
fn a_socket_in_place_of_a_file() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = Store::new();
    import(&store, "app:1", b"content");
    let mount = container(&store, &["web", "app:1"]);
    fs::remove_file(mount.path().join("file")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(mount.path().join("file"));
    drop(socket.unwrap());
    // Neither is its second name, which would be a link to nothing.
    fs::hard_link(mount.path().join("file"), mount.path().join("other")).unwrap();
    mount.unmount();
    commit(&store, &["web", "app:2"]);
    assert_eq!(store.stdout(["ls", "app:2"]), "");
}

#[test]
fn killed_commits_and_full_disks_leave_nothing() {
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    let small = Small::new(40);
    let store = &small.store;
    import(store, "app:1", b"content");
    let mount = container(store, &["web", "app:1"]);
    fs::write(mount.path().join("noise"), noise(8 << 20)).unwrap();
    mount.unmount();
    let clean = || {
        for (place, count) in [
            ("ingest", 0),
            ("leases", 0),
            ("trash", 0),
            ("layers/sha256", 1),
        ] {
            assert_eq!(names(store, place).len(), count, "{place}");
        }
        store.run(["check"]);
    };
    let began = Instant::now();
    commit(store, &["web", "app:2"]);
    let whole = began.elapsed();
    store.run(["rmi", "app:2"]);
    const POINTS: u32 = 8;
    for point in 0..POINTS {
        let mut command = store.command(["commit", "web", "app:2"]);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * point / POINTS);
        child.kill().unwrap();
        child.wait().unwrap();
        import(store, "app:1", b"content");
        if store
            .command(["rmi", "app:2"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
        {
            continue;
        }
        clean();
    }
    let filler = store.root().join("filler");
    fs::write(&filler, noise(22 << 20)).unwrap();
    let said = fail(&mut store.command(["commit", "web", "app:2"]), 1);
    assert!(said.contains("No space left"), "{said}");
    fs::remove_file(filler).unwrap();
    clean();
}
