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
