//! What may go wrong in a pull: it is killed, others do the same, the source does not have it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::support::{Need, Registry, Store, User, odd_image, require, wait_for};
use super::{compare_with_expected, layout};

/// A pull that was killed at any point can be finished, and leaves nothing behind that `check` minds.
#[test]
fn a_killed_pull_can_be_finished() {
    if !require(&[
        Need::Fuse,
        Need::Program("docker-registry"),
        Need::Program("skopeo"),
    ]) {
        return;
    }
    let registry = Registry::start();
    registry.push(&odd_image().layout, "odd", "odd:1");
    let reference = registry.reference("odd:1");
    let pull = ["pull", "-q", "--insecure", &reference];
    let began = Instant::now();
    Store::new().run(pull);
    let whole = began.elapsed();

    const POINTS: u32 = 16;
    for point in 0..POINTS {
        let store = Store::new();
        // Twice, so that a pull which goes on is killed as well.
        for _ in 0..2 {
            let mut child = store.command(pull).stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(whole * point / POINTS);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // Killed at once, it had no time to make a store.
        if store.root().join("index.json").exists() {
            store.run(["check"]);
        }
        store.run(pull);
        store.run(["check"]);
        if point % 5 == 4 {
            let mount = store.mount(&reference, &[]);
            compare_with_expected(&mount, odd_image(), User::Same);
            mount.unmount();
        }
        // Long after, with the image gone, nothing is left of any attempt.
        for path in below(&store.root().join("ingest")) {
            let eight_days = Duration::from_secs(8 * 24 * 3600);
            File::open(path)
                .unwrap()
                .set_modified(SystemTime::now() - eight_days)
                .unwrap();
        }
        // The daemon of the mount ends a moment after it.
        wait_for("the removal of the image", || {
            let mut remove = store.command(["image", "rm", &reference]);
            remove.output().unwrap().status.success()
        });
        for place in [
            "ingest",
            "trash",
            "leases",
            "blobs/sha256",
            "layers/sha256",
            "chains/sha256",
        ] {
            let left = below(&store.root().join(place));
            assert!(
                left.is_empty(),
                "killed at {point}/{POINTS}, finished, removed: {left:?} is left"
            );
        }
    }
}

/// Everything below a directory.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn pulls_of_one_image_at_once_all_succeed() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let (store, odd) = (Store::new(), odd_image());
    let source = layout(&odd.layout, "odd");
    let mut pulls: Vec<Child> = (0..4)
        .map(|n| {
            // Two under one name, two under others.
            let name = format!("odd:{}", n / 2);
            let mut command = store.command(["pull", "-q", &source, "--name", &name]);
            command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for pull in pulls.drain(..) {
        let output = pull.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    store.run(["check"]);
    assert_eq!(
        store
            .stdout(["image", "ls", "--format", "json"])
            .lines()
            .count(),
        2
    );
    compare_with_expected(&store.mount("odd:1", &[]), odd, User::Same);
}

#[test]
fn what_the_source_does_not_have() {
    if !require(&[Need::Program("docker-registry"), Need::Program("skopeo")]) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    registry.push(&odd_image().layout, "odd", "odd:1");
    for name in ["odd:2", "nothing/here:1"] {
        let reference = registry.reference(name);
        let said = store.fails(1, ["pull", "-q", "--insecure", &reference]);
        assert!(
            said.starts_with("plyfs: cannot pull ") && said.contains(&reference),
            "{said}"
        );
    }
    let said = store.fails(1, ["pull", "-q", "oci:/does/not/exist:1"]);
    assert!(said.contains("/does/not/exist"), "{said}");
    assert_eq!(store.stdout(["image", "ls", "--format", "json"]), "");
}

/// A registry that is not there is told soon enough, and clearly.
#[test]
fn a_registry_that_does_not_answer() {
    let store = Store::new();
    let began = Instant::now();
    let said = store.fails(1, ["pull", "-q", "--insecure", "127.0.0.1:1/odd:1"]);
    assert!(said.contains("127.0.0.1:1"), "{said}");
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "took {:?}",
        began.elapsed()
    );
}

/// Content that does not have the digest it should have never becomes part of an image.
#[test]
fn a_damaged_blob_is_refused() {
    if !require(&[Need::Program("docker-registry"), Need::Program("skopeo")]) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    registry.push(&odd_image().layout, "odd", "odd:1");
    let mut waiting = vec![registry.data().join("data")];
    let mut blobs = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => waiting.push(path),
                path if path.ends_with("data") => blobs.push(path),
                _ => {}
            }
        }
    }
    let largest = blobs
        .iter()
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut content = fs::read(largest).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(largest, content).unwrap();
    store.fails(
        1,
        ["pull", "-q", "--insecure", &registry.reference("odd:1")],
    );
    assert_eq!(store.stdout(["image", "ls", "--format", "json"]), "");
    store.run(["check"]);
}

#[test]
fn regression_a_store_is_not_made_among_other_files() {
    let (source, other) = (Store::new(), Store::new());
    super::import(&source, "one:1", b"one");
    // An OCI layout of somebody else, which looks nearly like a store.
    let root = other.root();
    fs::create_dir_all(root.join("blobs/sha256")).unwrap();
    fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    fs::write(root.join("index.json"), index).unwrap();
    let place = layout(&source.root(), "docker.io/library/one:1");
    let said = other.fails(1, ["pull", &place]);
    assert!(said.contains("is not empty, and no store"), "{said}");
    let said = other.fails(1, ["image", "ls"]);
    assert!(said.contains("there is no store at"), "{said}");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 3);
    // What mkfs leaves, and what a first pull had made when it was killed, is no obstacle.
    fs::remove_dir_all(&root).unwrap();
    fs::create_dir_all(root.join("lost+found")).unwrap();
    assert_eq!(other.stdout(["image", "ls", "-q"]), "");
    fs::create_dir_all(root.join("layers/sha256")).unwrap();
    other.run(["pull", "-q", &place, "--name", "one:1"]);
    assert_eq!(other.stdout(["cat", "one:1:/file"]), "one");
}

#[test]
fn regression_a_store_that_was_not_made_to_its_end_is_none_yet() {
    let store = Store::new();
    let root = store.root();
    for name in ["layers/sha256", "blobs/sha256", "ingest", "leases", "trash"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    assert_eq!(store.stdout(["images", "-q"]), "");
    let said = store.fails(1, ["check"]);
    assert!(said.contains("there is no store at"), "{said}");
    super::import(&store, "one:1", b"one");
    store.run(["check"]);
}
