//! Names of images: what is accepted prints as something that reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plyfs::oci::Reference;
use plyfs::registry::Location;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        for printed in [reference.to_string(), reference.familiar()] {
            let again: Reference = printed.parse().expect("what was printed can be read");
            assert_eq!(again, reference, "{printed}");
        }
    }
    if let Ok(location) = Location::parse(text) {
        std::hint::black_box(location.to_string());
    }
});
