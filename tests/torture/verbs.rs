//! The commands that write, each on a store that gives it something to do.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;

use plyfs::oci::{ChainId, Descriptor, Digest};
use plyfs::store::Store;

use super::lab::{Lab, names, noise};
use super::support::{succeed, wait_for};

/// A command.
pub struct Verb {
    pub name: &'static str,
    pub words: &'static [&'static str],
    /// What is done to the store before.
    pub set_up: fn(&Lab),
    /// Whether what it had received is kept for who gives it again.
    pub resumes: bool,
    /// Whether it finds things damaged, which may be missing until it is done.
    pub repairs: bool,
    /// What it says when it is done already.
    pub gone: &'static str,
}

impl Verb {
    const fn new(name: &'static str, words: &'static [&'static str]) -> Verb {
        Verb {
            name,
            words,
            set_up: |_| {},
            resumes: false,
            repairs: false,
            gone: "",
        }
    }

    const fn after(self, set_up: fn(&Lab)) -> Verb {
        Verb { set_up, ..self }
    }

    const fn resumes(self) -> Verb {
        Verb {
            resumes: true,
            ..self
        }
    }

    const fn repairs(self) -> Verb {
        Verb {
            repairs: true,
            ..self
        }
    }

    const fn once(self, gone: &'static str) -> Verb {
        Verb { gone, ..self }
    }

    /// Whether it needs a registry.
    pub fn is_remote(&self) -> bool {
        self.words.iter().any(|word| word.contains("{registry}"))
    }
}

const PULL: &[&str] = &[
    "pull",
    "-q",
    "oci:{base}/source:docker.io/library/new:1",
    "--name",
    "new:1",
];
const REMOTE_PULL: &[&str] = &["pull", "-q", "{registry}/new:1", "--name", "new:1"];
const IMPORT: &[&str] = &["import", "{base}/other", "fresh:1"];
const SAVE: &[&str] = &["save", "-o", "{base}/work/out.tar", "keep:1"];
const PUSH: &[&str] = &["push", "-q", "{registry}/app:1"];
const REPAIR: &[&str] = &["check", "--repair"];

pub const VERBS: &[Verb] = &[
    Verb::new("pull", PULL).resumes(),
    Verb::new("resumed pull", PULL)
        .after(receive_half)
        .resumes(),
    Verb::new("pull from a registry", REMOTE_PULL).resumes(),
    Verb::new("resumed pull from a registry", REMOTE_PULL)
        .after(receive_half)
        .resumes(),
    Verb::new("load", &["load", "-q", "-i", "{base}/new.tar"]),
    Verb::new("import", IMPORT),
    Verb::new("first import", IMPORT)
        .after(|lab| fs::remove_dir_all(lab.path("work/store")).unwrap()),
    Verb::new("import after others were killed", IMPORT).after(leave_everything),
    Verb::new("commit", &["commit", "web", "web:1"]),
    Verb::new("tag", &["tag", "old:1", "gone:1", "more:1"]),
    Verb::new("rmi", &["rmi", "old:1"]).once("not in the store"),
    Verb::new("prune", &["image", "prune", "-f"]),
    Verb::new("prune -a", &["image", "prune", "-a", "-f"]),
    Verb::new("container rm", &["container", "rm", "web"]).once("there is none of that name"),
    Verb::new("save", SAVE),
    Verb::new("save to a new file", SAVE)
        .after(|lab| fs::remove_file(lab.path("work/out.tar")).unwrap()),
    Verb::new("push", PUSH).after(push_nothing),
    Verb::new("resumed push", PUSH).after(push_half),
    Verb::new("check --repair", REPAIR).after(damage).repairs(),
    Verb::new("check --repair of the list", REPAIR)
        .after(damage_list)
        .repairs(),
];

/// The largest blob has come in half.
fn receive_half(lab: &Lab) {
    let blobs = lab.path("source/blobs/sha256");
    let size = |name: &String| blobs.join(name).metadata().unwrap().len();
    let largest = names(&blobs).into_iter().max_by_key(size).unwrap();
    let content = fs::read(blobs.join(&largest)).unwrap();
    let ingest = lab
        .path("work/store/ingest")
        .join(format!("sha256-{largest}"));
    fs::create_dir(&ingest).unwrap();
    fs::write(ingest.join("lock"), "").unwrap();
    fs::write(ingest.join("blob"), &content[..content.len() / 2]).unwrap();
}

/// What killed processes may have left, of every kind.
fn leave_everything(lab: &Lab) {
    let store = lab.path("work/store");
    for directory in [
        "trash/a.1-0",
        "ingest/1-0-staging.new/layer",
        "ingest/sha256-00/layer",
    ] {
        fs::create_dir_all(store.join(directory)).unwrap();
        fs::write(store.join(directory).join("pack"), noise(3, 9000)).unwrap();
    }
    for file in ["trash/b.1-1", "ingest/1-1.new", "ingest/sha256-00/copy"] {
        fs::write(store.join(file), "left").unwrap();
    }
    let lease = r#"{"kind":"make","pid":1,"image":"x","digests":[]}"#;
    fs::write(store.join("leases/1-0.json"), lease).unwrap();
    fs::write(store.join("leases/1-1.json"), "").unwrap();
    let garbage = Digest::of(b"garbage");
    fs::write(store.join("blobs/sha256").join(garbage.hex()), "garbage").unwrap();
}

/// An image has the name by which it is pushed, and the registry knows nothing of it.
fn push_nothing(lab: &Lab) {
    let pushed = lab.pushed().unwrap();
    // It may be at work still for a push that was killed.
    wait_for("the end of what was pushed", || {
        !pushed.exists() || fs::remove_dir_all(&pushed).is_ok()
    });
    succeed(&mut lab.command(&["tag", "keep:1", "{registry}/app:1"]));
}

/// And half of the largest layer was sent.
fn push_half(lab: &Lab) {
    push_nothing(lab);
    let store = Store::open(&lab.path("work/store")).unwrap();
    let found = plyfs::image::find(&store, "keep:1", None).unwrap();
    let largest = |layers: Vec<Descriptor>| layers.into_iter().max_by_key(|layer| layer.size);
    let digest = largest(found.manifest.layers).unwrap().digest;
    let content = fs::read(store.blob_path(&digest)).unwrap();
    let registry = lab.registry.as_ref().unwrap();
    let begun = request(registry.address(), "POST", "/v2/app/blobs/uploads/", &[]);
    let path = begun.trim_start_matches("http://");
    let path = path.trim_start_matches(registry.address());
    let half = &content[..content.len() / 2];
    let address = request(registry.address(), "PATCH", path, half);
    let kept = store.upload_file(&registry.reference("app"), &digest, true);
    kept.unwrap().unwrap().write(&address, 0).unwrap();
}

/// Asks a registry for something, and gives the place that it answers with.
fn request(address: &str, method: &str, path: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let mut lines = answer.lines();
    let place = lines.find_map(|line| line.strip_prefix("Location: "));
    place.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// A layer has another content, one is missing, and so has a chain; and others were killed.
fn damage(lab: &Lab) {
    leave_everything(lab);
    let store = Store::open(&lab.path("work/store")).unwrap();
    let layers = |name: &str| {
        let found = plyfs::image::find(&store, name, None).unwrap();
        found.config.rootfs.diff_ids
    };
    let top = |name| store.layer_path(layers(name).last().unwrap());
    invert(&top("keep:1").join("pack"));
    fs::remove_dir_all(top("old:1")).unwrap();
    let images = store.images().unwrap();
    let dangling = images.iter().find(|image| image.reference.is_none());
    let dangling = dangling.unwrap().descriptor.digest.to_string();
    let chain = ChainId::of(&layers(&dangling)).unwrap();
    invert(&store.chain_path(&chain).join("index"));
}

/// Makes the last byte of a file another one.
fn invert(path: &std::path::Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    let file = file.unwrap();
    let at = file.metadata().unwrap().len() - 1;
    let mut last = [0];
    file.read_exact_at(&mut last, at).unwrap();
    file.write_all_at(&[!last[0]], at).unwrap();
}

/// The list of images cannot be read.
fn damage_list(lab: &Lab) {
    fs::write(lab.path("work/store/index.json"), "{").unwrap();
}
