//! Reads and writes that go around the page cache, mixed with those that do not.

use std::path::Path;

use crate::support::{Need, User, command_as, require, succeed, text};
use crate::writable::{Writable, fingerprint};

/// The ways to mount; an option and who does.
const WAYS: [(&str, User); 3] = [
    ("data=passthrough", User::Same),
    ("data=cached", User::Same),
    ("data=auto", User::Plain),
];

#[test]
fn direct_and_buffered_transfers_agree() {
    if !require(&[Need::Fuse, Need::Root, Need::PlainUser]) {
        return;
    }
    for (way, user) in WAYS {
        let union = Writable::of(user);
        let before = fingerprint(&union.lower());
        let mount = union.mount(&[way]);
        union.shell("echo small > fresh");
        for name in ["large", "small", "fresh", "dir/sub/deep"] {
            let mut command = command_as(user, "python3");
            command.args(["-c", include_str!("direct.py")]);
            command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
            command.args([mount.path().join(name), union.upper().join(Path::new(name))]);
            let output = succeed(command.current_dir("/"));
            assert_eq!(text(&output), "", "{way}: {name}");
        }
        mount.unmount();
        assert_eq!(before, fingerprint(&union.lower()), "{way}");
    }
}
