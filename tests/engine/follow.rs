//! Redirects, metacopy and data-only layers.

use super::support::{Case, Lab, Need, find, open, open_with, require, set_xattr, text};
use nix::errno::Errno;
use plyfs::union::stack::StackOptions;

const REDIRECT: &str = "trusted.overlay.redirect";

fn check(cases: &[Case<'_>]) {
    if !require(Need::Root) {
        return;
    }
    for (title, layers, expected) in cases {
        let layers: Vec<Vec<String>> = layers
            .iter()
            .map(|lines| {
                lines
                    .iter()
                    .map(|l| l.replace("REDIRECT", REDIRECT))
                    .collect()
            })
            .collect();
        let layers: Vec<Vec<&str>> = layers
            .iter()
            .map(|lines| lines.iter().map(String::as_str).collect())
            .collect();
        let layers: Vec<&[&str]> = layers.iter().map(Vec::as_slice).collect();
        let mut lab = Lab::new();
        let layers = lab.layers(&layers);
        assert_eq!(text(&open(&layers)), *expected, "{title}");
    }
}

#[test]
fn renamed_directories() {
    check(&[
        (
            "in the same directory",
            &[
                &["f p/new/t top", "x p/new REDIRECT old", "wc p/old"],
                &["f p/old/a low", "f p/old/s/b low"],
            ],
            &[
                "d p",
                "d p/new",
                "f p/new/a low",
                "d p/new/s",
                "f p/new/s/b low",
                "f p/new/t top",
            ],
        ),
        (
            "to another directory",
            &[
                &["d q/new", "x q/new REDIRECT /p/old", "wc p/old"],
                &["f p/old/a low", "f p/k low"],
            ],
            &["d p", "f p/k low", "d q", "d q/new", "f q/new/a low"],
        ),
        (
            "what is below by the new name is not merged",
            &[
                &["d new", "x new REDIRECT old"],
                &["f new/no low", "f old/yes low"],
            ],
            &["d new", "f new/yes low", "d old", "f old/yes low"],
        ),
        (
            "twice, through three layers",
            &[
                &["d c", "x c REDIRECT b", "wc b"],
                &["f b/mid m", "x b REDIRECT a", "wc a"],
                &["f a/low l"],
            ],
            &["d c", "f c/low l", "f c/mid m"],
        ),
        (
            "twice, absolute then relative",
            &[
                &["d x/c", "x x/c REDIRECT /y/b", "wc y/b"],
                &["f y/b/mid m", "x y/b REDIRECT a"],
                &["f y/a/low l"],
            ],
            &[
                "d x",
                "d x/c",
                "f x/c/low l",
                "f x/c/mid m",
                "d y",
                "d y/a",
                "f y/a/low l",
            ],
        ),
        (
            "below a directory that was renamed as well",
            &[
                &["d x", "x x REDIRECT /y/b/s"],
                &["f y/b/s/mid m", "x y/b REDIRECT /z", "d q"],
                &["f z/s/low l", "f y/b/s/no n"],
            ],
            &[
                "d q",
                "d x",
                "f x/low l",
                "f x/mid m",
                "d y",
                "d y/b",
                "d y/b/s",
                "f y/b/s/low l",
                "f y/b/s/mid m",
                "d z",
                "d z/s",
                "f z/s/low l",
            ],
        ),
        (
            "ends at a file, at a whiteout of either dialect, and at a symlink",
            &[
                &[
                    "d 1",
                    "x 1 REDIRECT /a",
                    "d 2",
                    "x 2 REDIRECT /b",
                    "d 3",
                    "x 3 REDIRECT /c",
                    "d 4",
                    "x 4 REDIRECT /l",
                    "wc a",
                    "wc b",
                    "wc c",
                    "wc l",
                ],
                &["f a x", "wc b", "wa c", "l l d"],
                &["f a/x x", "f b/x x", "f c/x x", "f l/x x", "f e y"],
            ],
            &["d 1", "d 2", "d 3", "d 4", "f e y"],
        ),
        (
            "an opaque ancestor hides the layers below it",
            &[
                &["d n", "x n REDIRECT /p/o"],
                &["f p/o/1 x", "x p trusted.overlay.opaque y"],
                &["f p/o/2 x"],
            ],
            &["d n", "f n/1 x", "d p", "d p/o", "f p/o/1 x"],
        ),
    ]);
}

#[test]
fn redirects_that_lead_nowhere_are_errors_of_one_directory() {
    if !require(Need::Root) {
        return;
    }
    for bad in ["/../etc", "a/b", "..", "/", "//"] {
        let mut lab = Lab::new();
        let line = format!("x bad {REDIRECT} {bad}");
        let layers = lab.layers(&[&["d bad", &line, "f good x"], &["d low"]]);
        let stack = open(&layers);
        let found = find(&stack, "bad").expect("the directory");
        let error = stack.lookup(found.node, b"x").expect_err("a bad redirect");
        assert_eq!(error.errno, Errno::EIO, "{bad}: {error}");
        assert!(find(&stack, "good").is_some());
    }
}

/// A file with the size of its content, but without it.
fn metacopy(path: &std::path::Path, size: u64, redirect: Option<&str>) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("its parent");
    let file = std::fs::File::create(path).expect("a file");
    file.set_len(size).expect("a length");
    set_xattr(path, "trusted.overlay.metacopy", b"").expect("a mark");
    if let Some(redirect) = redirect {
        set_xattr(path, REDIRECT, redirect.as_bytes()).expect("a redirect");
    }
}

#[test]
fn content_below() {
    if !require(Need::Root) {
        return;
    }
    let mut lab = Lab::new();
    let layers = lab.layers(&[&[], &[], &["f d/a first", "f d/b second", "f x/y third"]]);
    metacopy(&layers[0].join("d/a"), 5, None);
    metacopy(&layers[0].join("d/new"), 6, Some("b"));
    metacopy(&layers[0].join("moved"), 5, Some("/d/c"));
    metacopy(&layers[1].join("d/c"), 5, Some("/x/y"));
    metacopy(&layers[0].join("lost"), 9, None);
    let stack = open(&layers);
    for (path, expected) in [("d/a", "first"), ("d/new", "second"), ("moved", "third")] {
        let found = find(&stack, path).expect(path);
        assert_eq!(found.size, expected.len() as u64, "{path}");
        assert_eq!(
            found.blocks,
            find(&stack, "x/y").expect("x/y").blocks,
            "{path}"
        );
        let content = super::support::content(&stack, found.node);
        assert_eq!(content, expected.as_bytes(), "{path}");
        assert!(stack.xattr_names(found.node).expect("names").is_empty());
    }
    let lost = find(&stack, "lost").expect("lost");
    let error = stack.open(lost.node).expect_err("no content");
    assert_eq!(error.errno, Errno::EIO, "{error}");
}

#[test]
fn content_in_data_only_layers() {
    if !require(Need::Root) {
        return;
    }
    let mut lab = Lab::new();
    let layers = lab.layers(&[&["d d"], &["f low x"]]);
    let data = lab.layers(&[
        &["f aa/1 one", "d aa/3"],
        &["f aa/2 two", "f aa/1 no", "f aa/3 three"],
    ]);
    metacopy(&layers[0].join("d/one"), 3, Some("/aa/1"));
    metacopy(&layers[0].join("d/two"), 3, Some("/aa/2"));
    metacopy(&layers[0].join("d/relative"), 3, Some("1"));
    let stack = open_with(&layers, &data, StackOptions::default());
    for (path, expected) in [("d/one", "one"), ("d/two", "two")] {
        let found = find(&stack, path).expect(path);
        assert_eq!(
            super::support::content(&stack, found.node),
            expected.as_bytes()
        );
    }
    assert!(find(&stack, "aa").is_none());
    let relative = find(&stack, "d/relative").expect("the file");
    assert!(stack.open(relative.node).is_err());
}
