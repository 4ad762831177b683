//! `pull` with all its flags, from a real registry.

use plyfs::oci::Digest;
use serde_json::Value;

use super::made::{Layout, Made};
use super::support::{Need, Registry, Store, require, skopeo_copy};
use super::{archive, listed, names};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("skopeo")];

fn made<'a>(layers: &'a [&'a str]) -> Made<'a> {
    Made {
        layers,
        ..Made::default()
    }
}

#[test]
fn what_docker_s_introductions_do() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let mut layout = Layout::new(&store, "layout");
    let old = layout.add("1", &made(&["base", "one"]));
    registry.push(&layout.path, "1", "app:1");
    let app = registry.reference("app");
    let name = format!("{app}:1");

    let told = store.stdout(["pull", &name]);
    assert!(
        told.contains("1: Pulling from app") && told.contains(&format!("Digest: {old}")),
        "{told}"
    );
    assert!(
        told.contains(&format!("Status: Downloaded newer image for {name}")),
        "{told}"
    );
    let told = store.stdout(["image", "pull", &name]);
    assert_eq!(told.matches("Already exists").count(), 2, "{told}");
    assert!(told.contains("Status: Image is up to date"), "{told}");

    // A newer image takes the tag: the old one dangles, and keeps its digest.
    let new = layout.add("1", &made(&["base", "two"]));
    registry.push(&layout.path, "1", "app:1");
    assert_eq!(store.stdout(["pull", "-q", &name]), format!("{name}\n"));
    assert_eq!(listed(&store), [name.clone(), format!("{app}:<none>")]);
    let dangling = store.stdout(["images", "-f", "dangling=true", "--digests"]);
    assert!(dangling.contains(&old.to_string()), "{dangling}");
    let told = store.stdout(["image", "prune", "-f"]);
    assert!(told.contains("Total reclaimed space"), "{told}");
    assert_eq!(listed(&store), [name.as_str()]);

    // By its digest it can be had still.
    let by_digest = format!("{app}@{old}");
    store.run(["pull", "-q", &by_digest]);
    assert_eq!(listed(&store), [name.clone(), format!("{app}:<none>")]);
    assert_eq!(store.stdout(["cat", &format!("{by_digest}:/file")]), "one");
    assert!(
        store
            .stdout(["rmi", &by_digest])
            .starts_with(&format!("Untagged: {by_digest}\nDeleted: "))
    );
    assert!(
        store
            .stdout(["inspect", "-f", "{{.RepoDigests}}", &name])
            .contains(&format!("{app}@{new}"))
    );
    store.run(["rmi", &name]);
    assert!(names(&store, "blobs/sha256").is_empty());

    let said = store.fails(1, ["pull", &format!("{app}:11")]);
    assert!(said.contains("the closest tag is 1"), "{said}");
}

#[test]
fn all_tags_and_dry_runs() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let mut layout = Layout::new(&store, "layout");
    for tag in ["1.0", "1.1", "latest"] {
        layout.add(tag, &made(&["base", tag]));
        registry.push(&layout.path, tag, &format!("app:{tag}"));
    }
    let app = registry.reference("app");
    let told = store.stdout([
        "pull",
        "--dry-run",
        &format!("{app}:1.0"),
        &format!("{app}:1.1"),
    ]);
    assert_eq!(told.matches("Would be fetched").count(), 4, "{told}");
    assert!(names(&store, "").is_empty(), "a dry run makes no store");

    store.run(["pull", "-q", &format!("{app}:1.0")]);
    let plan = store.stdout(["pull", "--dry-run", "--json", &format!("{app}:1.1")]);
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let layers = &plan["Images"][0]["Layers"];
    assert_eq!(
        (&layers[0]["Exists"], &layers[1]["Exists"]),
        (&true.into(), &false.into()),
        "{plan}"
    );
    assert_eq!(plan["FetchedBytes"], layers[1]["CompressedSize"], "{plan}");
    assert_eq!(listed(&store), [format!("{app}:1.0")]);

    let told = store.stdout(["pull", "-a", &app]);
    assert_eq!(told.matches("Status: ").count(), 3, "{told}");
    assert_eq!(
        listed(&store),
        ["1.0", "1.1", "latest"].map(|tag| format!("{app}:{tag}"))
    );
    let told = store.stdout(["pull", "--dry-run", "-a", &app]);
    assert_eq!(told.matches("Would fetch: 0B").count(), 3, "{told}");
    let said = store.fails(2, ["pull", "-a", &format!("{app}:1.0")]);
    assert!(said.contains("it names one image"), "{said}");
    let said = store.fails(1, ["pull", "-a", &registry.reference("absent")]);
    assert!(said.contains("cannot pull all tags"), "{said}");
}

/// Puts an image of three platforms into a registry, with an attestation of the first; its name and digest.
fn push_index(registry: &Registry, store: &Store) -> (String, Digest) {
    let mut layout = Layout::new(store, "layout");
    let images = [
        ("linux/amd64", &["base", "amd"]),
        ("linux/arm64", &["base", "arm"]),
        ("linux/s390x", &["base", "ibm"]),
    ];
    let images = images.map(|(platform, layers)| Made {
        layers,
        platform,
        ..Made::default()
    });
    let digest = layout.add_index("multi", &images);
    let name = registry.reference("multi:1");
    skopeo_copy(
        &["--all", "--preserve-digests", "--dest-tls-verify=false"],
        &format!("oci:{}:multi", layout.path.display()),
        &format!("docker://{name}"),
    );
    (name, digest)
}

#[test]
fn several_platforms_of_one_image() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let (name, digest) = push_index(&registry, &store);
    let stored = |store: &Store| {
        let format = "{{range .Manifests}}{{if .Stored}}{{.Kind}} {{.Platform}};{{end}}{{end}}";
        let platform = ["inspect", "--platform", "linux/arm64", "-f", format, &name];
        store.stdout(platform).trim().to_owned()
    };
    let told = store.stdout(["pull", "--dry-run", "--platform", "all", &name]);
    assert_eq!(told.matches("linux/").count(), 3, "{told}");
    assert_eq!(told.matches("Attestation of").count(), 1, "{told}");

    let two = ["--platform", "linux/arm64", "--platform", "linux/s390x"];
    let told = store.stdout(["pull"].iter().chain(&two).chain(&[name.as_str()]));
    assert!(told.contains(&format!("Digest: {digest}")), "{told}");
    assert_eq!(stored(&store), "image linux/arm64;image linux/s390x;");
    let cat = ["cat", "--platform", "linux/s390x", &format!("{name}:/file")];
    assert_eq!(store.stdout(cat), "ibm");
    // Another one is added to those that are there.
    store.run(["pull", "-q", "--platform", "all", &name]);
    let whole =
        "image linux/amd64;image linux/arm64;image linux/s390x;attestation unknown/unknown;";
    assert_eq!(stored(&store), whole);
    let told = store.stdout(["pull", "--platform", "all", &name]);
    assert!(told.contains("Image is up to date"), "{told}");
    assert!(told.contains("Attestation of "), "{told}");
    let told = store.stdout(["pull", "--dry-run", "--platform", "all", &name]);
    assert!(told.contains("Would fetch: 0B"), "{told}");
    store.run(["check"]);
    let said = store.fails(1, ["pull", "--platform", "linux/riscv64", &name]);
    assert!(
        said.contains("there is no image for linux/riscv64; there is linux/amd64"),
        "{said}"
    );
    store.run(["rmi", &name]);
    assert!(names(&store, "blobs/sha256").is_empty());
}

/// Images do not need their attestations; registries that clean up may have lost them.
#[test]
fn regression_an_attestation_that_is_lost_is_left_out() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let (name, _) = push_index(&registry, &store);
    let layer = |content: &[u8]| Digest::of(&archive(&[("file", content)]));
    registry.lose_blob(&layer(b"statement"));
    let output = store.run(["pull", "-q", "--platform", "all", &name]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    let lost = format!("there is no blob {}", layer(b"statement"));
    assert!(
        said.contains(": attestation ") && said.contains(&lost),
        "{said}"
    );
    for platform in ["linux/amd64", "linux/arm64", "linux/s390x"] {
        store.run(["ls", "--platform", platform, &name]);
    }
    store.run(["check"]);
    assert!(names(&store, "ingest").is_empty());
    let told = store.stdout(["pull", "--platform", "all", &name]);
    assert!(told.contains("Image is up to date"), "{told}");
    // As it is without its manifest.
    let format = "{{range .Manifests}}{{if eq .Kind \"attestation\"}}{{.Digest}}{{end}}{{end}}";
    let attestation = store.stdout(["inspect", "-f", format, &name]);
    registry.lose_blob(&attestation.trim().parse().unwrap());
    let output = store.run(["pull", "-q", "--platform", "all", &name]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is left out: there is no "), "{said}");

    // What an image is made of is another matter.
    registry.lose_blob(&layer(b"ibm"));
    let other = Store::new();
    let said = other.fails(1, ["pull", "-q", "--platform", "all", &name]);
    let lost = format!("there is no blob {}", layer(b"ibm"));
    assert!(said.contains(&lost), "{said}");
    assert_eq!(other.stdout(["images", "-q"]), "");
}

#[test]
fn an_image_is_inspected_where_it_lies() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let mut layout = Layout::new(&store, "layout");
    layout.add("1", &made(&["base", "one"]));
    registry.push(&layout.path, "1", "app:1");
    let name = registry.reference("app:1");
    let fields = "{{.Id}} {{.RepoTags}} {{.RepoDigests}} {{json .Config}} {{json .RootFS}} {{json .Manifest}} {{.CompressedSize}}";
    let remote = store.stdout(["image", "inspect", "--remote", "-f", fields, &name]);
    assert!(names(&store, "").is_empty(), "nothing is pulled");
    store.run(["pull", "-q", &name]);
    assert_eq!(
        remote,
        store.stdout(["image", "inspect", "-f", fields, &name])
    );
    let said = store.fails(1, ["inspect", "--remote", &registry.reference("absent:1")]);
    assert!(said.contains("cannot inspect"), "{said}");
}

#[test]
fn regression_a_registry_that_fails_is_not_asked_again_in_silence() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/app", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::{Read, Write};
            let mut stream = stream.unwrap();
            // A request without content comes as a whole.
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            let answer = "HTTP/1.1 500 Broken\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let said = Store::new().fails(1, ["pull", &name]);
    let warning = "answered with status 500; trying again (attempt 3 of 5)";
    assert!(
        said.contains("plyfs: warn: ") && said.contains(warning),
        "{said}"
    );
    assert!(said.contains("cannot pull"), "{said}");
}
