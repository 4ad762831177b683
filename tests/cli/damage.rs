//! What is damaged in a store is told, and can be put right.

use std::fs;

use super::support::Store;
use super::{import, layout, names};

#[test]
fn regression_a_damaged_list_of_images_is_made_again() {
    let store = Store::new();
    import(&store, "one:1", b"one");
    import(&store, "two:1", b"two");
    let list = store.root().join("index.json");
    fs::write(&list, b"{\"manifests\": [{").unwrap();
    for verb in [&["image", "ls"][..], &["ls", "one:1"], &["check"]] {
        let said = store.fails(1, verb);
        assert!(said.contains("index.json is damaged"), "{said}");
        assert!(said.contains("hint: plyfs check --repair"), "{said}");
    }
    // Nothing is taken for garbage meanwhile.
    store.fails(1, ["image", "rm", "one:1"]);
    assert_eq!(names(&store, "layers/sha256").len(), 2);
    store.run(["check", "--repair"]);
    assert_eq!(store.stdout(["cat", "one:1:/file"]), "one");
    assert_eq!(store.stdout(["cat", "two:1:/file"]), "two");
    assert!(!store.stdout(["image", "ls"]).contains("<none>"));
    assert!(store.root().join("index.json.damaged").exists());

    // Without the copy the names are lost, the images are not.
    fs::remove_file(store.root().join("index.backup")).unwrap();
    fs::remove_file(&list).unwrap();
    let said = store.fails(1, ["image", "ls"]);
    assert!(said.contains("hint: plyfs check --repair"), "{said}");
    store.run(["check", "--repair"]);
    let table = store.stdout(["image", "ls"]);
    assert_eq!(table.matches("<none>").count(), 4, "{table}");
    store.run(["check"]);
}

#[test]
fn regression_a_store_that_lost_its_list_is_not_taken_for_an_empty_one() {
    let store = Store::new();
    import(&store, "one:1", b"one");
    fs::remove_file(store.root().join("index.json")).unwrap();
    let file = store.root().with_file_name("import.tar");
    let said = store.fails(1, ["import".as_ref(), file.as_os_str(), "two:1".as_ref()]);
    assert!(said.contains("index.json"), "{said}");
    assert_eq!(names(&store, "layers/sha256").len(), 1);
}

#[test]
fn regression_check_compares_layers_with_manifests() {
    let (source, store) = (Store::new(), Store::new());
    import(&source, "one:1", b"one");
    let layout = layout(&source.root(), "docker.io/library/one:1");
    store.run(["pull", "-q", &layout, "--name", "one:1"]);
    let layer = names(&store, "layers/sha256").remove(0);
    let path = store
        .root()
        .join(format!("layers/sha256/{layer}/layer.json"));
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["source"]["size"] = 7.into();
    fs::write(&path, record.to_string()).unwrap();
    let output = store.command(["check", "--repair"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        !output.status.success() && said.contains("layer.json"),
        "{said}"
    );
    store.run(["pull", "-q", &layout, "--name", "one:1"]);
    store.run(["check"]);
}
