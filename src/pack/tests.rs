//! The rules of a layer, one table row each; attacks are in `tests/hostile`.

use crate as plyfs;

#[path = "../../tests/hostile/archive.rs"]
#[allow(dead_code)]
pub(super) mod archive;

use std::io::{Cursor, Read, Write};
use std::os::unix::fs::MetadataExt;

use sha2::{Digest, Sha256};

use archive::{Archive, describe, gnu, pack_into, read, record};

use super::{
    Error, Escaped, Limits, Packed, Problem, Progress, Skipped, TarEntry, TarKind, TarWriter,
    pack_archive, pack_layer, write_directory,
};
use crate::layer::tree::{Kind, NodeId, Target, Tree};
use crate::layer::{Metadata, Place, Timestamp};

/// Packs `bytes` and prints the tree.
fn pack(bytes: &[u8]) -> Result<Vec<String>, Error> {
    pack_within(bytes, &Limits::default())
}

fn pack_within(bytes: &[u8], limits: &Limits) -> Result<Vec<String>, Error> {
    let staging = tempfile::tempdir().unwrap();
    let packed = pack_into(bytes, staging.path(), limits)?;
    Ok(describe(&packed.tree, staging.path()))
}

fn find(tree: &Tree, path: &str) -> NodeId {
    path.split('/').fold(Tree::ROOT, |node, name| {
        tree.lookup(node, name.as_bytes()).unwrap()
    })
}

fn packed(bytes: &[u8]) -> (Packed, tempfile::TempDir) {
    let staging = tempfile::tempdir().unwrap();
    (
        pack_into(bytes, staging.path(), &Limits::default()).unwrap(),
        staging,
    )
}

fn problem(bytes: &[u8]) -> Problem {
    match pack(bytes) {
        Err(Error::Entry { problem, .. } | Error::Header { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn entries_become_nodes() {
    for (name, archive, expected) in [
        ("empty", Archive::new(), &[][..]),
        (
            "kinds",
            Archive::new().dir("d/").file("f", "x").symlink("l", "t"),
            &["d d", "f f=x", "l l -> t"],
        ),
        ("empty file", Archive::new().file("f", ""), &["f f="]),
        (
            "implied",
            Archive::new().file("a/b/f", "x"),
            &["d? a", "d? a/b", "f a/b/f=x"],
        ),
        (
            "explicit later",
            Archive::new().file("a/f", "").dir("a"),
            &["d a", "f a/f="],
        ),
        ("root", Archive::new().dir("./").file("./f", ""), &["f f="]),
        (
            "paths",
            Archive::new().file("/a//./b/../c/./f", ""),
            &["d? a", "d? a/c", "f a/c/f="],
        ),
        (
            "above the root",
            Archive::new().file("../../f", ""),
            &["f f="],
        ),
        (
            "duplicates",
            Archive::new().file("f", "1").file("f", "2"),
            &["f f=2"],
        ),
        (
            "dir over dir",
            Archive::new().dir("d").file("d/f", "").dir("d/"),
            &["d d", "f d/f="],
        ),
        (
            "dir over file",
            Archive::new().file("d", "").dir("d"),
            &["d! d"],
        ),
        (
            "dir over link",
            Archive::new().symlink("d", "t").dir("d"),
            &["d! d"],
        ),
        (
            "file over dir",
            Archive::new().file("d/f", "").file("d", "x"),
            &["f d=x"],
        ),
        (
            "file over dir and below",
            Archive::new()
                .file("d/f", "")
                .file("d", "x")
                .file("d/g", ""),
            &["d! d", "f d/g="],
        ),
        (
            "below a file",
            Archive::new().file("f", "").file("f/g/h", ""),
            &["d! f", "d? f/g", "f f/g/h="],
        ),
        (
            "below a link",
            Archive::new().symlink("l", "t").file("l/f", "x").dir("l/d"),
            &["l l -> t", "@f l/f=x", "@d l/d"],
        ),
        (
            "link name below a link",
            Archive::new()
                .file("f", "x")
                .symlink("l", "t")
                .link("l/g", "f"),
            &["f f=x", "l l -> t", "@= l/g f"],
        ),
        (
            "old directory",
            Archive::new().entry(0, b"d/", b"", b"", &|_| ()),
            &["d d"],
        ),
        (
            "old file",
            Archive::new().entry(0, b"f", b"", b"x", &|_| ()),
            &["f f=x"],
        ),
        (
            "contiguous file",
            Archive::new().entry(b'7', b"f", b"", b"x", &|_| ()),
            &["f f=x"],
        ),
        (
            "fifo",
            Archive::new().entry(b'6', b"p", b"", b"", &|_| ()),
            &["p p"],
        ),
        (
            "device 0:0",
            Archive::new().entry(b'3', b"c", b"", b"", &|_| ()),
            &["c c 0:0"],
        ),
        (
            "device",
            Archive::new().entry(b'4', b"b", b"", b"", &|block| {
                block[329..336].copy_from_slice(b"0000010");
                block[337..344].copy_from_slice(b"0000003");
            }),
            &["b b 8:3"],
        ),
        (
            "ordinary .wh. directory",
            Archive::new().file(".wh.a/f", ""),
            &["d? .wh.a", "f .wh.a/f="],
        ),
        (
            "not utf-8",
            Archive::new().entry(b'0', b"\xff\xfe", b"", b"", &|_| ()),
            &["f \\xff\\xfe="],
        ),
    ] {
        assert_eq!(pack(&archive.end()).unwrap(), expected, "{name}");
    }
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    for (name, archive, expected) in [
        ("file", Archive::new().file(".wh.f", ""), &["w f"][..]),
        (
            "deep",
            Archive::new().file("a/.wh.f", ""),
            &["d? a", "w a/f"],
        ),
        (
            "any type",
            Archive::new().dir("a/.wh.f/"),
            &["d? a", "w a/f"],
        ),
        (
            "before a file",
            Archive::new().file(".wh.f", "").file("f", "x"),
            &["f f=x"],
        ),
        (
            "after a file",
            Archive::new().file("f", "x").file(".wh.f", ""),
            &["f f=x"],
        ),
        (
            "before a directory",
            Archive::new().file(".wh.d", "").dir("d").file("d/f", ""),
            &["d! d", "f d/f="],
        ),
        (
            "after a directory",
            Archive::new().dir("d").file("d/f", "").file(".wh.d", ""),
            &["d! d", "f d/f="],
        ),
        (
            "before an implied one",
            Archive::new().file(".wh.d", "").file("d/f", ""),
            &["d! d", "f d/f="],
        ),
        (
            "within",
            Archive::new().file(".wh.d", "").file("d/.wh.f", ""),
            &["d! d", "w d/f"],
        ),
        (
            "opaque first",
            Archive::new().file("d/.wh..wh..opq", "").file("d/f", ""),
            &["d!? d", "f d/f="],
        ),
        (
            "opaque last",
            Archive::new()
                .dir("d")
                .file("d/f", "")
                .file("d/.wh..wh..opq", ""),
            &["d! d", "f d/f="],
        ),
        (
            "opaque root",
            Archive::new().file(".wh..wh..opq", ""),
            &["d! "],
        ),
        (
            "below a file",
            Archive::new()
                .file("f", "x")
                .file("f/.wh.g", "")
                .file("f/.wh..wh..opq", ""),
            &["f f=x"],
        ),
        (
            "below a link",
            Archive::new()
                .symlink("l", "t")
                .file("l/.wh.g", "")
                .file("l/.wh..wh..opq", ""),
            &["l l -> t", "@w l/g", "@! l"],
        ),
        (
            "of a link",
            Archive::new().symlink("l", "t").file(".wh.l", ""),
            &["l l -> t"],
        ),
        (
            "aufs",
            Archive::new()
                .file(".wh..wh.aufs", "")
                .dir(".wh..wh.orph/")
                .file("d/.wh..wh.x/f", ""),
            &[],
        ),
        (
            "aufs links",
            Archive::new()
                .file(".wh..wh.plnk/1.2", "x")
                .link("f", ".wh..wh.plnk/1.2"),
            &["f f=x"],
        ),
        (
            "content is skipped",
            Archive::new().file(".wh.f", "content").file("g", "y"),
            &["w f", "f g=y"],
        ),
    ] {
        assert_eq!(pack(&archive.end()).unwrap(), expected, "{name}");
    }
    for path in [".wh.", "d/.wh.", ".wh..", ".wh...", "etc/.wh../"] {
        assert_eq!(
            problem(&Archive::new().file(path, "").end()),
            Problem::Whiteout,
            "{path}"
        );
    }
}

#[test]
fn hard_links_share_a_node() {
    for (name, archive, expected) in [
        (
            "file",
            Archive::new().file("f", "x").link("g", "f"),
            &["f f=x", "= g f"][..],
        ),
        (
            "absolute",
            Archive::new().file("a/f", "x").link("g", "/a/./f"),
            &["d? a", "f a/f=x", "= g a/f"],
        ),
        (
            "upwards",
            Archive::new().file("f", "x").link("g", "../../f"),
            &["f f=x", "= g f"],
        ),
        (
            "to a symbolic link",
            Archive::new().symlink("l", "t").link("m", "l"),
            &["l l -> t", "= m l"],
        ),
        ("lower layer", Archive::new().link("g", "f"), &["h g -> f"]),
        (
            "to a later file",
            Archive::new().link("g", "f").file("f", "x"),
            &["f f=x", "h g -> f"],
        ),
        (
            "to a whiteout",
            Archive::new().file(".wh.f", "").link("g", "f"),
            &["w f", "h g -> f"],
        ),
        (
            "through a link",
            Archive::new()
                .symlink("l", "d")
                .file("d/f", "")
                .link("g", "l/f"),
            &["d? d", "f d/f=", "h g -> l/f", "l l -> d"],
        ),
        (
            "to itself",
            Archive::new().file("f", "x").link("f", "f"),
            &["f f=x"],
        ),
        (
            "over a file",
            Archive::new().file("f", "x").file("g", "y").link("g", "f"),
            &["f f=x", "= g f"],
        ),
        (
            "of a link",
            Archive::new().file("f", "x").link("g", "f").link("h", "g"),
            &["f f=x", "= g f", "= h f"],
        ),
        (
            "target replaced",
            Archive::new().file("f", "x").link("g", "f").file("f", "y"),
            &["f f=y", "f g=x"],
        ),
    ] {
        assert_eq!(pack(&archive.end()).unwrap(), expected, "{name}");
    }
    for archive in [
        Archive::new().dir("d").link("g", "d"),
        Archive::new().link("g", "/"),
        Archive::new().link("g", "g"),
        Archive::new().link("g", ".."),
    ] {
        assert!(matches!(problem(&archive.end()), Problem::HardLink { .. }));
    }
}

#[test]
fn the_last_link_decides_the_attributes() {
    let mode = |block: &mut [u8; 512]| block[104..107].copy_from_slice(b"755");
    let archive = Archive::new()
        .file("f", "x")
        .entry(b'1', b"g", b"f", b"", &mode);
    let (packed, _staging) = packed(&archive.end());
    assert_eq!(
        packed.tree.metadata(find(&packed.tree, "f")).permissions,
        0o755
    );
}

#[test]
fn data_of_entries_without_content() {
    let size = |block: &mut [u8; 512]| block[124..135].copy_from_slice(b"00000000003");
    // As Go and GNU tar have it, no data follows; as libarchive has it, some does.
    for data in [&b""[..], b"abc"] {
        for kind in [b'1', b'2', b'5'] {
            let archive = Archive::new()
                .file("f", "x")
                .entry(kind, b"g", b"f", b"", &size);
            let lines = pack(&archive.data(data).file("h", "y").end()).unwrap();
            assert_eq!(lines.len(), 3, "{}", char::from(kind));
            assert_eq!(lines[2], "f h=y");
        }
    }
}

#[test]
fn numbers_of_headers() {
    let archive = Archive::new().entry(b'0', b"f", b"", b"", &|block| {
        block[100..108].copy_from_slice(b"0106755\0");
        block[108..116].copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xfe");
        block[116..124].copy_from_slice(b"\x80\0\0\0\0\x20\0\x01");
        block[136..148].copy_from_slice(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe");
    });
    let (packed, _staging) = packed(&archive.end());
    let expected = Metadata {
        permissions: 0o6755,
        uid: u32::MAX - 1,
        gid: (1 << 21) + 1,
        mtime: Timestamp {
            seconds: -2,
            nanoseconds: 0,
        },
    };
    assert_eq!(packed.tree.metadata(find(&packed.tree, "f")), expected);

    for (field, bytes) in [
        (136, &b"\x80\x01\0\0\0\0\0\0\0\0\0\0"[..]),
        (136, b"12345678901\0"),
        (108, b"\x80\0\0\0\xff\xff\xff\xff"),
        (124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        (124, b"0x000000001\0"),
    ] {
        let archive = Archive::new().entry(b'0', b"f", b"", b"", &|block| {
            block[field..field + bytes.len()].copy_from_slice(bytes);
        });
        let bytes = archive.end();
        assert!(matches!(problem(&bytes), Problem::Number(_)), "{field}");
    }
}

#[test]
fn pax_overrides_the_header() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let archive = Archive::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("size", b"3"),
            ("uid", b"4000000000"),
            ("gid", b"3000000"),
            ("mtime", b"-1.5"),
            ("SCHILY.xattr.user.a", b"\0=\n\xff"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.empty", b""),
            ("SCHILY.acl.access", b"user::rwx"),
            ("comment", b"x"),
        ])
        .entry(b'0', b"short", b"", b"", &|_| ())
        .data(b"abc")
        .file("next", "");
    let (packed, staging) = packed(&archive.end());
    let node = find(&packed.tree, &long);
    let expected = Metadata {
        permissions: 0o644,
        uid: 4_000_000_000,
        gid: 3_000_000,
        mtime: Timestamp {
            seconds: -2,
            nanoseconds: 500_000_000,
        },
    };
    assert_eq!(packed.tree.metadata(node), expected);
    let Kind::Regular(content) = packed.tree.kind(node) else {
        panic!()
    };
    assert_eq!(read(content, staging.path()), b"abc");
    let mut tree = packed.tree;
    let attributes: [(&[u8], &[u8]); 3] = [
        (b"user.a", b"\0=\n\xff"),
        (b"trusted.overlay.opaque", b"y"),
        (b"user.empty", b""),
    ];
    let xattrs = tree.xattr_set(attributes).unwrap();
    assert_eq!(tree.xattrs(node), xattrs);
    // Nothing of it is left for the next entry.
    let next = find(&tree, "next");
    assert_eq!(
        tree.metadata(next),
        Metadata {
            permissions: 0o644,
            ..Metadata::default()
        }
    );
    assert_ne!(tree.xattrs(next), xattrs);
}

#[test]
fn extensions_apply_to_the_next_real_entry() {
    let name = "n".repeat(150);
    for (label, archive, expected) in [
        (
            "long name",
            Archive::new()
                .gnu_long(b'L', name.as_bytes())
                .file("f", "x"),
            vec![format!("f {name}=x")],
        ),
        (
            "long target",
            Archive::new()
                .gnu_long(b'K', name.as_bytes())
                .symlink("l", "t"),
            vec![format!("l l -> {name}")],
        ),
        (
            "pax size is not that of the long name",
            Archive::new()
                .pax(&[("size", b"1")])
                .gnu_long(b'L', name.as_bytes())
                .file("f", "x"),
            vec![format!("f {name}=x")],
        ),
        (
            "pax size over a header size",
            Archive::new()
                .pax(&[("size", b"600")])
                .entry(b'0', b"f", b"", b"", &|block| {
                    block[124..135].copy_from_slice(b"00000000010");
                })
                .data(&[b'a'; 600])
                .file("g", ""),
            vec![format!("f f={}", "a".repeat(600)), "f g=".into()],
        ),
        (
            "a second header replaces the first",
            Archive::new()
                .pax(&[("path", b"a"), ("linkpath", b"b")])
                .pax(&[("path", b"c")])
                .symlink("x", "t"),
            vec!["l c -> t".into()],
        ),
        (
            "global headers are ignored",
            Archive::new()
                .entry(b'g', b"g", b"", &record(b"path", b"evil"), &|_| ())
                .file("f", ""),
            vec!["f f=".into()],
        ),
        (
            "prefix",
            Archive::new().entry(b'0', b"f", b"", b"", &|block| {
                block[345..348].copy_from_slice(b"a/b")
            }),
            vec!["d? a".into(), "d? a/b".into(), "f a/b/f=".into()],
        ),
        (
            "old directory by its pax path",
            Archive::new()
                .pax(&[("path", b"d/")])
                .entry(0, b"d", b"", b"", &|_| ()),
            vec!["d d".into()],
        ),
    ] {
        assert_eq!(pack(&archive.end()).unwrap(), expected, "{label}");
    }
}

fn sparse_number(block: &mut [u8; 512], at: usize, number: u64) {
    block[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
}

#[test]
fn sparse_files_of_all_formats() {
    let expected = ["f f=ab\\x00\\x00\\x00cd\\x00", "f g="];
    let old = Archive::new().entry(b'S', b"f", b"", b"abcd", &|block| {
        gnu(block);
        for (at, number) in [(386, 0), (398, 2), (410, 5), (422, 2), (483, 8)] {
            sparse_number(block, at, number);
        }
    });
    let mut extended = Archive::new().entry(b'S', b"f", b"", b"", &|block| {
        gnu(block);
        for at in 0..4 {
            sparse_number(block, 386 + 24 * at, 0);
            sparse_number(block, 398 + 24 * at, 0);
        }
        sparse_number(block, 124, 4);
        sparse_number(block, 483, 8);
        block[482] = 1;
    });
    let mut block = [0; 512];
    for (at, number) in [(0, 0), (12, 2), (24, 5), (36, 2)] {
        sparse_number(&mut block, at, number);
    }
    extended.0.extend_from_slice(&block);
    let extended = extended.data(b"abcd");
    let pax_0_0 = [
        ("GNU.sparse.size", &b"8"[..]),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"0"),
        ("GNU.sparse.numbytes", b"2"),
        ("GNU.sparse.offset", b"5"),
        ("GNU.sparse.numbytes", b"2"),
    ];
    let pax_0_1 = [
        ("GNU.sparse.size", &b"8"[..]),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.map", b"0,2,5,2"),
    ];
    let pax_1_0 = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.realsize", b"8"),
    ];
    let map = [&b"2\n0\n2\n5\n2\n"[..], &[0; 502], b"abcd"].concat();
    for (name, archive) in [
        ("old", old),
        ("extended", extended),
        ("0.0", Archive::new().pax(&pax_0_0).file("f", "abcd")),
        (
            "0.1",
            Archive::new()
                .pax(&pax_0_1)
                .file("GNUSparseFile.0/f", "abcd"),
        ),
        (
            "1.0",
            Archive::new()
                .pax(&pax_1_0)
                .entry(b'0', b"x", b"", &map, &|_| ()),
        ),
    ] {
        assert_eq!(
            pack(&archive.file("g", "").end()).unwrap(),
            expected,
            "{name}"
        );
    }
}

#[test]
fn large_holes_stay_holes() {
    let archive = Archive::new()
        .pax(&[
            ("GNU.sparse.size", b"8388608"),
            ("GNU.sparse.map", b"4194304,4"),
        ])
        .file("f", "data");
    let (packed, staging) = packed(&archive.end());
    let Kind::Regular(content) = packed.tree.kind(find(&packed.tree, "f")) else {
        panic!()
    };
    assert_eq!(content.place, Place::File(0));
    assert_eq!(
        &read(content, staging.path())[4_194_304..4_194_308],
        b"data"
    );
    let blocks = std::fs::metadata(staging.path().join("files/0"))
        .unwrap()
        .blocks();
    assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
}

#[test]
fn malformed_sparse_maps() {
    let gnu_sparse = |numbers: &'static [(usize, u64)]| {
        Archive::new().entry(b'S', b"f", b"", b"abcd", &move |block| {
            gnu(block);
            numbers
                .iter()
                .for_each(|(at, number)| sparse_number(block, *at, *number));
        })
    };
    for (name, archive) in [
        ("overlap", gnu_sparse(&[(386, 0), (398, 3), (410, 2), (422, 1), (483, 8)])),
        ("behind the end", gnu_sparse(&[(386, 6), (398, 4), (483, 8)])),
        ("too little", gnu_sparse(&[(386, 0), (398, 3), (483, 8)])),
        ("too much", gnu_sparse(&[(386, 0), (398, 8), (483, 8)])),
        ("overflow", Archive::new().pax(&[("GNU.sparse.size", b"8"), ("GNU.sparse.map", b"9223372036854775807,9223372036854775807,9223372036854775807,9223372036854775807")]).file("f", "abcd")),
        ("no size", Archive::new().pax(&[("GNU.sparse.map", b"0,4")]).file("f", "abcd")),
        ("odd map", Archive::new().pax(&[("GNU.sparse.size", b"8"), ("GNU.sparse.map", b"0,4,5")]).file("f", "abcd")),
        ("version", Archive::new().pax(&[("GNU.sparse.major", b"2")]).file("f", "abcd")),
        ("no end", Archive::new().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"8")]).file("f", &"9".repeat(512))),
    ] {
        assert!(matches!(problem(&archive.end()), Problem::Sparse(_)), "{name}");
    }
}

#[test]
fn the_end_of_an_archive() {
    let archive = Archive::new().file("f", "x");
    let without_zeros = archive.0.clone();
    let mut one_block = without_zeros.clone();
    one_block.resize(one_block.len() + 512, 0);
    let mut garbage = archive.clone().end();
    garbage.extend_from_slice(b"trailing garbage, hashed all the same");
    for bytes in [&without_zeros, &one_block, &garbage] {
        let staging = tempfile::tempdir().unwrap();
        let packed = pack_into(bytes, staging.path(), &Limits::default()).unwrap();
        assert_eq!(describe(&packed.tree, staging.path()), ["f f=x"]);
        assert_eq!(packed.diff_id[..], Sha256::digest(bytes)[..]);
        assert_eq!(packed.statistics.uncompressed, bytes.len() as u64);
    }
    let complete = archive.clone().end();
    for cut in [1, 300, 512] {
        let result = pack(&complete[..cut]);
        assert!(
            matches!(result, Err(Error::Truncated { .. })),
            "{cut}: {result:?}"
        );
    }
    let mut lone = vec![0; 512];
    lone.extend_from_slice(&complete);
    assert_eq!(problem(&lone), Problem::LoneZeroBlock);
    let mut damaged = complete;
    damaged[3] = b'x';
    assert_eq!(problem(&damaged), Problem::Checksum);
    let unknown = Archive::new()
        .entry(b'V', b"volume", b"", b"", &|_| ())
        .end();
    assert_eq!(problem(&unknown), Problem::UnknownType(b'V'));
}

/// umoci 0.4.7 does not pad the last file of what `umoci insert` makes, and containerd takes it.
#[test]
fn regression_the_last_file_of_a_layer_need_not_be_padded() {
    let complete = Archive::new().file("f", "x").end();
    for cut in [513, 600, 1023] {
        let bytes = &complete[..cut];
        let staging = tempfile::tempdir().unwrap();
        let packed = pack_into(bytes, staging.path(), &Limits::default()).unwrap();
        assert_eq!(describe(&packed.tree, staging.path()), ["f f=x"], "{cut}");
        assert_eq!(packed.diff_id[..], Sha256::digest(bytes)[..]);
        // What a person gives us to import was cut.
        let staging = tempfile::tempdir().unwrap();
        let progress = Progress::default();
        let result = pack_archive(bytes, staging.path(), &Limits::default(), &progress);
        assert!(matches!(result, Err(Error::Truncated { .. })), "{cut}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressions_are_recognised() {
    let mut archive = Archive::new();
    let mut state = 1_u64;
    for number in 0..40 {
        // Enough for several chunks and thus the thread, and not too compressible.
        let content: Vec<u8> = (0..150_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 60) as u8
            })
            .collect();
        archive = archive.entry(
            b'0',
            format!("f{number}").as_bytes(),
            b"",
            &content,
            &|_| (),
        );
    }
    let tar = archive.end();
    let expected = pack(&tar).unwrap();
    let middle = tar.len() / 3;
    let members = [gzip(&tar[..middle]), gzip(&tar[middle..])].concat();
    let padded = [&members[..], &[0; 1000]].concat();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0skip";
    let frames = [
        skippable,
        &zstd(&tar[..middle])[..],
        skippable,
        &zstd(&tar[middle..]),
    ]
    .concat();
    for (name, blob) in [
        ("gzip", &gzip(&tar)),
        ("members", &members),
        ("padding", &padded),
        ("zstd", &frames),
    ] {
        let staging = tempfile::tempdir().unwrap();
        let packed = pack_into(blob, staging.path(), &Limits::default()).unwrap();
        assert_eq!(packed.diff_id[..], Sha256::digest(&tar)[..], "{name}");
        assert_eq!(packed.statistics.compressed, blob.len() as u64, "{name}");
        assert_eq!(describe(&packed.tree, staging.path()), expected, "{name}");
    }
    let garbage = [&members[..], b"garbage"].concat();
    let behind_zeros = [&members[..], b"\0\0\x1f\x8b"].concat();
    let cut = &members[..members.len() - 9];
    let mut damaged = members.clone();
    damaged[members.len() / 2] ^= 0x55;
    for blob in [
        &garbage[..],
        &behind_zeros,
        cut,
        &damaged,
        &frames[..frames.len() - 5],
    ] {
        let result = pack(blob);
        // Damage may also show in what comes out of it, before the checksum at the end does.
        let expected = matches!(
            result,
            Err(Error::Decompress { .. } | Error::Header { .. } | Error::Truncated { .. })
        );
        assert!(expected, "{result:?}");
    }
    for magic in [&b"BZh9"[..], b"\xfd7zXZ\0", b"\x04\x22\x4d\x18"] {
        assert!(matches!(pack(magic), Err(Error::UnsupportedCompression(_))));
    }
}

#[test]
fn the_source_fails() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::other("connection lost"));
            }
            self.0 -= 1;
            buffer.fill(b'x');
            Ok(buffer.len().min(300))
        }
    }
    let zstd = zstd::encode_all(&[0; 100][..], 1).unwrap();
    for start in [
        &b""[..],
        &gzip(b"x")[..15],
        &zstd[..10],
        &Archive::new().file("f", "").end()[..600],
    ] {
        let staging = tempfile::tempdir().unwrap();
        let source = Cursor::new(start).chain(Failing(0));
        let result = pack_layer(
            source,
            staging.path(),
            &Limits::default(),
            &Progress::default(),
        );
        assert!(matches!(result, Err(Error::Read(_))), "{result:?}");
    }
}

#[test]
fn cancelling_ends_the_pass() {
    let progress = Progress::default();
    progress.cancel();
    let staging = tempfile::tempdir().unwrap();
    let bytes = Archive::new().file("f", "").end();
    let result = pack_layer(&bytes[..], staging.path(), &Limits::default(), &progress);
    assert!(matches!(result, Err(Error::Cancelled)));
}

#[test]
fn write_errors_name_the_file() {
    let staging = tempfile::tempdir().unwrap();
    std::fs::write(staging.path().join("pack"), "").unwrap();
    let result = pack_into(&Archive::new().end(), staging.path(), &Limits::default());
    assert!(matches!(result, Err(Error::Write { path, .. }) if path.ends_with("pack")));
}

#[test]
fn limits_hold() {
    let limits = Limits {
        entries: 3,
        extension: 4096,
        path: 64,
        depth: 4,
        sparse_segments: 2,
        file_size: 1 << 20,
        holes: 1 << 19,
        xattrs: 2,
        text: 100,
        uncompressed: 1 << 20,
        ..Limits::default()
    };
    let xattr = |name| ("SCHILY.xattr.user.".to_owned() + name, [0_u8; 10]);
    let xattrs = [xattr("a"), xattr("b"), xattr("c")];
    let xattrs: Vec<_> = xattrs
        .iter()
        .map(|(name, value)| (name.as_str(), &value[..]))
        .collect();
    let sparse = |size: &'static [u8], map: &'static [u8]| {
        Archive::new().pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)])
    };
    let target = "t".repeat(60);
    for (name, archive) in [
        (
            "entries",
            Archive::new().dir("a").dir("b").dir("c").dir("d"),
        ),
        (
            "extension",
            Archive::new().pax(&[("comment", &[0; 4096])]).dir("a"),
        ),
        (
            "long name",
            Archive::new().gnu_long(b'L', &[b'n'; 4096]).dir("a"),
        ),
        ("path", Archive::new().dir(&"abc/".repeat(17))),
        ("depth", Archive::new().dir("1/2/3/4/5")),
        ("segments", sparse(b"100", b"0,1,2,1,4,1").file("f", "abc")),
        ("file size", sparse(b"1048577", b"0,1").file("f", "a")),
        ("holes", sparse(b"1000000", b"0,1").file("f", "a")),
        ("xattrs", Archive::new().pax(&xattrs).file("f", "a")),
        (
            "text",
            Archive::new().symlink("a", &target).symlink("b", &target),
        ),
        (
            "uncompressed",
            Archive::new().file("f", &"x".repeat(1 << 20)),
        ),
    ] {
        let result = pack_within(&archive.end(), &limits);
        let refused = matches!(
            result,
            Err(Error::TooLarge { .. }
                | Error::Entry {
                    problem: Problem::TooLarge { .. },
                    ..
                }
                | Error::Header {
                    problem: Problem::TooLarge { .. },
                    ..
                })
        );
        assert!(refused, "{name}: {result:?}");
    }
}

#[test]
fn what_is_written_is_read_back() {
    let long = "p".repeat(300);
    let xattrs = [
        (b"user.z=%3D%25%41".to_vec(), b"\0\n=".to_vec()),
        (b"security.capability".to_vec(), vec![1, 0, 0, 2]),
    ];
    let times = [
        (0, 0),
        (-1, 0),
        (-2, 500_000_000),
        (-1, 999_999_999),
        (1 << 40, 1),
        (i64::MAX, 0),
    ];
    let kinds = [
        TarKind::Directory,
        TarKind::Regular(5),
        TarKind::Symlink(long.as_bytes()),
        TarKind::CharDevice(1, 3),
        TarKind::BlockDevice(259, 1_048_575),
        TarKind::Fifo,
    ];
    let mut writer = TarWriter::new(Vec::new());
    let mut expected = Vec::new();
    for (number, kind) in kinds.iter().cycle().take(36).enumerate() {
        let (seconds, nanoseconds) = times[number / 6];
        let lengths = [
            "n".repeat(90),
            format!("{}/{}", "a".repeat(150), "b".repeat(90)),
            "c".repeat(255),
        ];
        let path = format!(
            "{}{number:02}",
            &lengths[number % 3][..lengths[number % 3].len() - 2]
        );
        let metadata = Metadata {
            permissions: 0o7777,
            uid: [0, 2_097_151, 2_097_152, u32::MAX - 1][number % 4],
            gid: [u32::MAX - 1, 5][number % 2],
            mtime: Timestamp {
                seconds,
                nanoseconds,
            },
        };
        let xattrs = &xattrs[..number % 3];
        let entry = TarEntry {
            path: path.as_bytes(),
            metadata,
            kind: *kind,
            xattrs,
        };
        writer.append(&entry, &mut &b"hello, world"[..]).unwrap();
        expected.push((path, metadata, *kind, xattrs));
    }
    let link = TarEntry {
        path: b"link",
        metadata: expected[1].1,
        kind: TarKind::HardLink(expected[1].0.as_bytes()),
        xattrs: &[],
    };
    writer.append(&link, &mut std::io::empty()).unwrap();
    writer.append_whiteout(b"gone").unwrap();
    writer.append_opaque(b"opaque").unwrap();
    let (packed, staging) = packed(&writer.finish().unwrap());
    let mut tree = packed.tree;
    for (path, mut metadata, kind, xattrs) in expected {
        let node = find(&tree, &path);
        let found = match tree.kind(node) {
            Kind::Directory => TarKind::Directory,
            Kind::Regular(content) => {
                assert_eq!(read(content, staging.path()), b"hello");
                TarKind::Regular(5)
            }
            Kind::Symlink(target) => {
                metadata.permissions = 0o777;
                assert_eq!(**target, *long.as_bytes());
                kind
            }
            Kind::CharDevice { major, minor } => TarKind::CharDevice(*major, *minor),
            Kind::BlockDevice { major, minor } => TarKind::BlockDevice(*major, *minor),
            Kind::Fifo => TarKind::Fifo,
            other => panic!("{other:?}"),
        };
        assert_eq!(found, kind, "{path}");
        assert_eq!(tree.metadata(node), metadata, "{path}");
        let xattrs = tree
            .xattr_set(xattrs.iter().map(|(n, v)| (&n[..], &v[..])))
            .unwrap();
        assert_eq!(tree.xattrs(node), xattrs, "{path}");
    }
    assert_eq!(tree.get(Tree::ROOT, b"gone"), Some(Target::Whiteout));
    assert!(tree.is_opaque(find(&tree, "opaque")));
}

fn archived(root: &std::path::Path, exclude: Option<&std::path::Path>) -> (Vec<u8>, Vec<Skipped>) {
    let mut writer = TarWriter::new(Vec::new());
    let skipped = write_directory(root, exclude, &mut writer).unwrap();
    (writer.finish().unwrap(), skipped)
}

#[test]
fn directories_are_written_in_order() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for name in ["b", "a", "store/blobs"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    std::fs::write(at("b/file"), "content").unwrap();
    std::fs::hard_link(at("b/file"), at("a/link")).unwrap();
    std::os::unix::fs::symlink("../b", at("a/up")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let (bytes, skipped) = archived(root.path(), Some(&at("store")));
    assert_eq!(
        pack(&bytes).unwrap(),
        [
            "d a",
            "f a/link=content",
            "l a/up -> ../b",
            "d b",
            "= b/file a/link"
        ]
    );
    let expected = [
        Skipped::Socket(Escaped::new(b"socket")),
        Skipped::Excluded(Escaped::new(b"store")),
    ];
    assert!(skipped.iter().all(|skipped| expected.contains(skipped)) && skipped.len() == 2);
    assert_eq!(archived(root.path(), Some(&at("store"))).0, bytes);
    // The root has an entry of its own, so its attributes are kept.
    let root_mode = root.path().metadata().unwrap().mode();
    let (packed, _staging) = packed(&bytes);
    assert!(!packed.tree.is_implied(Tree::ROOT));
    assert_eq!(
        packed.tree.metadata(Tree::ROOT).permissions,
        (root_mode & 0o7777) as u16
    );

    std::fs::write(at("b/.wh.file"), "").unwrap();
    let result = write_directory(root.path(), None, &mut TarWriter::new(Vec::new()));
    let expected =
        "cannot archive \"b/.wh.file\": a name that begins with .wh. would become a whiteout";
    assert_eq!(result.unwrap_err().to_string(), expected);
}

#[test]
fn deep_directories_are_written() {
    let root = tempfile::tempdir().unwrap();
    let deep = "directory/".repeat(200);
    std::fs::create_dir_all(root.path().join(&deep)).unwrap();
    std::fs::write(root.path().join(&deep).join("file"), "x").unwrap();
    let lines = pack(&archived(root.path(), None).0).unwrap();
    assert_eq!(lines.len(), 201);
    assert_eq!(lines[200], format!("f {deep}file=x"));
}

#[test]
fn contents_that_do_not_fit_their_size() {
    let entry = TarEntry {
        path: b"f",
        metadata: Metadata::default(),
        kind: TarKind::Regular(10),
        xattrs: &[],
    };
    let result = TarWriter::new(Vec::new()).append(&entry, &mut &b"short"[..]);
    assert!(matches!(
        result,
        Err(Error::Unarchivable {
            problem: Problem::Short(10),
            ..
        })
    ));
}
