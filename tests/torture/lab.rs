//! A small store with everything in it that commands work on, and what can be told of its state.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use plyfs::store::{ContainerRecord, Store};
use tempfile::TempDir;

use super::ground::{Disk, Ground};
use super::support::{Need, Registry, User, command_as, plyfs_program, require, succeed, text};

/// All that lies around the store.
///
/// ```text
/// <base>/  source/  a store that images are pulled from, as from an OCI layout
///          new.tar  an image, saved
///          tree/, other/  root filesystems
///          work/    store/, out.tar: what is made again for each run
/// ```
pub struct Lab {
    // Before the directory in which it is mounted.
    pub ground: Ground,
    base: TempDir,
    /// One that has the image, too, if the program for it is there.
    pub registry: Option<Registry>,
}

/// What a store has: images, with their contents, and containers.
pub type Images = BTreeMap<String, String>;

impl Lab {
    /// A new one, whose store lies on `disk`.
    pub fn new(disk: Option<Disk>) -> Lab {
        // In memory: it is written again and again.
        let memory = Path::new("/dev/shm");
        let place = match nix::unistd::access(memory, nix::unistd::AccessFlags::W_OK) {
            Ok(()) => memory.to_owned(),
            Err(_) => std::env::temp_dir(),
        };
        let mut base = tempfile::Builder::new();
        let base = base.prefix("plyfs-torture-").tempdir_in(place).unwrap();
        let ground = Ground::new(base.path(), disk);
        let registry = require(&[Need::Program("docker-registry")]).then(Registry::start);
        let lab = Lab {
            base,
            ground,
            registry,
        };
        lab.make_source();
        lab.make_store();
        lab.ground.keep();
        lab
    }

    /// Where things lie, by the names above.
    pub fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// `plyfs WORDS` on the store; `{base}` in a word is where things lie, `{registry}` the address of the
    /// registry.
    pub fn command(&self, words: &[&str]) -> Command {
        self.command_on("work/store", words)
    }

    fn command_on(&self, store: &str, words: &[&str]) -> Command {
        let mut command = command_as(User::Same, plyfs_program());
        // The same is made of the same.
        command.env("SOURCE_DATE_EPOCH", "86400");
        command.arg("--root").arg(self.path(store));
        let base = self.base.path().display().to_string();
        let registry = self.registry.as_ref().map_or("", Registry::address);
        command.args(words.iter().map(|word| {
            let word = word.replace("{base}", &base);
            word.replace("{registry}", registry)
        }));
        command
    }

    pub fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn make_source(&self) {
        let tree = self.path("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/conf"), "conf").unwrap();
        fs::create_dir_all(self.path("other/etc")).unwrap();
        fs::write(self.path("other/etc/conf"), "other").unwrap();
        fs::write(self.path("other/large"), noise(2, 140_000)).unwrap();
        fs::write(tree.join("large"), noise(1, 130 << 10)).unwrap();
        let run = |words: &[&str]| succeed(&mut self.command_on("source", words));
        run(&["import", "{base}/tree", "one:1"]);
        for (below, name, size) in [
            ("one", "two", 100),
            ("one", "three", 5000),
            ("one", "five", 10),
            ("two", "first", 70_000),
            ("first", "second", 140 << 10),
            ("second", "new", 0),
        ] {
            self.make_container("source", name, below, &noise(size, size));
            run(&["commit", name, &format!("{name}:1")]);
        }
        run(&["save", "-o", "{base}/new.tar", "new:1"]);
        if self.registry.is_some() {
            run(&["tag", "new:1", "{registry}/new:1"]);
            run(&["push", "-q", "{registry}/new:1"]);
        }
    }

    fn make_store(&self) {
        for (image, name) in [("two", "keep"), ("three", "old"), ("five", "gone")] {
            let source = format!("oci:{{base}}/source:docker.io/library/{image}:1");
            let name = format!("{name}:1");
            succeed(&mut self.command(&["pull", "-q", &source, "--name", &name]));
        }
        // That leaves one dangling.
        succeed(&mut self.command(&["tag", "keep:1", "gone:1"]));
        self.make_container("work/store", "web", "keep", &noise(7, 9000));
        fs::write(self.path("work/out.tar"), "before").unwrap();
    }

    /// The directory in which the registry keeps what was pushed as `app`.
    pub fn pushed(&self) -> Option<PathBuf> {
        Some(self.registry.as_ref()?.storage("repositories/app"))
    }

    /// Makes a container of an image, in which there is one more file.
    fn make_container(&self, store: &str, name: &str, image: &str, content: &[u8]) {
        let store = Store::open(&self.path(store)).unwrap();
        let reference = format!("docker.io/library/{image}:1");
        let images = store.images().unwrap();
        let is_it = |name: &plyfs::oci::Reference| name.to_string() == reference;
        let found = images
            .iter()
            .find(|it| it.reference.as_ref().is_some_and(is_it));
        let digest = found.unwrap().descriptor.digest;
        let record = ContainerRecord {
            image: reference,
            image_digest: digest,
            manifest_digest: digest,
            created: "2024-01-01T00:00:00Z".to_owned(),
            ephemeral: false,
        };
        let container = store.create_container(name, record).unwrap();
        fs::write(container.upper().join(name), content).unwrap();
    }

    /// The names of images with their IDs, and of containers, but for what [`Lab::tidy`] makes. None where
    /// there is no store yet.
    pub fn listed(&self) -> BTreeSet<String> {
        let columns = "{{.Repository}}:{{.Tag}} {{.ID}}";
        let images = self.output(&["images", "-a", "--no-trunc", "--format", columns]);
        // What it complains of is seen by that, too.
        let mut listed: BTreeSet<String> = text(&images).lines().map(str::to_owned).collect();
        listed.retain(|line| !line.starts_with("tidy:"));
        if self.path("work/store/store.json").exists() {
            let table = self.output(&["container", "ls", "--json"]);
            match serde_json::from_slice::<serde_json::Value>(&table.stdout) {
                Ok(table) => {
                    let names = table.as_array().unwrap().iter();
                    listed.extend(names.map(|row| format!("container {}", row["name"])));
                }
                Err(_) => listed.extend(text(&table).lines().map(str::to_owned)),
            }
        }
        listed
    }

    /// The content of everything listed.
    pub fn content(&self, listed: &str) -> String {
        let name = match listed.strip_prefix("container ") {
            Some(name) => name.trim_matches('"'),
            None => listed.rsplit(' ').next().unwrap_or_default(),
        };
        let archive = self.output(&["export", name]);
        let hash = plyfs::oci::Digest::of(&archive.stdout);
        let complaint = String::from_utf8_lossy(&archive.stderr);
        format!("{:?} {hash} {complaint}", archive.status.code())
    }

    /// An ordinary command that writes, and so begins by tidying up.
    pub fn tidy(&self) -> Output {
        self.output(&["import", "{base}/tree/etc", "tidy:1"])
    }

    /// The names of all objects of the store.
    pub fn objects(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for kind in [
            "blobs/sha256",
            "layers/sha256",
            "chains/sha256",
            "containers",
        ] {
            for name in names(&self.path("work/store").join(kind)) {
                found.insert(format!("{kind}/{name}"));
            }
        }
        found
    }

    /// What lies where nothing lies as long as nobody works, and beside the store.
    pub fn left(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for kind in ["store/ingest", "store/trash", "store/leases", ""] {
            for name in names(&self.path("work").join(kind)) {
                found.insert(format!("{kind}/{name}"));
            }
        }
        for known in ["/store", "/out.tar", "/lost+found", "/other"] {
            found.remove(known);
        }
        // What was to replace a file has another name for a moment.
        found.retain(|name| !name.starts_with("/.out"));
        found
    }
}

/// The names in a directory; none if it is not there.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

/// Bytes that no compression makes smaller, always the same.
pub fn noise(seed: usize, count: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15 ^ seed as u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..count).map(next).collect()
}
