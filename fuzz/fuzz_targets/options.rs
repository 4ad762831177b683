//! The `-o` language of mount(8), podman and overlayfs.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use plyfs::options::MountOptions;

fuzz_target!(|data: &[u8]| {
    let lists = data.split(|byte| *byte == 0).map(OsStr::from_bytes);
    match MountOptions::parse(lists) {
        Ok(options) => {
            for warning in &options.warnings {
                std::hint::black_box(warning.to_string());
            }
        }
        Err(error) => drop(std::hint::black_box(error.to_string())),
    }
});
