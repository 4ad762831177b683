//! Names, times, sizes, depths and kinds at the edge of what file systems hold.

use std::ffi::OsStr;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::support::{Lab, Need, find, open, require, rows, set_xattr, text};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, UtimensatFlags, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use plyfs::layer::FileKind;
use plyfs::union::NodeNumber;

#[test]
fn any_bytes_are_names() {
    let mut lab = Lab::new();
    let (top, low) = (lab.empty(), lab.empty());
    let long = vec![b'n'; 255];
    let names: [&[u8]; 6] = [&long, b"\xff\xfe", b"a\nb", b" ", b"..a", b"-rf *"];
    for name in names {
        std::fs::write(low.join(OsStr::from_bytes(name)), "low").expect("a file");
    }
    std::fs::write(top.join(OsStr::from_bytes(names[1])), "top").expect("a file");
    let all = rows(&open(&[top.clone(), low.clone()]));
    assert_eq!(all.len(), names.len());
    for name in names {
        let expected: &[u8] = if name == names[1] { b"top" } else { b"low" };
        assert_eq!(all[&[b"/", name].concat()].content, expected);
    }
    let stack = open(&[top, low]);
    let too_long = stack
        .lookup(NodeNumber::ROOT, &[b'n'; 256])
        .map_err(|e| e.errno);
    assert_eq!(too_long, Err(Errno::ENAMETOOLONG));
    for strange in [&b""[..], b"a/b", b"\0", b"a\0b", b"/"] {
        assert_eq!(stack.lookup(NodeNumber::ROOT, strange).ok(), Some(None));
    }
}

#[test]
fn times_before_the_epoch_and_far_away() {
    let mut lab = Lab::new();
    let layer = lab.empty();
    // What the file system does not hold it clamps; what it says is what is shown.
    for (name, seconds, nanoseconds) in [
        ("negative", -1, 999_999_999),
        ("old", -2_000_000_000, 5),
        ("new", 15_000_000_000, 7),
        ("huge", i64::MAX, 0),
        ("tiny", i64::MIN, 0),
    ] {
        let path = layer.join(name);
        std::fs::write(&path, "").expect("a file");
        let time = TimeSpec::new(seconds, nanoseconds);
        let cwd = nix::fcntl::AT_FDCWD;
        utimensat(cwd, &path, &time, &time, UtimensatFlags::NoFollowSymlink).expect("a time");
    }
    let all = rows(&open(std::slice::from_ref(&layer)));
    for (path, row) in &all {
        use std::os::unix::fs::MetadataExt;
        let path = layer.join(OsStr::from_bytes(&path[1..]));
        let real = std::fs::metadata(&path).expect("metadata");
        assert_eq!(
            row.mtime,
            (real.mtime(), real.mtime_nsec() as u32),
            "{path:?}"
        );
    }
    assert_eq!(all[&b"/negative"[..]].mtime, (-1, 999_999_999));
}

#[test]
fn special_files_are_never_opened() {
    if !require(Need::Root) {
        return;
    }
    let mut lab = Lab::new();
    let layers = lab.layers(&[&["c tty", "p pipe", "d d", "l l d"]]);
    let stack = open(&layers);
    for (name, error) in [
        ("tty", Errno::EINVAL),
        ("pipe", Errno::EINVAL),
        ("l", Errno::EINVAL),
        ("d", Errno::EISDIR),
    ] {
        let node = find(&stack, name).expect(name).node;
        assert_eq!(
            stack.open(node).map_err(|e| e.errno).err(),
            Some(error),
            "{name}"
        );
        if name != "d" {
            assert_eq!(
                stack.lookup(node, b"x").map_err(|e| e.errno),
                Err(Errno::ENOTDIR)
            );
        }
    }
    let tty = find(&stack, "tty").expect("tty");
    assert_eq!((tty.kind, tty.device), (FileKind::CharDevice, (5, 1)));
    assert!(stack.read_link(tty.node).is_err());
}

/// Directories one in another, deeper than a path can say.
fn make_deep(layer: &Path, depth: usize, name: &str) {
    let mut at = File::open(layer).expect("the layer");
    for _ in 0..depth {
        mkdirat(&at, name, Mode::S_IRWXU).expect("a directory");
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        at = File::from(openat(&at, name, flags, Mode::empty()).expect("a directory"));
    }
    let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(&at, "leaf", flags, Mode::S_IRUSR).expect("a file");
}

#[test]
fn deeper_than_a_path_can_say() {
    let mut lab = Lab::new();
    let (top, low) = (lab.empty(), lab.empty());
    let name = "directory".repeat(10);
    make_deep(&top, 120, &name);
    make_deep(&low, 2500, &name);
    let stack = open(&[top, low]);
    let mut at = NodeNumber::ROOT;
    let mut held = Vec::new();
    for _ in 0..2500 {
        let found = stack.lookup(at, name.as_bytes()).expect("a lookup");
        at = found.expect("a directory").node;
        held.push(at);
    }
    let leaf = stack
        .lookup(at, b"leaf")
        .expect("a lookup")
        .expect("the leaf");
    assert!(stack.open(leaf.node).is_ok());
    assert!(find(&stack, &format!("{}/leaf", vec![&name[..]; 120].join("/"))).is_some());
    drop(stack);
}

#[test]
fn listings_go_on_where_they_stopped() {
    let mut lab = Lab::new();
    let (top, low) = (lab.empty(), lab.empty());
    for n in 0..500 {
        std::fs::write(top.join(format!("{:03}", n * 2)), "").expect("a file");
        std::fs::write(low.join(format!("{n:03}")), "").expect("a file");
    }
    let stack = open(&[top, low]);
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut offset = 0;
    loop {
        let mut left = 7;
        let before = offset;
        stack
            .list_with_attributes(NodeNumber::ROOT, offset, &mut |listed, _| {
                if left == 0 {
                    return ControlFlow::Break(());
                }
                left -= 1;
                offset = listed.next_offset;
                seen.push(listed.name.to_vec());
                ControlFlow::Continue(())
            })
            .expect("a listing");
        if before == offset {
            break;
        }
    }
    assert_eq!(seen.len(), 752);
    assert!(seen[2..].is_sorted());
    // One reference to each that was emitted, none to those at which the listing broke off.
    assert_eq!(stack.nodes_in_use(), 751);
    for offset in [752, 10_000, u64::MAX] {
        let mut more = 0;
        let mut count = |_: plyfs::union::Listed<'_>| {
            more += 1;
            ControlFlow::Continue(())
        };
        stack
            .list(NodeNumber::ROOT, offset, &mut count)
            .expect("a listing");
        assert_eq!(more, 0, "{offset}");
    }
}

#[test]
fn acls_are_shown_with_the_owners_that_are_shown() {
    use plyfs::idmap::IdMap;
    use plyfs::union::stack::StackOptions;

    let mut lab = Lab::new();
    let layer = lab.layer(&["f a x"]);
    let acl = |id: u32| {
        let mut value = vec![2, 0, 0, 0];
        let none = u32::MAX;
        for (tag, id) in [(1u16, none), (2, id), (4, none), (16, none), (32, none)] {
            value.extend(tag.to_le_bytes());
            value.extend(6u16.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    };
    let name = "system.posix_acl_access";
    if !require(Need::Acls) {
        return;
    }
    set_xattr(&layer.join("a"), name, &acl(5)).expect("an ACL");
    let options = StackOptions {
        ids: IdMap {
            users: "0:1000:10".parse().expect("a range"),
            ..IdMap::default()
        },
        ..StackOptions::default()
    };
    let stack = super::support::open_with(&[layer], &[], options);
    assert!(stack.may_have_acls());
    let node = find(&stack, "a").expect("a").node;
    let value = stack.xattr(node, name.as_bytes()).expect("an ACL");
    assert_eq!(value.as_deref(), Some(&acl(1005)[..]));
}

#[test]
fn what_a_user_may_not_read_is_an_error_of_that_directory() {
    if !require(Need::Root) {
        return;
    }
    let mut lab = Lab::new();
    let layers = lab.layers(&[&["f open/a x", "f closed/b x"], &["f open/c x"]]);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    };
    mode(lab.path(), 0o755);
    mode(&layers[0].join("closed"), 0o700);
    // Credentials of system calls belong to the thread.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
            nix::unistd::setfsgid(nix::unistd::Gid::from_raw(65534));
            let stack = open(&layers);
            assert!(find(&stack, "open/a").is_some());
            assert!(find(&stack, "open/c").is_some());
            let closed = find(&stack, "closed").expect("the directory");
            let error = stack.lookup(closed.node, b"b").map_err(|e| e.errno);
            assert_eq!(error, Err(Errno::EACCES));
            let none = stack.list(closed.node, 0, &mut |_| ControlFlow::Continue(()));
            assert_eq!(none.map_err(|e| e.errno), Err(Errno::EACCES));
        });
    });
    chown(layers[0].join("closed"), Some(0), Some(0)).expect("an owner");
    assert_eq!(text(&open(&layers)).len(), 5);
}
