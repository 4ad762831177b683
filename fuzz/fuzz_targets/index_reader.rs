//! Any bytes may be opened as an index: they are refused, or every question about them has an answer.
//!
//! The checksum is put right first, else nothing would get past it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plyfs::layer::format::Header;
use plyfs::layer::index::{DetachedRow, Index, IndexKind, Named, NodeKind};
use plyfs::union::flatten::flatten;
use xxhash_rust::xxh3::Xxh3;
use zerocopy::{FromBytes, IntoBytes};

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    mend(&mut bytes);
    let Ok(index) = Index::from_bytes(bytes) else {
        return;
    };
    for number in 0..index.node_count() {
        let node = index.node(number).expect("a number below the count names a node");
        std::hint::black_box((node.metadata(), node.size(), node.nlink(), node.layer(), node.file_kind()));
        assert!(node.parent() < index.node_count());
        std::hint::black_box(node.xattrs().count());
        if !matches!(node.kind(), NodeKind::Directory { .. }) {
            continue;
        }
        for (name, named) in index.children(number) {
            assert_eq!(index.lookup(number, name), Some(named));
            assert!(matches!(named, Named::Whiteout) || is_node(&index, named));
        }
    }
    for (_, row) in index.detached() {
        if let DetachedRow::Node(node) = row {
            assert!(is_node(&index, Named::Node(node)));
        }
    }
    // What is a valid layer can be flattened over itself, or is refused.
    if matches!(index.kind(), IndexKind::Layer)
        && let Ok(tree) = flatten([&index, &index])
    {
        let mut chain = Vec::new();
        let layers = [[0; 32], [1; 32]];
        if tree.write_chain(&layers, &mut chain).is_ok() {
            Index::from_bytes(chain).expect("what was written can be read");
        }
    }
});

fn is_node(index: &Index, named: Named) -> bool {
    matches!(named, Named::Node(number) if index.node(number).is_some())
}

fn mend(bytes: &mut [u8]) {
    let length = bytes.len() as u64;
    let Ok((mut header, rest)) = Header::read_from_prefix(bytes) else {
        return;
    };
    header.file_length = length.into();
    header.checksum = 0.into();
    let checked = (header.digests.offset.get() as usize).checked_sub(size_of::<Header>());
    let mut checksum = Xxh3::new();
    checksum.update(header.as_bytes());
    checksum.update(checked.and_then(|end| rest.get(..end)).unwrap_or(rest));
    header.checksum = checksum.digest().into();
    bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
}
