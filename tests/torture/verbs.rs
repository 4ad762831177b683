//! The commands that write, each on a store that gives it something to do.

use std::fs;

use super::lab::{Lab, names, noise};

/// A command.
pub struct Verb {
    pub name: &'static str,
    pub words: &'static [&'static str],
    /// What is done to the store before.
    pub set_up: fn(&Lab),
    /// Whether what it had received is kept for who gives it again.
    pub resumes: bool,
    /// What it says when it is done already.
    pub gone: &'static str,
}

const PLAIN: Verb = Verb {
    name: "",
    words: &[],
    set_up: |_| {},
    resumes: false,
    gone: "",
};

const PULL: &[&str] = &[
    "pull",
    "-q",
    "oci:{base}/source:docker.io/library/new:1",
    "--name",
    "new:1",
];

pub const VERBS: &[Verb] = &[
    Verb {
        name: "pull",
        words: PULL,
        resumes: true,
        ..PLAIN
    },
    Verb {
        name: "resumed pull",
        words: PULL,
        set_up: receive_half,
        resumes: true,
        ..PLAIN
    },
    Verb {
        name: "load",
        words: &["load", "-q", "-i", "{base}/new.tar"],
        ..PLAIN
    },
    Verb {
        name: "import",
        words: &["import", "{base}/other", "fresh:1"],
        ..PLAIN
    },
    Verb {
        name: "first import",
        words: &["import", "{base}/other", "fresh:1"],
        set_up: |lab| fs::remove_dir_all(lab.path("work/store")).unwrap(),
        ..PLAIN
    },
    Verb {
        name: "import after others were killed",
        words: &["import", "{base}/other", "fresh:1"],
        set_up: leave_everything,
        ..PLAIN
    },
    Verb {
        name: "commit",
        words: &["commit", "web", "web:1"],
        ..PLAIN
    },
    Verb {
        name: "tag",
        words: &["tag", "old:1", "gone:1", "more:1"],
        ..PLAIN
    },
    Verb {
        name: "rmi",
        words: &["rmi", "old:1"],
        gone: "not in the store",
        ..PLAIN
    },
    Verb {
        name: "prune",
        words: &["image", "prune", "-f"],
        ..PLAIN
    },
    Verb {
        name: "prune -a",
        words: &["image", "prune", "-a", "-f"],
        ..PLAIN
    },
    Verb {
        name: "container rm",
        words: &["container", "rm", "web"],
        gone: "there is none of that name",
        ..PLAIN
    },
    Verb {
        name: "save",
        words: &["save", "-o", "{base}/work/out.tar", "keep:1"],
        ..PLAIN
    },
    Verb {
        name: "save to a new file",
        words: &["save", "-o", "{base}/work/out.tar", "keep:1"],
        set_up: |lab| fs::remove_file(lab.path("work/out.tar")).unwrap(),
        ..PLAIN
    },
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
    let garbage = plyfs::oci::Digest::of(b"garbage");
    fs::write(store.join("blobs/sha256").join(garbage.hex()), "garbage").unwrap();
}
