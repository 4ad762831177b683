//! Character devices 0:0: whiteouts for the upper, and devices for those who make them.

use nix::errno::Errno;
use plyfs::layer::FileKind;
use plyfs::overlay::{Attributes, NodeNumber, RenameFlags, SetAttributes};

use super::support::{Need, require};
use super::writable::{Paths, Writable, errno, names};

const WHITEOUT: RenameFlags = RenameFlags {
    no_replace: false,
    exchange: false,
    whiteout: true,
};

fn is_null(found: &Attributes) -> bool {
    found.kind == FileKind::CharDevice && found.device == (0, 0)
}

/// Both ways of keeping owners and modes.
fn labs() -> Vec<Writable> {
    if !require(Need::Root) {
        return Vec::new();
    }
    let lab = |override_stat| {
        let mut lab = Writable::new(&[&["f d/a low", "f d/b low", "d e", "f x/y low"]]);
        lab.options.override_stat = override_stat;
        lab
    };
    vec![lab(false), lab(true)]
}

#[test]
fn they_are_like_any_other_device() {
    for lab in labs() {
        let overlay = lab.open();
        let paths = Paths(&overlay);
        paths.null_device("d/new").expect("a device");
        assert_eq!(errno(paths.null_device("d/a")), Err(Errno::EEXIST));
        paths.unlink("d/a").expect("a whiteout");
        paths.null_device("d/a").expect("a device over a whiteout");
        let change = SetAttributes {
            uid: Some(7),
            gid: Some(8),
            ..SetAttributes::default()
        };
        paths.set("d/new", &change).expect("an owner");
        paths.chmod("d/new", 0o4711).expect("a mode");
        paths.link("d/new", "e/link").expect("a link");
        paths
            .rename("d/new", "d/b")
            .expect("a rename over a lower file");
        let check = |paths: &Paths<'_>| {
            for name in ["d/b", "e/link"] {
                let found = paths.stat(name).expect("attributes");
                assert!(is_null(&found), "{name}");
                assert_eq!((found.uid, found.gid, found.nlink), (7, 8, 2));
                assert_eq!((found.permissions, found.size), (0o4711, 0));
            }
            assert!(is_null(&paths.stat("d/a").expect("attributes")));
            assert_eq!(paths.names("d").expect("names"), ["a", "b"]);
        };
        check(&paths);
        drop(overlay);
        let overlay = lab.open();
        let paths = Paths(&overlay);
        check(&paths);
        // A change of owner takes set-id bits away.
        let change = SetAttributes {
            uid: Some(9),
            ..SetAttributes::default()
        };
        paths.set("d/b", &change).expect("an owner");
        assert_eq!(paths.stat("d/b").expect("attributes").permissions, 0o711);
        for name in ["d/a", "d/b", "e/link"] {
            paths.unlink(name).expect("it goes");
        }
        assert_eq!(names(&lab.layers[0].join("d")), ["a", "b"]);
        assert!(paths.names("d").expect("names").is_empty());
    }
}

#[test]
fn regression_rename_with_a_whiteout_leaves_a_device() {
    for lab in labs() {
        let overlay = lab.open();
        let paths = Paths(&overlay);
        paths.create("up", b"1").expect("a file");
        // To a new name, over a lower file, of a lower file, of a directory.
        for (from, to) in [("up", "new"), ("new", "d/a"), ("d/b", "e/b"), ("x", "z")] {
            paths.rename_with(from, to, WHITEOUT).expect(from);
            assert!(is_null(&paths.stat(from).expect("what is left")), "{from}");
            assert!(!is_null(&paths.stat(to).expect("what was moved")), "{to}");
        }
        assert_eq!(paths.read("e/b").expect("data"), b"low");
        assert_eq!(paths.read("z/y").expect("data"), b"low");
        // What is left can be replaced, as nested overlays do.
        paths.rename("e/b", "d/b").expect("a rename");
        let both = RenameFlags {
            exchange: true,
            ..WHITEOUT
        };
        let refused = paths.rename_with("z", "x", both);
        assert_eq!(errno(refused), Err(Errno::EINVAL));
        drop(overlay);
        let overlay = lab.open();
        let paths = Paths(&overlay);
        assert_eq!(paths.read("d/b").expect("data"), b"low");
        for name in ["up", "new", "x"] {
            assert!(is_null(&paths.stat(name).expect("a device")), "{name}");
        }
        assert!(
            overlay
                .lookup(NodeNumber::ROOT, b"gone")
                .expect("a lookup")
                .is_none()
        );
    }
}
