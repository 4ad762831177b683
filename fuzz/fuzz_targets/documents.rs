//! Manifests, indexes of images and configurations, as registries send them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plyfs::oci::{Document, Index, ImageConfig, Platform};

fuzz_target!(|data: &[u8]| {
    for content_type in [None, Some("application/vnd.oci.image.index.v1+json")] {
        if let Ok(document) = Document::parse(data, content_type) {
            std::hint::black_box(document.media_type());
            if let Document::Index(index) = &document {
                choose(index);
            }
        }
    }
    if let Ok(config) = ImageConfig::parse(data) {
        let bytes = config.to_bytes().expect("what was read can be written");
        ImageConfig::parse(&bytes).expect("what was written can be read");
    }
});

fn choose(index: &Index) {
    std::hint::black_box(index.choose(&Platform::host()).is_ok());
}
