//! The k-th system call that changes the upper fails, for every k: the tree is the old or the new
//! one, lower layers are untouched, and nothing is left in the work directory.

use std::cell::Cell;

use nix::errno::Errno;
use plyfs::layer::FileKind;
use plyfs::overlay::{
    Namespace, NodeNumber, OpenRequest, Overlay, RenameFlags, Result, SetAttributes, TimeChange,
    Timestamp,
};
use plyfs::sys::at::RootFd;
use plyfs::sys::fault;

use super::reference::{AGED, age};
use super::support::{Need, Rows, require};
use super::writable::{Paths, Writable, names, plain, tree};

type Verb = fn(&Paths<'_>) -> Result<()>;

const LAYERS: [&[&str]; 2] = [
    &["f d/a top", "wc d/gone", "f m/x 1", "x d user.k v"],
    &[
        "f d/a low",
        "f d/b low",
        "f d/gone g",
        "d e",
        "f h/1 linked",
        "h h/2 h/1",
        "h h/3 h/1",
        // It may bind low ports.
        "x h/1 security.capability \u{1}\0\0\u{2}\0\u{4}\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        "l s d/a",
        "f m/y 2",
        "f t/u/v deep",
        "p t/p",
        "f w/1 hidden",
        "x w user.k v",
    ],
];

/// What is there before: something of the upper too.
fn prepare(overlay: &Overlay) {
    prepare_in(overlay, Format::Plain);
}

fn prepare_in(overlay: &Overlay, format: Format) {
    let paths = Paths(overlay);
    if matches!(format, Format::Attributes) {
        // The first device 0:0 cannot be made.
        for at in 1.. {
            fault::plan(Some(at), libc::EPERM, false);
            if paths.unlink("s").is_ok() {
                break;
            }
        }
        fault::plan(None, 0, false);
        paths.symlink("s", "d/a").expect("a symlink");
    }
    paths.mkdir("new", 0o755).expect("a directory");
    paths.create("new/f", b"upper").expect("a file");
    paths.unlink("m/y").expect("a whiteout");
    paths.chmod("h/3", 0o640).expect("a mode");
    paths.mkdir("new/empty", 0o700).expect("a directory");
    paths.unlink("w/1").expect("a whiteout");
}

const EXCHANGING: RenameFlags = RenameFlags {
    exchange: true,
    no_replace: false,
    whiteout: false,
};

const LEAVING: RenameFlags = RenameFlags {
    exchange: false,
    no_replace: false,
    whiteout: true,
};

const EMPTYING: OpenRequest = OpenRequest {
    write: true,
    truncate: true,
    lower_is_live: false,
};

/// A system call that is to fail.
struct Failing {
    /// The first one is 1.
    at: u64,
    errno: i32,
    calls: Cell<u64>,
}

impl Failing {
    /// Does what it is to fail in.
    fn during<T>(&self, act: impl FnOnce() -> T) -> T {
        fault::plan(Some(self.at), self.errno, false);
        let done = act();
        self.calls.set(fault::calls());
        fault::plan(None, 0, false);
        done
    }
}

/// Does something once for each of the calls that it makes, which fails then, and a last time with none.
fn each_call(errno: i32, mut act: impl FnMut(&Failing)) {
    for at in 1.. {
        let calls = Cell::new(0);
        let failing = Failing { at, errno, calls };
        act(&failing);
        if failing.calls.get() < at {
            break;
        }
    }
}

fn allocate(paths: &Paths<'_>, path: &str, mode: i32) -> Result<()> {
    let request = OpenRequest {
        write: true,
        ..OpenRequest::default()
    };
    paths.open(path, request)?.allocate(mode, 1, 9000)
}

fn verbs() -> Vec<(&'static str, Verb)> {
    vec![
        ("chmod", |p| p.chmod("d/a", 0o600)),
        ("chmod directory", |p| p.chmod("t/u", 0o700)),
        ("chown", |p| {
            let change = SetAttributes {
                uid: Some(5),
                ..SetAttributes::default()
            };
            p.set("t/u/v", &change)
        }),
        ("write", |p| p.write("t/u/v", b"XX", 1)),
        ("write a metacopy", |p| p.write("h/3", b"XX", 1)),
        ("truncate", |p| p.truncate("d/b", 1)),
        ("extend", |p| p.truncate("d/b", 100)),
        ("xattr", |p| p.set_xattr("d/b", "user.q", b"w")),
        ("create", |p| p.create("t/new", b"")),
        ("create over a whiteout", |p| p.create("m/y", b"")),
        ("mkdir", |p| p.mkdir("t/new", 0o2750)),
        ("mkdir over a whiteout", |p| p.mkdir("m/y", 0o750)),
        ("symlink", |p| p.symlink("t/new", "x")),
        ("fifo over a whiteout", |p| p.fifo("m/y")),
        ("unlink", |p| p.unlink("t/u/v")),
        ("unlink an upper file", |p| p.unlink("new/f")),
        ("unlink a symlink", |p| p.unlink("s")),
        ("chmod one of several", |p| p.chmod("h/1", 0o600)),
        ("unlink one of several", |p| p.unlink("h/1")),
        ("unlink one of several that was copied", |p| p.unlink("h/3")),
        ("rmdir", |p| p.rmdir("e")),
        ("rmdir an upper directory", |p| p.rmdir("new/empty")),
        ("rename", |p| p.rename("d/b", "t/b")),
        ("rename over", |p| p.rename("d/b", "d/a")),
        ("rename an upper file over", |p| p.rename("new/f", "t/u/v")),
        ("rename to a whiteout", |p| p.rename("d/b", "m/y")),
        ("rename a directory", |p| p.rename("t", "new/t")),
        ("rename a directory over", |p| p.rename("t", "e")),
        ("rename a directory over whiteouts", |p| p.rename("t", "w")),
        ("rename a directory with a whiteout", |p| {
            p.rename("m", "new/m")
        }),
        ("rename a directory to a whiteout", |p| p.rename("t", "m/y")),
        ("rename one of several", |p| p.rename("h/1", "new/h")),
        ("exchange", |p| p.rename_with("t", "new", EXCHANGING)),
        ("link", |p| p.link("d/b", "t/b")),
        ("chmod a set-id file", |p| p.chmod("t/u/v", 0o4755)),
        ("utimes", |p| {
            let change = SetAttributes {
                mtime: Some(TimeChange::Now),
                ..SetAttributes::default()
            };
            p.set("d/b", &change)
        }),
        ("mknod 0:0", |p| p.null_device("t/new")),
        ("mknod 0:0 over a whiteout", |p| p.null_device("m/y")),
        ("create for another", |p| p.create_as("t/new", 1234)),
        ("link one of several", |p| p.link("h/2", "m/y")),
        ("link a lower file over a whiteout", |p| {
            p.link("d/b", "m/y")
        }),
        ("rename and leave a whiteout", |p| {
            p.rename_with("d/b", "t/b", LEAVING)
        }),
        ("rename an upper file and leave a whiteout", |p| {
            p.rename_with("new/f", "t/u/v", LEAVING)
        }),
        ("rename to a whiteout and leave one", |p| {
            p.rename_with("d/b", "m/y", LEAVING)
        }),
        ("exchange files", |p| {
            p.rename_with("d/a", "new/f", EXCHANGING)
        }),
        ("exchange a file with a directory", |p| {
            p.rename_with("d/b", "t", EXCHANGING)
        }),
        ("remove an xattr", |p| {
            p.with("d", |found| p.0.remove_xattr(found.node, b"user.k"))
        }),
        ("open emptying", |p| p.open("t/u/v", EMPTYING).map(drop)),
        ("open an upper file emptying", |p| {
            p.open("new/f", EMPTYING).map(drop)
        }),
        ("open a metacopy emptying", |p| {
            p.open("h/3", EMPTYING).map(drop)
        }),
        ("allocate", |p| allocate(p, "d/b", 0)),
        ("allocate beyond the end", |p| {
            allocate(p, "t/u/v", libc::FALLOC_FL_KEEP_SIZE)
        }),
        ("punch", |p| {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            allocate(p, "new/f", mode)
        }),
    ]
}

/// Without what cannot be told beforehand.
fn comparable(rows: Rows, counted: bool) -> Rows {
    let mut rows = rows;
    for row in rows.values_mut() {
        row.ino = 0;
        if row.kind == FileKind::Directory || row.mtime != AGED {
            row.mtime = (0, 0);
        }
        if !counted {
            row.nlink = 0;
        }
        if row.kind == FileKind::Directory {
            (row.nlink, row.size) = (0, 0);
        }
    }
    rows
}

/// `new` after the data have changed, but not yet what follows from that.
fn dated(old: &Rows, new: &Rows) -> Rows {
    let mut rows = new.clone();
    for (path, row) in &mut rows {
        if let Some(old) = old.get(path)
            && row.kind == FileKind::Regular
        {
            (row.mtime, row.xattrs) = (old.mtime, old.xattrs.clone());
        }
    }
    rows
}

/// Without what a crash takes away while the data of a metacopy come in.
fn torn(rows: &Rows) -> Rows {
    let mut rows = rows.clone();
    for row in rows.values_mut() {
        row.mtime = (0, 0);
        row.xattrs.remove(&b"security.capability"[..]);
    }
    rows
}

/// What the upper may hold.
#[derive(Clone, Copy, Debug)]
enum Format {
    /// Metacopies and redirects.
    Redirects,
    /// Neither.
    Plain,
    /// Neither, and owners in attributes.
    Overrides,
    /// Neither, and whiteouts by attribute.
    Attributes,
}

fn lab(format: Format) -> Writable {
    let mut writable = Writable::new(&LAYERS);
    writable.options.metacopy_redirect = matches!(format, Format::Redirects);
    writable.options.override_stat = matches!(format, Format::Overrides);
    if matches!(format, Format::Attributes) {
        writable.options.namespace = Some(Namespace::User);
    }
    for layer in &writable.layers {
        age(layer);
    }
    writable
}

fn try_all(crash: bool, errno: i32, format: Format) {
    for (title, verb) in verbs() {
        // The count of names of a base file that has several is written after the name is gone, so
        // that it may be one too high, and never one too low.
        let counted = !title.contains("one of several");
        let writable = lab(format);
        let overlay = writable.open();
        prepare_in(&overlay, format);
        if matches!(format, Format::Attributes) {
            let upper = RootFd::open(&writable.upper).expect("the upper");
            let mark = upper.xattr(b"m", b"user.overlay.opaque").expect("a mark");
            assert_eq!(mark, b"x");
        }
        verb(&Paths(&overlay)).unwrap_or_else(|error| panic!("{title}: {error}"));
        let new = comparable(tree(&overlay), counted);
        // What is left behind is put there after the rename.
        let mut between = new.clone();
        if title.contains("leave") {
            between.retain(|_, row| row.kind != FileKind::CharDevice);
        }
        drop(overlay);
        let may_tear = crash && title.contains("metacopy");
        for at in 1.. {
            let context = format!("{title}, call {at}, crash {crash}, {format:?}");
            let writable = lab(format);
            let lower: Vec<Rows> = writable.layers.iter().map(|l| plain(l)).collect();
            let overlay = writable.open();
            prepare_in(&overlay, format);
            let old = comparable(tree(&overlay), counted);
            let mut known = [&old, &new, &between, &dated(&old, &new)].map(Rows::clone);
            if may_tear {
                known = known.map(|rows| torn(&rows));
            }
            fault::plan(Some(at), errno, crash);
            let result = verb(&Paths(&overlay));
            let calls = fault::calls();
            if !crash {
                fault::plan(None, 0, false);
                let now = comparable(tree(&overlay), counted);
                assert!(
                    known.contains(&now),
                    "{context}: before reopening: {result:?}"
                );
                // Otherwise callers ask again what there is.
                if result
                    .as_ref()
                    .is_err_and(|error| error.errno == Errno::ENOSPC)
                {
                    assert_eq!(now, old, "{context}: {result:?}");
                }
                for path in new.keys().chain(old.keys()) {
                    let path = std::str::from_utf8(path).expect("a path");
                    if !now.contains_key(path.as_bytes()) && has_parent(&now, path) {
                        let paths = Paths(&overlay);
                        let made = paths.mkdir(path, 0o700).and_then(|()| paths.rmdir(path));
                        made.unwrap_or_else(|error| panic!("{context}: making {path}: {error}"));
                    }
                }
                let left = names(&writable.work.join("work")).len() - whiteouts(&writable);
                // What was replaced may not be removable now.
                let most = usize::from(title.contains("over whiteouts"));
                assert!(
                    left <= most,
                    "{context}: {left} things are left: {result:?}"
                );
            }
            drop(overlay);
            fault::plan(None, 0, false);
            let overlay = writable.open();
            assert_eq!(
                names(&writable.work.join("work")),
                Vec::<String>::new(),
                "{context}"
            );
            let mut now = comparable(tree(&overlay), counted);
            if result.is_ok() && !crash {
                assert_eq!(now, new, "{context}");
            } else {
                if may_tear {
                    now = torn(&now);
                }
                for (path, row) in &now {
                    let path_text = path.escape_ascii();
                    let known = known.iter().any(|rows| rows.get(path) == Some(row));
                    assert!(known, "{context}: {path_text} is neither: {row:?}");
                }
                assert!(known.contains(&now), "{context}");
            }
            let after: Vec<Rows> = writable.layers.iter().map(|l| plain(l)).collect();
            assert_eq!(lower, after, "{context}: a layer has changed");
            if calls < at {
                break;
            }
        }
    }
}

fn has_parent(rows: &Rows, path: &str) -> bool {
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let parent = rows.get(parent.as_bytes());
    !path[1..].contains('/') || parent.is_some_and(|row| row.kind == FileKind::Directory)
}

/// The whiteout that is kept to be linked.
fn whiteouts(writable: &Writable) -> usize {
    let work = writable.work.join("work");
    let is_whiteout = |name: &&String| {
        use std::os::unix::fs::FileTypeExt;
        let found = work.join(name).symlink_metadata();
        let by_attribute = || {
            let work = RootFd::open(&work).expect("the work directory");
            let mark = work.xattr(name.as_bytes(), b"user.overlay.whiteout");
            mark.is_ok()
        };
        found.is_ok_and(|found| found.file_type().is_char_device() || by_attribute())
    };
    names(&work).iter().filter(is_whiteout).count()
}

#[test]
fn every_call_fails_for_want_of_space() {
    if require(Need::Root) {
        try_all(false, libc::ENOSPC, Format::Redirects);
        try_all(false, libc::EIO, Format::Plain);
        try_all(false, libc::ENOSPC, Format::Overrides);
    }
}

#[test]
fn every_call_is_the_last() {
    if require(Need::Root) {
        try_all(true, libc::EIO, Format::Redirects);
        try_all(true, libc::EIO, Format::Plain);
        try_all(true, libc::EIO, Format::Overrides);
    }
}

/// Where devices 0:0 cannot be made a whiteout is a file, and its directory must say that first.
#[test]
fn regression_a_whiteout_by_attribute_is_never_an_empty_file() {
    if require(Need::Root) {
        try_all(false, libc::ENOSPC, Format::Attributes);
        try_all(true, libc::EIO, Format::Attributes);
    }
}

/// With owners in attributes a symlink is a file, whose content must be there after a crash.
#[test]
fn regression_a_copied_symlink_of_a_plain_user_is_durable() {
    let calls = |volatile| {
        let mut writable = Writable::new(&[&["l s target"]]);
        writable.options.override_stat = true;
        writable.options.volatile = volatile;
        let overlay = writable.open();
        fault::plan(None, 0, false);
        let change = SetAttributes {
            uid: Some(5),
            ..SetAttributes::default()
        };
        Paths(&overlay).set("s", &change).expect("another owner");
        fault::calls()
    };
    assert_eq!(calls(false), calls(true) + 1, "one of them syncs it");
}

/// Its attributes lie in the upper, its data do not.
#[test]
fn regression_fsync_of_a_metacopy_makes_its_attributes_durable() {
    if !require(Need::Root) {
        return;
    }
    let calls = |volatile| {
        let mut writable = Writable::new(&[&["f a text"]]);
        writable.options.volatile = volatile;
        let overlay = writable.open();
        let paths = Paths(&overlay);
        let calls = paths.with("a", |_| {
            let file = paths.open("a", OpenRequest::default())?;
            paths.chmod("a", 0o600)?;
            assert!(!file.is_upper());
            fault::plan(None, 0, false);
            file.sync(false)?;
            Ok(fault::calls())
        });
        calls.expect("it is synced")
    };
    assert_eq!(calls(false), calls(true) + 1, "one of them syncs it");
}

/// Whatever cannot be told of something new: it is there, or it is not.
#[test]
fn regression_what_was_made_is_there_though_its_attributes_cannot_be_read() {
    if !require(Need::Root) {
        return;
    }
    for (directory, name) in [("t", "t/new"), ("m", "m/y")] {
        each_call(libc::EIO, |failing| {
            let writable = lab(Format::Plain);
            let overlay = writable.open();
            prepare(&overlay);
            let (paths, at) = (Paths(&overlay), failing.at);
            // What is known of a directory is forgotten with it.
            let held = paths.with(directory, |_| {
                let made = failing.during(|| paths.mkdir(name, 0o755));
                let on_disk = writable.upper.join(name).is_dir();
                let there = paths.stat(name).is_ok();
                assert_eq!(there, on_disk, "{name}, call {at}: {made:?}");
                let is_new = paths.mkdir(name, 0o755).is_ok();
                assert_eq!(there, !is_new, "{name}, call {at}: {made:?}");
                paths.rmdir(name)
            });
            held.expect("it goes");
        });
    }
}

/// The data of a metacopy do not come in at once, and writing takes away what a failure gives back.
#[test]
fn regression_a_metacopy_that_cannot_be_completed_stays_what_it_was() {
    if !require(Need::Root) {
        return;
    }
    each_call(libc::ENOSPC, |failing| {
        let writable = lab(Format::Redirects);
        let overlay = writable.open();
        prepare(&overlay);
        let paths = Paths(&overlay);
        let before = tree(&overlay).remove(&b"/h/3"[..]).expect("a metacopy");
        assert!(before.xattrs.contains_key(&b"security.capability"[..]));
        let written = failing.during(|| paths.write("h/3", b"XX", 1));
        if written.is_err() {
            let after = tree(&overlay).remove(&b"/h/3"[..]).expect("a metacopy");
            assert_eq!(before, after, "call {}: {written:?}", failing.at);
        }
    });
}

/// What is to be replaced by a directory gives up its whiteouts first, and nothing else.
#[test]
fn regression_a_directory_that_is_not_replaced_keeps_its_attributes() {
    if !require(Need::Root) {
        return;
    }
    each_call(libc::ENOSPC, |failing| {
        let writable = lab(Format::Redirects);
        let overlay = writable.open();
        prepare(&overlay);
        let paths = Paths(&overlay);
        paths.chmod("w", 0o2751).expect("a mode");
        let change = SetAttributes {
            uid: Some(5),
            mtime: Some(TimeChange::At(Timestamp {
                seconds: AGED.0,
                nanoseconds: AGED.1,
            })),
            ..SetAttributes::default()
        };
        paths.set("w", &change).expect("an owner and a time");
        let row = |overlay: &Overlay| tree(overlay).remove(&b"/w"[..]).expect("it is there");
        let before = row(&overlay);
        let renamed = failing.during(|| paths.rename("t", "w"));
        if renamed.is_err() {
            let now = row(&overlay);
            drop(overlay);
            for mut after in [now, row(&writable.open())] {
                // As a directory of one layer it has a size and a count of its own.
                (after.size, after.nlink) = (before.size, before.nlink);
                assert_eq!(before, after, "call {}: {renamed:?}", failing.at);
            }
        }
    });
}

/// A file whose name goes, and which cannot be kept because too many are open, is not taken for what
/// has its inode afterwards.
#[test]
fn regression_what_cannot_be_kept_is_nothing_else_later() {
    each_call(libc::EMFILE, |failing| {
        let writable = Writable::new(&[&["d d"]]);
        let overlay = writable.open();
        let paths = Paths(&overlay);
        paths.create("new", b"").expect("a file");
        let dead = overlay.lookup(NodeNumber::ROOT, b"new");
        let dead = dead.expect("a lookup").expect("a file");
        let removed = failing.during(|| paths.unlink("new"));
        if removed.is_ok() {
            // File systems that give an inode again do so at once.
            paths.create("next", b"").expect("a file");
            let next = paths.stat("next").expect("a file");
            assert_ne!(next.node, dead.node, "call {}", failing.at);
        }
    });
}
