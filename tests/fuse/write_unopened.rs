//! Writing to files that the daemon is not told are open, and closes meanwhile.

use std::fs;
use std::path::PathBuf;

use crate::fixture::daemon;
use crate::support::{Need, User, command_as, is_root, require, succeed, wait_for};
use crate::writable::Writable;

const PROGRAM: &str = include_str!("unopened.py");

/// What `pid` has open that has no name any more.
fn nameless(pid: u32) -> Vec<PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let targets = open.filter_map(|open| fs::read_link(open.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().ends_with("(deleted)"))
        .filter(|target| !target.to_string_lossy().starts_with("/memfd:"))
        .collect()
}

/// As root and as an ordinary user, who may not open everything anew.
#[test]
fn files_are_written_to_for_as_long_as_somebody_has_them_open() {
    if !require(&[Need::Fuse, Need::PlainUser]) {
        return;
    }
    let users = [User::Plain, User::Same];
    for user in users.into_iter().take(1 + usize::from(is_root())) {
        let union = Writable::of(user);
        let mount = union.mount(&["data=cached"]);
        let mut program = command_as(user, "python3");
        program.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        program
            .args(["-c", PROGRAM])
            .arg(mount.path())
            .current_dir("/");
        succeed(&mut program);
        // And no longer, or there would be no room again.
        let daemon = daemon(mount.path()).unwrap();
        wait_for("files without a name to be closed", || {
            nameless(daemon).is_empty()
        });
        mount.unmount();
    }
}
