//! Containers: named layers of changes over images of the store.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal::SIGKILL;

use crate::fixture::{Lab, ends, signal};
use crate::support::{Store, succeed};

fn mount(store: &Store, words: &[&str]) {
    let mut command = store.command(["mount"]);
    command.args(words).arg(store.mountpoint());
    succeed(&mut command);
}

fn umount(store: &Store) {
    let daemon = crate::fixture::daemon(&store.mountpoint());
    store.run(["umount".as_ref(), store.mountpoint().as_os_str()]);
    if let Some(daemon) = daemon {
        ends(daemon);
    }
}

#[test]
fn changes_are_kept_under_a_name() {
    let Some(lab) = Lab::new() else { return };
    let (store, point) = (&lab.store, lab.store.mountpoint());
    let _guard = store.guard();
    mount(store, &["--name", "web", "fixture"]);
    fs::write(point.join("new"), "new").unwrap();
    fs::write(point.join("hello"), "changed").unwrap();
    fs::remove_dir_all(point.join("many")).unwrap();
    fs::create_dir(point.join("made")).unwrap();
    fs::write(point.join("made/in"), "").unwrap();
    fs::rename(point.join("deep"), point.join("moved")).unwrap();
    let diff = || store.stdout(["container", "diff", "web"]);
    let expected = "D /deep\nD /deep/er\nD /deep/er/also\nC /hello\nA /made\nA /made/in\nD /many\n\
        A /moved\nA /moved/er\nA /moved/er/also\nA /new\n";
    let without_inside = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("D /deep/"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    assert_eq!(without_inside(&diff()), without_inside(expected));
    umount(store);
    assert_eq!(without_inside(&diff()), without_inside(expected));
    mount(store, &["--name", "web"]);
    let listed = store.stdout(["container", "ls"]);
    assert!(listed.contains(&*point.to_string_lossy()), "{listed}");
    assert_eq!(fs::read(point.join("new")).unwrap(), b"new");
    assert_eq!(fs::read(point.join("moved/er/also")).unwrap(), b"changed");
    umount(store);
    // It is the container that is mounted read-only, not its image.
    mount(store, &["-o", "ro", "--name", "web"]);
    assert_eq!(fs::read(point.join("new")).unwrap(), b"new");
    assert!(!point.join("many").exists());
    let listed = store.stdout(["container", "ls"]);
    assert!(listed.contains(&*point.to_string_lossy()), "{listed}");
    let refused = fs::write(point.join("newer"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    umount(store);
    let listed = store.stdout(["container", "ls", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["name"], "web");
    assert_eq!(listed[0]["inUse"], false);
    assert!(listed[0].get("size").is_none());
}

#[test]
fn the_size_of_a_container_is_that_of_its_changes() {
    let Some(lab) = Lab::new() else { return };
    let (store, point) = (&lab.store, lab.store.mountpoint());
    let _guard = store.guard();
    mount(store, &["--name", "web", "fixture"]);
    let size = || {
        let listed = store.stdout(["container", "ls", "--size", "--json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        listed[0]["size"].as_u64().unwrap()
    };
    let before = size();
    assert!(before < 100_000, "{before} bytes without a change");
    fs::write(point.join("new"), vec![1; 1_000_000]).unwrap();
    fs::hard_link(point.join("new"), point.join("linked")).unwrap();
    umount(store);
    let changed = size();
    assert!((1_000_000..1_100_000).contains(&changed), "{changed}");
    let listed = store.stdout(["container", "ls", "-s"]);
    assert!(
        listed.contains("SIZE") && listed.contains("1MB"),
        "{listed}"
    );
}

#[test]
fn a_container_keeps_its_image_and_is_kept_while_it_is_mounted() {
    let Some(lab) = Lab::new() else { return };
    let store = &lab.store;
    let _guard = store.guard();
    mount(store, &["--name", "web", "fixture"]);
    let said = store.fails(1, ["container", "rm", "web"]);
    assert!(said.contains("in use"), "{said}");
    let twice = store.mountpoint().display().to_string();
    let said = store.fails(1, ["mount", "--name", "web", "fixture", &twice]);
    assert!(said.contains("in use"), "{said}");
    umount(store);
    let said = store.fails(1, ["image", "rm", "fixture"]);
    assert!(said.contains("container web uses it"), "{said}");
    store.run(["container", "rm", "web"]);
    store.run(["image", "rm", "fixture"]);
    let said = store.fails(1, ["container", "rm", "web"]);
    assert!(said.contains("none of that name"), "{said}");
}

#[test]
fn a_container_of_another_image_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let store = &lab.store;
    let _guard = store.guard();
    mount(store, &["--name", "web", "fixture"]);
    umount(store);
    let other = crate::support::temp_dir();
    fs::write(other.path().join("file"), "").unwrap();
    let archive = other.path().join("archive.tar");
    let mut tar = std::process::Command::new("tar");
    succeed(
        tar.arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(other.path())
            .arg("file"),
    );
    store.run(["import".as_ref(), archive.as_os_str(), "other".as_ref()]);
    let point = store.mountpoint().display().to_string();
    let said = store.fails(1, ["mount", "--name", "web", "other", &point]);
    assert!(said.contains("was made of"), "{said}");
    for wrong in ["../web", "-x", ""] {
        let name = format!("--name={wrong}");
        store.fails(2, ["mount", &name, "fixture", &point]);
    }
    assert_eq!(fs::read_dir(Path::new(&point)).unwrap().count(), 0);
}

#[test]
fn a_container_can_go_with_its_mount() {
    let Some(lab) = Lab::new() else { return };
    let store = &lab.store;
    let _guard = store.guard();
    let names = || store.stdout(["container", "ls"]).lines().count() - 1;
    mount(store, &["--rm", "--name", "once", "fixture"]);
    fs::write(store.mountpoint().join("new"), "").unwrap();
    assert_eq!(names(), 1);
    umount(store);
    assert_eq!(names(), 0);
    mount(store, &["--rm", "--name", "once", "fixture"]);
    let daemon = lab.daemon();
    signal(daemon, SIGKILL);
    ends(daemon);
    nix::mount::umount2(&store.mountpoint(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert_eq!(names(), 0, "swept by the command that lists them");
    assert_eq!(
        fs::read_dir(store.root().join("containers"))
            .unwrap()
            .count(),
        0
    );
}
