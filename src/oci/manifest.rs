//! Manifests, indexes and the descriptors that they consist of.
//!
//! Documents come from outside and are told apart with care: a document that could be read as
//! both a manifest and an index would give two readers two images under one digest.
//!
//! # See
//!
//! image-spec `manifest.md`, `image-index.md`, `descriptor.md`; CVE-2021-41190

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Digest, MediaType, ParseError, Platform, null_as_default, quoted};

/// The largest manifest or index that is read, in bytes: registries accept no larger ones.
pub const MAX_DOCUMENT_SIZE: u64 = 4 << 20;

/// Names some content: its type, digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of the content.
    pub media_type: MediaType,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes; at most `i64::MAX`.
    #[serde(deserialize_with = "size")]
    pub size: u64,
    /// Where else the content can be had; the only place for foreign layers.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub urls: Vec<String>,
    /// Notes about the content.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub annotations: BTreeMap<String, String>,
    /// What the image runs on; in indexes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The type of the artifact, for manifests that are not images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor with nothing optional in it.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self {
            media_type,
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }

    /// The descriptor of this content.
    pub fn of(media_type: MediaType, content: &[u8]) -> Self {
        Self::new(media_type, Digest::of(content), content.len() as u64)
    }
}

/// Sizes are signed in the specification; a negative one or one beyond that is an attack or a bug.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = i64::deserialize(deserializer)?;
    u64::try_from(size).map_err(|_| de::Error::custom(format!("negative size {size}")))
}

/// An image: its configuration and layers, lowest layer first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The type of this document. After [`Document::parse`] it is never `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The type of the artifact, if this is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image configuration. Its digest is what Docker calls the image ID.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes about the image.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// An OCI manifest with this configuration and these layers, lowest first.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// A choice of manifests, usually one for each platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The type of this document. After [`Document::parse`] it is never `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The type of the artifact, if these are not images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests to choose from; entries may be indexes again.
    #[serde(default, deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
    /// Notes about the index.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Default for Index {
    /// An OCI index with nothing in it.
    fn default() -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OciIndex),
            artifact_type: None,
            manifests: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }
}

/// What a tag or digest names in a registry.
#[allow(
    clippy::large_enum_variant,
    reason = "few exist at a time, and each not for long"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Index),
}

/// The fields that tell the kinds of document apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<i64>,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

impl Document {
    /// Reads a manifest or index; `content_type` is what its server says about it.
    ///
    /// # Errors
    ///
    /// [`ParseError::TooLarge`] beyond [`MAX_DOCUMENT_SIZE`]; [`ParseError::Schema1`];
    /// [`ParseError::Document`] for anything that is not clearly one of the two kinds.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ParseError> {
        const WHAT: &str = "manifest";
        if bytes.len() as u64 > MAX_DOCUMENT_SIZE {
            let size = bytes.len() as u64;
            return Err(ParseError::TooLarge {
                what: WHAT,
                size,
                limit: MAX_DOCUMENT_SIZE,
            });
        }
        let error = |why: String| ParseError::Document { what: WHAT, why };
        let json = |e: serde_json::Error| error(e.to_string());
        let served = content_type
            .map(MediaType::from_content_type)
            .filter(|kind| !is_generic(kind));
        if served.as_ref().is_some_and(MediaType::is_schema1) {
            return Err(ParseError::Schema1);
        }
        let probe: Probe = serde_json::from_slice(bytes).map_err(json)?;
        let written = probe
            .media_type
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(MediaType::from);
        if probe.schema_version == Some(1)
            || probe.fs_layers.is_some()
            || written.as_ref().is_some_and(MediaType::is_schema1)
        {
            return Err(ParseError::Schema1);
        }
        if probe.schema_version.is_some_and(|version| version != 2) {
            return Err(error("its schemaVersion is not 2".to_owned()));
        }
        if let (Some(written), Some(served)) = (&written, &served)
            && written != served
        {
            return Err(error(format!(
                "it says it is {}, its server says it is {}",
                quoted(written.as_str()),
                quoted(served.as_str())
            )));
        }
        let an_image = probe.config.is_some() || probe.layers.is_some();
        let is_index = match (an_image, probe.manifests.is_some()) {
            (true, true) => {
                return Err(error(
                    "it is a manifest and an index at the same time".to_owned(),
                ));
            }
            (true, false) => false,
            (false, true) => true,
            (false, false) => return Err(error("it has neither layers nor manifests".to_owned())),
        };
        let media_type = written.or(served).unwrap_or(if is_index {
            MediaType::OciIndex
        } else {
            MediaType::OciManifest
        });
        if !(if is_index {
            media_type.is_index()
        } else {
            media_type.is_manifest()
        }) {
            let kind = if is_index { "an index" } else { "a manifest" };
            return Err(error(format!(
                "it has the fields of {kind}, but its media type is {}",
                quoted(media_type.as_str())
            )));
        }
        if is_index {
            let index: Index = serde_json::from_slice(bytes).map_err(json)?;
            Ok(Self::Index(Index {
                media_type: Some(media_type),
                ..index
            }))
        } else {
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(json)?;
            Ok(Self::Manifest(Manifest {
                media_type: Some(media_type),
                ..manifest
            }))
        }
    }

    /// The type of the document.
    pub fn media_type(&self) -> &MediaType {
        match self {
            Self::Manifest(manifest) => manifest
                .media_type
                .as_ref()
                .unwrap_or(&MediaType::OciManifest),
            Self::Index(index) => index.media_type.as_ref().unwrap_or(&MediaType::OciIndex),
        }
    }
}

/// Types that servers without knowledge of images give to any file; they say nothing.
fn is_generic(media_type: &MediaType) -> bool {
    matches!(
        media_type.as_str(),
        "" | "application/json" | "application/octet-stream" | "binary/octet-stream" | "text/plain"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

    fn descriptor(media_type: &str, size: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{DIGEST}","size":{size}}}"#)
    }

    fn manifest(media_type: &str) -> String {
        let config = descriptor("application/vnd.oci.image.config.v1+json", "2");
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "7");
        format!(
            r#"{{"schemaVersion":2,{media_type}"config":{config},"layers":[{layer}],"annotations":null,"x":1}}"#
        )
    }

    #[test]
    fn manifests_and_indexes() {
        let typed = |kind: &str| format!(r#""mediaType":"{kind}","#);
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            descriptor(MANIFEST, "3")
        );
        for (text, content_type, expected) in [
            (manifest(""), None, MANIFEST),
            (manifest(""), Some(MANIFEST), MANIFEST),
            (manifest(""), Some(DOCKER), DOCKER),
            (
                manifest(""),
                Some("application/json; charset=utf-8"),
                MANIFEST,
            ),
            (manifest(&typed(DOCKER)), None, DOCKER),
            (manifest(&typed(DOCKER)), Some(DOCKER), DOCKER),
            (index.clone(), None, INDEX),
            (index.clone(), Some(INDEX), INDEX),
            (r#"{"schemaVersion":2,"manifests":[]}"#.into(), None, INDEX),
        ] {
            let document = Document::parse(text.as_bytes(), content_type).unwrap();
            assert_eq!(
                document.media_type().as_str(),
                expected,
                "{text} {content_type:?}"
            );
        }
        let Document::Manifest(read) = Document::parse(manifest("").as_bytes(), None).unwrap()
        else {
            panic!("not a manifest");
        };
        assert_eq!(
            (read.config.size, read.layers.len(), read.layers[0].size),
            (2, 1, 7)
        );
    }

    #[test]
    fn what_is_refused() {
        let both = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}}"#,
            descriptor("application/vnd.oci.image.config.v1+json", "2")
        );
        let negative = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            descriptor(MANIFEST, "-1")
        );
        let huge = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            descriptor(MANIFEST, "18446744073709551615")
        );
        for (text, content_type, why) in [
            ("", None, "EOF"),
            ("[]", None, "invalid manifest"),
            ("{}", None, "neither layers nor manifests"),
            ("<html>", Some("text/html"), "line 1 column 1"),
            (&both, None, "at the same time"),
            (&manifest(""), Some(INDEX), "fields of a manifest"),
            (&manifest(""), Some("text/html"), "text/html"),
            (
                r#"{"schemaVersion":2,"manifests":[]}"#,
                Some(DOCKER),
                "fields of an index",
            ),
            (
                &manifest(&format!(r#""mediaType":"{DOCKER}","#)),
                Some(MANIFEST),
                "its server says",
            ),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, None, "schema 1"),
            (
                "{}",
                Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
                "schema 1",
            ),
            (
                r#"{"schemaVersion":3,"manifests":[]}"#,
                None,
                "schemaVersion",
            ),
            (
                r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#,
                None,
                "duplicate field",
            ),
            (&negative, None, "negative size -1"),
            (&huge, None, "18446744073709551615"),
        ] {
            let error = Document::parse(text.as_bytes(), content_type)
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let long = vec![b' '; MAX_DOCUMENT_SIZE as usize + 1];
        assert!(matches!(
            Document::parse(&long, None),
            Err(ParseError::TooLarge { .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn damage_is_survived(at in 0..400_usize, byte: char) {
            let mut text: Vec<char> = manifest("").chars().collect();
            let at = at.min(text.len() - 1);
            text[at] = byte;
            let text: String = text.into_iter().collect();
            // Either outcome is fine; panicking is not.
            assert!(Document::parse(text.as_bytes(), None).is_ok_and(|it| it.media_type().is_manifest())
                || Document::parse(text.as_bytes(), None).is_err());
        }
    }

    #[test]
    fn what_we_write_we_read() {
        let config = Descriptor::of(MediaType::OciConfig, b"{}");
        let manifest = Manifest::new(config, Vec::new());
        let bytes = serde_json::to_vec(&manifest).unwrap();
        assert_eq!(
            Document::parse(&bytes, Some(MANIFEST)).unwrap(),
            Document::Manifest(manifest)
        );
        let bytes = serde_json::to_vec(&Index::default()).unwrap();
        assert_eq!(
            Document::parse(&bytes, None).unwrap(),
            Document::Index(Index::default())
        );
    }
}
