//! Media types of manifests, configurations and layers, in OCI's and in Docker's words.
//!
//! # See
//!
//! image-spec `media-types.md`; Docker's image manifest version 2, schema 2

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a layer's tar is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Plain tar.
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl Compression {
    /// What the first bytes of a blob say, which is right more often than its media type.
    ///
    /// Four bytes are enough; with fewer the answer is [`Compression::None`].
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // The second form is a skippable frame, which zstd:chunked blobs may start with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

macro_rules! media_types {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The media type of a document or blob; types that have no meaning here are kept as text.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum MediaType {
            $($(#[$doc])* $name,)*
            /// Any other type, as it was written.
            Other(Box<str>),
        }

        impl MediaType {
            /// The type as it is written in documents.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(text) => text,
                }
            }
        }

        impl From<&str> for MediaType {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$name,)*
                    _ => Self::Other(text.into()),
                }
            }
        }
    };
}

media_types! {
    /// OCI image manifest.
    OciManifest = "application/vnd.oci.image.manifest.v1+json",
    /// OCI image index.
    OciIndex = "application/vnd.oci.image.index.v1+json",
    /// OCI image configuration.
    OciConfig = "application/vnd.oci.image.config.v1+json",
    /// OCI layer, plain tar.
    OciLayer = "application/vnd.oci.image.layer.v1.tar",
    /// OCI layer, gzip.
    OciLayerGzip = "application/vnd.oci.image.layer.v1.tar+gzip",
    /// OCI layer, Zstandard.
    OciLayerZstd = "application/vnd.oci.image.layer.v1.tar+zstd",
    /// OCI layer that registries do not hold, plain tar.
    OciForeignLayer = "application/vnd.oci.image.layer.nondistributable.v1.tar",
    /// OCI layer that registries do not hold, gzip.
    OciForeignLayerGzip = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    /// OCI layer that registries do not hold, Zstandard.
    OciForeignLayerZstd = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    /// Docker image manifest, schema 2.
    DockerManifest = "application/vnd.docker.distribution.manifest.v2+json",
    /// Docker manifest list: an index.
    DockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json",
    /// Docker image configuration.
    DockerConfig = "application/vnd.docker.container.image.v1+json",
    /// Docker layer, plain tar.
    DockerLayer = "application/vnd.docker.image.rootfs.diff.tar",
    /// Docker layer, gzip.
    DockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip",
    /// Docker layer, Zstandard.
    DockerLayerZstd = "application/vnd.docker.image.rootfs.diff.tar.zstd",
    /// Docker layer that registries do not hold, plain tar.
    DockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar",
    /// Docker layer that registries do not hold, gzip.
    DockerForeignLayerGzip = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    /// Docker manifest of schema 1, signed: known only to be refused.
    DockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws",
    /// Docker manifest of schema 1: known only to be refused.
    DockerSchema1 = "application/vnd.docker.distribution.manifest.v1+json",
}

impl MediaType {
    /// Reads a `Content-Type` header: parameters are dropped, letter case is ignored.
    pub fn from_content_type(header: &str) -> Self {
        let essence = header.split(';').next().unwrap_or_default().trim();
        Self::from(essence.to_ascii_lowercase().as_str())
    }

    /// Whether this is an image manifest.
    pub fn is_manifest(&self) -> bool {
        matches!(self, Self::OciManifest | Self::DockerManifest)
    }

    /// Whether this is an index (Docker: manifest list).
    pub fn is_index(&self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerManifestList)
    }

    /// Whether this is an image configuration.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::OciConfig | Self::DockerConfig)
    }

    /// Whether this is a manifest of Docker schema 1.
    pub fn is_schema1(&self) -> bool {
        matches!(self, Self::DockerSchema1 | Self::DockerSchema1Signed)
    }

    /// Whether this is a file system layer.
    pub fn is_layer(&self) -> bool {
        self.compression().is_some()
    }

    /// Whether this is a layer that its registry does not hold: it is fetched from the descriptor's `urls`.
    pub fn is_foreign(&self) -> bool {
        matches!(
            self,
            Self::OciForeignLayer
                | Self::OciForeignLayerGzip
                | Self::OciForeignLayerZstd
                | Self::DockerForeignLayer
                | Self::DockerForeignLayerGzip
        )
    }

    /// The compression that the type claims; `None` for what is not a layer.
    ///
    /// Mislabelled layers exist: see [`Compression::sniff`].
    pub fn compression(&self) -> Option<Compression> {
        match self {
            Self::OciLayer
            | Self::OciForeignLayer
            | Self::DockerLayer
            | Self::DockerForeignLayer => Some(Compression::None),
            Self::OciLayerGzip
            | Self::OciForeignLayerGzip
            | Self::DockerLayerGzip
            | Self::DockerForeignLayerGzip => Some(Compression::Gzip),
            Self::OciLayerZstd | Self::OciForeignLayerZstd | Self::DockerLayerZstd => {
                Some(Compression::Zstd)
            }
            _ => None,
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(&*std::borrow::Cow::<str>::deserialize(
            deserializer,
        )?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_type_header() {
        for (header, expected) in [
            (
                "application/vnd.oci.image.index.v1+json",
                MediaType::OciIndex,
            ),
            (
                "application/vnd.oci.image.index.v1+json; charset=utf-8",
                MediaType::OciIndex,
            ),
            (
                " Application/VND.oci.image.manifest.v1+JSON ",
                MediaType::OciManifest,
            ),
            ("text/plain", MediaType::Other("text/plain".into())),
            ("", MediaType::Other("".into())),
        ] {
            assert_eq!(MediaType::from_content_type(header), expected, "{header}");
        }
    }

    #[test]
    fn layers_and_their_compression() {
        for (text, compression, foreign) in [
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                Some(Compression::Zstd),
                false,
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                Some(Compression::Gzip),
                true,
            ),
            (
                "application/vnd.oci.image.layer.v1.tar",
                Some(Compression::None),
                false,
            ),
            ("application/vnd.oci.image.config.v1+json", None, false),
            ("application/x-other", None, false),
        ] {
            let media_type = MediaType::from(text);
            assert_eq!(media_type.as_str(), text);
            assert_eq!(media_type.compression(), compression, "{text}");
            assert_eq!(media_type.is_layer(), compression.is_some(), "{text}");
            assert_eq!(media_type.is_foreign(), foreign, "{text}");
        }
    }

    #[test]
    fn magic_bytes() {
        for (start, expected) in [
            (&b"\x1f\x8b\x08\x00"[..], Compression::Gzip),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x5d\x2a\x4d\x18", Compression::Zstd),
            (b"etc/", Compression::None),
            (b"", Compression::None),
        ] {
            assert_eq!(Compression::sniff(start), expected);
        }
    }
}
