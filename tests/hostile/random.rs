//! Archives of nasty parts put together at random, and damaged ones.

use proptest::collection::vec;
use proptest::prelude::*;

use super::World;
use super::archive::{Archive, set_checksum};
use super::plyfs::pack::Limits;

fn path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "..",
        ".",
        "",
        "etc",
        "passwd",
        "a",
        "b",
        "l",
        "store",
        "pack",
        "files",
        "0",
        ".wh.a",
        ".wh.b",
        ".wh..wh..opq",
        ".wh..",
        ".wh.",
        ".wh..wh.plnk",
        ".wh..wh.aufs",
    ]);
    vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn entry() -> impl Strategy<Value = (u8, String, String, Vec<u8>)> {
    let kind = prop::sample::select(b"0001122345556700000xLKSgV".to_vec());
    (kind, path(), path(), vec(any::<u8>(), 0..600))
}

fn archive() -> impl Strategy<Value = Vec<u8>> {
    vec(entry(), 0..12).prop_map(|entries| {
        let archive = entries
            .iter()
            .fold(Archive::new(), |archive, (kind, path, link, data)| {
                let data = if b"07SLKxg".contains(kind) {
                    &data[..]
                } else {
                    b""
                };
                archive.entry(*kind, path.as_bytes(), link.as_bytes(), data, &|_| ())
            });
        archive.end()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_escapes(bytes in archive()) {
        // Refused or not: the world stays as it is, and every content is where its row says.
        drop(World::new().pack(&bytes, &Limits::default()));
    }

    #[test]
    fn damage_is_no_panic(
        bytes in archive(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = bytes;
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
            // A checksum that is right lets the damage through to what comes behind it.
            let start = at / 512 * 512;
            if let Some(block) = bytes.get_mut(start..start + 512)
                && block[257..262] == *b"ustar"
            {
                let mut copy = [0; 512];
                copy.copy_from_slice(block);
                set_checksum(&mut copy);
                block.copy_from_slice(&copy);
            }
        }
        bytes.truncate(cut.index(bytes.len() * 4).max(bytes.len() / 2));
        drop(World::new().pack(&bytes, &Limits::default()));
    }
}
