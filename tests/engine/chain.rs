//! Packed layers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use plyfs::layer::FileKind;
use plyfs::union::chain::Marks;
use plyfs::union::{NodeNumber, Union};

use super::support::{Lab, Row, Rows};
use super::writable::chain;

fn row(kind: FileKind, ino: u64, xattrs: &[&str]) -> Row {
    let xattr = |name: &&str| (name.as_bytes().to_vec(), b"y".to_vec());
    Row {
        kind,
        permissions: 0o755,
        owner: (0, 0),
        nlink: 1,
        device: (0, 0),
        size: 0,
        mtime: (0, 0),
        target: Vec::new(),
        content: Vec::new(),
        xattrs: xattrs.iter().map(xattr).collect::<BTreeMap<_, _>>(),
        ino,
    }
}

/// What a hostile image holds that the kernel's overlay would follow.
fn hostile() -> Rows {
    let marks = [
        "trusted.overlay.opaque",
        "user.overlay.redirect",
        "trusted.overlay.metacopy",
        "user.other",
    ];
    let mut tty = row(FileKind::CharDevice, 4, &[]);
    tty.device = (5, 0);
    Rows::from([
        (b"/d".to_vec(), row(FileKind::Directory, 2, &marks)),
        (b"/d/gone".to_vec(), row(FileKind::CharDevice, 3, &[])),
        (b"/d/tty".to_vec(), tty),
        (b"/d/f".to_vec(), row(FileKind::Regular, 5, &marks)),
    ])
}

fn shown(union: &Union) -> (Vec<String>, Vec<String>, bool, bool) {
    let find = |parent, name: &[u8]| union.lookup(parent, name).expect("an answer");
    let d = find(NodeNumber::ROOT, b"d").expect("a directory").node;
    let mut names = Vec::new();
    let list = &mut |listed: plyfs::union::Listed<'_>| {
        names.push(String::from_utf8_lossy(listed.name).into_owned());
        ControlFlow::Continue(())
    };
    union.list(d, 2, list).expect("a listing");
    let xattrs = union.xattr_names(d).expect("names");
    let mut xattrs: Vec<String> = xattrs
        .iter()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    xattrs.sort();
    let mark = union
        .xattr(d, b"trusted.overlay.opaque")
        .expect("an answer");
    let contains = union.contains(d, b"gone").expect("an answer");
    assert_eq!(contains, find(d, b"gone").is_some());
    (names, xattrs, mark.is_some(), contains)
}

#[test]
fn regression_a_lower_layer_of_the_kernel_shows_no_marks() {
    let lab = Lab::new();
    let mut union = chain(&hostile(), lab.path());
    let (names, xattrs, mark, whiteout) = shown(&union);
    assert_eq!(
        (names.len(), xattrs.len(), mark, whiteout),
        (3, 4, true, true)
    );
    if let Union::Chain(chain) = &mut union {
        chain.show_marks(Marks::Hidden);
    }
    let (names, xattrs, mark, whiteout) = shown(&union);
    assert_eq!(names, ["f", "tty"]);
    assert_eq!(xattrs, ["user.other"]);
    assert!(!mark && !whiteout);
}
