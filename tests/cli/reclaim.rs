//! Space comes back: from failed pulls, from ended mounts, and on a full disk.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::{Need, Store, children, require, succeed, wait_for};
use super::{archive, import, layout, names};

/// A store on a file system of its own, of a few megabytes.
pub struct Small {
    pub store: Store,
}

impl Small {
    pub fn new(megabytes: u32) -> Small {
        let store = Store::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=700")]);
        succeed(mount.arg("tmpfs").arg(store.root()));
        Small { store }
    }

    /// Takes all space that is left.
    fn fill(&self) -> PathBuf {
        let path = self.store.root().join("filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }

    fn free_bytes(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.store.root()).unwrap();
        stat.blocks_available() as u64 * stat.fragment_size() as u64
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        succeed(Command::new("umount").arg("-l").arg(self.store.root()));
    }
}

/// Bytes that no compression makes smaller.
pub fn noise(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}

#[test]
fn regression_images_are_mounted_and_removed_on_a_full_disk() {
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    let small = Small::new(16);
    let store = &small.store;
    import(store, "big:1", &noise(1 << 20));
    import(store, "other:1", b"other");
    let filler = small.fill();
    let mount = store.mount("big:1", &[]);
    assert_eq!(
        fs::metadata(mount.path().join("file")).unwrap().len(),
        1 << 20
    );
    mount.unmount();
    store.run(["image", "rm", "big:1"]);
    assert!(small.free_bytes() > 1 << 20, "{}", small.free_bytes());
    small.fill();
    store.run(["image", "rm", "other:1"]);
    fs::remove_file(filler).unwrap();
    store.run(["check"]);
    import(store, "again:1", b"again");
    store.run(["check"]);
}

#[test]
fn regression_a_pull_that_filled_the_disk_can_be_recovered_from() {
    if !require(&[Need::Root, Need::Program("skopeo")]) {
        return;
    }
    let source = Store::new();
    import(&source, "big:1", &noise(24 << 20));
    let small = Small::new(32);
    let store = &small.store;
    let layout = layout(&source.root(), "docker.io/library/big:1");
    let said = store.fails(1, ["pull", "-q", &layout, "--name", "big:1"]);
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("hint: plyfs image rm"), "{said}");
    assert!(!said.contains("os error"), "{said}");
    for ingest in names(store, "ingest") {
        let left = names(store, &format!("ingest/{ingest}"));
        assert!(!left.contains(&"layer".to_owned()), "{ingest}: {left:?}");
    }
    assert!(names(store, "trash").is_empty());
    store.run(["check", "--repair"]);
    assert!(names(store, "ingest").is_empty());
    assert!(small.free_bytes() > 28 << 20, "{}", small.free_bytes());
    import(store, "small:1", b"small");
}

#[test]
fn regression_an_import_that_fills_the_disk_blames_the_store() {
    if !require(&[Need::Root]) {
        return;
    }
    let small = Small::new(8);
    let store = &small.store;
    let file = store.root().with_file_name("big.tar");
    fs::write(&file, archive(&[("file", &noise(12 << 20))])).unwrap();
    let said = store.fails(1, ["import".as_ref(), file.as_os_str()]);
    assert!(said.contains("writ") && !said.contains("read"), "{said}");
    assert!(names(store, "ingest").is_empty());
}

#[test]
fn regression_an_image_removed_while_mounted_goes_with_its_mount() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = Store::new();
    import(&store, "one:1", b"one");
    let mount = store.mount("one:1", &[]);
    store.run(["image", "rm", "-f", "one:1"]);
    assert_eq!(names(&store, "layers/sha256").len(), 1);
    mount.unmount();
    let began = Instant::now();
    while !names(&store, "layers/sha256").is_empty() || !names(&store, "leases").is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "the layer stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(names(&store, "blobs/sha256").is_empty());
}

#[test]
fn regression_an_image_removed_while_mounted_goes_after_its_daemon_was_killed() {
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    let store = Store::new();
    import(&store, "one:1", b"one");
    let mount = store.mount("one:1", &[]);
    store.run(["image", "rm", "-f", "one:1"]);
    // The holder and its server, or the one that is left would clean up.
    let holder = u32::try_from(mount.pid()).unwrap();
    let both = [vec![holder], children(holder)].concat();
    let both = both.iter().map(ToString::to_string);
    succeed(Command::new("kill").arg("-9").args(both));
    succeed(Command::new("umount").arg("-l").arg(mount.path()));
    let began = Instant::now();
    // The lease ends with the process, a moment after the signal.
    while names(&store, "layers/sha256").len() != 1 || names(&store, "leases").len() > 1 {
        assert!(began.elapsed() < Duration::from_secs(30), "the layer stays");
        import(&store, "two:1", b"two");
    }
}

#[test]
fn regression_the_next_verb_drops_what_interrupted_pulls_had_packed() {
    let store = Store::new();
    import(&store, "one:1", b"one");
    let ingest = store
        .root()
        .join(format!("ingest/sha256-{}", "a".repeat(64)));
    fs::create_dir_all(ingest.join("layer/files")).unwrap();
    fs::write(ingest.join("layer/pack"), b"packed").unwrap();
    fs::write(ingest.join("blob"), b"prefix").unwrap();
    fs::write(ingest.join("lock"), b"").unwrap();
    let empty = store
        .root()
        .join(format!("ingest/sha256-{}", "b".repeat(64)));
    fs::create_dir_all(empty.join("layer")).unwrap();
    fs::write(empty.join("lock"), b"").unwrap();
    fs::write(store.root().join("ingest/1-1.new"), b"half").unwrap();
    fs::create_dir(store.root().join("ingest/1-1-staging.new")).unwrap();
    import(&store, "two:1", b"two");
    assert_eq!(names(&store, "ingest").len(), 1);
    assert!(ingest.join("blob").exists() && !ingest.join("layer").exists());
    // A live one is left alone.
    let lock = File::open(ingest.join("lock")).unwrap();
    lock.lock().unwrap();
    fs::create_dir(ingest.join("layer")).unwrap();
    import(&store, "three:1", b"three");
    assert!(ingest.join("layer").exists());
}

#[test]
fn regression_what_only_a_container_needed_goes_with_it() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = Store::new();
    import(&store, "one:1", b"one");
    let path = store.mountpoint();
    let mounted = store.guard();
    store.run([
        "mount".as_ref(),
        "--name".as_ref(),
        "web".as_ref(),
        "one:1".as_ref(),
        path.as_os_str(),
    ]);
    mounted.unmount();
    store.run(["image", "rm", "-f", "one:1"]);
    assert_eq!(names(&store, "layers/sha256").len(), 1);
    // The lease ends with the process, a moment after the mount.
    wait_for("the end of the mount", || {
        names(&store, "leases").is_empty() || {
            store.run(["check"]);
            false
        }
    });
    store.run(["container", "rm", "web"]);
    assert!(names(&store, "layers/sha256").is_empty());
    assert!(names(&store, "blobs/sha256").is_empty());
}

#[test]
fn regression_a_pull_that_fails_leaves_the_leases_for_mounts() {
    if !require(&[Need::Root]) {
        return;
    }
    let small = Small::new(8);
    let store = &small.store;
    import(store, "one:1", b"one");
    let filler = small.fill();
    let before = names(store, "reserve").len();
    for _ in 0..3 {
        let file = store.root().with_file_name("import.tar");
        store.fails(1, ["import".as_ref(), file.as_os_str(), "two:1".as_ref()]);
    }
    assert_eq!(names(store, "reserve").len(), before);
    fs::remove_file(filler).unwrap();
}

#[test]
fn regression_leases_are_kept_back_where_the_list_does_not_fit() {
    if !require(&[Need::Root]) {
        return;
    }
    let small = Small::new(8);
    let store = &small.store;
    import(store, "one:1", b"one");
    fs::remove_dir_all(store.root().join("reserve")).unwrap();
    let filler = small.fill();
    let filler = File::options().write(true).open(filler).unwrap();
    let length = filler.metadata().unwrap().len();
    filler.set_len(length - (256 << 10)).unwrap();
    store.run(["check"]);
    let kept = names(store, "reserve");
    assert!(
        kept.iter().all(|name| name.starts_with("lease-")),
        "{kept:?}"
    );
    assert_eq!(kept.len(), 8);
}
