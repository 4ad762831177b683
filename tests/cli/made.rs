//! Images made to measure, as OCI layouts.

use std::fs;
use std::path::{Path, PathBuf};

use plyfs::oci::{
    Descriptor, DiffId, Digest, History, ImageConfig, Index, Manifest, MediaType, Platform,
};

use super::archive;
use super::support::Store;

/// An image to be made.
pub struct Made<'a> {
    /// The content of the one file of each layer, lowest first.
    pub layers: &'a [&'a str],
    /// When it says that it was made.
    pub created: &'a str,
    pub labels: &'a [(&'a str, &'a str)],
    pub platform: &'a str,
    /// A note in the manifest, of which the ID knows nothing.
    pub note: &'a str,
}

impl Default for Made<'_> {
    fn default() -> Self {
        Made {
            layers: &["base"],
            created: "2024-05-06T07:08:09Z",
            labels: &[],
            platform: "",
            note: "",
        }
    }
}

/// A layout that images are put into.
pub struct Layout {
    pub path: PathBuf,
    index: Index,
}

impl Layout {
    /// An empty one, beside the store.
    pub fn new(store: &Store, name: &str) -> Layout {
        let path = store.root().with_file_name(name);
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Layout {
            path,
            index: Index::default(),
        }
    }

    /// Puts an image there under a tag and returns its manifest's digest.
    pub fn add(&mut self, tag: &str, image: &Made<'_>) -> Digest {
        let descriptor = self.image(image);
        self.publish(tag, descriptor)
    }

    /// Puts an index of several platforms there, with an attestation of the first.
    pub fn add_index(&mut self, tag: &str, images: &[Made<'_>]) -> Digest {
        let mut index = Index::default();
        for image in images {
            let mut descriptor = self.image(image);
            descriptor.platform = Some(image.platform.parse().unwrap());
            index.manifests.push(descriptor);
        }
        let mut attestation = self.image(&Made {
            layers: &["statement"],
            ..Made::default()
        });
        attestation.platform = Some(Platform {
            os: "unknown".into(),
            architecture: "unknown".into(),
            ..Platform::default()
        });
        let note = |key: &str, value: String| (format!("vnd.docker.reference.{key}"), value);
        attestation.annotations = [
            note("type", "attestation-manifest".to_owned()),
            note("digest", index.manifests[0].digest.to_string()),
        ]
        .into();
        index.manifests.push(attestation);
        let bytes = serde_json::to_vec(&index).unwrap();
        let descriptor = self.blob(MediaType::OciIndex, &bytes);
        self.publish(tag, descriptor)
    }

    fn publish(&mut self, tag: &str, mut descriptor: Descriptor) -> Digest {
        let digest = descriptor.digest;
        let name = "org.opencontainers.image.ref.name".to_owned();
        self.index
            .manifests
            .retain(|other| other.annotations.get(&name).map(String::as_str) != Some(tag));
        descriptor.annotations.insert(name, tag.to_owned());
        self.index.manifests.push(descriptor);
        let bytes = serde_json::to_vec(&self.index).unwrap();
        fs::write(self.path.join("index.json"), bytes).unwrap();
        digest
    }

    fn image(&self, image: &Made<'_>) -> Descriptor {
        let (mut layers, mut diff_ids, mut history) = (Vec::new(), Vec::new(), Vec::new());
        for content in image.layers {
            let tar = archive(&[("file", content.as_bytes())]);
            let descriptor = self.blob(MediaType::OciLayer, &tar);
            diff_ids.push(DiffId(descriptor.digest));
            layers.push(descriptor);
            history.push(History {
                created: Some(image.created.to_owned()),
                created_by: Some(format!("COPY {content} /file # {}", "x".repeat(50))),
                comment: Some("by hand".to_owned()),
                ..History::default()
            });
            history.push(History {
                created: Some(image.created.to_owned()),
                created_by: Some("CMD [\"sh\"]".to_owned()),
                empty_layer: true,
                ..History::default()
            });
        }
        let platform = match image.platform {
            "" => Platform::host(),
            platform => platform.parse().unwrap(),
        };
        let mut config = ImageConfig {
            created: Some(image.created.to_owned()),
            history,
            ..ImageConfig::new(platform, diff_ids)
        };
        config.config.cmd = vec!["sh".to_owned()];
        config.config.env = vec!["PATH=/bin".to_owned(), "A=b".to_owned()];
        let labels = image.labels.iter();
        config.config.labels = labels
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        let config = self.blob(MediaType::OciConfig, &config.to_bytes().unwrap());
        let mut manifest = Manifest::new(config, layers);
        if !image.note.is_empty() {
            let note = ("note".to_owned(), image.note.to_owned());
            manifest.annotations.extend([note]);
        }
        let manifest = serde_json::to_vec(&manifest).unwrap();
        self.blob(MediaType::OciManifest, &manifest)
    }

    fn blob(&self, kind: MediaType, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(kind, bytes);
        fs::write(blob(&self.path, &descriptor.digest), bytes).unwrap();
        descriptor
    }
}

fn blob(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

/// Puts an image into a store under a name.
pub fn store_image(store: &Store, name: &str, image: &Made<'_>) -> Digest {
    let mut layout = Layout::new(store, "made");
    let digest = layout.add("x", image);
    let place = super::layout(&layout.path, "x");
    store.run(["pull", "-q", &place, "--name", name]);
    digest
}
