//! Directories, containers and places that are used already, by somebody else or by the mount itself.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::process::Stdio;

use nix::sys::signal::Signal::SIGKILL;

use crate::fixture::{Lab, ends, signal};
use crate::support::{
    MountGuard, Need, Store, User, fail, require, succeed, temp_dir, text, wait_for,
};
use crate::writable::Writable;

#[test]
fn regression_a_layer_that_the_mount_itself_would_change_is_refused() {
    if !require(&[Need::Fuse, Need::Root]) {
        return;
    }
    let (store, base) = (Store::new(), temp_dir());
    let path = |name: &str| base.path().join(name).display().to_string();
    for name in ["l", "u/sub", "w/in"] {
        fs::create_dir_all(path(name)).unwrap();
    }
    fs::write(path("l/file"), "below").unwrap();
    let try_out = |lowers: &str| {
        let (upper, work) = (path("u"), path("w"));
        let options = format!("lowerdir={lowers},upperdir={upper},workdir={work}");
        let mut command = store.command(["mount", "-o", &options]);
        command.arg(store.mountpoint());
        command
    };
    for (lower, name, other, how) in [
        ("u", "upper", "u", "at once"),
        ("u/sub", "upper", "u", "lies in"),
        ("w", "work", "w", "at once"),
        ("w/in", "work", "w", "lies in"),
    ] {
        for lowers in [
            path(lower),
            format!("{}:{}", path("l"), path(lower)),
            format!("{}::{}", path("l"), path(lower)),
        ] {
            let said = fail(&mut try_out(&lowers), 1);
            let (layer, written) = (path(lower), path(other));
            for word in [&*layer, &*written, &*format!("the {name} directory"), how] {
                assert!(said.contains(word), "{lowers}: {said}");
            }
        }
    }
    // A layer twice, and one that holds the others, do no harm.
    for lowers in [
        format!("{}:{}", path("l"), path("l")),
        base.path().display().to_string(),
    ] {
        let mount = store.guard();
        succeed(&mut try_out(&lowers));
        fs::write(mount.path().join("new"), "new").unwrap();
        assert_eq!(fs::read(path("u/new")).unwrap(), b"new");
        mount.unmount();
    }
}

#[test]
fn regression_a_work_directory_without_an_upper_is_worth_a_word() {
    let Some(union) = Writable::new() else { return };
    let (store, mount) = (&union.store, union.mount_guard());
    let lower = union.lower().display().to_string();
    let options = format!("lowerdir={lower},workdir={}", union.upper().display());
    let said = text(&succeed(
        store
            .command(["mount", "-o", &options])
            .arg(store.mountpoint()),
    ));
    assert!(said.contains("'workdir' has no effect"), "{said}");
    mount.unmount();
}

/// What was unmounted lazily is in no table of mounts.
#[test]
fn regression_the_process_that_holds_a_directory_is_named() {
    let Some(union) = Writable::new() else { return };
    let lazily = |guard: MountGuard<'_>| {
        let daemon = crate::fixture::daemon(guard.path()).unwrap();
        let mut held = fs::File::open(guard.path().join("small")).unwrap();
        let point = guard.path().as_os_str();
        union
            .store
            .run(["umount".as_ref(), "--lazy".as_ref(), point]);
        let said = fail(&mut union.command(&[]), 1);
        for word in [
            format!("in use by process {daemon}"),
            "Device or resource busy".into(),
            "lazily".into(),
        ] {
            assert!(said.contains(&word), "{said}");
        }
        let mut content = String::new();
        held.read_to_string(&mut content).unwrap();
        assert_eq!(content, "small\n");
        drop(held);
        ends(daemon);
    };
    lazily(union.mount(&[]));
    union.mount(&[]).unmount();
}

#[test]
fn regression_the_process_that_uses_a_container_is_named() {
    let Some(lab) = Lab::new() else { return };
    let (store, point) = (&lab.store, lab.store.mountpoint());
    let guard = store.guard();
    let mounting: [&OsStr; 3] = ["mount".as_ref(), "--name".as_ref(), "web".as_ref()];
    let mount = || store.command(mounting.into_iter().chain([point.as_os_str()]));
    let image: &OsStr = "fixture".as_ref();
    succeed(&mut store.command(mounting.into_iter().chain([image, point.as_os_str()])));
    let daemon = lab.daemon();
    let held = fs::File::open(point.join("hello")).unwrap();
    store.run(["umount".as_ref(), "--lazy".as_ref(), point.as_os_str()]);
    for said in [
        store.fails(1, ["container", "rm", "web"]),
        fail(&mut mount(), 1),
    ] {
        let by = format!("container web is in use by process {daemon}");
        assert!(said.contains(&by) && said.contains("lazily"), "{said}");
    }
    drop(held);
    ends(daemon);
    succeed(&mut mount());
    guard.unmount();
}

#[test]
fn regression_a_container_that_is_there_is_not_mounted_to_be_removed() {
    let Some(lab) = Lab::new() else { return };
    let (store, point) = (&lab.store, lab.store.mountpoint().display().to_string());
    store.run(["mount", "--name", "web", "fixture", &point]);
    store.guard().unmount();
    for words in [&[&*point][..], &["fixture", &point]] {
        let said = store.fails(1, [&["mount", "--rm", "--name", "web"], words].concat());
        assert!(said.contains("it is there already, and kept"), "{said}");
    }
    store.run(["container", "rm", "web"]);
}

#[test]
fn regression_of_those_who_make_a_container_at_once_all_but_one_find_it_in_use() {
    let Some(lab) = Lab::new() else { return };
    let (store, place) = (&lab.store, temp_dir());
    let points: Vec<_> = (0..4).map(|n| place.path().join(n.to_string())).collect();
    let started: Vec<_> = points
        .iter()
        .map(|point| {
            fs::create_dir(point).unwrap();
            let mut command = store.command(["mount", "--name", "race", "fixture"]);
            let command = command.arg(point).stderr(Stdio::piped());
            (MountGuard::of(store, point), command.spawn().unwrap())
        })
        .collect();
    let mut guards = Vec::new();
    let mut refused = 0;
    for (guard, child) in started {
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            let said = text(&output);
            assert!(said.contains("container race is in use"), "{said}");
            refused += 1;
        }
        guards.push(guard);
    }
    assert_eq!(refused, 3);
}

/// It would lie below the new one and come to light when that is unmounted; an ordinary user could not
/// mount at all.
#[test]
fn regression_a_mount_takes_the_place_of_one_whose_server_is_dead() {
    if !require(&[Need::Fuse, Need::Root, Need::PlainUser]) {
        return;
    }
    for user in [User::Same, User::Plain] {
        let union = Writable::of(user);
        let mount = union.mount(&[]);
        for _ in 0..2 {
            let daemon = crate::fixture::daemon(mount.path()).unwrap();
            signal(daemon, SIGKILL);
            ends(daemon);
            let dead = || fs::metadata(mount.path()).is_err();
            wait_for("the mount to die", dead);
            let said = text(&succeed(&mut union.command(&[])));
            assert!(
                said.contains("the process that served it is dead"),
                "{said}"
            );
            assert_eq!(union.shell("cat small"), "small\n");
        }
        mount.unmount();
    }
}
