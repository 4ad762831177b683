//! Mounts of an ordinary user, through fusermount3 and in a user namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::sys::signal::Signal::SIGTERM;

use crate::fixture::{Lab, ends, signal};
use crate::support::{Need, User, alone, command_as, is_root, require, succeed, text};

fn lab() -> Option<Lab> {
    require(&[Need::Fuse, Need::PlainUser]).then(|| Lab::of(User::Plain))
}

#[test]
fn an_ordinary_user_reads_everything_and_sees_true_owners() {
    let Some(lab) = lab() else { return };
    for way in crate::fixture::WAYS {
        let mount = lab.mount(&[way]);
        let secret = mount.path().join("secret");
        let output = succeed(command_as(User::Plain, "cat").arg(&secret));
        assert_eq!(output.stdout, b"secret\n");
        let stat = succeed(
            command_as(User::Plain, "stat")
                .args(["-c", "%u %a"])
                .arg(&secret),
        );
        let owner = fs::metadata(lab.source.path().join("secret"))
            .unwrap()
            .uid();
        assert_eq!(
            String::from_utf8_lossy(&stat.stdout),
            format!("{owner} 600\n")
        );
        if is_root() {
            let closed = fs::metadata(&secret).unwrap_err();
            assert_eq!(closed.raw_os_error(), Some(libc::EACCES), "others stay out");
        }
        mount.unmount();
    }
}

#[test]
fn the_mount_of_an_ordinary_user_ends_with_a_signal() {
    let Some(lab) = lab() else { return };
    let mount = lab.mount(&[]);
    let daemon = lab.daemon();
    signal(daemon, SIGTERM);
    ends(daemon);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(&*mount.path().to_string_lossy()));
}

#[test]
fn what_fusermount_says_reaches_the_user() {
    let Some(lab) = lab() else { return };
    if !is_root() {
        return;
    }
    // A directory that is not theirs: fusermount3 refuses.
    let place = crate::support::temp_dir();
    let said = lab.store.fails(
        1,
        [
            "mount".as_ref(),
            "fixture".as_ref(),
            place.path().as_os_str(),
        ],
    );
    assert!(said.contains("fusermount3"), "{said}");
    // Once, although a daemon fails and its parent tells.
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn in_a_user_namespace_permissions_are_checked() {
    let Some(lab) = lab() else { return };
    let script =
        "\"$@\" && grep fuse.plyfs /proc/self/mountinfo && cat \"$0/hello\" && umount \"$0\"";
    let mut mount = lab.store.command(["mount"]);
    mount.arg("fixture").arg(lab.store.mountpoint());
    let mut command: Command = command_as(User::Plain, "unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--mount",
        "--",
        "sh",
        "-c",
        script,
    ]);
    command.arg(lab.store.mountpoint());
    // The words after setpriv's own dashes: the program and its arguments.
    let words: Vec<_> = std::iter::once(mount.get_program())
        .chain(mount.get_args())
        .collect();
    let program = words
        .iter()
        .position(|word| word.to_string_lossy().ends_with("/plyfs"))
        .unwrap();
    command.args(&words[program..]);
    let output = alone(&command).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("default_permissions") && said.contains("hello"),
        "{said}"
    );
}
