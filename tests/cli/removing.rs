//! `image tag`, `rm` and `prune`: what goes, what stays, and what is told of it.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use super::made::{Made, store_image};
use super::support::{Need, Store, require, text};
use super::{import, listed, names};

fn image<'a>(layers: &'a [&'a str], created: &'a str) -> Made<'a> {
    Made {
        layers,
        created,
        ..Made::default()
    }
}

fn id(store: &Store, name: &str) -> String {
    store
        .stdout(["inspect", "-f", "{{.Id}}", name])
        .trim()
        .to_owned()
}

#[test]
fn a_tag_that_moves_leaves_a_dangling_image() {
    let store = Store::new();
    store_image(&store, "app:1", &image(&["one"], "2024-01-01T00:00:00Z"));
    store_image(&store, "app:2", &image(&["two"], "2024-02-01T00:00:00Z"));
    let (one, two) = (id(&store, "app:1"), id(&store, "app:2"));
    store.run(["tag", &two[..15], "app:1", "app:latest", "other/app:1"]);
    assert_eq!(
        listed(&store),
        ["app:1", "app:2", "app:<none>", "app:latest", "other/app:1"]
    );
    assert_eq!(id(&store, "app:1"), two);
    // What lost its name is found by its ID, and can be given another.
    assert_eq!(
        store.stdout(["cat", &format!("{}:/file", &one[7..19])]),
        "one"
    );
    store.run(["image", "tag", &one, "app:1"]);
    assert_eq!(
        listed(&store),
        ["app:1", "app:2", "app:latest", "other/app:1"]
    );
    let said = store.fails(1, ["tag", "absent", "x:1"]);
    assert!(said.contains("cannot tag absent"), "{said}");
    let said = store.fails(2, ["tag", "app:1", &format!("x@{one}")]);
    assert!(said.contains("has a digest"), "{said}");
    store.fails(2, ["tag", "app:1", "UPPER"]);
    // All names or none.
    store.fails(2, ["tag", "app:1", "fine:1", &format!("x@{one}")]);
    assert!(!listed(&store).contains(&"fine:1".to_owned()));
}

#[test]
fn removal_tells_what_goes_before_and_after() {
    let store = Store::new();
    let one = store_image(
        &store,
        "app:1",
        &image(&["base", "one"], "2024-01-01T00:00:00Z"),
    );
    store_image(
        &store,
        "app:2",
        &image(&["base", "two"], "2024-02-01T00:00:00Z"),
    );
    store.run(["tag", "app:1", "app:first"]);
    let own = id(&store, "app:1");
    let before = listed(&store);

    let said = store.fails(1, ["rmi", &own[7..19]]);
    assert!(said.contains("several names: app:1, app:first"), "{said}");
    let told = store.stdout(["rmi", "--dry-run", "app:1", "app:first"]);
    for line in [
        "Untagged: app:1",
        "Untagged: app:first",
        &format!("Untagged: app@{one}"),
        &format!("Deleted: {own}"),
        "Would free: ",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    // The lower layer is another image's, too.
    assert_eq!(told.matches("Deleted: ").count(), 2, "{told}");
    assert_eq!(listed(&store), before);

    let told = store.stdout(["rmi", "app:first"]);
    assert_eq!(told, "Untagged: app:first\n");
    // By the digest: every name in the repository.
    let told = store.stdout(["image", "rm", &format!("app@{one}")]);
    assert!(
        told.starts_with(&format!(
            "Untagged: app:1\nUntagged: app@{one}\nDeleted: {own}\n"
        )),
        "{told}"
    );
    assert_eq!(listed(&store), ["app:2"]);
    assert_eq!(names(&store, "layers/sha256").len(), 2);

    store.run(["tag", "app:2", "app:3", "other:1"]);
    let said = store.fails(1, ["rmi", "none*"]);
    assert!(said.contains("no name is like it"), "{said}");
    store.run(["rmi", "app:*"]);
    assert_eq!(listed(&store), ["other:1"]);
    store.run(["rmi", "-f", &id(&store, "other:1")]);
    assert!(names(&store, "blobs/sha256").is_empty());
}

#[test]
fn regression_an_id_that_another_image_has_is_not_told_to_be_deleted() {
    let store = Store::new();
    let made = image(&["one"], "2024-01-01T00:00:00Z");
    let first = store_image(&store, "app:1", &made);
    let noted = Made {
        note: "other",
        ..made
    };
    let second = store_image(&store, "app:2", &noted);
    assert_ne!(first, second);
    let own = id(&store, "app:1");
    assert_eq!(own, id(&store, "app:2"));
    let told = store.stdout(["rmi", "app:1"]);
    assert!(told.contains(&format!("Deleted: {first}")), "{told}");
    let told = store.stdout(["rmi", "app:2"]);
    assert!(told.contains(&format!("Deleted: {own}")), "{told}");
}

#[test]
fn what_is_in_use_stays_and_the_user_is_named() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = Store::new();
    store_image(&store, "app:1", &image(&["one"], "2024-01-01T00:00:00Z"));
    let point = store.mountpoint();
    let guard = store.guard();
    store.run([
        "mount".as_ref(),
        "--name".as_ref(),
        "web".as_ref(),
        "app:1".as_ref(),
        point.as_os_str(),
    ]);
    let said = store.fails(1, ["rmi", "app:1"]);
    assert!(said.contains(point.to_str().unwrap()), "{said}");
    let told = store.stdout(["image", "prune", "-a", "--dry-run"]);
    assert!(told.contains("app:1 stays: it is mounted on"), "{told}");
    guard.unmount();
    let said = store.fails(1, ["rmi", "app:1"]);
    assert!(said.contains("container web uses it"), "{said}");
    let told = store.stdout(["image", "prune", "-a", "-f", "--why"]);
    assert!(
        told.contains("app:1 stays: container web uses it"),
        "{told}"
    );
    assert_eq!(listed(&store), ["app:1"]);
    store.run(["container", "rm", "web"]);
    store.run(["image", "prune", "-a", "-f"]);
    assert_eq!(listed(&store), [""; 0]);
}

#[test]
fn prune_takes_what_it_says() {
    let store = Store::new();
    for (tag, created) in [("1", "2021"), ("2", "2022"), ("3", "2023"), ("4", "2024")] {
        let created = format!("{created}-01-01T00:00:00Z");
        store_image(&store, &format!("app:{tag}"), &image(&[tag], &created));
    }
    let keep = Made {
        layers: &["keep"],
        labels: &[("keep", "yes")],
        created: "2020-01-01T00:00:00Z",
        ..Made::default()
    };
    store_image(&store, "kept:1", &keep);
    store.run(["tag", "app:2", "app:1"]);
    let all = ["app:1", "app:2", "app:3", "app:4", "app:<none>", "kept:1"];
    assert_eq!(listed(&store), all);

    // Without an answer nothing goes.
    assert!(
        store
            .stdout(["image", "prune"])
            .contains("Total reclaimed space: 0B")
    );
    assert_eq!(listed(&store), all);
    let told = store.stdout(["image", "prune", "--dry-run"]);
    assert!(
        told.contains("goes: no tag stands for it") && told.contains("app:3 stays: a tag"),
        "{told}"
    );
    assert_eq!(listed(&store), all);
    let mut command = store.command(["image", "prune"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"y\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.starts_with("Deleted Images:\ndeleted: sha256:"),
        "{told}"
    );
    assert!(told.contains("\n\nTotal reclaimed space: "), "{told}");
    assert_eq!(
        listed(&store),
        all[..4]
            .iter()
            .chain(&all[5..])
            .copied()
            .collect::<Vec<_>>()
    );

    let prune = ["image", "prune", "-a", "-f", "--filter", "label!=keep"];
    let told = store.stdout(prune.iter().chain(&["--keep-last", "2", "--why"]));
    assert!(
        told.contains("app:3 stays: it is among the newest of app"),
        "{told}"
    );
    assert_eq!(listed(&store), ["app:3", "app:4", "kept:1"]);
    store.run(
        prune
            .iter()
            .chain(&["--filter", "until=2023-06-01T00:00:00Z"]),
    );
    assert_eq!(listed(&store), ["app:4", "kept:1"]);
    let json: Value = serde_json::from_str(&store.stdout(prune.iter().chain(&["--json"]))).unwrap();
    assert_eq!(json["Images"].as_array().unwrap().len(), 2, "{json}");
    assert!(json["ReclaimedBytes"].as_u64() > Some(0), "{json}");
    assert_eq!(listed(&store), ["kept:1"]);
    assert_eq!(names(&store, "layers/sha256").len(), 1);
    store.run(["check"]);
}

/// As after loading what another tool saved of an image that is here: it compresses in its own way.
#[test]
fn regression_an_id_of_two_manifests_never_means_the_tagged_one_only() {
    let store = Store::new();
    let made = image(&["one"], "2024-01-01T00:00:00Z");
    let tagged = store_image(&store, "app:1", &made);
    let noted = Made { note: "x", ..made };
    let other = store_image(&store, "app:2", &noted);
    store.run(["tag", "app:1", "app:2"]);
    let dangling = store.stdout(["images", "-q", "--no-trunc", "-f", "dangling=true"]);
    assert_eq!(dangling.trim(), other.to_string());
    let own = id(&store, "app:1");
    let said = store.fails(1, ["rmi", &own]);
    assert!(said.contains("several names: app:1, "), "{said}");
    store.run(["rmi", dangling.trim()]);
    assert_eq!(listed(&store), ["app:1", "app:2"]);
    // By its digest in a repository: all names there.
    store.run(["rmi", &format!("app@{tagged}")]);
    assert!(listed(&store).is_empty());
}

#[test]
fn regression_a_pinned_name_is_no_tag() {
    let store = Store::new();
    let digest = store_image(&store, "app:1", &image(&["one"], "2024-01-01T00:00:00Z"));
    let place = super::layout(&store.root(), "docker.io/library/app:1");
    store.run(["pull", "-q", &place, "--name", &format!("app:9@{digest}")]);
    let tags = store.stdout(["inspect", "-f", "{{json .RepoTags}}", "app:1"]);
    assert_eq!(tags.trim(), r#"["app:1"]"#);
    store.run(["rmi", "app:1"]);
    assert_eq!(listed(&store), ["app:<none>"]);
    store.run(["rmi", &format!("app@{digest}")]);
    assert!(listed(&store).is_empty());
}

/// What has an ID cannot be told of an image that is damaged; that is said, and keeps nobody from removing others.
#[test]
fn regression_a_damaged_image_is_told_of_when_another_goes() {
    let store = Store::new();
    store_image(&store, "app:1", &image(&["one"], "2024-01-01T00:00:00Z"));
    let lost = store_image(&store, "app:2", &image(&["two"], "2024-02-01T00:00:00Z"));
    let manifest = store.root().join("blobs/sha256").join(lost.hex());
    std::fs::write(manifest, "{").unwrap();
    let output = store.run(["rmi", "app:1"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("app:2 is not taken into account: "), "{said}");
    assert_eq!(listed(&store), ["app:2"]);
    // It can be removed itself, without more ado.
    let output = store.run(["rmi", "app:2"]);
    assert!(output.stderr.is_empty(), "{output:?}");
    assert!(listed(&store).is_empty());
}

#[test]
fn regression_a_pattern_without_a_match_keeps_nothing_else() {
    let store = Store::new();
    for name in ["one:1", "two:1", "two:2"] {
        import(&store, name, name.as_bytes());
    }
    let arguments = ["image", "rm", "two:1", "none*", "two:*", "one:1"];
    for dry_run in [true, false] {
        let mut command = store.command(arguments);
        if dry_run {
            command.arg("--dry-run");
        }
        let output = command.output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("cannot remove none*: no name is like it"),
            "{said}"
        );
        for name in ["one:1", "two:1", "two:2"] {
            assert_eq!(
                said.matches(&format!("Untagged: {name}\n")).count(),
                1,
                "{said}"
            );
        }
    }
    assert_eq!(store.stdout(["image", "ls", "-q"]), "");
}
