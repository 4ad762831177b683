//! Every way in which layers say that a name is gone or that a directory hides what lies below.

use super::support::{Case, Lab, Need, find, open, open_with, require, rows, text};
use plyfs::idmap::IdMap;
use plyfs::layer::FileKind;
use plyfs::layer::directory::OverrideKey;
use plyfs::union::NodeNumber;
use plyfs::union::stack::StackOptions;
use plyfs::whiteout::Namespace;

/// Layers topmost first, and what their union is.
fn check(cases: &[Case<'_>]) {
    if !require(Need::Root) {
        return;
    }
    for (title, layers, expected) in cases {
        let mut lab = Lab::new();
        let layers = lab.layers(layers);
        assert_eq!(text(&open(&layers)), *expected, "{title}");
        // What was looked up before what must not matter: here, one name before any listing.
        for line in *expected {
            let path = line.split(' ').nth(1).unwrap_or_default();
            assert!(find(&open(&layers), path).is_some(), "{title}: {path}");
        }
    }
}

#[test]
fn whiteouts() {
    check(&[
        (
            "device",
            &[&["wc a", "f b top"], &["f a low", "f c low"]],
            &["f b top", "f c low"],
        ),
        ("name", &[&["wa a"], &["f a low", "f c low"]], &["f c low"]),
        (
            "attribute",
            &[
                &["d d", "x d trusted.overlay.opaque x", "wx d/a", "f d/e "],
                &["f d/a low", "f d/b low"],
            ],
            &["d d", "f d/b low", "f d/e "],
        ),
        (
            "attribute in a directory that is not marked is a file",
            &[&["wx d/a"], &["f d/a low"]],
            &["d d", "f d/a "],
        ),
        (
            "attribute at the root",
            &[
                &["x . trusted.overlay.opaque x", "wx a"],
                &["f a low", "f b low"],
            ],
            &["f b low"],
        ),
        (
            "in the middle layer",
            &[
                &["f x top"],
                &["wc a", "wa b"],
                &["f a low", "f b low", "f c low"],
            ],
            &["f c low", "f x top"],
        ),
        (
            "of a directory, and made anew above",
            &[&["f d/new top"], &["wc d"], &["f d/old low"]],
            &["d d", "f d/new top"],
        ),
        (
            "by name beside the name itself",
            &[&["wa d", "f d/new top"], &["f d/old low"]],
            &["d d", "f d/new top"],
        ),
        (
            "in the lowest layer",
            &[&["d d"], &["wc a", "wa b"]],
            &["d d"],
        ),
        (
            "in the only layer",
            &[&["wc a", "wa b", "f c x"]],
            &["f c x"],
        ),
        (
            "of what a higher layer has as well",
            &[&["f a top"], &["wc a"], &["f a low"]],
            &["f a top"],
        ),
        (
            "the names of AUFS itself, and names without meaning",
            &[&["f .wh..wh.plnk x", "f .wh. x", "f .whx y"], &["f a low"]],
            &["f .whx y", "f a low"],
        ),
        (
            "of the lowest of three directories",
            &[&["f d/1 x"], &["f d/2 x", "wa d"], &["f d/3 x"]],
            &["d d", "f d/1 x", "f d/2 x"],
        ),
    ]);
}

#[test]
fn opaque_directories() {
    let low: &[&str] = &["f d/a low", "f d/s/b low", "f e/c low"];
    let expected: &[&str] = &["d d", "f d/new top", "d e", "f e/c low"];
    for mark in ["x d trusted.overlay.opaque y", "oa d"] {
        check(&[(mark, &[&["f d/new top", mark], low], expected)]);
    }
    for mark in [
        "x d user.overlay.opaque y",
        "x d user.fuseoverlayfs.opaque y",
        "oa d",
    ] {
        let mut lab = Lab::new();
        let layers = lab.layers(&[&["f d/new top", mark], low]);
        assert_eq!(text(&open_for_user(&layers)), expected, "{mark}");
    }
    check(&[
        (
            "other values mean nothing",
            &[&["d d", "x d trusted.overlay.opaque n"], &["f d/a low"]],
            &["d d", "f d/a low"],
        ),
        (
            "nested, with names made anew",
            &[
                &["f d/s/new top"],
                &["f d/s/mid mid", "oa d/s", "f d/mid mid"],
                &["f d/s/old low", "f d/a low"],
            ],
            &[
                "d d",
                "f d/a low",
                "f d/mid mid",
                "d d/s",
                "f d/s/mid mid",
                "f d/s/new top",
            ],
        ),
        (
            "in the middle, with the same name below",
            &[
                &["f d/a top"],
                &["f d/b mid", "x d trusted.overlay.opaque y"],
                &["f d/a low", "f d/c low"],
            ],
            &["d d", "f d/a top", "f d/b mid"],
        ),
        (
            "the root",
            &[&["f a top"], &["f b mid", "oa ."], &["f c low"]],
            &["f a top", "f b mid"],
        ),
        (
            "opaque by name, with whiteouts by attribute",
            &[
                &[
                    "d d",
                    "x d trusted.overlay.opaque x",
                    "wx d/a",
                    "oa d",
                    "f d/b top",
                ],
                &["f d/a low", "f d/c low"],
            ],
            &["d d", "f d/b top"],
        ),
    ]);
}

#[test]
fn kinds_hide_each_other() {
    check(&[
        (
            "a file over a directory",
            &[&["f d top"], &["f d/a low"]],
            &["f d top"],
        ),
        (
            "a directory over a file",
            &[&["f d/a top"], &["f d low"]],
            &["d d", "f d/a top"],
        ),
        (
            "a directory over a file over a directory",
            &[&["f d/a top"], &["f d mid"], &["f d/b low"]],
            &["d d", "f d/a top"],
        ),
        (
            "a symlink over a directory, and not through it",
            &[&["l d e"], &["f d/a low", "f e/b low"]],
            &["l d e", "d e", "f e/b low"],
        ),
        (
            "a directory over a symlink to a directory",
            &[&["f d/a top"], &["l d e", "f e/b mid"], &["f d/c low"]],
            &["d d", "f d/a top", "d e", "f e/b mid"],
        ),
        (
            "a device and a fifo over files",
            &[&["c a", "p b"], &["f a low", "f b low"]],
            &["c a", "p b"],
        ),
    ]);
}

fn open_for_user(layers: &[std::path::PathBuf]) -> plyfs::union::stack::Stack {
    let options = StackOptions {
        marks: Namespace::User,
        ..StackOptions::default()
    };
    open_with(layers, &[], options)
}

/// Whoever owns a directory of a layer could read what others keep from him, through a mount of root.
#[test]
fn regression_marks_that_anybody_can_set_count_for_users_only() {
    if !require(Need::Root) {
        return;
    }
    let marked: &[&str] = &[
        "f home/mine not me",
        "x home/mine user.overlay.metacopy",
        "x home/mine user.overlay.redirect /etc/shadow",
        "d home/etc",
        "x home/etc user.overlay.redirect /etc",
        "x home/etc user.overlay.opaque x",
        "f home/etc/empty ",
        "x home/etc/empty user.overlay.whiteout y",
        "x home user.fuseoverlayfs.opaque y",
    ];
    let mut lab = Lab::new();
    let layers = lab.layers(&[marked, &["f etc/shadow secret", "f home/low low"]]);
    let expected = [
        "d etc",
        "f etc/shadow secret",
        "d home",
        "d home/etc",
        "f home/etc/empty ",
        "f home/low low",
        "f home/mine not me",
    ];
    assert_eq!(text(&open(&layers)), expected);
    let names = |stack: &plyfs::union::stack::Stack| {
        let rows = rows(stack);
        let names = rows[&b"/home/mine"[..]].xattrs.keys();
        names
            .map(|name| name.escape_ascii().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&open(&layers)),
        ["user.overlay.metacopy", "user.overlay.redirect"]
    );
    let expected = [
        "d etc",
        "f etc/shadow secret",
        "d home",
        "d home/etc",
        "f home/etc/shadow secret",
        "f home/mine secret",
    ];
    assert_eq!(text(&open_for_user(&layers)), expected);
    assert!(names(&open_for_user(&layers)).is_empty());
}

#[test]
fn private_attributes_are_hidden_and_escaped_ones_shown() {
    if !require(Need::Root) {
        return;
    }
    let mut lab = Lab::new();
    let layers = lab.layers(&[&[
        "f a x",
        "x a user.mime text",
        "x a trusted.overlay.origin o",
        "x a trusted.overlay.impure y",
        "x a trusted.overlay.overlay.opaque y",
        "x a trusted.own 1",
        "l l a",
        "x l trusted.link 2",
    ]]);
    let rows = rows(&open(&layers));
    let shown = |path: &[u8]| -> Vec<String> {
        let entry =
            |(k, v): (&Vec<u8>, &Vec<u8>)| format!("{}={}", k.escape_ascii(), v.escape_ascii());
        rows[path].xattrs.iter().map(entry).collect()
    };
    assert_eq!(
        shown(b"/a"),
        [
            "trusted.overlay.opaque=y",
            "trusted.own=1",
            "user.mime=text"
        ]
    );
    assert_eq!(shown(b"/l"), ["trusted.link=2"]);
}

#[test]
fn owners_in_attributes() {
    if !require(Need::Root) {
        return;
    }
    let key = "user.containers.override_stat";
    let mut lab = Lab::new();
    let lines = [
        "f a x".to_owned(),
        format!("x a {key} 5:6:4755"),
        "f dev ".to_owned(),
        format!("x dev {key} 0:0:600:char-5-1"),
        "f link target".to_owned(),
        format!("x link {key} 0:0:777:symlink"),
        "x a user.containers.override_security.capability cap".to_owned(),
        "f plain x".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let layers = lab.layers(&[&lines]);
    let options = StackOptions {
        marks: Namespace::Trusted,
        override_key: Some(OverrideKey::Containers),
        ids: IdMap {
            users: "0:100:10".parse().expect("a range"),
            ..IdMap::default()
        },
    };
    let stack = open_with(&layers, &[], options);
    let all = rows(&stack);
    assert_eq!(all[&b"/a"[..]].owner, (105, 6));
    assert_eq!(all[&b"/a"[..]].permissions, 0o4755);
    let xattrs = &all[&b"/a"[..]].xattrs;
    assert_eq!(xattrs.keys().collect::<Vec<_>>(), [b"security.capability"]);
    assert_eq!(all[&b"/dev"[..]].kind, FileKind::CharDevice);
    assert_eq!(all[&b"/dev"[..]].device, (5, 1));
    assert_eq!(all[&b"/link"[..]].target, b"target");
    assert_eq!(all[&b"/plain"[..]].owner.0, 100);
    // Without the option, but with the attribute on the root of the layer, the same.
    super::support::make(&layers[0], &format!("x . {key} 7:8:711")).expect("an attribute");
    let stack = open(&layers);
    let root = stack.attributes(NodeNumber::ROOT).expect("the root");
    assert_eq!((root.uid, root.gid, root.permissions), (7, 8, 0o711));
    assert_eq!(rows(&stack)[&b"/a"[..]].owner, (5, 6));
}
