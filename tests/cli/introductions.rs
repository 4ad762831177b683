//! What Docker's own introductions to images do, from the first pull to the last archive, against a
//! real registry: one that is open, one that wants a password, one with a certificate of a private
//! authority, and one with a token server.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use plyfs::oci::Digest;
use serde_json::Value;

use super::made::{Layout, Made};
use super::support::{Need, Registry, Setup, Store, require, succeed};
use super::tokens::Tokens;
use super::{layout, names};

/// A registry, and what is needed to get in.
struct Lab {
    registry: Registry,
    store: Store,
    auth: PathBuf,
}

impl Lab {
    fn new(setup: &Setup<'_>, login: bool) -> Lab {
        let store = Store::new();
        let lab = Lab {
            registry: Registry::set_up(setup),
            auth: store.root().with_file_name("auth.json"),
            store,
        };
        if login {
            let host = lab.registry.address();
            let told = lab.stdout(&["login", "-u", "me", "-p", "secret", host]);
            assert_eq!(told, "Login Succeeded\n");
        }
        lab
    }

    fn command(&self, args: &[&str]) -> Command {
        self.reaching(self.store.command(args))
    }

    fn reaching(&self, mut command: Command) -> Command {
        command.env("REGISTRY_AUTH_FILE", &self.auth);
        command.env("CONTAINERS_REGISTRIES_CONF", "/dev/null");
        let authority = self.registry.data().join("ca.pem");
        if authority.exists() {
            command.env("SSL_CERT_FILE", authority);
        }
        command
    }

    fn stdout(&self, args: &[&str]) -> String {
        String::from_utf8(succeed(&mut self.command(args)).stdout).unwrap()
    }

    fn listed(&self, args: &[&str]) -> Vec<String> {
        let listed = self.stdout(&[&["images"], args].concat());
        let mut listed: Vec<String> = listed.lines().map(str::to_owned).collect();
        listed.sort();
        listed
    }

    /// Makes an image of these layers and puts it into the registry as `team/app:TAG`.
    fn publish(&self, tag: &str, layers: &[&str]) -> Digest {
        let other = Store::new();
        let mut made = Layout::new(&other, "made");
        let digest = made.add(
            "x",
            &Made {
                layers,
                labels: &[("team", "red")],
                ..Made::default()
            },
        );
        let name = self.registry.reference(&format!("team/app:{tag}"));
        let own = |args: &[&str]| {
            succeed(&mut self.reaching(other.command(args)));
        };
        own(&["pull", "-q", &layout(&made.path, "x"), "--name", &name]);
        own(&["push", "-q", &name]);
        digest
    }
}

fn introduction(lab: &Lab) {
    let app = lab.registry.reference("team/app");
    let name = |tag: &str| format!("{app}:{tag}");
    let first = lab.publish("1.0", &["base", "one"]);
    lab.publish("1.1", &["base", "two"]);

    // pull, and what it says; layers that two images share exist already.
    let told = lab.stdout(&["pull", &name("1.0")]);
    for part in [
        "1.0: Pulling from team/app",
        ": Pull complete",
        &format!("Digest: {first}"),
        &format!("Status: Downloaded newer image for {}", name("1.0")),
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let told = lab.stdout(&["pull", &name("1.1")]);
    assert_eq!(told.matches(": Already exists").count(), 1, "{told}");
    assert_eq!(told.matches(": Pull complete").count(), 1, "{told}");
    assert_eq!(lab.stdout(&["tags", &app]), "1.0\n1.1\n");

    // ls with filters and formats.
    let table = lab.stdout(&["image", "ls"]);
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head.join(" "), "REPOSITORY TAG IMAGE ID CREATED SIZE");
    let format = ["--format", "{{.Repository}}: {{.Tag}}: {{.Size}}"];
    let expected = ["1.0", "1.1"].map(|tag| format!("{app}: {tag}: 7B"));
    assert_eq!(lab.listed(&format), expected);
    let short = ["--format", "{{.Tag}}"];
    let filtered = |filter: &str| lab.listed(&[&["-f", filter], &short[..]].concat());
    assert_eq!(filtered("label=team=red"), ["1.0", "1.1"]);
    assert_eq!(filtered("reference=*/team/app:*.1"), ["1.1"]);
    assert_eq!(filtered("dangling=true"), [""; 0]);
    assert_eq!(filtered("label=team=blue"), [""; 0]);

    // Several tags of one image; -a brings the others.
    lab.stdout(&["tag", &name("1.0"), "mine:a", "mine:b"]);
    let ids = lab.listed(&["-q", "mine"]);
    assert_eq!(ids[0], ids[1]);
    lab.publish("1.2", &["base", "three"]);
    let told = lab.stdout(&["pull", "-a", &app]);
    assert_eq!(told.matches("Status: ").count(), 3, "{told}");

    // By digest, after the tag is gone.
    for tag in ["1.1", "1.2"] {
        let told = lab.stdout(&["rmi", &name(tag)]);
        assert!(
            told.starts_with(&format!("Untagged: {}\n", name(tag))),
            "{told}"
        );
        // The layer that other images have stays.
        assert_eq!(told.matches("Deleted: ").count(), 2, "{told}");
    }
    lab.stdout(&["rmi", "mine:a", "mine:b", &name("1.0")]);
    assert!(names(&lab.store, "layers/sha256").is_empty());
    let pinned = format!("{app}@{first}");
    let told = lab.stdout(&["pull", &pinned]);
    assert!(told.contains(&format!("Digest: {first}")), "{told}");
    let digests = lab.stdout(&["images", "--digests"]);
    assert!(
        digests.contains(&first.to_string()) && digests.contains("<none>"),
        "{digests}"
    );

    // A tag that moves leaves a dangling image, which prune takes.
    lab.stdout(&["pull", "-q", &name("1.0")]);
    let newer = lab.publish("1.0", &["base", "newer"]);
    let told = lab.stdout(&["pull", &name("1.0")]);
    assert!(told.contains(&format!("Digest: {newer}")), "{told}");
    assert_eq!(filtered("dangling=true"), ["<none>"]);
    let told = lab.stdout(&["image", "prune", "-f"]);
    assert!(told.contains("Total reclaimed space: "), "{told}");
    assert_eq!(filtered("dangling=true"), [""; 0]);

    // inspect and history.
    let inspected = lab.stdout(&["image", "inspect", &name("1.0")]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let image = &inspected[0];
    assert_eq!(image["RepoTags"][0], name("1.0"));
    assert_eq!(image["RepoDigests"][0], format!("{app}@{newer}"));
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert_eq!(image["Config"]["Cmd"][0], "sh");
    let steps = lab.stdout(&["history", "--format", "{{.ID}} {{.Size}}", &name("1.0")]);
    let steps: Vec<&str> = steps.lines().collect();
    assert_eq!(steps[1..], ["<missing> 5B", "<missing> 0B", "<missing> 4B"]);

    // save, rm, load: it is the same again. And it can be pushed under another name.
    let archive = lab.store.root().with_file_name("saved.tar");
    let archive = archive.to_str().unwrap();
    lab.stdout(&["save", "-o", archive, &name("1.0")]);
    lab.stdout(&["rmi", &name("1.0")]);
    assert_eq!(lab.listed(&["-q"]), [""; 0]);
    let told = lab.stdout(&["load", "-i", archive]);
    assert_eq!(told, format!("Loaded image: {}\n", name("1.0")));
    lab.stdout(&["tag", &name("1.0"), &lab.registry.reference("team/copy:1")]);
    let told = lab.stdout(&["push", &lab.registry.reference("team/copy:1")]);
    assert!(
        told.contains(&format!("1: digest: {newer} size: ")),
        "{told}"
    );
    lab.stdout(&["check"]);
    fs::remove_file(archive).unwrap();
}

const NEEDS: &[Need] = &[Need::Program("docker-registry")];

#[test]
fn with_an_open_registry() {
    if require(NEEDS) {
        introduction(&Lab::new(&Setup::default(), false));
    }
}

#[test]
fn with_a_password() {
    if require(NEEDS) && require(&[Need::Program("htpasswd")]) {
        let setup = Setup {
            credentials: Some(("me", "secret")),
            ..Setup::default()
        };
        introduction(&Lab::new(&setup, true));
    }
}

#[test]
fn with_a_private_authority_and_a_password() {
    if require(NEEDS) && require(&["htpasswd", "openssl"].map(Need::Program)) {
        let setup = Setup {
            credentials: Some(("me", "secret")),
            tls: true,
            ..Setup::default()
        };
        introduction(&Lab::new(&setup, true));
    }
}

#[test]
fn with_a_token_server() {
    if require(NEEDS) && require(&[Need::Program("openssl")]) {
        let tokens = Tokens::start();
        let setup = Setup {
            more: &tokens.config(),
            ..Setup::default()
        };
        introduction(&Lab::new(&setup, true));
    }
}
