//! Looking into images and the store: what is printed agrees with mounts and with other tools.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::odd_store;
use super::support::{Need, Store, odd_image, require, succeed};

/// The expected tree: path -> entry.
fn expected() -> BTreeMap<String, Value> {
    let manifest: Value =
        serde_json::from_slice(&fs::read(&odd_image().expected).unwrap()).unwrap();
    let entries = manifest["entries"].as_array().unwrap().clone();
    entries
        .into_iter()
        .map(|entry| (entry["path"].as_str().unwrap().to_owned(), entry))
        .collect()
}

/// Whether a path of the manifest is one that every way of printing leaves as it is.
fn is_plain(path: &str) -> bool {
    !path.contains('\\') && path != "."
}

#[test]
fn ls_shows_what_is_there() {
    let store = odd_store();
    let printed = store.stdout(["ls", "--json", "-R", "odd"]);
    let mut listed = BTreeMap::new();
    for line in printed.lines() {
        let entry: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let path = entry["path"]
            .as_str()
            .map(|path| path.trim_start_matches('/').to_owned());
        listed.insert(path.unwrap_or_default(), entry);
    }
    for (path, wanted) in expected().iter().filter(|(path, _)| is_plain(path)) {
        let entry = listed
            .get(path)
            .unwrap_or_else(|| panic!("{path} is not listed"));
        for key in ["uid", "gid", "size", "nlink"]
            .iter()
            .filter(|key| wanted[**key].is_u64())
        {
            assert_eq!(entry[key], wanted[key], "{key} of {path}: {entry}");
        }
        if let Some(mode) = wanted["mode"].as_u64() {
            assert_eq!(
                entry["mode"].as_str(),
                Some(format!("{mode:04o}").as_str()),
                "{path}"
            );
        }
    }
}

#[test]
fn cat_prints_what_a_mount_holds() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = odd_store();
    let mount = store.mount("odd", &[]);
    let files = expected()
        .into_iter()
        .filter(|(path, entry)| is_plain(path) && entry["kind"] == "file");
    for (path, _) in
        files.filter(|(path, _)| path.starts_with("sizes/") || path.starts_with("sparse/"))
    {
        let printed = store.run(["cat", &format!("odd:/{path}")]).stdout;
        assert!(
            printed == fs::read(mount.path().join(&path)).unwrap(),
            "{path}"
        );
    }
    store.fails(1, ["cat", "odd:/sizes/absent"]);
    store.fails(1, ["cat", "odd:/sizes"]);
}

#[test]
fn json_is_json() {
    let store = odd_store();
    for line in store.stdout(["image", "ls", "--format", "json"]).lines() {
        let image: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&image["Repository"], &image["Tag"]),
            (&"odd".into(), &"latest".into()),
            "{image}"
        );
    }
    let inspected: Value =
        serde_json::from_str(&store.stdout(["image", "inspect", "odd"])).unwrap();
    assert_eq!(
        inspected[0]["RootFS"]["Layers"].as_array().map(Vec::len),
        Some(8),
        "{inspected}"
    );
    let checked: Value = serde_json::from_str(&store.stdout(["check", "--json"])).unwrap();
    assert_eq!(checked["damaged"], Value::Array(Vec::new()), "{checked}");
    let mounts: Value = serde_json::from_str(&store.stdout(["mounts", "--json"])).unwrap();
    assert!(mounts.is_array(), "{mounts}");
}

#[test]
fn another_tool_reads_the_store() {
    if !require(&[Need::Program("skopeo")]) {
        return;
    }
    let store = odd_store();
    let mut skopeo = Command::new("skopeo");
    let place = format!(
        "oci:{}:docker.io/library/odd:latest",
        store.root().display()
    );
    skopeo.args(["--insecure-policy", "inspect", "--raw", &place]);
    let raw = succeed(&mut skopeo).stdout;
    let manifest: Value = serde_json::from_slice(&raw).unwrap();
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(8));
    // And copies it, every blob of it.
    let copy = store.root().with_file_name("copy");
    super::support::skopeo_copy(&[], &place, &format!("oci:{}:x", copy.display()));
}

#[test]
fn removed_images_are_gone() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = odd_store();
    let mount = store.mount("odd", &[]);
    let said = store.fails(1, ["image", "rm", "odd"]);
    assert!(said.contains("mount"), "{said}");
    mount.unmount();
    store.run(["image", "rm", "odd"]);
    assert_eq!(store.stdout(["image", "ls", "--format", "json"]), "");
    store.fails(1, ["ls", "odd"]);
    for place in ["layers/sha256", "chains/sha256", "blobs/sha256"] {
        let left: Vec<_> = fs::read_dir(store.root().join(place))
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert!(left.is_empty(), "{place} holds {left:?} still");
    }
    store.run(["check"]);
}

#[test]
fn check_finds_damage() {
    let store = odd_store();
    let mut blobs: Vec<_> = fs::read_dir(store.root().join("blobs/sha256"))
        .unwrap()
        .flatten()
        .collect();
    blobs.sort_by_key(|blob| blob.metadata().unwrap().len());
    let path = blobs.pop().unwrap().path();
    let mut content = fs::read(&path).unwrap();
    content[1000] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, content).unwrap();
    let output = store.command(["check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let name = path.file_name().unwrap().to_str().unwrap();
    let said = super::support::text(&output);
    assert!(said.contains(&name[..12]), "{said}");
}

#[test]
fn wrong_usage_is_status_2() {
    let store = Store::new();
    for args in [
        &["frobnicate"][..],
        &["mount"],
        &["pull"],
        &["cat"],
        &["ls", "--colour", "x"],
    ] {
        store.fails(2, args);
    }
    let said = store.fails(1, ["ls", "absent"]);
    assert!(said.starts_with("plyfs: "), "{said}");
}
