//! `save` and `load`: what they write and read, also of and for other tools, and what stays of them when
//! they fail.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::made::{Layout, Made, store_image};
use super::reclaim::{Small, noise};
use super::support::{
    Need, Store, User, fail, odd_image, require, skopeo_copy, succeed, temp_dir, text,
};
use super::{compare_with_expected, import, import_from, layout, names};

/// A file beside the store.
fn beside(store: &Store, name: &str) -> PathBuf {
    store.root().with_file_name(name)
}

pub fn save(store: &Store, name: &str, images: &[&str]) -> PathBuf {
    let path = beside(store, name);
    let mut command = store.command(["save", "-o"]);
    succeed(command.arg(&path).args(images));
    path
}

pub fn load(store: &Store, path: &Path) -> String {
    let mut command = store.command(["load", "-i"]);
    String::from_utf8(succeed(command.arg(path)).stdout).unwrap()
}

/// What the archive has under a name, as `tar` sees it.
fn file_of(archive: &Path, name: &str) -> Vec<u8> {
    let mut command = Command::new("tar");
    succeed(command.arg("-xOf").arg(archive).arg(name)).stdout
}

/// Name, tag, digest and ID of all images.
fn images(store: &Store) -> String {
    let format = "{{.Repository}}:{{.Tag}} {{.Digest}} {{.ID}}";
    let listed = store.stdout(["image", "ls", "--no-trunc", "--format", format]);
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn several_images_with_all_their_names_come_back_as_they_were() {
    let (store, other) = (Store::new(), Store::new());
    store_image(&store, "app:1", &Made::default());
    store.run(["tag", "app:1", "app:latest", "registry.example/other:2"]);
    let made = Made {
        layers: &["base", "second"],
        ..Made::default()
    };
    store_image(&store, "two:1", &made);
    let all = ["app:1", "app:latest", "registry.example/other:2", "two:1"];
    let path = save(&store, "all.tar", &all);
    let said = load(&other, &path);
    let lines = all.map(|name| format!("Loaded image: {name}\n"));
    assert_eq!(said, lines.concat());
    assert_eq!(images(&other), images(&store));
    assert_eq!(
        fs::read(save(&other, "again.tar", &all)).unwrap(),
        fs::read(&path).unwrap()
    );
    other.run(["check"]);
    for place in ["ingest", "leases", "trash"] {
        assert_eq!(names(&other, place), [""; 0], "{place}");
    }

    // A name without a tag means all of its tags.
    let manifest =
        |path: &Path| -> Value { serde_json::from_slice(&file_of(path, "manifest.json")).unwrap() };
    let tags = manifest(&save(&store, "tags.tar", &["app"]))[0]["RepoTags"].clone();
    assert_eq!(
        tags,
        serde_json::json!(["docker.io/library/app:1", "docker.io/library/app:latest"])
    );
    // What is called by its ID is saved without a name, and loaded so.
    let id = store.stdout(["image", "ls", "-q", "--no-trunc", "two:1"]);
    let path = save(&store, "nameless.tar", &[id.trim()]);
    let other = Store::new();
    let said = load(&other, &path);
    assert_eq!(said, format!("Loaded image ID: {}\n", id.trim()));
}

#[test]
fn pipes_and_compressed_archives() {
    if !require(&[Need::Program("gzip"), Need::Program("zstd")]) {
        return;
    }
    let store = Store::new();
    store_image(&store, "app:1", &Made::default());
    let plain = fs::read(save(&store, "app.tar", &["app:1"])).unwrap();
    let printed = store.run(["save", "app:1"]).stdout;
    assert!(printed == plain, "a pipe is given something else");
    for (name, tool) in [
        ("app.tar.gz", "gzip"),
        ("app.tgz", "gzip"),
        ("app.tar.zst", "zstd"),
    ] {
        let path = save(&store, name, &["app:1"]);
        let file = File::open(&path).unwrap();
        let unpacked = succeed(Command::new(tool).arg("-dc").stdin(file)).stdout;
        assert!(unpacked == plain, "{name}");
        for (how, command) in [("file", vec!["load", "-i"]), ("pipe", vec!["load", "-q"])] {
            let other = Store::new();
            let mut command = other.command(command);
            let said = if how == "file" {
                succeed(command.arg(&path)).stdout
            } else {
                let cat = Command::new("cat")
                    .arg(&path)
                    .stdout(Stdio::piped())
                    .spawn();
                let mut cat = cat.unwrap();
                let said = succeed(command.stdin(cat.stdout.take().unwrap())).stdout;
                assert!(cat.wait().unwrap().success());
                said
            };
            assert_eq!(String::from_utf8(said).unwrap(), "Loaded image: app:1\n");
            assert_eq!(images(&other), images(&store), "{name} by {how}");
            assert_eq!(names(&other, "ingest"), [""; 0]);
        }
    }
    let asked = store.run(["save", "--compress", "zstd", "app:1"]).stdout;
    assert!(asked.starts_with(b"\x28\xb5\x2f\xfd"));
}

/// An index stays one, with what is stored of it.
#[test]
fn images_for_several_platforms() {
    let store = Store::new();
    let mut made = Layout::new(&store, "several");
    let platform = |platform, layer| Made {
        platform,
        layers: layer,
        ..Made::default()
    };
    let index = made.add_index(
        "x",
        &[
            platform("linux/amd64", &["amd64"]),
            platform("linux/arm64", &["arm64"]),
            platform("linux/s390x", &["s390x"]),
        ],
    );
    let place = layout(&made.path, "x");
    let platforms = "linux/amd64,linux/arm64";
    store.run([
        "pull",
        "-q",
        "--platform",
        platforms,
        &place,
        "--name",
        "several:1",
    ]);
    let path = save(&store, "several.tar", &["several:1"]);
    let other = Store::new();
    load(&other, &path);
    assert_eq!(images(&other), images(&store));
    assert!(images(&other).contains(&index.to_string()));
    for (platform, content) in [("linux/amd64", "amd64"), ("linux/arm64", "arm64")] {
        let printed = other.stdout(["cat", "--platform", platform, "several:1:/file"]);
        assert_eq!(printed, content);
    }
    // One of them, by whoever saves and by whoever loads.
    let one = beside(&store, "one.tar");
    let mut command = store.command(["save", "--platform", "linux/arm64", "several:1", "-o"]);
    succeed(command.arg(&one));
    let from_one = Store::new();
    load(&from_one, &one);
    let chosen = Store::new();
    let mut command = chosen.command(["load", "--platform", "linux/arm64", "-i"]);
    succeed(command.arg(&path));
    for store in [&from_one, &chosen] {
        let printed = store.stdout(["cat", "--platform", "linux/arm64", "several:1:/file"]);
        assert_eq!(printed, "arm64");
        let said = store.fails(1, ["cat", "--platform", "linux/amd64", "several:1:/file"]);
        assert!(said.contains("for other platforms only"), "{said}");
        store.run(["check"]);
    }
    let said = store.fails(1, ["save", "--platform", "linux/s390x", "several:1"]);
    assert!(said.contains("for other platforms only"), "{said}");
}

/// podman with a storage of its own.
pub struct Podman(TempDir);

impl Podman {
    pub fn new() -> Podman {
        Podman(temp_dir())
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        self.tool("podman", &["root", "runroot", "tmpdir"], args)
    }

    /// Loads what was saved.
    pub fn load(&self, archive: &Path) -> String {
        self.run([
            "load".as_ref(),
            "-q".as_ref(),
            "-i".as_ref(),
            archive.as_os_str(),
        ])
    }

    /// buildah with the same storage.
    pub fn buildah<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        self.tool("buildah", &["root", "runroot"], args)
    }

    fn tool<S: AsRef<OsStr>>(
        &self,
        program: &str,
        places: &[&str],
        args: impl IntoIterator<Item = S>,
    ) -> String {
        let mut command = Command::new(program);
        for name in places {
            command.arg(format!("--{name}={}", self.0.path().join(name).display()));
        }
        command.arg("--storage-driver=vfs").args(args);
        String::from_utf8(succeed(&mut command).stdout).unwrap()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(["rmi", "--all", "--force"]);
    }
}

/// What goes through podman, skopeo, buildah's storage and umoci comes back with its digests.
#[test]
fn other_tools_read_what_is_saved_and_write_what_is_loaded() {
    let tools = ["podman", "skopeo", "umoci", "tar"].map(Need::Program);
    if !require(&[&[Need::Root][..], &tools].concat()) {
        return;
    }
    // podman does not keep blobs but makes them again, so they are plain here.
    let store = Store::new();
    let made = Made {
        layers: &["base", "second"],
        ..Made::default()
    };
    store_image(&store, "docker.io/library/odd:1", &made);
    let before = images(&store);
    let path = save(&store, "odd.tar", &["odd:1"]);
    let directory = temp_dir();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let same = |tool: &str, archive: &str| {
        let other = Store::new();
        load(&other, Path::new(archive));
        assert_eq!(images(&other), before, "after {tool}");
        other.run(["check"]);
    };

    let podman = Podman::new();
    let said = podman.load(&path);
    assert!(said.contains("docker.io/library/odd:1"), "{said}");
    let archive = at("podman-oci.tar");
    podman.run([
        "save",
        "-q",
        "--format=oci-archive",
        "--uncompressed",
        "-o",
        &archive,
        "odd:1",
    ]);
    same("podman", &archive);
    // Several images are read as Docker's format has them.
    import(&store, "second:1", b"second");
    let both = save(&store, "both.tar", &["odd:1", "second:1"]);
    let said = podman.load(&both);
    for name in ["odd:1", "second:1"] {
        assert!(
            said.contains(&format!("docker.io/library/{name}")),
            "{said}"
        );
    }
    store.run(["rmi", "second:1"]);
    // Docker's format has no manifests, and podman writes plain layers into it: the image is the same.
    let archive = at("podman-docker.tar");
    podman.run([
        "save",
        "-q",
        "--format=docker-archive",
        "-o",
        &archive,
        "odd:1",
    ]);
    let other = Store::new();
    assert_eq!(load(&other, Path::new(&archive)), "Loaded image: odd:1\n");
    let id = |store: &Store| store.stdout(["image", "ls", "-q", "--no-trunc"]);
    assert_eq!(id(&other), id(&store));
    drop(podman);

    let from = format!("oci-archive:{}", path.display());
    let archive = at("skopeo.tar");
    let to = format!("oci-archive:{archive}:docker.io/library/odd:1");
    skopeo_copy(&["--preserve-digests"], &from, &to);
    same("skopeo", &archive);
    for source in ["oci-archive:", "docker-archive:"] {
        let source = format!("{source}{}", path.display());
        let inspect = Command::new("skopeo")
            .args(["inspect", "--config", &source])
            .output();
        let inspect = inspect.unwrap();
        assert!(inspect.status.success(), "{source}: {}", text(&inspect));
    }
    let docker = at("docker");
    let from = format!("docker-archive:{}:docker.io/library/odd:1", path.display());
    skopeo_copy(&[], &from, &format!("dir:{docker}"));

    // umoci takes the unpacked archive for the layout that it is.
    let unpacked = directory.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    succeed(
        Command::new("tar")
            .arg("-xf")
            .arg(&path)
            .arg("-C")
            .arg(&unpacked),
    );
    let listed = Command::new("umoci")
        .arg("list")
        .arg("--layout")
        .arg(&unpacked)
        .output();
    assert_eq!(text(&listed.unwrap()), "1\n");
    let packed = at("packed.tar");
    let mut command = Command::new("umoci");
    command
        .arg("tag")
        .arg("--image")
        .arg(format!("{}:1", unpacked.display()));
    succeed(command.arg("latest"));
    let members = ["oci-layout", "index.json", "blobs"];
    succeed(
        Command::new("tar")
            .args(["-cf", &packed, "-C"])
            .arg(&unpacked)
            .args(members),
    );
    let other = Store::new();
    load(&other, Path::new(&packed));
    let digest = before.split(' ').nth(1).unwrap();
    assert!(images(&other).contains(digest), "{}", images(&other));
}

#[test]
fn what_is_loaded_shows_what_was_saved() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let (store, other, odd) = (Store::new(), Store::new(), odd_image());
    store.run(["pull", "-q", &layout(&odd.layout, "odd"), "--name", "odd:1"]);
    load(&other, &save(&store, "odd.tar.zst", &["odd:1"]));
    compare_with_expected(&other.mount("odd:1", &[]), odd, User::Same);
}

#[test]
fn regression_a_file_that_is_replaced_keeps_its_mode_and_owner() {
    if !require(&[Need::Root]) {
        return;
    }
    let store = Store::new();
    import(&store, "app:1", b"content");
    let path = save(&store, "app.tar", &["app:1"]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&path, Some(5), Some(6)).unwrap();
    let before = fs::metadata(&path).unwrap();
    save(&store, "app.tar", &["app:1"]);
    let after = fs::metadata(&path).unwrap();
    assert_ne!(after.ino(), before.ino());
    let told = (after.mode() & 0o7777, after.uid(), after.gid());
    assert_eq!(told, (0o600, 5, 6));
}

#[test]
fn regression_a_full_device_is_told_once() {
    let store = Store::new();
    import(&store, "app:1", b"content");
    for verb in ["save", "export"] {
        let said = store.fails(1, [verb, "-o", "/dev/full", "app:1"]);
        assert_eq!(said.matches("cannot write").count(), 1, "{said}");
        assert!(
            said.contains("/dev/full: No space left on device"),
            "{said}"
        );
    }
}

#[test]
fn names_that_stood_for_another_image() {
    let (store, other) = (Store::new(), Store::new());
    let old = store_image(&store, "app:1", &Made::default());
    import(&other, "app:1", b"other");
    let path = save(&other, "app.tar", &["app:1"]);
    let said = load(&store, &path);
    let expected = format!(
        "The image app:1 already exists, renaming the old one with digest {old} to empty string\n\
         Loaded image: app:1\n"
    );
    assert_eq!(said, expected);
    assert!(
        images(&store).contains(&format!("app:<none> {old}")),
        "{}",
        images(&store)
    );
    // Without a word about it where that is asked for.
    import(&store, "app:1", b"again");
    let mut quiet = store.command(["load", "-q", "-i"]);
    let said = text(&succeed(quiet.arg(&path)));
    assert_eq!(said, "Loaded image: app:1\n");
    // Once more changes nothing.
    assert_eq!(load(&store, &path), "Loaded image: app:1\n");
}

#[test]
fn regression_names_that_are_none_are_not_dropped_in_silence() {
    let store = Store::new();
    store_image(&store, "app:1", &Made::default());
    let path = save(&store, "app.tar", &["app:1"]);
    let mut archive = fs::read(&path).unwrap();
    let name = b"docker.io/library/app:1";
    let places = archive.windows(name.len()).enumerate();
    let places: Vec<usize> = places
        .filter(|(_, it)| it == name)
        .map(|(at, _)| at)
        .collect();
    for at in places {
        archive[at..at + name.len()].copy_from_slice(b"docker.io/library/APP:1");
    }
    fs::write(&path, archive).unwrap();
    let other = Store::new();
    let output = other.run([
        "load".as_ref(),
        "--json".as_ref(),
        "-i".as_ref(),
        path.as_os_str(),
    ]);
    let said = text(&output);
    assert!(
        said.contains("left out the name \"docker.io/library/APP:1\""),
        "{said}"
    );
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["Names"], Value::Array(Vec::new()), "{told}");
    let id = other.stdout(["images", "-q", "--no-trunc"]);
    assert_eq!(told["Id"], id.trim());
}

#[test]
fn what_cannot_be_saved_or_loaded() {
    let store = Store::new();
    store_image(&store, "app:1", &Made::default());
    let said = store.fails(1, ["save", "ap:1"]);
    assert!(
        said.contains("cannot save ap:1") && said.contains("app:1"),
        "{said}"
    );
    let said = store.fails(1, ["save", "-o", "/does/not/exist/x.tar", "app:1"]);
    assert!(
        said.contains("cannot write /does/not/exist/x.tar: No such file"),
        "{said}"
    );
    let path = beside(&store, "x");
    for (content, why) in [
        (&b""[..], "no files in it"),
        (b"text", "no files in it"),
        (&[b'x'; 2048], "not a tar archive"),
        (b"\xfd7zXZ\0", "it is compressed"),
        (b"\x1f\x8b\x08\0", "it is damaged (gzip)"),
        (
            &super::archive(&[("etc/passwd", b"")]),
            "there are no images in it",
        ),
        (
            &super::archive(&[("manifest.json", b"[]")]),
            "there are no images in it",
        ),
    ] {
        fs::write(&path, content).unwrap();
        let said = store.fails(1, ["load".as_ref(), "-i".as_ref(), path.as_os_str()]);
        assert!(
            said.contains(why) && said.contains("cannot load"),
            "{why}: {said}"
        );
        let said = fail(store.command(["load"]).stdin(File::open(&path).unwrap()), 1);
        assert!(
            said.contains(why) && said.contains("standard input"),
            "{why}: {said}"
        );
    }
    let said = store.fails(1, ["load", "-i", "/dev/zero"]);
    assert!(said.contains("it is a device"), "{said}");
    // Cut in the middle, the archive is refused, and a damaged blob is not saved.
    let whole = fs::read(save(&store, "app.tar", &["app:1"])).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let other = Store::new();
    let said = other.fails(1, ["load".as_ref(), "-i".as_ref(), path.as_os_str()]);
    assert!(said.contains("cut short"), "{said}");
    let layer = String::from_utf8(file_of(&beside(&store, "app.tar"), "manifest.json")).unwrap();
    let layer: Value = serde_json::from_str(&layer).unwrap();
    let layer = store.root().join(layer[0]["Layers"][0].as_str().unwrap());
    let mut bytes = fs::read(&layer).unwrap();
    bytes[600] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let target = beside(&store, "damaged.tar");
    let said = store.fails(
        1,
        [
            "save".as_ref(),
            "-o".as_ref(),
            target.as_os_str(),
            "app:1".as_ref(),
        ],
    );
    assert!(said.contains("is damaged"), "{said}");
    assert!(!target.exists());
}

/// Whatever the moment at which they are killed, nothing stays of the archive, and of the store only what
/// the next verb removes.
#[test]
fn killed_saves_and_loads_leave_nothing() {
    let store = Store::new();
    let file = beside(&store, "noise.tar");
    fs::write(&file, super::archive(&[("noise", &noise(24 << 20))])).unwrap();
    import_from(&store, &file, "noise:1");
    fs::remove_file(&file).unwrap();
    let began = Instant::now();
    let archive = save(&store, "saved.tar", &["noise:1"]);
    let whole = began.elapsed();
    let directory = temp_dir();
    let target = directory.path().join("killed.tar");
    const POINTS: u32 = 8;
    for point in 1..POINTS {
        let mut save = store
            .command(["save", "noise:1", "-o"])
            .arg(&target)
            .spawn()
            .unwrap();
        std::thread::sleep(whole * point / POINTS);
        save.kill().unwrap();
        save.wait().unwrap();
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert!(left.is_empty() || target.exists(), "{left:?}");
        if target.exists() {
            assert!(fs::read(&target).unwrap() == fs::read(&archive).unwrap());
            fs::remove_file(&target).unwrap();
        }
    }

    let began = Instant::now();
    load(&Store::new(), &archive);
    let whole = began.elapsed();
    for point in 0..POINTS {
        let other = Store::new();
        // A file, and a pipe that is copied first.
        let mut command = match point % 2 {
            0 => {
                let mut command = other.command(["load", "-i"]);
                command.arg(&archive);
                command
            }
            _ => {
                let mut command = other.command(["load"]);
                let cat = Command::new("cat")
                    .arg(&archive)
                    .stdout(Stdio::piped())
                    .spawn();
                command.stdin(cat.unwrap().stdout.take().unwrap());
                command
            }
        };
        let mut load = command.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * point / POINTS);
        load.kill().unwrap();
        load.wait().unwrap();
        let loaded = other.root().join("index.json").exists() && !images(&other).is_empty();
        import(&other, "small:1", b"small");
        for place in ["ingest", "leases", "trash"] {
            assert_eq!(
                names(&other, place),
                [""; 0],
                "{place}, killed at {point}/{POINTS}"
            );
        }
        let layers = if loaded { 2 } else { 1 };
        assert_eq!(
            names(&other, "layers/sha256").len(),
            layers,
            "killed at {point}/{POINTS}"
        );
        other.run(["check"]);
    }
}

#[test]
fn full_disks() {
    if !require(&[Need::Root]) {
        return;
    }
    let store = Store::new();
    let file = beside(&store, "noise.tar");
    fs::write(&file, super::archive(&[("noise", &noise(12 << 20))])).unwrap();
    import_from(&store, &file, "noise:1");
    let archive = save(&store, "saved.tar", &["noise:1"]);
    let small = Small::new(8);
    let target = small.store.root().join("saved.tar");
    let said = store.fails(
        1,
        [
            "save".as_ref(),
            "-o".as_ref(),
            target.as_os_str(),
            "noise:1".as_ref(),
        ],
    );
    assert!(
        said.contains("cannot write") && said.contains("No space left"),
        "{said}"
    );
    assert!(said.contains("-o"), "{said}");
    assert_eq!(fs::read_dir(small.store.root()).unwrap().count(), 0);
    // Too small for the blob, and then for what is packed of it.
    for megabytes in [8, 18] {
        let small = Small::new(megabytes);
        let said = small
            .store
            .fails(1, ["load".as_ref(), "-i".as_ref(), archive.as_os_str()]);
        assert!(said.contains("No space left"), "{megabytes}: {said}");
        let mut piped = small.store.command(["load"]);
        let said = fail(piped.stdin(File::open(&archive).unwrap()), 1);
        assert!(said.contains("No space left"), "{megabytes}: {said}");
        for place in ["ingest", "leases", "trash", "blobs/sha256", "layers/sha256"] {
            assert_eq!(
                names(&small.store, place),
                [""; 0],
                "{place} of {megabytes}"
            );
        }
        import(&small.store, "small:1", b"small");
        small.store.run(["check"]);
    }
}

#[test]
fn nobody_reads_what_is_saved() {
    let store = Store::new();
    let file = beside(&store, "noise.tar");
    fs::write(&file, super::archive(&[("noise", &noise(2 << 20))])).unwrap();
    import_from(&store, &file, "noise:1");
    let mut save = store.command(["save", "noise:1"]);
    let mut save = save
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(save.stdout.take());
    let output = save.wait_with_output().unwrap();
    assert_eq!(text(&output), "");
    assert_eq!(output.status.code(), Some(1));
}
