//! Archives that ask for more memory, disk or time than they deserve.

use std::io::Write;

use super::archive::{Archive, gnu};
use super::plyfs::pack::{Error, Limits, Problem};
use super::{World, problem, refused};

fn zeros(megabytes: usize) -> Vec<u8> {
    let size = format!("{:011o}\0", megabytes << 20);
    let archive = Archive::new().entry(b'0', b"zeros", b"", b"", &|block| {
        block[124..136].copy_from_slice(size.as_bytes());
    });
    let mut bytes = archive.0;
    bytes.resize(bytes.len() + (megabytes << 20) + 1024, 0);
    bytes
}

fn is_too_large(error: &Error) -> bool {
    matches!(
        error,
        Error::TooLarge { .. }
            | Error::Entry {
                problem: Problem::TooLarge { .. },
                ..
            }
            | Error::Header {
                problem: Problem::TooLarge { .. },
                ..
            }
    )
}

#[test]
fn gzip_bomb() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&zeros(64)).unwrap();
    let blob = encoder.finish().unwrap();
    assert!(is_too_large(&refused(
        &blob,
        &Limits {
            uncompressed: 4 << 20,
            ..Limits::default()
        }
    )));
    let ratio = Limits {
        expansion_floor: 1 << 20,
        expansion: 500,
        ..Limits::default()
    };
    assert!(is_too_large(&refused(&blob, &ratio)));
}

#[test]
fn zstd_bomb() {
    let blob = zstd::encode_all(&zeros(64)[..], 3).unwrap();
    let limits = Limits {
        expansion_floor: 1 << 20,
        ..Limits::default()
    };
    assert!(is_too_large(&refused(&blob, &limits)));
}

#[test]
fn sizes_that_are_not_there() {
    for kind in *b"0xgLK" {
        let archive = Archive::new().entry(kind, b"f", b"", b"", &|block| {
            gnu(block);
            block[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
        });
        let error = refused(&archive.end(), &Limits::default());
        assert!(is_too_large(&error), "{error}");
    }
    let pax = Archive::new()
        .pax(&[("size", b"8000000000000")])
        .file("f", "");
    let error = refused(&pax.end(), &Limits::default());
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
}

#[test]
fn size_records_beyond_64_bits() {
    for size in [
        "9223372036854775808",
        "99999999999999999999",
        "-1",
        "1e9",
        "",
    ] {
        let archive = Archive::new()
            .pax(&[("size", size.as_bytes())])
            .file("f", "abc");
        let result = World::new().pack(&archive.end(), &Limits::default());
        // An empty value leaves the size of the header.
        assert_eq!(result.is_ok(), size.is_empty(), "{size}");
    }
}

#[test]
fn huge_extension_headers() {
    let huge = vec![b'a'; (1 << 20) + 1];
    for archive in [
        Archive::new().pax(&[("comment", &huge)]).file("f", ""),
        Archive::new().gnu_long(b'L', &huge).file("f", ""),
        Archive::new().gnu_long(b'K', &huge).symlink("f", "t"),
    ] {
        assert!(is_too_large(&refused(&archive.end(), &Limits::default())));
    }
}

#[test]
fn many_extension_headers() {
    let mut archive = Archive::new();
    for _ in 0..2000 {
        archive = archive.pax(&[("SCHILY.xattr.user.a", &[0; 4000])]);
    }
    let lines = World::new()
        .pack(&archive.file("f", "").end(), &Limits::default())
        .unwrap();
    assert_eq!(lines, ["f f="]);
}

#[test]
fn sparse_map_bombs() {
    let map = "0,0,".repeat(200_000);
    let records = [
        ("GNU.sparse.size", &b"8"[..]),
        ("GNU.sparse.map", map.as_bytes()),
    ];
    let limits = Limits {
        sparse_segments: 1000,
        ..Limits::default()
    };
    let archive = Archive::new().pax(&records).file("f", "");
    assert!(is_too_large(&refused(&archive.end(), &limits)));

    let lines = "0\n0\n".repeat(200_000);
    let data = format!("{}\n{lines}", u64::MAX);
    let records = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"8"),
    ];
    let archive = Archive::new().pax(&records).file("f", &data);
    assert!(is_too_large(&refused(&archive.end(), &limits)));

    // Blocks of an old map that never end.
    let mut archive = Archive::new().entry(b'S', b"f", b"", b"", &|block| {
        gnu(block);
        block[482] = 1;
    });
    for _ in 0..100 {
        let mut block = [0; 512];
        block[504] = 1;
        archive.0.extend_from_slice(&block);
    }
    assert!(matches!(problem(archive), Problem::Sparse(_)));
}

#[test]
fn holes_without_end() {
    for size in ["9223372036854775807", "8000000000000"] {
        let records = [
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", b"0,1"),
        ];
        let archive = Archive::new().pax(&records).file("f", "x");
        assert!(
            is_too_large(&refused(&archive.end(), &Limits::default())),
            "{size}"
        );
    }
    // Many that are each below the limit.
    let mut archive = Archive::new();
    for number in 0..100 {
        let records = [
            ("GNU.sparse.size", &b"1000000"[..]),
            ("GNU.sparse.map", b"0,1"),
        ];
        archive = archive.pax(&records).file(&number.to_string(), "x");
    }
    let limits = Limits {
        holes: 10_000_000,
        ..Limits::default()
    };
    assert!(is_too_large(&refused(&archive.end(), &limits)));
}

#[test]
fn too_many_entries() {
    let mut archive = Archive::new();
    for number in 0..1001 {
        archive = archive.file(&format!("d/{number}"), "");
    }
    let bytes = archive.end();
    let limits = |entries| Limits {
        entries,
        ..Limits::default()
    };
    assert!(is_too_large(&refused(&bytes, &limits(1000))));
    assert_eq!(
        World::new().pack(&bytes, &limits(1001)).unwrap().len(),
        1002
    );
}

#[test]
fn deep_paths() {
    let deep = "d/".repeat(2040);
    let archive = Archive::new().pax(&[("path", deep.as_bytes())]).dir("d");
    let world = World::new();
    let staging = world.staging();
    let packed = super::archive::pack_into(&archive.end(), &staging, &Limits::default()).unwrap();
    world.check();
    assert_eq!(packed.tree.node_count(), 2041);
    for path in ["d/".repeat(2049), "d".repeat(5000)] {
        let archive = Archive::new().pax(&[("path", path.as_bytes())]).dir("d");
        let error = refused(&archive.end(), &Limits::default());
        assert!(is_too_large(&error), "{error}");
    }
}

#[test]
fn names_that_no_directory_holds() {
    let name = |length: usize| "n".repeat(length);
    let archive = |path: &str| {
        Archive::new()
            .pax(&[("path", path.as_bytes())])
            .file("f", "x")
    };
    assert!(
        World::new()
            .pack(&archive(&name(255)).end(), &Limits::default())
            .is_ok()
    );
    for path in [
        name(256),
        format!("{}/f", name(256)),
        format!("a/../{}", name(300)),
    ] {
        assert_eq!(problem(archive(&path)), Problem::NameTooLong);
    }
    let whiteout = archive(&format!(".wh.{}", name(251)));
    assert_eq!(
        World::new()
            .pack(&whiteout.end(), &Limits::default())
            .unwrap()
            .len(),
        1
    );
    assert_eq!(problem(archive("a\0b")), Problem::Nul("path"));
    let records = [("linkpath", &b"a\0b"[..])];
    assert_eq!(
        problem(Archive::new().pax(&records).symlink("l", "t")),
        Problem::Nul("path")
    );
}

#[test]
fn link_targets_by_the_million() {
    let target = "t".repeat(4000);
    let mut archive = Archive::new();
    for number in 0..100 {
        archive = archive
            .gnu_long(b'K', target.as_bytes())
            .symlink(&number.to_string(), "t");
    }
    let limits = Limits {
        text: 300_000,
        ..Limits::default()
    };
    assert!(is_too_large(&refused(&archive.end(), &limits)));
}

#[test]
fn extended_attributes_beyond_the_kernel() {
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(251));
    for (key, value) in [
        (name.as_str(), &b""[..]),
        ("SCHILY.xattr.user.a", &[0; 65537]),
    ] {
        let archive = Archive::new().pax(&[(key, value)]).file("f", "");
        assert!(is_too_large(&refused(&archive.end(), &Limits::default())));
    }
}
