//! The configuration of a container for an OCI runtime (`config.json` of a bundle), as far as it is
//! written here.
//!
//! # See
//!
//! <https://github.com/opencontainers/runtime-spec>

use std::collections::BTreeMap;

use serde::Serialize;

use super::ParseError;

/// The version of the specification that is written: what is used of it is that old.
pub(super) const VERSION: &str = "1.0.2";

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeSpec {
    /// The version of the specification.
    pub oci_version: &'static str,
    /// What is run.
    pub process: Process,
    /// On which file system.
    pub root: Root,
    /// What is mounted over that, in this order.
    pub mounts: Vec<Mount>,
    /// What others may want to know.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    pub linux: Linux,
}

/// The process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Whether it gets a terminal of its own.
    pub terminal: bool,
    /// As whom it runs.
    pub user: RuntimeUser,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The current directory.
    pub cwd: String,
    /// What it may do.
    pub capabilities: Capabilities,
    /// Whether set-user-ID programs have no effect.
    pub no_new_privileges: bool,
}

/// Numbers of a user, as the container sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeUser {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// Sets of capabilities, by their names (`CAP_CHOWN`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// What can ever be had.
    pub bounding: Vec<&'static str>,
    /// What is in force.
    pub effective: Vec<&'static str>,
    /// What may be put in force.
    pub permitted: Vec<&'static str>,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Root {
    /// Where it is, from the bundle.
    pub path: &'static str,
    /// Whether the container sees it read-only.
    pub readonly: bool,
}

/// Something that is mounted in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where.
    pub destination: String,
    /// File system type; `bind` for what is there already.
    #[serde(rename = "type")]
    pub kind: String,
    /// What.
    pub source: String,
    /// As mount(8) has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// What only Linux has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    /// What the container has for itself.
    pub namespaces: Vec<Namespace>,
    /// Users of its user namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// Groups of its user namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// What is hidden.
    pub masked_paths: Vec<&'static str>,
    /// What cannot be written to.
    pub readonly_paths: Vec<&'static str>,
}

/// A namespace that is made for the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Which: `pid`, `mount`.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// A range of a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMapping {
    /// First number in the container.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First number outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// Limits of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// Which devices may be used, in this order; those that every container has are added by the runtime.
    pub devices: Vec<DeviceRule>,
}

/// Which devices may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DeviceRule {
    /// Allowed or denied.
    pub allow: bool,
    /// Of reading, writing and making nodes: `rwm`.
    pub access: &'static str,
}

impl RuntimeSpec {
    /// The document, indented for people.
    ///
    /// # Errors
    /// [`ParseError::Document`] if it cannot be written as JSON, which no configuration is known to cause.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ParseError> {
        serde_json::to_vec_pretty(self).map_err(|error| ParseError::Document {
            what: "runtime configuration",
            why: error.to_string(),
        })
    }
}
