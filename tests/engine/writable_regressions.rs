//! What once went wrong in writable overlays.

use std::ops::ControlFlow;

use nix::errno::Errno;
use plyfs::overlay::{
    Namespace, NodeNumber, OpenRequest, Opened, Overlay, SetAttributes, XattrChange,
};

use super::support::{Need, make, require, set_xattr};
use super::writable::{Paths, Writable, errno, names, read, tree};

/// A default ACL that gives a user something.
fn default_acl() -> Vec<u8> {
    let none = u32::MAX;
    acl([
        (1, 7, none),
        (2, 7, 1234),
        (4, 5, none),
        (16, 7, none),
        (32, 0, none),
    ])
}

fn acl(entries: impl IntoIterator<Item = (u16, u16, u32)>) -> Vec<u8> {
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// What somebody has set for everything below a directory above the work directory does not reach what
/// is copied up, nor what is prepared there.
#[test]
fn regression_a_default_acl_above_the_work_directory_stays_there() {
    if !require(Need::Root) || !require(Need::Acls) {
        return;
    }
    let lab = Writable::new(&[&["f d/a text", "f d/gone x", "d e/f", "f h 1", "h g h"]]);
    set_xattr(&lab.work, "system.posix_acl_default", &default_acl()).expect("an ACL");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o660);
    std::fs::set_permissions(lab.layers[0].join("d/a"), mode).expect("a mode");
    let overlay = lab.open();
    let paths = Paths(&overlay);
    paths.write("d/a", b"TEXT", 0).expect("a copy");
    paths.chmod("h", 0o640).expect("a copy in the index");
    paths.unlink("d/gone").expect("it goes");
    paths.mkdir("d/gone", 0o755).expect("over a whiteout");
    paths.mkdir("e/f/new", 0o755).expect("a directory");
    for (path, row) in &tree(&overlay) {
        let acl = row
            .xattrs
            .keys()
            .find(|it| it.starts_with(b"system.posix_acl_"));
        assert!(acl.is_none(), "{}: {acl:?}", path.escape_ascii());
    }
    assert_eq!(paths.stat("d/a").expect("a file").permissions, 0o660);
    assert_eq!(
        paths.stat("d/gone").expect("a directory").permissions,
        0o755
    );
}

/// Others go on while a directory is removed, or replaced, that is full of whiteouts.
#[test]
fn regression_whiteouts_are_cleaned_without_the_rename_lock() {
    others_go_on(|paths| paths.rmdir("many").expect("it goes"));
    others_go_on(|paths| {
        paths.mkdir("new", 0o755).expect("a directory");
        paths.rename("new", "many").expect("it is replaced");
        paths.rmdir("many").expect("it goes");
    });
}

fn others_go_on(remove: impl Fn(&Paths<'_>) + Sync) {
    const WHITEOUTS: usize = 600;
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&["d many"]]);
    let fill = |round: usize| {
        // More each time: on a busy machine the others run late.
        for number in 0..WHITEOUTS * (1 + round / 4) {
            make(&lab.upper, &format!("wc many/{round}-{number}")).expect("a whiteout");
        }
    };
    fill(0);
    let overlay = lab.open();
    let paths = Paths(&overlay);
    let work = lab.work.join("work");
    let left = || {
        // It is there as a directory as long as it is not empty.
        let mut names = names(&work).into_iter();
        names.any(|name| name.starts_with('#') && work.join(name).is_dir())
    };
    let mut overlapped = false;
    // It may be over before the other thread runs.
    for round in 1..40 {
        paths.create("other", b"").expect("a file");
        std::thread::scope(|scope| {
            let removing = scope.spawn(|| remove(&paths));
            while !left() && !removing.is_finished() {
                // sched_yield(2) gives up more than a turn since Linux 6.18: others would always be first.
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
            paths.unlink("other").expect("it goes");
            overlapped |= left();
        });
        if overlapped {
            break;
        }
        paths.mkdir("many", 0o755).expect("a directory");
        fill(round);
    }
    assert!(overlapped, "removing a name waited for the cleaning");
    assert!(!left(), "and all is clean");
}

/// With owners in attributes a symlink is a file. One whose name goes is read by its other names, which
/// nobody looks up again.
#[test]
fn regression_a_symlink_of_a_plain_user_outlives_the_name_it_was_known_by() {
    for override_stat in [true, false] {
        let mut lab = Writable::new(&[&["d d"]]);
        lab.options.override_stat = override_stat;
        let overlay = lab.open();
        let paths = Paths(&overlay);
        paths.symlink("d/one", "target").expect("a symlink");
        let read = paths.with("d/one", |found| {
            paths.link("d/one", "two")?;
            paths.unlink("d/one")?;
            Ok(overlay.read_link(found.node)?.into_owned())
        });
        assert_eq!(read.expect("a target"), b"target");
        let other = overlay.lookup(NodeNumber::ROOT, b"two");
        assert!(other.expect("an answer").is_some());
    }
}

#[test]
fn regression_an_acl_that_cannot_be_set_leaves_the_mode() {
    let mut lab = Writable::new(&[&["d d"]]);
    lab.options.override_stat = true;
    let overlay = lab.open();
    let paths = Paths(&overlay);
    paths.create("f", b"").expect("a file");
    let mode = |expected: u16| {
        let now = paths.with("f", |found| overlay.attributes(found.node));
        assert_eq!(now.expect("attributes").permissions, expected);
    };
    let set = |acl: &[u8], change| {
        let name = b"system.posix_acl_access";
        let set = paths.with("f", |found| {
            overlay.set_xattr(found.node, name, acl, change)
        });
        errno(set)
    };
    let none = u32::MAX;
    let minimal = acl([(1, 7, none), (4, 7, none), (32, 7, none)]);
    // More than any attribute can be.
    let users = (0..9000).map(|user| (2, 7, user));
    let large = acl([(1, 7, none)].into_iter().chain(users));
    paths.chmod("f", 0o600).expect("a mode");
    for (acl, change, error) in [
        (&minimal, XattrChange::Replace, Errno::ENODATA),
        (&default_acl(), XattrChange::Replace, Errno::ENODATA),
        (&large, XattrChange::Set, Errno::E2BIG),
    ] {
        assert_eq!(set(acl, change), Err(error));
        mode(0o600);
    }
    assert_eq!(set(&default_acl(), XattrChange::Create), Ok(()));
    mode(0o770);
    assert_eq!(set(&minimal, XattrChange::Create), Err(Errno::EEXIST));
    mode(0o770);
    assert_eq!(set(&minimal, XattrChange::Replace), Ok(()));
    mode(0o777);
}

const READ: OpenRequest = OpenRequest {
    write: false,
    truncate: false,
    lower_is_live: false,
};

/// Replaces the node of a file that the kernel reads below.
fn split(overlay: &Overlay, node: NodeNumber) -> NodeNumber {
    let request = OpenRequest {
        write: true,
        lower_is_live: true,
        ..READ
    };
    match overlay.open_file(node, request) {
        Ok(Opened::MovedTo(new)) => new,
        other => panic!("the node was not replaced: {other:?}"),
    }
}

/// The old node of a replaced file stays in use as long as somebody has it open; the names that the
/// file has below lead to the new one, whether that is known at the time or not.
#[test]
fn regression_other_names_of_a_replaced_file_lead_to_the_new_one() {
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&["f a old-text", "h b a", "h c a"]]);
    let overlay = lab.open();
    let look_up = |name: &[u8]| {
        let found = overlay.lookup(NodeNumber::ROOT, name).expect("a lookup");
        found.expect("a file")
    };
    let old = look_up(b"a");
    let Ok(Opened::File(file)) = overlay.open_file(old.node, READ) else {
        panic!("no file");
    };
    let new = split(&overlay, old.node);
    assert_eq!(look_up(b"a").node, new);
    overlay.forget(new, 1);
    Paths(&overlay).unlink("a").expect("it goes");
    let (other, third) = (look_up(b"b"), look_up(b"c"));
    assert_ne!(other.node, old.node);
    assert_eq!((other.node, other.ino), (third.node, old.ino));
    let paths = Paths(&overlay);
    paths.write("b", b"new", 0).expect("a write");
    assert_eq!(paths.read("c").expect("a read"), b"new-text");
    let mut text = [0; 8];
    file.read_at(&mut text, 0).expect("a read");
    assert_eq!(&text, b"old-text");
    drop(file);
    for node in [old.node, other.node, other.node] {
        overlay.forget(node, 1);
    }
    assert_eq!(overlay.nodes_in_use(), 1);
}

/// Nothing in the index would ever go again.
#[test]
fn regression_a_changed_file_without_names_does_not_come_into_the_index() {
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&["f a text", "h b a", "f c text"]]);
    let overlay = lab.open();
    let paths = Paths(&overlay);
    for names in [&["a", "b"][..], &["c"]] {
        let node = overlay.lookup(NodeNumber::ROOT, names[0].as_bytes());
        let node = node.expect("a lookup").expect("a file").node;
        for name in names {
            paths.unlink(name).expect("it goes");
        }
        let emptying = OpenRequest {
            write: true,
            truncate: true,
            lower_is_live: true,
        };
        let opened = overlay.open_file(node, emptying).map(drop);
        assert_eq!(errno(opened), Err(Errno::ESTALE));
        let found = overlay.attributes(node).expect("attributes");
        assert_eq!((found.nlink, found.size), (0, 4), "the reader has it still");
        let change = SetAttributes {
            permissions: Some(0o600),
            ..SetAttributes::default()
        };
        let found = overlay.set_attributes(node, &change).expect("a mode");
        assert_eq!((found.nlink, found.permissions), (0, 0o600));
        assert_eq!(read(&overlay, &found).expect("content"), b"text");
        overlay.forget(node, 1);
    }
    assert!(names(&lab.work.join("plyfs.index")).is_empty());
    assert_eq!(overlay.nodes_in_use(), 1);
}

/// Without redirects a directory that is renamed hides what lies below it, and whoever is reading it
/// goes on where he was.
#[test]
fn regression_a_rename_repeats_nothing_to_who_reads_the_directory() {
    let lines: Vec<String> = (0..30).map(|n| format!("f d/b{n:02} x")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for steps in [3, 17, 25, 34] {
        let mut lab = Writable::new(&[&lines]);
        lab.options.metacopy_redirect = false;
        let overlay = lab.open();
        let paths = Paths(&overlay);
        for n in 0..10 {
            paths.create(&format!("d/u{n}"), b"").expect("a file");
        }
        let directory = overlay.lookup(NodeNumber::ROOT, b"d");
        let directory = directory.expect("a lookup").expect("a directory").node;
        let (mut offset, mut seen) = (0, Vec::new());
        for room in [steps, usize::MAX] {
            let list = overlay.list(directory, offset, &mut |listed| {
                if seen.len() == room {
                    return ControlFlow::Break(());
                }
                offset = listed.next_offset;
                seen.push(listed.name.to_vec());
                ControlFlow::Continue(())
            });
            list.expect("a listing");
            if room == steps {
                paths.rename("d", "e").expect("a rename");
            }
        }
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!((seen.len(), count), (42, 42), "after {steps}");
        overlay.forget(directory, 1);
    }
}

/// What a crash leaves of whiteouts in a directory that has become opaque, where the kernel would take those by
/// attribute for files.
#[test]
fn regression_whiteouts_in_an_opaque_directory_are_removed() {
    let mut lab = Writable::new(&[&["f d/gone 1", "f d/old 2", "f d/kept 3"]]);
    lab.options.namespace = Some(Namespace::User);
    for line in [
        "f d/gone ",
        "x d/gone user.overlay.whiteout y",
        "f d/old ",
        "x d/old user.overlay.whiteout y",
        "f d/kept ",
        "x d user.overlay.opaque y",
    ] {
        make(&lab.upper, line).expect("an upper");
    }
    let before = lab.upper.join("d").metadata().expect("a directory");
    let overlay = lab.open();
    let paths = Paths(&overlay);
    let names_of = |paths: &Paths<'_>| {
        let rows = tree(paths.0);
        let names = rows.keys().map(|path| path.escape_ascii().to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names_of(&paths), ["/d", "/d/kept"]);
    assert_eq!(lab.upper_names("d"), ["kept"]);
    let after = lab.upper.join("d").metadata().expect("a directory");
    assert_eq!(before.modified().ok(), after.modified().ok());
    paths.create("d/gone", b"new").expect("a file");
    assert_eq!(names_of(&paths), ["/d", "/d/gone", "/d/kept"]);
}
