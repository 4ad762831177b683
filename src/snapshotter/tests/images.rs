//! Snapshots that stand for the layers of an image.

use super::*;
use crate::image::{ImportRequest, ImportSource, import};
use crate::oci::{Config, Document, ImageConfig, Platform};

/// Puts an image of one layer into the store, unlisted, and leaves it to whoever takes it: its
/// manifest, and the chain of its layer.
fn image(it: &Fixture) -> (String, String) {
    let tree = tempfile::tempdir().unwrap();
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(tree.path().join("file"), "content").unwrap();
    let request = ImportRequest {
        source: ImportSource::Directory(tree.path()),
        described: "tree",
        name: None,
        platform: Platform::host(),
        config: Config::default(),
        created: "2026-01-01T00:00:00Z",
        message: None,
        limits: &Limits::default(),
        told: &|_| {},
    };
    import(&it.store, request).unwrap();
    let listed = it.store.images().unwrap();
    let digest = listed[0].descriptor.digest;
    let lock = it.store.lock().unwrap();
    it.store.unpublish(&lock, &listed).unwrap();
    let manifest = it.store.read_blob(&digest).unwrap();
    let Document::Manifest(manifest) = Document::parse(&manifest, None).unwrap() else {
        panic!("no manifest")
    };
    let config = it.store.read_blob(&manifest.config.digest).unwrap();
    let layer = ImageConfig::parse(&config).unwrap().rootfs.diff_ids[0];
    (digest.to_string(), layer.0.to_string())
}

fn described(target: &str, manifest: &str) -> Labels {
    labels([
        ("containerd.io/snapshot.ref", target),
        ("containerd.io/snapshot/cri.image-ref", "127.0.0.1:1/a:b"),
        ("containerd.io/snapshot/cri.manifest-digest", manifest),
    ])
}

/// What containerd's metadata does with the answer that a snapshot exists already.
fn found(it: &Fixture, target: &str, parent: &str) -> Vec<Info> {
    let filter = format!("labels.\"containerd.io/snapshot.ref\"=={target},parent=={parent:?}");
    it.list(&[filter]).unwrap()
}

#[test]
fn a_layer_that_the_store_has_exists_already() {
    let it = Fixture::new();
    let (manifest, target) = image(&it);
    let labels = described(&target, &manifest);
    for key in ["default/1/extract-1 a", "other/2/extract-2 a"] {
        assert_error!(it.prepare(key, "", labels.clone()), AlreadyExists);
        assert_error!(it.stat(key), NotFound);
    }
    let [info] = &found(&it, &target, "")[..] else {
        panic!("not one snapshot")
    };
    assert_eq!(info.kind, Kind::Committed);
    assert_eq!(info.labels, labels);
    assert_eq!(it.usage(&info.name).unwrap(), Usage::default());
    let container = it.prepare("web", &info.name, Labels::new()).unwrap();
    assert_eq!(container[0].kind, "fuse3.mount.plyfs");
    assert_eq!(container[0].source, "127.0.0.1:1/a:b");
    assert_eq!(option(&container[0], "snapshot="), "1");
    let root = fs::metadata(option(&container[0], "upperdir=")).unwrap();
    assert_eq!(root.mode() & 0o7777, 0o711);
    let view = it.view("view", &info.name, Labels::new()).unwrap();
    assert_eq!(option(&view[0], "snapshot="), "1");
    assert!(view[0].options.contains(&"ro".to_owned()));
}

#[test]
fn an_image_stays_as_long_as_its_snapshots() {
    let mut it = Fixture::new();
    let (manifest, target) = image(&it);
    let labels = described(&target, &manifest);
    assert_error!(it.prepare("key", "", labels), AlreadyExists);
    let name = found(&it, &target, "")[0].name.clone();
    it.restart();
    let sweep = || it.store.sweep(std::time::SystemTime::now()).unwrap();
    assert!(sweep().objects.is_empty());
    it.remove(&name).unwrap();
    it.cleanup().unwrap();
    assert!(it.store.objects().unwrap().is_empty());
    assert_eq!(it.directories(), 0);
}

#[test]
fn another_image_behind_the_name_is_left_to_containerd() {
    let it = Fixture::new();
    let (manifest, _) = image(&it);
    let other = format!("sha256:{}", "0".repeat(64));
    let mounts = it.prepare("key", "", described(&other, &manifest)).unwrap();
    assert_eq!(mounts[0].kind, "bind");
    assert!(
        found(&it, &other, "")
            .iter()
            .all(|it| it.kind == Kind::Active)
    );
    // So are layers above one that was unpacked.
    it.committed("base", "");
    let (manifest, target) = image(&it);
    let mounts = it.prepare("above", "base", described(&target, &manifest));
    assert_eq!(mounts.unwrap()[0].kind, "fuse3.mount.plyfs");
    // And those whose labels make no sense.
    let odd = described("odd", "odd");
    assert_eq!(it.prepare("odd", "", odd).unwrap()[0].kind, "bind");
}
