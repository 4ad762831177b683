//! What is known of a snapshot, as containerd sees it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Labels of a snapshot.
pub type Labels = BTreeMap<String, String>;

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read-only, and never committed.
    View,
    /// Can be written to and committed.
    Active,
    /// Does not change any more; others may build on it.
    Committed,
}

impl Kind {
    /// The word that filters use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::View => "view",
            Kind::Active => "active",
            Kind::Committed => "committed",
        }
    }
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its key, or the name it was committed under.
    pub name: String,
    /// The name of the snapshot it builds on; empty without one.
    pub parent: String,
    /// What it is.
    pub kind: Kind,
    /// When it was prepared, or committed.
    pub created: SystemTime,
    /// When its labels changed last.
    pub updated: SystemTime,
    /// What others noted down.
    pub labels: Labels,
}

/// A mount that containerd is asked to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// As mount(2) or a mount helper knows it.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// How.
    pub options: Vec<String>,
}
