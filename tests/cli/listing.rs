//! `image ls` and `image history`, as Docker shows them.

use std::fs;
use std::process::Command;

use super::import_from;
use super::made::{Layout, Made, store_image};
use super::support::{Need, Store, plyfs_program, require, succeed, temp_dir};

/// A store with three images, one of them under two names and one dangling.
fn stored() -> Store {
    let store = Store::new();
    for (name, layers, created, labels) in [
        (
            "debian:12",
            &["base"][..],
            "2023-01-01T00:00:00Z",
            &[("os", "debian")][..],
        ),
        (
            "debian:13",
            &["base", "more"],
            "2025-01-01T00:00:00Z",
            &[("os", "debian"), ("new", "")],
        ),
        ("ghcr.io/own/app:1", &["app"], "2024-01-01T00:00:00Z", &[]),
        ("app:old", &["old"], "2022-01-01T00:00:00Z", &[]),
    ] {
        let image = Made {
            layers,
            created,
            labels,
            ..Made::default()
        };
        store_image(&store, name, &image);
    }
    // Its name goes over to another.
    store.run(["tag", "ghcr.io/own/app:1", "app:old"]);
    store
}

fn names(store: &Store, arguments: &[&str]) -> Vec<String> {
    let format = ["images", "--format", "{{.Repository}}:{{.Tag}}"];
    let printed = store.stdout(format.iter().chain(arguments));
    printed.lines().map(str::to_owned).collect()
}

#[test]
fn the_table_is_that_of_docker() {
    let store = stored();
    let table = store.stdout(["image", "ls"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 6, "{table}");
    for column in ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"] {
        assert!(lines[0].contains(column), "{table}");
    }
    // Newest first; every column begins where its heading does.
    assert!(lines[1].starts_with("debian "), "{table}");
    let at = lines[0].find("IMAGE ID").unwrap();
    for line in &lines[1..] {
        let id = line.get(at..at + 12).unwrap();
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{table}");
        assert!(line.contains(" ago "), "{table}");
    }
    assert!(
        lines[5].starts_with("app ") && lines[5].contains(" <none> "),
        "{table}"
    );
    let digests = store.stdout(["images", "--digests", "--no-trunc"]);
    assert!(
        digests.contains("DIGEST") && digests.matches("sha256:").count() == 10,
        "{digests}"
    );
    assert_eq!(store.stdout(["images", "-q"]).lines().count(), 5);
    assert!(
        store
            .stdout(["images", "-q", "--no-trunc"])
            .starts_with("sha256:")
    );
    assert_eq!(
        store
            .stdout(["image", "ls", "-a", "nothing"])
            .lines()
            .count(),
        1
    );
}

#[test]
fn filters_are_those_of_docker() {
    let store = stored();
    for (arguments, expected) in [
        (&["debian"][..], &["debian:13", "debian:12"][..]),
        (
            &["debian:12", "ghcr.io/own/*"],
            &["ghcr.io/own/app:1", "debian:12"],
        ),
        (&["docker.io/library/debian:13"], &["debian:13"]),
        (&["-f", "dangling=true"], &["app:<none>"]),
        (&["-f", "dangling=false", "app"], &["app:old"]),
        (&["-f", "label=os"], &["debian:13", "debian:12"]),
        (
            &["-f", "label=os=debian", "-f", "label=new"],
            &["debian:13"],
        ),
        (
            &["--filter", "label!=os", "-f", "dangling=false"],
            &["app:old", "ghcr.io/own/app:1"],
        ),
        (
            &["-f", "before=debian:13", "-f", "since=debian:12"],
            &["app:old", "ghcr.io/own/app:1"],
        ),
        (
            &["-f", "until=2023-06-01T00:00:00Z"],
            &["debian:12", "app:<none>"],
        ),
        (
            &["-f", "reference=deb*:1[23]", "-f", "reference=app:*"],
            &["debian:13", "app:old", "debian:12"],
        ),
    ] {
        let mut found = names(&store, arguments);
        let mut expected: Vec<String> = expected.iter().map(|&name| name.to_owned()).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{arguments:?}");
    }
    for wrong in ["colour=red", "dangling=maybe", "nothing"] {
        let said = store.fails(2, ["images", "-f", wrong]);
        assert!(said.starts_with("plyfs: "), "{said}");
    }
    let said = store.fails(1, ["images", "-f", "before=absent"]);
    assert!(
        said.contains("cannot filter by before=absent: it is not in the store"),
        "{said}"
    );
}

#[test]
fn formats_and_orders() {
    let store = stored();
    let table = store.stdout([
        "images",
        "--format",
        r"table {{.ID}}\t{{.Repository}}\t{{lower .Tag}}",
        "debian:12",
    ]);
    let heading: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["IMAGE", "ID", "REPOSITORY", "TAG"], "{table}");
    let sizes = store.stdout([
        "images",
        "--format",
        "{{.Size}} {{.UniqueSize}} {{.SharedSize}}",
        "debian:13",
    ]);
    // "base" is shared with debian:12, "more" is not.
    assert_eq!(sizes, "8B 4B 4B\n");
    for line in store.stdout(["images", "--format", "json"]).lines() {
        let image: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            image["CreatedAt"]
                .as_str()
                .unwrap()
                .contains(" 00:00:00 +0000 UTC"),
            "{image}"
        );
    }
    let said = store.fails(2, ["images", "--format", "{{.Nothing}}"]);
    assert!(said.contains("there is no field Nothing, only"), "{said}");
    assert_eq!(names(&store, &["--sort", "size"])[0], "debian:13");
    assert_eq!(names(&store, &["--sort", "repository"])[0], "app:<none>");
    assert_eq!(
        names(&store, &["--sort", "created", "--reverse"])[0],
        "app:<none>"
    );
    assert!(store.stdout(["images", "--sizes"]).contains("UNIQUE SIZE"));
}

#[test]
fn the_tree_shows_platforms_attestations_and_layers() {
    let store = Store::new();
    let mut layout = Layout::new(&store, "layout");
    let images = ["linux/amd64", "linux/arm64"].map(|platform| Made {
        layers: &["one", "two"],
        platform,
        ..Made::default()
    });
    layout.add_index("multi", &images);
    let place = super::layout(&layout.path, "multi");
    store.run([
        "pull",
        "-q",
        &place,
        "--platform",
        "linux/arm64",
        "--name",
        "multi:1",
    ]);
    store.run(["tag", "multi:1", "multi:2"]);
    let tree = store.stdout(["image", "ls", "--tree"]);
    for part in [
        "multi:2, multi:1",
        "├─ linux/amd64",
        "├─ linux/arm64",
        "│  ├─ layer 1",
        "│  └─ layer 2",
        "└─ attestation of ",
    ] {
        assert_eq!(tree.matches(part).count(), 1, "{part}: {tree}");
    }
    assert_eq!(tree.matches("not stored").count(), 2, "{tree}");
    // Of this machine's platform there is nothing; that is no damage.
    let listed = store.stdout(["images", "--format", "{{.Platform}} {{.Size}}", "multi:1"]);
    assert_eq!(listed, "linux/arm64 6B\n");
    let inspected = store.stdout([
        "inspect",
        "--platform",
        "linux/arm64",
        "multi:1",
        "--format",
        "{{range .Manifests}}{{.Kind}} {{.Platform}} {{.Stored}};{{end}}",
    ]);
    assert_eq!(
        inspected,
        "image linux/amd64 false;image linux/arm64 true;attestation unknown/unknown false;\n"
    );
}

#[test]
fn history_is_that_of_docker() {
    let store = Store::new();
    let image = Made {
        layers: &["lower", "upper"],
        ..Made::default()
    };
    store_image(&store, "app:1", &image);
    let table = store.stdout(["history", "app:1"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 5, "{table}");
    let heading: Vec<&str> = lines[0]
        .split("  ")
        .filter(|s| !s.is_empty())
        .map(str::trim)
        .collect();
    assert_eq!(
        heading,
        ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"],
        "{table}"
    );
    let id = store.stdout(["images", "-q", "app"]);
    assert!(
        lines[1].starts_with(id.trim()) && lines[1].contains("0B"),
        "{table}"
    );
    assert!(
        lines[2].starts_with("<missing>") && lines[2].contains("5B"),
        "{table}"
    );
    assert!(
        lines[2].contains("COPY upper /file # xxxxxxxxxxxxxxxxxxxxxxxxx…"),
        "{table}"
    );
    let quiet = store.stdout(["image", "history", "-q", "app:1"]);
    assert_eq!(quiet, format!("{id}<missing>\n<missing>\n<missing>\n"));
    let full = store.stdout(["history", "--no-trunc", "--human=false", "app:1"]);
    assert!(
        full.contains("2024-05-06T07:08:09Z") && full.contains(&"x".repeat(50)),
        "{full}"
    );
    let rows = store.stdout([
        "history",
        "--format",
        "{{.Size}} {{.Files}} {{.Layer}}",
        "app:1",
    ]);
    let rows: Vec<Vec<&str>> = rows.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!((rows[0][0], rows[0][1]), ("0B", ""));
    assert_eq!((rows[1][0], rows[1][1], rows[1][2].len()), ("5B", "1", 12));
    assert!(
        store
            .stdout(["history", "--layers", "app:1"])
            .contains("COMPRESSED SIZE")
    );
    let said = store.fails(1, ["history", "absent"]);
    assert!(said.contains("cannot tell the history of absent"), "{said}");
}

#[test]
fn inspect_has_docker_fields_and_templates() {
    let store = Store::new();
    let image = Made {
        layers: &["lower", "upper"],
        labels: &[("vendor", "x")],
        ..Made::default()
    };
    let digest = store_image(&store, "app:1", &image);
    store.run(["image", "tag", "app:1", "app:2", "other:1"]);
    for (format, expected) in [
        ("{{.RepoTags}}", "[app:1 app:2 other:1]".to_owned()),
        (
            "{{json .RepoDigests}}",
            format!("[\"app@{digest}\",\"other@{digest}\"]"),
        ),
        (
            "{{.Config.Labels.vendor}} {{.Config.Cmd}} {{.Config.Entrypoint}}",
            "x [sh] []".to_owned(),
        ),
        ("{{join .Config.Env \";\"}}", "PATH=/bin;A=b".to_owned()),
        (
            "{{len .RootFS.Layers}} {{.RootFS.Type}} {{.Os}} {{.Size}}",
            "2 layers linux 10".to_owned(),
        ),
        (
            "{{.GraphDriver.Name}} {{.Parent}}.{{.Author}}.",
            "plyfs ..".to_owned(),
        ),
        (
            "{{(index .Layers 0).DiffId}}",
            "{{index .RootFS.Layers 0}}".to_owned(),
        ),
    ] {
        let expected = match expected.starts_with("{{") {
            true => store.stdout(["inspect", "--format", &expected, "app:1"]),
            false => expected + "\n",
        };
        assert_eq!(
            store.stdout(["inspect", "-f", format, "app:1"]),
            expected,
            "{format}"
        );
    }
    // Stores of before do not tell the time of the last name.
    let tagged = store.stdout(["inspect", "-f", "{{.Metadata.LastTagTime}}", "app:1"]);
    assert!(
        tagged.starts_with("20") && tagged.ends_with("Z\n"),
        "{tagged}"
    );
    let index = fs::read_to_string(store.root().join("index.json")).unwrap();
    let index = index.replace("io.github.plyfs.tagged", "unknown");
    fs::write(store.root().join("index.json"), index).unwrap();
    let tagged = store.stdout(["inspect", "-f", "{{.Metadata.LastTagTime}}", "app:1"]);
    assert_eq!(tagged, "0001-01-01T00:00:00Z\n");
    let said = store.fails(2, ["inspect", "-f", "{{.Nothing}}", "app:1"]);
    assert!(said.contains("cannot use the format"), "{said}");
    assert!(
        store
            .stdout(["inspect", "-f", "json", "app:1"])
            .starts_with("[{")
    );
}

#[test]
fn regression_json_tells_names_apart_that_are_no_text() {
    let store = Store::new();
    let file = store.root().with_file_name("odd.tar");
    let entries: [(&[u8], &[u8]); 2] = [(b"\xff", b"A"), (br"\xff", b"B")];
    fs::write(&file, super::archive(&entries)).unwrap();
    import_from(&store, &file, "odd:1");
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    for line in store.stdout(["ls", "--json", "odd:1"]).lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        found.push((text("path").unwrap(), text("pathBase64")));
    }
    let path = r"/\xff".to_owned();
    found.sort();
    assert_eq!(
        found,
        [(path.clone(), None), (path, Some("L/8=".to_owned()))]
    );
}

/// What `plyfs` prints on a terminal.
fn on_a_terminal(store: &Store, words: &str) -> String {
    let (program, root) = (plyfs_program(), store.root());
    let line = format!("{} --root {} {words}", program.display(), root.display());
    let mut script = Command::new("script");
    let output = succeed(script.args(["-qec", &line, "/dev/null"]));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn regression_texts_of_images_neither_break_tables_nor_steer_terminals() {
    if !require(&[Need::Program("script")]) {
        return;
    }
    let (store, tree) = (Store::new(), temp_dir());
    fs::write(tree.path().join("file"), "").unwrap();
    let path = tree.path().display().to_string();
    store.run(["import", "-m", "one\n\ttwo\x1b[2J", &path, "app:1"]);
    let table = store.stdout(["history", "app:1"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.ends_with("one  two [2J\n"), "{table}");
    let shown = on_a_terminal(&store, "history --format {{.Comment}} app:1");
    assert_eq!(shown, "one  two [2J\r\n");
    // Programs are given what there is.
    let piped = store.stdout(["history", "--format", "{{.Comment}}", "app:1"]);
    assert_eq!(piped, "one\n\ttwo\x1b[2J\n");
}

#[test]
fn regression_names_of_changed_files_do_not_steer_terminals() {
    if !require(&[Need::Fuse, Need::Program("script")]) {
        return;
    }
    let store = Store::new();
    super::import(&store, "app:1", b"content");
    succeed(
        store
            .command(["mount", "--name", "web", "app:1"])
            .arg(store.mountpoint()),
    );
    let mount = store.guard();
    fs::write(mount.path().join("a\x1b[2J"), "").unwrap();
    mount.unmount();
    let shown = on_a_terminal(&store, "container diff web");
    assert_eq!(shown, "A '/a\\x1b[2J'\r\n");
    assert_eq!(store.stdout(["container", "diff", "web"]), "A /a\x1b[2J\n");
}

#[test]
fn regression_an_empty_format_is_none() {
    let store = Store::new();
    // Of long ago: the age of what is new changes from one command to the next.
    store_image(&store, "one:1", &Made::default());
    let usual = store.stdout(["image", "ls"]);
    assert_eq!(store.stdout(["image", "ls", "--format", ""]), usual);
    let usual = store.stdout(["image", "inspect", "one:1"]);
    assert_eq!(
        store.stdout(["image", "inspect", "--format", "", "one:1"]),
        usual
    );
}
