//! Image configurations: how to run an image and what its layers are.
//!
//! Reading is lenient, because many tools write them: unknown fields are kept where a derived
//! image should inherit them, `null` stands for nothing.
//!
//! # See
//!
//! image-spec `config.md`

use std::collections::{BTreeMap, BTreeSet};

use serde::de::IgnoredAny;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{DiffId, ParseError, Platform, null_as_default};

/// The largest configuration that is read, in bytes.
const MAX_CONFIG_SIZE: u64 = 8 << 20;

/// An image configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What the image runs on. These fields stand at the top level of the document.
    #[serde(flatten)]
    pub platform: Platform,
    /// How to run the image.
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: Config,
    /// The layers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub rootfs: RootFs,
    /// How the layers came to be, lowest first.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub history: Vec<History>,
}

/// How to run an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// User and group of the process: `user[:group]`, names or numbers.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub user: String,
    /// Ports to expose: `80/tcp`.
    #[serde(
        default,
        skip_serializing_if = "BTreeSet::is_empty",
        serialize_with = "write_set",
        deserialize_with = "read_set"
    )]
    pub exposed_ports: BTreeSet<String>,
    /// Environment: `NAME=value`.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub env: Vec<String>,
    /// The command that arguments are appended to.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub entrypoint: Vec<String>,
    /// The default arguments, or the command if there is no entrypoint.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub cmd: Vec<String>,
    /// Directories to be volumes.
    #[serde(
        default,
        skip_serializing_if = "BTreeSet::is_empty",
        serialize_with = "write_set",
        deserialize_with = "read_set"
    )]
    pub volumes: BTreeSet<String>,
    /// The current directory of the process.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub working_dir: String,
    /// Labels.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the process to end: `SIGTERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Everything else, such as Docker's `Healthcheck` and `OnBuild`; a derived image inherits it.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".to_owned(),
            diff_ids: Vec::new(),
        }
    }
}

/// How one layer came to be, or a step that made none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// By which command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// What was said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether this step made no layer.
    #[serde(
        default,
        skip_serializing_if = "std::ops::Not::not",
        deserialize_with = "null_as_default"
    )]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// The smallest configuration for these layers, lowest first.
    pub fn new(platform: Platform, diff_ids: Vec<DiffId>) -> Self {
        Self {
            platform,
            rootfs: RootFs {
                diff_ids,
                ..RootFs::default()
            },
            ..Self::default()
        }
    }

    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// [`ParseError::Document`] with the position; [`ParseError::TooLarge`] beyond 8 MiB.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        const WHAT: &str = "image configuration";
        let size = bytes.len() as u64;
        if size > MAX_CONFIG_SIZE {
            return Err(ParseError::TooLarge {
                what: WHAT,
                size,
                limit: MAX_CONFIG_SIZE,
            });
        }
        let error = |why: String| ParseError::Document { what: WHAT, why };
        let config: Self = serde_json::from_slice(bytes).map_err(|e| error(e.to_string()))?;
        if config.rootfs.kind != "layers" {
            return Err(error("its rootfs does not consist of layers".to_owned()));
        }
        Ok(config)
    }

    /// The document: JSON without spaces, the same bytes for the same configuration.
    ///
    /// # Errors
    ///
    /// [`ParseError::Document`] if it cannot be written as JSON, which no configuration is known to cause.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ParseError> {
        serde_json::to_vec(self).map_err(|e| ParseError::Document {
            what: "image configuration",
            why: e.to_string(),
        })
    }
}

/// Go writes a set as an object with empty objects for values.
fn write_set<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(set.len()))?;
    for key in set {
        map.serialize_entry(key, &BTreeMap::<(), ()>::new())?;
    }
    map.end()
}

fn read_set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let map: BTreeMap<String, IgnoredAny> = null_as_default(deserializer)?;
    Ok(map.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::super::Digest;
    use super::*;

    const DOCKER: &str = r#"{
        "architecture": "arm64", "os": "linux", "variant": "v8", "author": null,
        "config": {
            "Hostname": "", "User": "app", "AttachStdin": false, "Env": ["PATH=/bin"], "Cmd": null,
            "Entrypoint": ["/app"], "WorkingDir": "/srv", "Labels": null, "OnBuild": null,
            "ExposedPorts": {"80/tcp": {}, "443/tcp": {}}, "Volumes": null,
            "Healthcheck": {"Test": ["CMD", "true"]}
        },
        "container_config": {"Image": "x"}, "created": "2024-05-01T10:00:00Z", "docker_version": "20",
        "history": [{"created_by": "ADD file", "created": "2024-05-01T10:00:00Z"},
                    {"created_by": "ENV", "empty_layer": true}],
        "rootfs": {"type": "layers", "diff_ids": [
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}
    }"#;

    #[test]
    fn dockers_configuration() {
        let image = ImageConfig::parse(DOCKER.as_bytes()).unwrap();
        assert_eq!(image.platform.to_string(), "linux/arm64/v8");
        assert_eq!(image.config.user, "app");
        assert_eq!(image.config.entrypoint, ["/app"]);
        assert!(image.config.cmd.is_empty() && image.config.volumes.is_empty());
        assert_eq!(
            Vec::from_iter(&image.config.exposed_ports),
            ["443/tcp", "80/tcp"]
        );
        assert_eq!(image.config.other["Healthcheck"]["Test"][0], "CMD");
        assert_eq!(image.rootfs.diff_ids, [DiffId(Digest::of(b""))]);
        assert!(image.history[1].empty_layer && !image.history[0].empty_layer);

        let bytes = image.to_bytes().unwrap();
        assert_eq!(ImageConfig::parse(&bytes).unwrap(), image);
        assert!(
            String::from_utf8(bytes)
                .unwrap()
                .contains(r#""443/tcp":{}"#)
        );
    }

    #[test]
    fn smallest_configuration() {
        let platform = Platform::new("linux", "amd64", None);
        let image = ImageConfig::new(platform, vec![DiffId(Digest::of(b""))]);
        assert_eq!(
            String::from_utf8(image.to_bytes().unwrap()).unwrap(),
            r#"{"os":"linux","architecture":"amd64","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#
        );
    }

    #[test]
    fn nearly_nothing_is_enough() {
        for text in [
            "{}",
            r#"{"config":null,"rootfs":null,"history":null,"os":null}"#,
        ] {
            assert_eq!(
                ImageConfig::parse(text.as_bytes()).unwrap(),
                ImageConfig::default(),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("", "EOF"),
            ("[]", "invalid image configuration"),
            (r#"{"rootfs":{"type":"zip"}}"#, "does not consist of layers"),
            (
                r#"{"rootfs":{"type":"layers","diff_ids":["x"]}}"#,
                "no colon",
            ),
        ] {
            let error = ImageConfig::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
