//! Any bytes may come as a layer: they are refused, or what was packed can be written and read as an index.
//! Nothing appears but `pack` and `files/<number>` below the staging directory.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plyfs::layer::index::Index;
use plyfs::pack::{Limits, Progress, pack_layer};

fuzz_target!(|data: &[u8]| {
    let place = tempfile::Builder::new().tempdir_in(place()).expect("a directory can be made");
    let staging = place.path().join("staging");
    std::fs::create_dir(&staging).expect("a directory can be made");
    let limits = Limits {
        entries: 10_000,
        file_size: 1 << 24,
        holes: 1 << 24,
        uncompressed: 1 << 26,
        ..Limits::default()
    };
    if let Ok(packed) = pack_layer(data, &staging, &limits, &Progress::default()) {
        let mut index = Vec::new();
        packed.tree.write_layer(&mut index).expect("what was packed can be written");
        Index::from_bytes(index).expect("what was written can be read");
    }
    for entry in std::fs::read_dir(place.path()).expect("it can be listed").flatten() {
        assert_eq!(entry.file_name(), "staging");
    }
    for entry in std::fs::read_dir(&staging).expect("it can be listed").flatten() {
        assert!(entry.file_name() == "pack" || entry.file_name() == "files");
    }
    for entry in std::fs::read_dir(staging.join("files")).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().expect("a number");
        assert!(name.parse::<u32>().is_ok(), "{name}");
    }
});

/// Memory, where there is such a place.
fn place() -> &'static str {
    let memory = "/dev/shm";
    if std::path::Path::new(memory).is_dir() { memory } else { "." }
}
