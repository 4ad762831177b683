//! What containerd may rely on, call by call. No mount is made here.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;

use tempfile::TempDir;

use super::*;
use crate::pack::Limits;

struct Fixture {
    directory: TempDir,
    snapshotter: Option<Snapshotter>,
}

impl Fixture {
    fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let snapshotter = Some(open(directory.path()).unwrap());
        Fixture {
            directory,
            snapshotter,
        }
    }

    /// Ends the snapshotter and starts another one.
    fn restart(&mut self) {
        self.snapshotter = None;
        self.snapshotter = Some(open(self.directory.path()).unwrap());
    }

    /// The directories of snapshots that are there.
    fn directories(&self) -> usize {
        self.store.snapshot_numbers().unwrap().len()
    }

    /// A committed snapshot with one file.
    fn committed(&self, name: &str, parent: &str) {
        let key = format!("{name}-key");
        let mounts = self.prepare(&key, parent, Labels::new()).unwrap();
        fs::write(writable(&mounts).join(name), name).unwrap();
        self.commit(name, &key, "", Labels::new()).unwrap();
    }
}

impl std::ops::Deref for Fixture {
    type Target = Snapshotter;

    fn deref(&self) -> &Snapshotter {
        self.snapshotter.as_ref().unwrap()
    }
}

fn open(root: &Path) -> Result<Snapshotter> {
    let remote = Remote {
        registry: crate::registry::Settings::default(),
        limits: Limits::default(),
        parallel: 1,
    };
    let settings = Settings {
        remote,
        writable: WritableLayer::Fuse,
    };
    Snapshotter::open(Store::create(root).unwrap(), settings)
}

/// The directory that takes what is written.
fn writable(mounts: &[Mount]) -> PathBuf {
    let [mount] = mounts else {
        panic!("{mounts:?}")
    };
    if mount.kind == "bind" {
        assert_eq!(mount.options, ["rw", "rbind"]);
        return PathBuf::from(&mount.source);
    }
    option(mount, "upperdir=").into()
}

fn option<'a>(mount: &'a Mount, name: &str) -> &'a str {
    let mut options = mount.options.iter();
    let found = options.find_map(|option| option.strip_prefix(name));
    found.unwrap_or_else(|| panic!("no {name} in {mount:?}"))
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    pairs.into_iter().collect()
}

macro_rules! assert_error {
    ($call:expr, $kind:ident) => {
        match $call {
            Err(Error::$kind(_)) => {}
            other => panic!("not {}: {other:?}", stringify!($kind)),
        }
    };
}

// Below the macro, which it uses.
mod images;

#[test]
fn what_is_unknown_is_not_found() {
    let it = Fixture::new();
    assert_error!(it.stat("x"), NotFound);
    assert_error!(it.mounts("x"), NotFound);
    assert_error!(it.usage("x"), NotFound);
    assert_error!(it.remove("x"), NotFound);
    assert_error!(it.update("x", Labels::new(), &[]), NotFound);
    assert_error!(it.commit("name", "x", "", Labels::new()), NotFound);
    assert_error!(it.prepare("key", "x", Labels::new()), NotFound);
    assert_error!(it.view("key", "x", Labels::new()), NotFound);
    assert_eq!(it.directories(), 0);
}

#[test]
fn a_key_is_used_once_whatever_it_is_used_for() {
    let it = Fixture::new();
    it.committed("base", "");
    it.prepare("active", "base", Labels::new()).unwrap();
    it.view("view", "base", Labels::new()).unwrap();
    for taken in ["base", "active", "view"] {
        assert_error!(it.prepare(taken, "base", Labels::new()), AlreadyExists);
        assert_error!(it.view(taken, "", Labels::new()), AlreadyExists);
        assert_error!(it.commit(taken, "active", "", Labels::new()), AlreadyExists);
        // Even one that has no such key.
        assert_error!(it.commit(taken, "x", "", Labels::new()), AlreadyExists);
    }
    assert_eq!(it.directories(), 3);
}

#[test]
fn only_committed_snapshots_are_parents() {
    let it = Fixture::new();
    it.prepare("active", "", Labels::new()).unwrap();
    it.view("view", "", Labels::new()).unwrap();
    for parent in ["active", "view"] {
        assert_error!(it.prepare("key", parent, Labels::new()), InvalidArgument);
        assert_error!(it.view("key", parent, Labels::new()), InvalidArgument);
    }
}

#[test]
fn only_active_snapshots_are_committed() {
    let it = Fixture::new();
    it.committed("base", "");
    it.view("view", "base", Labels::new()).unwrap();
    for key in ["base", "view"] {
        assert_error!(
            it.commit("name", key, "", Labels::new()),
            FailedPrecondition
        );
    }
    assert_error!(it.mounts("base"), FailedPrecondition);
}

#[test]
fn regression_a_snapshot_whose_directory_is_gone_is_not_committed() {
    let it = Fixture::new();
    let mounts = it.prepare("key", "", Labels::new()).unwrap();
    fs::remove_dir(writable(&mounts)).unwrap();
    assert!(it.commit("name", "key", "", Labels::new()).is_err());
    assert!(it.usage("key").is_err());
    assert_eq!(it.stat("key").unwrap().kind, Kind::Active);
    assert_error!(it.stat("name"), NotFound);
}

#[test]
fn committing_gives_new_labels_and_times_and_keeps_the_rest() {
    let it = Fixture::new();
    it.committed("base", "");
    let mounts = it
        .prepare("key", "base", labels([("old", "1"), ("empty", "")]))
        .unwrap();
    let prepared = it.stat("key").unwrap();
    assert_eq!(prepared.created, prepared.updated);
    assert_eq!(prepared.labels, labels([("old", "1")]));
    fs::write(writable(&mounts).join("file"), [0; 8192]).unwrap();
    it.commit("name", "key", "", labels([("new", "2")]))
        .unwrap();
    let committed = it.stat("name").unwrap();
    assert_eq!(committed.kind, Kind::Committed);
    assert_eq!(committed.parent, "base");
    assert_eq!(committed.labels, labels([("new", "2")]));
    assert_eq!(committed.created, committed.updated);
    assert!(committed.created > prepared.created);
    assert_error!(it.stat("key"), NotFound);
    let usage = it.usage("name").unwrap();
    assert_eq!(usage.inodes, 2);
    assert!(usage.bytes >= 8192, "{usage:?}");
}

#[test]
fn a_parent_can_be_given_late_but_not_changed() {
    let it = Fixture::new();
    it.committed("one", "");
    it.committed("two", "");
    it.prepare("free", "", Labels::new()).unwrap();
    it.prepare("bound", "one", Labels::new()).unwrap();
    it.prepare("active", "", Labels::new()).unwrap();
    let none = Labels::new;
    assert_error!(it.commit("n", "bound", "two", none()), InvalidArgument);
    assert_error!(it.commit("n", "free", "active", none()), InvalidArgument);
    assert_error!(it.commit("n", "free", "x", none()), NotFound);
    it.commit("bound-name", "bound", "one", none()).unwrap();
    it.commit("free-name", "free", "two", none()).unwrap();
    assert_eq!(it.stat("free-name").unwrap().parent, "two");
    assert_error!(it.remove("two"), FailedPrecondition);
}

#[test]
fn labels_are_set_one_by_one_or_all_together() {
    let it = Fixture::new();
    it.prepare("key", "", labels([("a", "1"), ("b", "2")]))
        .unwrap();
    let before = it.stat("key").unwrap();
    let paths = ["labels.a".to_owned(), "labels.c".to_owned()];
    let info = it
        .update("key", labels([("c", "3"), ("ignored", "4")]), &paths)
        .unwrap();
    assert_eq!(info.labels, labels([("b", "2"), ("c", "3")]));
    assert_eq!(info.created, before.created);
    assert!(info.updated > before.updated);
    let all = ["labels".to_owned()];
    it.update("key", labels([("d", "5")]), &all).unwrap();
    assert_eq!(it.stat("key").unwrap().labels, labels([("d", "5")]));
    it.update("key", Labels::new(), &[]).unwrap();
    assert_eq!(it.stat("key").unwrap().labels, Labels::new());
    for path in ["name", "parent", "kind", "created", "anything"] {
        let paths = [path.to_owned()];
        assert_error!(it.update("key", Labels::new(), &paths), InvalidArgument);
    }
}

#[test]
fn what_has_children_stays() {
    let it = Fixture::new();
    it.committed("base", "");
    it.committed("top", "base");
    it.view("view", "base", Labels::new()).unwrap();
    let error = it.remove("base").unwrap_err();
    // containerd's suite looks for the word.
    assert!(error.to_string().contains("remove"), "{error}");
    assert_error!(it.remove("base"), FailedPrecondition);
    it.remove("top").unwrap();
    it.remove("view").unwrap();
    it.remove("base").unwrap();
    assert_eq!(it.directories(), 0);
    assert!(it.list(&[]).unwrap().is_empty());
}

#[test]
fn mounts_suit_what_they_are_for() {
    let it = Fixture::new();
    let kinds = |mounts: Vec<Mount>| {
        let options = mounts[0].options.iter();
        let names = options.map(|option| option.split('=').next().unwrap().to_owned());
        (mounts[0].kind.clone(), names.collect::<Vec<_>>().join(" "))
    };
    let none = Labels::new;
    let is = |kind: &str, options: &str| (kind.to_owned(), options.to_owned());
    let first = it.prepare("default/1/extract-1 a", "", none()).unwrap();
    assert_eq!(kinds(first), is("bind", "rw rbind"));
    it.commit("one", "default/1/extract-1 a", "", none())
        .unwrap();
    let next = it.prepare("default/2/extract-2 b", "one", none()).unwrap();
    assert_eq!(
        kinds(next.clone()),
        is("overlay", "index workdir upperdir lowerdir")
    );
    assert_eq!(it.mounts("default/2/extract-2 b").unwrap(), next);
    it.commit("two", "default/2/extract-2 b", "", none())
        .unwrap();
    let container = it.prepare("web", "two", none()).unwrap();
    let lowers = option(&container[0], "lowerdir=").to_owned();
    assert_eq!(
        kinds(container),
        is("fuse3.mount.plyfs", "lowerdir upperdir workdir")
    );
    let expected = [2, 1].map(|n| it.store.snapshot(n).upper().display().to_string());
    assert_eq!(lowers, expected.join(":"));
    assert_eq!(
        kinds(it.view("v0", "", none()).unwrap()),
        is("bind", "ro rbind")
    );
    assert_eq!(
        kinds(it.view("v1", "one", none()).unwrap()),
        is("bind", "ro rbind")
    );
    let view = it.view("v2", "two", none()).unwrap();
    assert_eq!(kinds(view), is("fuse3.mount.plyfs", "lowerdir ro"));
}

#[test]
fn a_root_directory_begins_like_the_one_below() {
    let it = Fixture::new();
    let mounts = it.prepare("key", "", Labels::new()).unwrap();
    let root = writable(&mounts);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&root), 0o755);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).unwrap();
    it.commit("base", "key", "", Labels::new()).unwrap();
    let above = it.prepare("above", "base", Labels::new()).unwrap();
    assert_eq!(mode(&writable(&above)), 0o711);
}

#[test]
fn listings_are_filtered() {
    let it = Fixture::new();
    it.committed("base", "");
    it.prepare("key", "base", labels([("a.b/c", "1")])).unwrap();
    let names = |filters: &[&str]| {
        let filters: Vec<String> = filters.iter().map(|&text| text.to_owned()).collect();
        let infos = it.list(&filters).unwrap();
        infos.into_iter().map(|info| info.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["base", "key"]);
    assert_eq!(names(&["kind==active"]), ["key"]);
    assert_eq!(names(&["parent==base"]), ["key"]);
    assert_eq!(
        names(&["labels.\"a.b/c\"==1", "name==base"]),
        ["base", "key"]
    );
    assert_error!(it.list(&["name=".to_owned()]), InvalidArgument);
}

#[test]
fn a_restart_keeps_everything_and_removes_what_was_cut_short() {
    let mut it = Fixture::new();
    it.committed("base", "");
    let mounts = it.prepare("key", "base", labels([("a", "1")])).unwrap();
    let before = it.list(&[]).unwrap();
    // The directory of a snapshot whose transaction never ended.
    it.store.create_snapshot(77).unwrap();
    assert_error!(open(it.directory.path()), InUse);
    it.restart();
    assert_eq!(it.list(&[]).unwrap(), before);
    assert_eq!(it.mounts("key").unwrap(), mounts);
    assert_eq!(it.directories(), 2);
    assert_eq!(it.store.snapshot_numbers().unwrap().iter().max(), Some(&2));
}

#[test]
fn a_call_that_fails_leaves_nothing() {
    let it = Fixture::new();
    it.committed("base", "");
    // Its parent's directory cannot be read, so its own cannot be made.
    fs::remove_dir_all(it.store.snapshot(1).upper()).unwrap();
    assert!(it.prepare("key", "base", Labels::new()).is_err());
    assert_error!(it.stat("key"), NotFound);
    assert_eq!(it.directories(), 1);
    fs::create_dir(it.store.snapshot(1).upper()).unwrap();
    it.prepare("key", "base", Labels::new()).unwrap();
}

#[test]
fn calls_at_once_do_not_meet() {
    let it = Fixture::new();
    it.committed("base", "");
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (it, start) = (&it, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..5 {
                    let key = format!("{thread}-{round}");
                    it.prepare(&key, "base", Labels::new()).unwrap();
                    it.cleanup().unwrap();
                    it.commit(&format!("{key}-done"), &key, "", Labels::new())
                        .unwrap();
                    assert!(it.list(&[]).unwrap().len() > 1);
                    it.remove(&format!("{key}-done")).unwrap();
                }
            });
        }
    });
    assert_eq!(it.directories(), 1);
}

#[test]
fn a_store_whose_path_containerd_would_cut_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a,b", "a:b"] {
        assert_error!(open(&directory.path().join(name)), InvalidArgument);
    }
}

#[test]
fn labels_of_a_user_namespace_become_mappings() {
    let it = Fixture::new();
    it.committed("base", "");
    let mapped = labels([
        (
            "containerd.io/snapshot/uidmapping",
            "0:2000:65536,70000:1:5",
        ),
        ("containerd.io/snapshot/gidmapping", "0:3000:65536"),
    ]);
    let mounts = it.prepare("mapped", "base", mapped.clone()).unwrap();
    assert_eq!(mounts[0].kind, "fuse3.mount.plyfs");
    assert_eq!(option(&mounts[0], "uidmapping="), "0:2000:65536:70000:1:5");
    assert_eq!(option(&mounts[0], "gidmapping="), "0:3000:65536");
    // A bind mount shows the ids as they are.
    let mounts = it.view("seen", "base", mapped).unwrap();
    assert_eq!(option(&mounts[0], "gidmapping="), "0:3000:65536");
    let wrong = labels([("containerd.io/snapshot/uidmapping", "0:2000")]);
    assert_error!(it.prepare("wrong", "base", wrong), InvalidArgument);
}

#[test]
fn regression_what_cannot_be_mounted_leaves_no_snapshot() {
    let it = Fixture::new();
    it.committed("base", "");
    let wrong = labels([("containerd.io/snapshot/uidmapping", "0:2000")]);
    assert_error!(it.prepare("wrong", "base", wrong), InvalidArgument);
    assert_error!(it.stat("wrong"), NotFound);
    assert_eq!(it.directories(), 1);
    it.prepare("wrong", "base", Labels::new()).unwrap();
}

/// A database that a full disk had failed did nothing more until the process was started again.
#[test]
fn regression_a_full_disk_is_got_over() {
    let directory = tempfile::tempdir().unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]);
    if !nix::unistd::geteuid().is_root() || !mount.arg(directory.path()).status().unwrap().success()
    {
        assert!(std::env::var_os("CI").is_none(), "nothing can be mounted");
        eprintln!("skipped: nothing can be mounted");
        return;
    }
    let snapshotter = open(directory.path()).unwrap();
    snapshotter.prepare("a", "", Labels::new()).unwrap();
    let filling = directory.path().join("filling");
    fs::write(&filling, vec![1; 4 << 20]).unwrap_err();
    let large = labels([("large", &*"x".repeat(1 << 20))]);
    let failed = snapshotter.update("a", large, &[]).unwrap_err();
    let removed = snapshotter.remove("a");
    let left = snapshotter.list(&[]);
    fs::remove_file(&filling).unwrap();
    let prepared = snapshotter.prepare("b", "", Labels::new());
    drop(snapshotter);
    let mut umount = Command::new("umount");
    assert!(umount.arg(directory.path()).status().unwrap().success());
    assert!(matches!(failed, Error::Database(_)), "{failed}");
    removed.unwrap();
    assert_eq!(left.unwrap(), []);
    prepared.unwrap();
}
