//! Directory layers, through the command and through the mount helper's library.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use crate::fixture::{Lab, ends, signal};
use crate::support::{Need, Store, require, succeed, temp_dir, wait_for};
use crate::writable::{WAYS, Writable};

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
    succeed(&mut command);
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

/// Layers are not to be changed, but a line in a log of one must not make it unusable.
#[test]
fn regression_a_file_that_is_written_to_in_its_layer_is_read_and_written_anew() {
    for way in WAYS {
        // Where the kernel collects what is written it knows lengths better than anybody.
        for writable in [false, true]
            .into_iter()
            .take(if way == "data=cached" { 1 } else { 2 })
        {
            let Some(union) = Writable::new() else { return };
            let (guard, lower) = (union.mount_guard(), union.lower());
            if writable {
                succeed(&mut union.command(&[way]));
            } else {
                let options = format!("{way},lowerdir={}", lower.display());
                let mut command = union.store.command(["mount", "-o", &options]);
                succeed(command.arg(guard.path()));
            }
            for name in ["small", "dir/file", "large"] {
                let (below, shown) = (lower.join(name), guard.path().join(name));
                let what = format!("{way}, writable {writable}, {name}");
                fs::metadata(&shown).unwrap();
                if writable || way == "data=passthrough" {
                    fs::read(&shown).unwrap();
                }
                for content in [&b"another length"[..], &[7; 300_000], b"x"] {
                    // The same inode.
                    fs::write(&below, content).unwrap();
                    // The end of the open before is not waited for; what is open stays as it is. Where opens are
                    // not asked for, what was read before is shown until the kernel drops it.
                    wait_for(&what, || fs::read(&shown).unwrap() == content);
                    if way == "data=cached" {
                        break;
                    }
                }
            }
            if writable {
                let (below, shown) = (lower.join("small"), guard.path().join("small"));
                fs::write(&below, "a line\n").unwrap();
                let mut file = fs::File::options().append(true).open(&shown).unwrap();
                file.write_all(b"and ours\n").unwrap();
                drop(file);
                assert_eq!(fs::read(&shown).unwrap(), b"a line\nand ours\n", "{way}");
                // Another file in its place is another file.
                fs::write(lower.join("dir/new"), "another one").unwrap();
                fs::rename(lower.join("dir/new"), lower.join("dir/file")).unwrap();
                let shown = guard.path().join("dir/file");
                wait_for("another file", || {
                    fs::read(&shown).unwrap() == b"another one"
                });
            }
            guard.unmount();
        }
    }
}
