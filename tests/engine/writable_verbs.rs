//! What the verbs of a writable overlay promise beyond the tree that they leave.

use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use plyfs::layer::FileKind;
use plyfs::overlay::{
    Caller, NodeNumber, OpenRequest, Opened, OverlayOptions, RenameFlags, SetAttributes,
    TimeChange, Timestamp,
};

use super::kernel::in_private_mounts;
use super::support::{Need, require, set_xattr, unmount};
use super::writable::{Paths, ROOT_CALLER, Writable, errno, names, tree};

#[test]
fn whiteouts_only_where_they_hide_something() {
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&["f d/a 1", "f d/b 2", "d e/f"]]);
    let overlay = lab.open();
    let paths = Paths(&overlay);
    paths.mkdir("new", 0o755).expect("a directory");
    paths.create("new/x", b"").expect("a file");
    paths.unlink("new/x").expect("an upper file goes");
    assert!(lab.upper_names("new").is_empty());
    paths.create("d/x", b"").expect("a file");
    paths.unlink("d/x").expect("an upper file goes");
    assert!(lab.upper_names("d").is_empty());
    paths.unlink("d/a").expect("a base file goes");
    assert_eq!(lab.upper_names("d"), ["a"]);
    // A directory in the place of a whiteout hides all below.
    for name in ["d/b", "e/f"] {
        let gone = paths.unlink(name).or_else(|_| paths.rmdir(name));
        gone.expect("something goes");
        paths.mkdir(name, 0o755).expect("a directory");
        paths.create(&format!("{name}/q"), b"").expect("a file");
        paths.unlink(&format!("{name}/q")).expect("it goes");
        assert!(lab.upper_names(name).is_empty());
    }
    paths.rmdir("e/f").expect("an empty directory");
    paths.rmdir("e").expect("a directory with a whiteout only");
    assert_eq!(lab.upper_names(""), ["d", "e", "new"]);
    assert_eq!(errno(paths.rmdir("d")), Err(Errno::ENOTEMPTY));
}

#[test]
fn what_is_unlinked_lives_while_it_is_known() {
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&["f base text", "f other 1"]]);
    let overlay = lab.open();
    let paths = Paths(&overlay);
    paths.create("upper", b"text").expect("a file");
    paths.chmod("other", 0o600).expect("a mode");
    for name in ["base", "upper", "other"] {
        let node = overlay
            .lookup(NodeNumber::ROOT, name.as_bytes())
            .expect("a lookup");
        let node = node.expect("a file").node;
        paths.unlink(name).expect("it goes");
        assert_eq!(errno(paths.stat(name)).map(drop), Err(Errno::ENOENT));
        let gone = overlay.attributes(node).expect("attributes");
        assert_eq!((gone.nlink, gone.node), (0, node), "{name}");
        let change = SetAttributes {
            permissions: Some(0o4755),
            size: Some(2),
            ..SetAttributes::default()
        };
        let changed = overlay.set_attributes(node, &change).expect("a change");
        assert_eq!(
            (changed.permissions, changed.size, changed.nlink),
            (0o4755, 2, 0)
        );
        let request = OpenRequest {
            write: true,
            ..OpenRequest::default()
        };
        let Ok(Opened::File(file)) = overlay.open_file(node, request) else {
            panic!("{name} cannot be opened");
        };
        assert_eq!(file.write_at(b"more", 2).expect("a write"), 4);
        let mut read = [0; 10];
        assert_eq!(file.read_at(&mut read, 1).expect("a read"), 5);
        overlay
            .set_xattr(node, b"user.a", b"b", Default::default())
            .expect("an attribute");
        assert_eq!(&*overlay.xattr(node, b"user.a").expect("its value"), b"b");
        assert_eq!(
            errno(overlay.link(node, NodeNumber::ROOT, b"again")).map(drop),
            Err(Errno::ENOENT)
        );
        // Something new of that name is something else.
        paths.create(name, b"").expect("a file");
        assert_ne!(paths.stat(name).expect("attributes").node, node);
        overlay.forget(node, 1);
        assert_eq!(
            errno(overlay.attributes(node)).map(drop),
            Err(Errno::ESTALE)
        );
    }
    assert_eq!(overlay.nodes_in_use(), 1);
}

#[test]
fn handles_see_what_is_written_later() {
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&["f a old-text", "f b old-text"]]);
    let overlay = lab.open();
    let paths = Paths(&overlay);
    let read = OpenRequest::default();
    let old = overlay
        .lookup(NodeNumber::ROOT, b"a")
        .expect("a lookup")
        .expect("a file");
    let Ok(Opened::File(file)) = overlay.open_file(old.node, read) else {
        panic!("no file");
    };
    paths.chmod("a", 0o600).expect("a mode");
    assert!(!file.is_upper());
    paths.write("a", b"new", 0).expect("a write");
    let mut text = [0; 8];
    file.read_at(&mut text, 0).expect("a read");
    assert_eq!((&text, file.is_upper()), (b"new-text", true));
    overlay.forget(old.node, 1);
    // While the kernel reads the lower file by itself, the node stays what it is.
    let old = overlay
        .lookup(NodeNumber::ROOT, b"b")
        .expect("a lookup")
        .expect("a file");
    let Ok(Opened::File(file)) = overlay.open_file(old.node, read) else {
        panic!("no file");
    };
    let write = OpenRequest {
        write: true,
        lower_is_live: true,
        ..OpenRequest::default()
    };
    let Ok(Opened::MovedTo(new)) = overlay.open_file(old.node, write) else {
        panic!("the node was not replaced");
    };
    let found = overlay
        .lookup(NodeNumber::ROOT, b"b")
        .expect("a lookup")
        .expect("a file");
    assert_eq!((found.node, found.ino), (new, old.ino));
    assert_ne!(new, old.node);
    overlay.forget(new, 1);
    // The old one is still in use, so this is not it again.
    let again = overlay
        .lookup(NodeNumber::ROOT, b"b")
        .expect("a lookup")
        .expect("a file");
    assert_ne!(again.node, old.node);
    assert_eq!(again.ino, old.ino);
    overlay.forget(again.node, 1);
    paths.write("b", b"new", 0).expect("a write");
    file.read_at(&mut text, 0).expect("a read");
    assert_eq!(&text, b"old-text");
    assert_eq!(paths.read("b").expect("a read"), b"new-text");
    assert_eq!(
        errno(overlay.open_file(old.node, write)).map(drop),
        Err(Errno::ESTALE)
    );
    overlay.forget(old.node, 1);
    drop(file);
    assert_eq!(overlay.nodes_in_use(), 1);
    let found = paths.stat("b").expect("attributes");
    assert_eq!((found.node, found.ino), (old.node, old.ino));
}

#[test]
fn hard_links_stay_one_file() {
    if !require(Need::Root) {
        return;
    }
    for marks in [true, false] {
        let mut lab = Writable::new(&[&["f d/1 text", "h d/2 d/1", "h e/3 d/1"]]);
        lab.options.metacopy_redirect = marks;
        let mut overlay = lab.open();
        let ino = Paths(&overlay).stat("d/1").expect("attributes").ino;
        let all = |overlay: &plyfs::overlay::Overlay, names: &[&str], mode, text: &[u8]| {
            let paths = Paths(overlay);
            for name in names {
                let found = paths.stat(name).expect("attributes");
                let seen = (found.ino, found.permissions, found.nlink as usize);
                assert_eq!(seen, (ino, mode, names.len()), "{name}");
                assert_eq!(paths.read(name).expect("content"), text, "{name}");
            }
        };
        all(&overlay, &["d/1", "d/2", "e/3"], 0o644, b"text");
        Paths(&overlay).chmod("d/2", 0o600).expect("a mode");
        all(&overlay, &["d/1", "d/2", "e/3"], 0o600, b"text");
        overlay = reopen(overlay, &lab);
        all(&overlay, &["d/1", "d/2", "e/3"], 0o600, b"text");
        Paths(&overlay).write("e/3", b"T", 0).expect("a write");
        Paths(&overlay).link("d/1", "new").expect("a link");
        all(&overlay, &["d/1", "d/2", "e/3", "new"], 0o600, b"Text");
        overlay = reopen(overlay, &lab);
        all(&overlay, &["d/1", "d/2", "e/3", "new"], 0o600, b"Text");
        Paths(&overlay).unlink("d/2").expect("a name goes");
        Paths(&overlay).rename("d/1", "moved").expect("a rename");
        overlay = reopen(overlay, &lab);
        all(&overlay, &["moved", "e/3", "new"], 0o600, b"Text");
        for (name, left) in [("moved", vec!["e/3", "new"]), ("e/3", vec!["new"])] {
            Paths(&overlay).unlink(name).expect("a name goes");
            all(&overlay, &left, 0o600, b"Text");
        }
        Paths(&overlay).unlink("new").expect("the last name goes");
        assert!(names(&lab.work.join("plyfs.index")).is_empty());
    }
}

fn reopen(overlay: plyfs::overlay::Overlay, lab: &Writable) -> plyfs::overlay::Overlay {
    drop(overlay);
    lab.open()
}

#[test]
fn copies_are_exact() {
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&[
        "f d/sparse x",
        "f d/cap text",
        "l d/link target",
        "p d/fifo",
    ]]);
    let base = lab.layers[0].join("d");
    let sparse = std::fs::File::options()
        .write(true)
        .open(base.join("sparse"))
        .expect("a file");
    sparse.set_len(64 << 20).expect("a length");
    sparse.write_all_at(b"middle", 32 << 20).expect("data");
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    std::os::unix::fs::chown(base.join("cap"), Some(3), Some(4)).expect("an owner");
    set_xattr(&base.join("cap"), "security.capability", capability).expect("a capability");
    set_xattr(&base.join("cap"), "user.overlayish", b"\xff\0").expect("an attribute");
    std::fs::set_permissions(base.join("cap"), PermissionsExt::from_mode(0o6755)).expect("a mode");
    std::fs::set_permissions(&base, PermissionsExt::from_mode(0o700)).expect("a mode");
    super::reference::age(&lab.layers[0]);
    let time = nix::sys::time::TimeSpec::new(-1234, 5);
    let how = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &base, &time, &time, how)
        .expect("a time before 1970");
    let overlay = lab.open();
    let paths = Paths(&overlay);
    let before = tree(&overlay);
    // Opening for writing changes nothing yet.
    let write = OpenRequest {
        write: true,
        ..OpenRequest::default()
    };
    for name in ["d/sparse", "d/cap"] {
        paths.open(name, write).expect("a file");
    }
    for name in ["d/link", "d/fifo"] {
        let now = paths.stat(name).expect("attributes");
        let change = SetAttributes {
            uid: Some(now.uid),
            ..SetAttributes::default()
        };
        paths.set(name, &change).expect("an owner");
    }
    let after = tree(&overlay);
    for (path, row) in &before {
        assert!(after.get(path) == Some(row), "{}", path.escape_ascii());
    }
    let upper = lab.upper.join("d");
    assert!(
        std::fs::metadata(upper.join("sparse"))
            .expect("a copy")
            .blocks()
            < 200
    );
    assert_eq!(std::fs::metadata(&upper).expect("a copy").mtime(), -1234);
    // Attributes of large files are changed without their data.
    let lab = Writable::new(&[&["f a 1"]]);
    std::fs::write(lab.layers[0].join("a"), vec![1; 1 << 20]).expect("a file");
    let overlay = lab.open();
    Paths(&overlay).chmod("a", 0o600).expect("a mode");
    let copy = std::fs::metadata(lab.upper.join("a")).expect("a copy");
    assert!(
        copy.len() == 1 << 20 && copy.blocks() < 20,
        "{}",
        copy.blocks()
    );
    Paths(&overlay).truncate("a", 10).expect("a length");
    assert_eq!(Paths(&overlay).read("a").expect("content"), [1; 10]);
}

#[test]
fn an_upper_has_one_user() {
    let lab = Writable::new(&[&["f a 1"]]);
    let overlay = lab.open();
    assert_eq!(errno(lab.try_open()).map(drop), Err(Errno::EBUSY));
    drop(overlay);
    let mut lab = lab;
    lab.options.volatile = true;
    drop(lab.open());
    assert_eq!(errno(lab.try_open()).map(drop), Err(Errno::EINVAL));
    std::fs::remove_dir(lab.work.join("work/incompat/volatile")).expect("the mark");
    lab.options.volatile = false;
    drop(lab.open());
    let work = std::mem::replace(&mut lab.work, lab.upper.join("work"));
    std::fs::create_dir(&lab.work).expect("a directory");
    assert_eq!(errno(lab.try_open()).map(drop), Err(Errno::EINVAL));
    lab.work = work;
    if let Ok(other) = tempfile::tempdir_in("/dev/shm") {
        lab.work = other.path().to_owned();
        assert_eq!(errno(lab.try_open()).map(drop), Err(Errno::EXDEV));
    }
}

#[test]
fn groups_and_acls_are_inherited() {
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&["d g", "d a", "f a/gone 1"]]);
    std::os::unix::fs::chown(lab.layers[0].join("g"), None, Some(77)).expect("a group");
    let mode = PermissionsExt::from_mode(0o2775);
    std::fs::set_permissions(lab.layers[0].join("g"), mode).expect("a mode");
    let mut acl = vec![2, 0, 0, 0];
    for (tag, allowed, id) in [
        (1u16, 7u16, u32::MAX),
        (2, 7, 55),
        (4, 5, u32::MAX),
        (16, 7, u32::MAX),
        (32, 5, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(allowed.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let overlay = lab.open();
    let paths = Paths(&overlay);
    let caller = Caller {
        uid: 5,
        gid: 6,
        umask: 0o077,
    };
    let make = |path: &str, caller: &Caller, directory: bool| {
        paths.at(path, |parent, name| {
            let made = match directory {
                true => overlay.make_directory(parent, name, 0o777, caller)?,
                false => overlay.create(parent, name, 0o666, caller)?.0,
            };
            overlay.forget(made.node, 1);
            Ok((made.uid, made.gid, made.permissions))
        })
    };
    assert_eq!(errno(make("g/f", &caller, false)), Ok((5, 77, 0o600)));
    assert_eq!(errno(make("g/d", &caller, true)), Ok((5, 77, 0o2700)));
    assert_eq!(errno(make("x", &caller, false)), Ok((5, 6, 0o600)));
    assert_eq!(errno(make("y", &ROOT_CALLER, false)), Ok((0, 0, 0o666)));
    if !require(Need::Acls) {
        return;
    }
    let set = paths.set_xattr("a", "system.posix_acl_default", &acl);
    set.expect("an ACL");
    paths.unlink("a/gone").expect("a file goes");
    for name in ["a/f", "a/gone"] {
        assert_eq!(
            errno(make(name, &caller, false)),
            Ok((5, 6, 0o664)),
            "{name}"
        );
        let access = paths.with(name, |node| {
            Ok(overlay
                .xattr(node.node, b"system.posix_acl_access")?
                .into_owned())
        });
        assert!(errno(access).is_ok(), "{name}");
    }
    assert_eq!(errno(make("a/d", &caller, true)), Ok((5, 6, 0o775)));
    let default = paths.with("a/d", |node| {
        Ok(overlay
            .xattr(node.node, b"system.posix_acl_default")?
            .into_owned())
    });
    assert_eq!(errno(default), Ok(acl));
}

#[test]
fn privileges_are_dropped() {
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&["f a 1", "f b 1", "f c 1"]]);
    for (name, mode) in [("a", 0o6755), ("b", 0o6745), ("c", 0o755)] {
        let mode = PermissionsExt::from_mode(mode);
        std::fs::set_permissions(lab.layers[0].join(name), mode).expect("a mode");
    }
    let overlay = lab.open();
    let paths = Paths(&overlay);
    for (name, mode) in [("a", 0o755), ("b", 0o2745), ("c", 0o755)] {
        let dropped = paths.with(name, |node| overlay.kill_privileges(node.node));
        assert_eq!(errno(dropped).map(|a| a.permissions), Ok(mode));
    }
    assert_eq!(
        lab.upper_names(""),
        ["a", "b"],
        "what has none is not copied"
    );
    paths.chmod("c", 0o6755).expect("a mode");
    let change = SetAttributes {
        uid: Some(9),
        ..SetAttributes::default()
    };
    paths.set("c", &change).expect("an owner");
    assert_eq!(paths.stat("c").expect("attributes").permissions, 0o755);
}

#[test]
fn listings_survive_changes() {
    if !require(Need::Root) {
        return;
    }
    let lines: Vec<String> = (0..50).map(|n| format!("f d/b{n:02} x")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let lab = Writable::new(&[&lines]);
    let overlay = lab.open();
    let paths = Paths(&overlay);
    for n in 0..50 {
        paths.create(&format!("d/u{n:02}"), b"").expect("a file");
    }
    let directory = overlay
        .lookup(NodeNumber::ROOT, b"d")
        .expect("a lookup")
        .expect("a directory");
    let (mut offset, mut seen, mut step) = (0, Vec::new(), 0);
    loop {
        let mut got = false;
        overlay
            .list(directory.node, offset, &mut |listed| {
                got = true;
                offset = listed.next_offset;
                seen.push(String::from_utf8_lossy(listed.name).into_owned());
                match seen.len() % 7 {
                    0 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            })
            .expect("a listing");
        if !got {
            break;
        }
        // Every third stays as it is; the others go, change sides, or come.
        for n in (step..50).step_by(17).filter(|n| n % 3 != 0) {
            let _may_be_gone = paths.unlink(&format!("d/b{n:02}"));
            let _may_be_gone = paths.unlink(&format!("d/u{n:02}"));
        }
        paths
            .chmod(&format!("d/b{:02}", (step * 3) % 48), 0o600)
            .expect("a mode");
        if step < 10 {
            paths.create(&format!("d/n{step}"), b"").expect("a file");
        }
        step += 1;
    }
    for n in (0..50).step_by(3) {
        for name in [format!("b{n:02}"), format!("u{n:02}")] {
            assert_eq!(seen.iter().filter(|s| **s == name).count(), 1, "{name}");
        }
    }
    seen.sort();
    let count = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), count, "an entry was listed twice");
    overlay.forget(directory.node, 1);
}

#[test]
fn odd_names_kinds_and_times() {
    if !require(Need::Root) {
        return;
    }
    let long = "n".repeat(255);
    let lab = Writable::new(&[&[&format!("f {long} x"), "f .wh.notes.gone x"]]);
    let overlay = lab.open();
    let paths = Paths(&overlay);
    paths.unlink(&long).expect("a long name goes");
    paths.create(&long, b"1").expect("a long name");
    assert_eq!(
        errno(paths.create(&"n".repeat(256), b"")),
        Err(Errno::ENAMETOOLONG)
    );
    // In the upper such a name is a name.
    paths.create(".wh.x", b"1").expect("a file");
    paths.create("x", b"1").expect("a file");
    assert!(paths.stat("x").is_ok() && paths.stat(".wh.x").is_ok());
    let device = |name: &[u8], kind, device| {
        overlay.make_node(NodeNumber::ROOT, name, kind, 0o600, device, &ROOT_CALLER)
    };
    let made = device(b"null", FileKind::CharDevice, (1, 3)).expect("a device");
    assert_eq!((made.device, made.kind), ((1, 3), FileKind::CharDevice));
    device(b"sock", FileKind::Socket, (0, 0)).expect("a socket");
    let time = TimeChange::At(Timestamp {
        seconds: -77,
        nanoseconds: 999_999_999,
    });
    let change = SetAttributes {
        atime: Some(time),
        mtime: Some(time),
        ..SetAttributes::default()
    };
    paths.set("null", &change).expect("a time");
    let found = paths.stat("null").expect("attributes").mtime;
    assert_eq!((found.seconds, found.nanoseconds), (-77, 999_999_999));
    // The marks of overlays within are theirs.
    paths
        .set_xattr("x", "trusted.overlay.opaque", b"y")
        .expect("an attribute");
    let names = paths.with("x", |node| overlay.xattr_names(node.node));
    assert_eq!(errno(names), Ok(b"trusted.overlay.opaque\0".to_vec()));
    let flags = RenameFlags {
        no_replace: true,
        ..RenameFlags::default()
    };
    assert_eq!(
        errno(paths.rename_with("x", ".wh.x", flags)),
        Err(Errno::EEXIST)
    );
}

#[test]
fn many_at_once() {
    if !require(Need::Root) {
        return;
    }
    let lines: Vec<String> = (0..200).map(|n| format!("f d/b{n} {n}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for marks in [true, false] {
        let mut lab = Writable::new(&[&lines]);
        lab.options.metacopy_redirect = marks;
        let overlay = lab.open();
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let overlay = &overlay;
                scope.spawn(move || {
                    let paths = Paths(overlay);
                    for n in 0..40 {
                        let own = format!("d/t{thread}-{n}");
                        // The directory may be elsewhere at this moment.
                        while errno(paths.create(&own, b"x")) == Err(Errno::ENOENT) {}
                        let base = format!("d/b{}", (n * 7 + thread) % 200);
                        // Others may have removed or renamed it.
                        let _tried = match thread % 3 {
                            0 => paths.chmod(&base, 0o600),
                            1 => paths.write(&base, b"y", 0),
                            _ => paths.unlink(&base),
                        };
                        let _tried = paths.names("d");
                        if n % 10 == 0 {
                            let _tried = paths.rename("d", "e");
                            let _tried = paths.rename("e", "d");
                        }
                        // It may be in `d` or in `e` at this moment.
                        for _ in 0..1000 {
                            if paths.rename(&own, &format!("d/{thread}-{n}")).is_ok() {
                                break;
                            }
                        }
                    }
                });
            }
        });
        let now = tree(&overlay);
        assert_eq!(overlay.nodes_in_use(), 1);
        drop(overlay);
        assert_eq!(now, tree(&lab.open()));
    }
}

#[test]
fn without_an_upper_nothing_changes() {
    let lab = Writable::new(&[&["f a 1"]]);
    let overlay = plyfs::overlay::Overlay::read_only(plyfs::union::Union::Stack(
        super::support::open(&lab.layers),
    ));
    let paths = Paths(&overlay);
    let results = [
        errno(paths.chmod("a", 0o600)),
        errno(paths.unlink("a")),
        errno(paths.mkdir("b", 0o700)),
        errno(paths.rename("a", "b")),
        errno(paths.write("a", b"x", 0)),
        errno(paths.link("a", "b")),
        errno(paths.set_xattr("a", "user.x", b"")),
    ];
    assert_eq!(results, [Err(Errno::EROFS); 7]);
    assert_eq!(paths.read("a").expect("content"), b"1");
}

/// A file system of so many bytes for the upper and the work directory.
fn on_a_small_file_system(lab: &mut Writable, size: &str) {
    let at = lab.lab.empty();
    let options = format!("size={size}");
    let flags = MsFlags::empty();
    mount(Some("t"), &at, Some("tmpfs"), flags, Some(&*options)).expect("a mount");
    (lab.upper, lab.work) = (at.join("upper"), at.join("work"));
    for directory in [&lab.upper, &lab.work] {
        std::fs::create_dir(directory).expect("a directory");
    }
}

#[test]
fn a_full_file_system_leaves_the_tree_as_it_was() {
    if !require(Need::Root) {
        return;
    }
    in_private_mounts(|| {
        let mut lab = Writable::new(&[&["d d", "f d/small 1"]]);
        std::fs::write(lab.layers[0].join("big"), vec![b'b'; 1 << 20]).expect("a file");
        on_a_small_file_system(&mut lab, "512k");
        let overlay = lab.open();
        let paths = Paths(&overlay);
        paths.mkdir("new", 0o755).expect("there is room for it");
        let before = tree(&overlay);
        assert_eq!(errno(paths.write("big", b"x", 0)), Err(Errno::ENOSPC));
        assert_eq!(tree(&overlay), before);
        assert!(names(&lab.work.join("work")).is_empty());
        // What frees space goes on to work.
        paths.rmdir("new").expect("it goes");
        paths.unlink("big").expect("it goes");
        assert!(paths.stat("big").is_err());
        drop(overlay);
        let now = tree(&lab.open());
        assert!(!now.contains_key(&b"/big"[..]) && now.contains_key(&b"/d/small"[..]));
        unmount(lab.upper.parent().expect("its mount"));
    });
}

#[test]
fn an_upper_that_becomes_read_only_leaves_the_tree_as_it_was() {
    if !require(Need::Root) {
        return;
    }
    in_private_mounts(|| {
        let mut lab = Writable::new(&[&["f a 1", "d d", "h b a"]]);
        on_a_small_file_system(&mut lab, "4m");
        let overlay = lab.open();
        let paths = Paths(&overlay);
        paths.create("new", b"n").expect("a file");
        let before = tree(&overlay);
        let at = lab.upper.parent().expect("its mount");
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, at, None::<&str>, read_only, None::<&str>).expect("a remount");
        let results = [
            errno(paths.chmod("a", 0o600)),
            errno(paths.unlink("a")),
            errno(paths.unlink("new")),
            errno(paths.mkdir("d/b", 0o700)),
            errno(paths.create("c", b"")),
            errno(paths.rename("new", "b")),
            errno(paths.write("a", b"x", 0)),
            errno(paths.link("new", "l")),
            errno(paths.rmdir("d")),
            errno(paths.set_xattr("a", "user.x", b"")),
        ];
        assert_eq!(results, [Err(Errno::EROFS); 10]);
        assert_eq!(tree(&overlay), before);
        drop(overlay);
        assert_eq!(errno(lab.try_open().map(drop)), Err(Errno::EROFS));
        unmount(at);
    });
}

/// Runs in a process of an ordinary user; see [`a_plain_user_has_all_owners_and_kinds`].
#[test]
#[ignore = "is run by another test"]
fn as_a_plain_user() {
    assert!(!nix::unistd::geteuid().is_root());
    let mut lab = Writable::new(&[&["f a text", "l l target", "d d/e", "h h a"]]);
    lab.options = OverlayOptions {
        override_stat: true,
        ..OverlayOptions::default()
    };
    let mut expected = None;
    for round in 0..2 {
        let overlay = lab.open();
        let paths = Paths(&overlay);
        if round == 0 {
            let chown = |uid| SetAttributes {
                uid: Some(uid),
                gid: Some(7),
                ..SetAttributes::default()
            };
            for name in ["a", "l", "d"] {
                paths.set(name, &chown(4)).expect("an owner");
            }
            paths.chmod("a", 0o4000).expect("a mode");
            paths.chmod("d", 0).expect("a mode");
            paths.create("d/new", b"content").expect("a file");
            paths
                .set_xattr("d/new", "security.capability", b"cap")
                .expect("a capability");
            paths.symlink("d/link", "somewhere").expect("a symlink");
            paths.fifo("d/fifo").expect("a fifo");
            let kind = FileKind::CharDevice;
            let node = NodeNumber::ROOT;
            let device = overlay.make_node(node, b"null", kind, 0o666, (1, 3), &ROOT_CALLER);
            overlay.forget(device.expect("a device").node, 1);
            paths.unlink("h").expect("a name goes");
            paths.rename("d", "moved").expect("a rename");
        }
        let now = tree(&overlay);
        let get = |name: &str| now.get(name.as_bytes()).expect("it is there");
        assert_eq!((get("/a").owner, get("/a").permissions), ((4, 7), 0o4000));
        assert_eq!(
            (get("/moved").owner, get("/moved").permissions),
            ((4, 7), 0)
        );
        assert_eq!(get("/moved/new").content, b"content");
        assert_eq!(get("/moved/new").owner, (0, 0));
        assert_eq!(get("/moved/link").target, b"somewhere");
        assert_eq!(
            (get("/null").device, get("/null").kind),
            ((1, 3), FileKind::CharDevice)
        );
        let xattrs = &get("/moved/new").xattrs;
        assert_eq!(
            xattrs.get(&b"security.capability"[..]).map(|v| &v[..]),
            Some(&b"cap"[..])
        );
        assert!(!now.contains_key(&b"/h"[..]) && !now.contains_key(&b"/d"[..]));
        match &expected {
            None => expected = Some(now),
            Some(expected) => assert_eq!(now, *expected),
        }
    }
}

#[test]
fn a_plain_user_has_all_owners_and_kinds() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    if !require(Need::Root) {
        return;
    }
    // A copy: the directory of this program may be closed to others.
    let open = tempfile::tempdir_in("/tmp").expect("a temporary directory");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(open.path(), mode).expect("its mode");
    let program = open.path().join("engine");
    // Made by another process: one that a thread starts meanwhile would hold it open for writing ("text file busy").
    let copied = std::process::Command::new("cp")
        .arg(std::env::current_exe().expect("this program"))
        .arg(&program)
        .status();
    assert!(copied.expect("cp").success());
    let output = std::process::Command::new(program)
        .args(["--ignored", "--exact", "writable_verbs::as_a_plain_user"])
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .expect("this program again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn what_is_made_has_its_owner_wherever_he_may_write() {
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&["d open", "d closed"]]);
    let overlay = lab.open();
    let paths = Paths(&overlay);
    paths.chmod("open", 0o1777).expect("a mode");
    for directory in ["open", "closed"] {
        let owner = |name: &str| {
            let path = format!("{directory}/{name}");
            paths.create_as(&path, 1234).expect("a file");
            let found = paths.stat(&path).expect("attributes");
            assert_eq!(found.uid, 1234, "{path}");
            (found.gid, found.permissions)
        };
        assert_eq!(owner("first"), (1234, 0o644));
        // What the directory gives is asked for again when that may have changed.
        let change = SetAttributes {
            gid: Some(50),
            permissions: Some(0o2777),
            ..SetAttributes::default()
        };
        paths.set(directory, &change).expect("a group");
        assert_eq!(owner("second"), (50, 0o644));
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, permissions) in [(1u16, 6u16), (4, 0), (0x20, 0)] {
            acl.extend(tag.to_le_bytes());
            acl.extend(permissions.to_le_bytes());
            acl.extend(u32::MAX.to_le_bytes());
        }
        if require(Need::Acls) {
            let set = paths.set_xattr(directory, "system.posix_acl_default", &acl);
            set.expect("an ACL");
            assert_eq!(owner("third"), (50, 0o600));
        }
    }
    let made = std::fs::File::create(lab.layers[0].join("by-this-thread")).expect("a file");
    assert_eq!(made.metadata().expect("attributes").uid(), 0);
}

#[test]
fn regression_a_link_is_changed_after_the_name_it_was_known_by_has_gone() {
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&["f a text", "h b a"]]);
    let overlay = lab.open();
    let find = |name: &[u8]| {
        let found = overlay.lookup(NodeNumber::ROOT, name).expect("an answer");
        found.expect("a file")
    };
    let (first, second) = (find(b"a"), find(b"b"));
    assert_eq!(first.node, second.node);
    overlay.unlink(NodeNumber::ROOT, b"a").expect("it goes");
    // The other name is known, and is not looked up again.
    let change = SetAttributes {
        uid: Some(5),
        ..SetAttributes::default()
    };
    let changed = overlay.set_attributes(second.node, &change);
    let changed = changed.expect("another owner");
    assert_eq!((changed.uid, changed.nlink, changed.size), (5, 1, 4));
    overlay.forget(first.node, 2);
    let paths = Paths(&overlay);
    assert_eq!(paths.read("b").expect("its content"), b"text");
    assert_eq!(paths.stat("b").expect("a file").uid, 5);
}

/// While a name goes and another object gets it, what is asked of the first is never answered of
/// the second, and what has other names keeps being there.
#[test]
fn regression_a_node_is_not_taken_for_what_gets_its_name() {
    if !require(Need::Root) {
        return;
    }
    let lab = Writable::new(&[&["d names"]]);
    let overlay = lab.open();
    let paths = Paths(&overlay);
    paths.create("names/other", b"").expect("a file");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..1000 {
                paths.link("names/other", "name").expect("a link");
                paths.unlink("name").expect("it goes");
                paths.mkdir("name", 0o755).expect("a directory");
                paths.rmdir("name").expect("it goes");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let there = paths.stat("names/other").map(|found| found.kind);
            assert_eq!(errno(there), Ok(FileKind::Regular));
            let Some(found) = overlay
                .lookup(NodeNumber::ROOT, b"name")
                .expect("an answer")
            else {
                continue;
            };
            for _ in 0..10 {
                if let Ok(now) = overlay.attributes(found.node) {
                    assert_eq!(now.kind, found.kind);
                }
            }
            overlay.forget(found.node, 1);
        }
    });
}
