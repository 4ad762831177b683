//! What is damaged in a store is told, and can be put right.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::made::{Layout, Made};
use super::support::{
    Need, Registry, Store, alone, plyfs_program, require, skopeo_copy, succeed, text, wait_for,
};
use super::{import, import_from, layout, names};

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
fn regression_the_files_that_mark_a_store_are_made_again() {
    let store = Store::new();
    import(&store, "one:1", b"one");
    let mark = store.root().join("store.json");
    for damage in [Some("{\"vers"), Some("{}"), None] {
        match damage {
            Some(text) => fs::write(&mark, text).unwrap(),
            None => fs::remove_file(&mark).unwrap(),
        }
        for verb in [&["cat", "one:1:/file"][..], &["check"]] {
            let said = store.fails(1, verb);
            assert!(said.contains("store.json"), "{said}");
            assert!(said.contains("hint: plyfs check --repair"), "{said}");
        }
        store.run(["check", "--repair"]);
        assert_eq!(store.stdout(["cat", "one:1:/file"]), "one");
    }
    let layout = store.root().join("oci-layout");
    fs::write(&layout, b"").unwrap();
    let said = store.fails(1, ["check"]);
    assert!(said.contains("oci-layout is damaged"), "{said}");
    store.run(["check", "--repair"]);
    assert!(fs::read_to_string(layout).unwrap().contains("1.0.0"));
    // That of another version is not damaged.
    fs::write(&mark, "{\"version\":7}").unwrap();
    let said = store.fails(1, ["check", "--repair"]);
    assert!(said.contains("version 7"), "{said}");
}

#[test]
fn regression_check_tells_what_interrupted_pulls_hold() {
    let store = Store::new();
    import(&store, "one:1", b"one");
    assert!(!store.stdout(["check"]).contains("interrupted"));
    let ingest = store.root().join("ingest/sha256-00");
    fs::create_dir(&ingest).unwrap();
    fs::write(ingest.join("blob"), vec![1; 1 << 20]).unwrap();
    let said = store.stdout(["check"]);
    assert!(said.contains("1.05MB held for interrupted pulls"), "{said}");
    assert!(!store.stdout(["check", "--repair"]).contains("interrupted"));
    assert!(!ingest.exists());
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
    // The layer is what the manifest's blob holds, which it knows from now on.
    store.run(["check"]);
    let layer = path.parent().unwrap();
    let marks = fs::read_dir(layer).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().starts_with("source-")
    });
    assert_eq!(marks.count(), 1);
    record["diffId"] = format!("sha256:{}", "0".repeat(64)).into();
    fs::write(&path, record.to_string()).unwrap();
    let said = repair(&store, 0);
    assert!(said.contains("layer.json"), "{said}");
    store.run(["check"]);
}

/// Imports the same archive plain and compressed: two blobs, one layer.
fn import_twice(store: &Store) -> PathBuf {
    import(store, "one:1", b"one");
    let plain = fs::read(store.root().with_file_name("import.tar")).unwrap();
    let file = store.root().with_file_name("import.tar.gz");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    fs::write(&file, gzip.finish().unwrap()).unwrap();
    import_from(store, &file, "two:1");
    let layers = names(store, "layers/sha256");
    assert_eq!(layers.len(), 1);
    store.root().join("layers/sha256").join(&layers[0])
}

/// Repairs, and ends with 1 if something damaged is left or gone.
fn repair(store: &Store, status: i32) -> String {
    let output = store.command(["check", "--repair"]).output().unwrap();
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn regression_a_layer_of_two_imports_is_not_damaged() {
    let store = Store::new();
    let layer = import_twice(&store);
    let marks = |layer: &Path| {
        let entries = fs::read_dir(layer).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let mut marks = names.filter(|name| name.to_str().unwrap().starts_with("source-"));
        marks.next().map(|name| layer.join(name))
    };
    // Stores of before have no mark.
    fs::remove_file(marks(&layer).expect("the import leaves a mark")).unwrap();
    store.run(["check", "--repair"]);
    assert!(marks(&layer).is_some());
    for image in ["one:1:/file", "two:1:/file"] {
        assert_eq!(store.stdout(["cat", image]), "one");
    }
}

#[test]
fn regression_a_damaged_layer_is_made_again_from_its_blob() {
    let store = Store::new();
    let layer = import_twice(&store);
    fs::write(layer.join("pack"), b"ten").unwrap();
    let said = repair(&store, 0);
    assert!(said.contains("made again"), "{said}");
    assert!(said.contains("1 damaged, 1 made again"), "{said}");
    assert!(said.contains("one:1") && said.contains("two:1"), "{said}");
    assert!(!said.contains("it again:"), "{said}");
    for image in ["one:1:/file", "two:1:/file"] {
        assert_eq!(store.stdout(["cat", image]), "one");
    }
    store.run(["check"]);
    fs::remove_dir_all(&layer).unwrap();
    let said = repair(&store, 0);
    assert!(said.contains("it is missing"), "{said}");
    store.run(["check"]);
}

/// What shows without reading everything is put right by whatever brings the image once more.
#[test]
fn regression_a_damaged_layer_is_made_again_by_pull_and_load() {
    let store = Store::new();
    let mut made = Layout::new(&store, "made");
    made.add("x", &Made::default());
    let place = layout(&made.path, "x");
    let pull = ["pull", &place, "--name", "app:1"];
    store.run(pull);
    let saved = store.root().with_file_name("saved.tar");
    store.run([
        "save".as_ref(),
        "app:1".as_ref(),
        "-o".as_ref(),
        saved.as_os_str(),
    ]);
    let layer = &names(&store, "layers/sha256")[0];
    let layer = store.root().join("layers/sha256").join(layer);
    let manifest = store.stdout([
        "inspect",
        "-f",
        "{{range .Layers}}{{.Digest}}{{end}}",
        "app:1",
    ]);
    let blob = manifest.trim().strip_prefix("sha256:").unwrap();
    let blob = store.root().join("blobs/sha256").join(blob);
    let load = ["load".as_ref(), "-i".as_ref(), saved.as_os_str()];
    for damage in ["index", "pack", "layer.json", "blob"] {
        for by_pull in [true, false] {
            match damage {
                "blob" => fs::write(&blob, b"short").unwrap(),
                file => fs::write(layer.join(file), b"short").unwrap(),
            }
            let output = match by_pull {
                true => store.run(pull),
                false => store.run(load),
            };
            let said = String::from_utf8(output.stderr).unwrap();
            let told = damage == "blob" || said.contains("was damaged, and is made again");
            assert!(told, "{damage}: {said}");
            assert_eq!(store.stdout(["cat", "app:1:/file"]), "base");
            store.run(["check"]);
        }
    }
}

#[test]
fn regression_an_import_is_not_to_be_pulled_again() {
    let (source, store) = (Store::new(), Store::new());
    import(&source, "one:1", b"one");
    import(&store, "two:1", b"two");
    let blobs = store.root().join("blobs/sha256");
    for blob in names(&store, "blobs/sha256") {
        let path = blobs.join(blob);
        if fs::read(&path).unwrap()[0] != b'{' {
            fs::write(&path, b"damaged").unwrap();
        }
    }
    let said = repair(&store, 1);
    assert!(said.contains("import it again: two:1"), "{said}");
}

/// What an image needs cannot be told without its manifest, so nothing is garbage then.
#[test]
fn regression_a_lost_manifest_takes_nothing_with_it() {
    for lost in ["\"layers\"", "\"rootfs\""] {
        let store = Store::new();
        import(&store, "one:1", b"one");
        import(&store, "two:1", b"two");
        let blobs = store.root().join("blobs/sha256");
        let of_one = store.stdout(["inspect", "-f", "{{json .}}", "one:1"]);
        let document = names(&store, "blobs/sha256").into_iter().find(|blob| {
            let bytes = fs::read(blobs.join(blob)).unwrap();
            of_one.contains(blob) && String::from_utf8_lossy(&bytes).contains(lost)
        });
        let document = blobs.join(document.unwrap());
        let before = fs::read(&document).unwrap();
        fs::write(&document, b"{}").unwrap();
        repair(&store, 1);
        store.run(["rmi", "two:1"]);
        assert_eq!(names(&store, "layers/sha256").len(), 2, "{lost}");
        fs::write(&document, before).unwrap();
        assert_eq!(store.stdout(["cat", "one:1:/file"]), "one");
        fs::remove_file(&document).unwrap();
        store.run(["rmi", "one:1"]);
        assert_eq!(names(&store, "layers/sha256").len(), 0, "{lost}");
        store.run(["check"]);
    }
}

#[test]
fn regression_repair_leaves_what_a_mount_uses() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = Store::new();
    let layer = import_twice(&store);
    let mount = store.mount("one:1", &[]);
    let pack = fs::read(layer.join("pack")).unwrap();
    fs::write(layer.join("pack"), b"ten").unwrap();
    let said = repair(&store, 1);
    assert!(said.contains("left, since it is in use"), "{said}");
    assert_eq!(fs::read(layer.join("pack")).unwrap(), b"ten");
    mount.unmount();
    // The lease ends with the process that served it.
    wait_for("the end of the mount", || {
        repair_or_sound(&store) && fs::read(layer.join("pack")).unwrap() == pack
    });
    store.run(["check"]);
}

fn repair_or_sound(store: &Store) -> bool {
    let output = store.command(["check", "--repair"]).output().unwrap();
    matches!(output.status.code(), Some(0 | 1))
}

#[test]
fn regression_a_store_that_cannot_be_written_is_checked() {
    if !require(&[Need::Root]) {
        return;
    }
    let store = Store::new();
    import(&store, "one:1", b"one");
    let script = format!(
        "set -e; mount --bind {0} {0}; mount -o remount,bind,ro {0}; exec {1} --root {0} check",
        store.root().display(),
        plyfs_program().display()
    );
    succeed(&mut alone(Command::new("sh").args(["-c", &script])));
}

#[test]
fn regression_a_damaged_record_of_a_container_stops_only_what_needs_it() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = Store::new();
    import(&store, "one:1", b"one");
    import(&store, "two:1", b"two");
    for name in ["bad", "good"] {
        let mount = store.mount("one:1", &[&format!("name={name}")]);
        fs::write(mount.path().join("new"), b"kept").unwrap();
        mount.unmount();
    }
    let directory = store.root().join("containers/bad");
    let record = directory.join("container.json");
    fs::write(&record, &fs::read(&record).unwrap()[..50]).unwrap();
    store.stdout(["image", "ls"]);
    let listed = store.run(["container", "ls"]);
    let said = text(&listed);
    assert!(
        said.contains("good") && said.contains("warn: container bad"),
        "{said}"
    );
    assert!(
        store
            .stdout(["container", "diff", "good"])
            .contains("A /new")
    );
    store.mount("one:1", &["name=good"]).unmount();
    for verb in [
        &["container", "diff", "bad"][..],
        &["export", "bad"],
        &["commit", "bad"],
    ] {
        let said = store.fails(1, verb);
        assert!(said.contains("container.json is damaged"), "{said}");
        assert!(said.contains("hint: plyfs container rm bad"), "{said}");
    }
    // Which image it needs is not known, so that all of them are kept.
    for prune in [
        &["image", "prune", "-a", "-f"][..],
        &["image", "prune", "-a", "--dry-run"],
    ] {
        let said = store.fails(1, prune);
        assert!(said.contains("bad/container.json is damaged"), "{said}");
        assert!(said.contains("hint: plyfs container rm bad"), "{said}");
    }
    assert_eq!(super::listed(&store), ["one:1", "two:1"]);
    store.run(["image", "rm", "two:1"]);
    assert_eq!(names(&store, "layers/sha256").len(), 2);
    for verb in [&["check"][..], &["check", "--repair"], &["check", "--json"]] {
        let checked = store.command(verb).output().unwrap();
        let said = text(&checked);
        assert_eq!(checked.status.code(), Some(1), "{said}");
        assert!(said.contains("bad/container.json is damaged"), "{said}");
        assert!(
            said.contains(", 1 damaged") || said.contains("damagedContainers"),
            "{said}"
        );
    }
    assert_eq!(fs::read(directory.join("upper/new")).unwrap(), b"kept");
    store.run(["container", "rm", "bad"]);
    assert!(!directory.exists());
    assert_eq!(names(&store, "layers/sha256").len(), 1);
    store.run(["check"]);
}

/// Just what is damaged comes again, be its tag another image's by now; without leave no registry is asked.
#[test]
fn what_cannot_be_made_again_is_fetched_again() {
    if !require(&[Need::Program("docker-registry"), Need::Program("skopeo")]) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let mut made = Layout::new(&store, "made");
    let image = |layers| Made {
        layers,
        ..Made::default()
    };
    made.add("x", &image(&["one", "two"]));
    made.add("y", &image(&["three"]));
    registry.push(&made.path, "x", "app:1");
    let reference = registry.reference("app:1");
    store.run(["pull", "--insecure", &reference]);
    registry.push(&made.path, "y", "app:1");
    let field = |what: &str| store.stdout(["inspect", "-f", what, &reference]);
    let blob = |digest: &str| store.root().join("blobs").join(digest.replace(':', "/"));
    let details = field("{{range .Layers}}{{.Digest}} {{.DiffId}} {{end}}");
    let details: Vec<&str> = details.split_whitespace().collect();
    let [first, first_diff_id, second, _] = details[..] else {
        panic!("{details:?}");
    };
    let listed = store.stdout(["images", "--digests", "--no-trunc"]);
    registry.lose_blob(&second.parse().unwrap());
    let layer = store
        .root()
        .join("layers")
        .join(first_diff_id.replace(':', "/"));
    for damaged in [
        blob(first),
        layer.join("pack"),
        blob(field("{{.Id}}").trim()),
    ] {
        fs::write(damaged, "damaged").unwrap();
    }
    let copy = store.root().with_file_name("copy");
    succeed(Command::new("cp").arg("-a").arg(store.root()).arg(&copy));
    let kept = |arguments: &[&str]| {
        let mut command = Command::new(plyfs_program());
        command.arg("--root").arg(&copy).args(arguments);
        command.output().unwrap()
    };
    let output = kept(&["check", "--repair", "--no-fetch"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output).contains("pull it again: "), "{output:?}");
    let output = store.run(["check", "--repair", "--insecure"]);
    let said = text(&output);
    assert!(
        said.contains("3 damaged, 0 made again, 3 fetched again"),
        "{said}"
    );
    store.run(["check"]);
    assert_eq!(store.stdout(["images", "--digests", "--no-trunc"]), listed);
}

/// Neither the image of another platform nor an attestation is lost with a manifest that is damaged.
#[test]
fn regression_all_platforms_that_were_stored_are_fetched_again() {
    if !require(&[Need::Program("docker-registry"), Need::Program("skopeo")]) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let mut made = Layout::new(&store, "made");
    let image = |platform, layers| Made {
        layers,
        platform,
        ..Made::default()
    };
    let images = [
        image("linux/amd64", &["one"][..]),
        image("linux/arm64", &["two"]),
        image("linux/s390x", &["three"]),
    ];
    made.add_index("x", &images);
    let reference = registry.reference("app:1");
    let to = format!("docker://{reference}");
    let from = format!("oci:{}:x", made.path.display());
    skopeo_copy(&["--all", "--dest-tls-verify=false"], &from, &to);
    let all = ["pull", "--insecure", "--platform", "all", &reference];
    let count = |store: &Store| names(store, "blobs/sha256").len();
    store.run(all);
    let entire = count(&store);
    let blobs = names(&store, "blobs/sha256");
    for damaged in &blobs {
        let path = store.root().join("blobs/sha256").join(damaged);
        let before = fs::read(&path).unwrap();
        fs::write(&path, "damaged").unwrap();
        store.run(["check", "--repair", "--insecure"]);
        assert!(fs::read(&path).unwrap() == before, "{damaged}");
        assert_eq!(count(&store), entire, "{damaged}");
        store.run(["check"]);
    }
    assert_eq!(names(&store, "layers/sha256").len(), images.len());
}

/// A name that leads elsewhere is none.
#[test]
fn regression_container_rm_stays_within_the_store() {
    let store = Store::new();
    import(&store, "one:1", b"one");
    let other = store.root().with_file_name("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("container.json"), "something else").unwrap();
    let relative = "../../other";
    for name in [other.to_str().unwrap(), relative] {
        store.fails(1, ["container", "rm", name]);
    }
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
}
