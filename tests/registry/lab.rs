//! Small images, and what tests need to fetch them.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use plyfs::oci::{Descriptor, Digest, Index, Manifest, MediaType};
use plyfs::registry::{Credentials, Registry, Repository, Settings};

use crate::support;

/// Settings that do not wait long.
pub fn settings() -> Settings {
    Settings {
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_secs(5),
        attempts: 6,
        back_off: Duration::from_millis(50),
        longest_wait: Duration::from_secs(3),
        ..Settings::default()
    }
}

pub fn repository(reference: &str, settings: Settings) -> Repository {
    Registry::new(settings).repository(&reference.parse().unwrap())
}

pub fn user(name: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::Basic {
        username: name.into(),
        password: password.into(),
    })
}

/// Bytes that do not compress, the same for the same length.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An image with one layer.
pub struct Image {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layer: Vec<u8>,
    pub descriptor: Descriptor,
}

impl Image {
    /// An image whose layer has about this many bytes of noise, in gzip without compression.
    pub fn new(size: usize) -> Self {
        let content = noise(size);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        gzip.write_all(&content).unwrap();
        let layer = gzip.finish().unwrap();
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::of(&content)
        )
        .into_bytes();
        let descriptor = Descriptor::of(MediaType::OciLayerGzip, &layer);
        let manifest = Manifest::new(
            Descriptor::of(MediaType::OciConfig, &config),
            vec![descriptor.clone()],
        );
        let manifest = serde_json::to_vec(&manifest).unwrap();
        Self {
            manifest,
            config,
            layer,
            descriptor,
        }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Puts it into a registry.
    pub fn push(&self, registry: &support::Registry, name: &str) {
        let layout = tempfile::tempdir().unwrap();
        self.write(layout.path());
        registry.push(layout.path(), "image", name);
    }

    /// Writes it as an OCI layout with the tag `image`.
    fn write(&self, directory: &Path) {
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for blob in [&self.manifest, &self.config, &self.layer] {
            std::fs::write(blobs.join(Digest::of(blob).hex()), blob).unwrap();
        }
        let mut entry = Descriptor::of(MediaType::OciManifest, &self.manifest);
        entry
            .annotations
            .insert("org.opencontainers.image.ref.name".into(), "image".into());
        let index = Index {
            manifests: vec![entry],
            ..Index::default()
        };
        std::fs::write(
            directory.join("index.json"),
            serde_json::to_vec(&index).unwrap(),
        )
        .unwrap();
        std::fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
    }
}

/// Reads all there is.
pub fn read_all(mut reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}
