//! Directory layers, through the command and through the mount helper's library.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::fixture::{Lab, ends, signal};
use crate::support::{Need, Store, require, temp_dir};

#[test]
fn directories_are_shown_as_one() {
    if !require(&[Need::Fuse, Need::Root]) {
        return;
    }
    let (top, bottom, store) = (temp_dir(), temp_dir(), Store::new());
    fs::write(top.path().join("both"), "top").unwrap();
    fs::write(bottom.path().join("both"), "bottom").unwrap();
    fs::write(bottom.path().join("below"), "below").unwrap();
    fs::create_dir(bottom.path().join("dir")).unwrap();
    let lower = format!(
        "lowerdir={}:{}",
        top.path().display(),
        bottom.path().display()
    );
    let mut command = store.command(["mount", "-o", &lower]);
    command.arg(store.mountpoint());
    crate::support::succeed(&mut command);
    let point = store.mountpoint();
    assert_eq!(fs::read(point.join("both")).unwrap(), b"top");
    assert_eq!(fs::read(point.join("below")).unwrap(), b"below");
    let mut names: Vec<_> = fs::read_dir(&point)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["below", "both", "dir"]);
    assert!(fs::metadata(point.join("dir")).unwrap().ino() > 0);
    let daemon = crate::fixture::daemon(&point).unwrap();
    signal(daemon, nix::sys::signal::Signal::SIGTERM);
    ends(daemon);
}

#[test]
fn a_layer_that_is_not_there_is_named() {
    if !require(&[Need::Fuse, Need::Root]) {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let point = lab.store.mountpoint();
    let words = [
        "mount",
        "-o",
        "lowerdir=/nowhere/at/all",
        &point.display().to_string(),
    ];
    let said = lab.store.fails(1, words);
    assert!(said.contains("/nowhere/at/all"), "{said}");
}
