//! Which registries are asked for an image: mirrors first, then the one that its name has.
//!
//! Read are the files that machines have already: `registries.conf` of podman, skopeo and CRI-O, and
//! `hosts.toml` of containerd. The mirrors of the first come before those of the second.
//!
//! # Invariants
//! * What a digest names is verified whoever gives it. A tag is what the mirror says it is: that is
//!   what whoever configures a mirror asks for.
//! * Each mirror gets the credentials that are stored for it, never those of another registry.
//!
//! # See
//! containers-registries.conf(5), <https://github.com/containerd/containerd/blob/main/docs/hosts.md>

mod hosts_toml;
mod mirrored;
mod registries_conf;

use std::path::{Path, PathBuf};

use super::{Api, Error, Settings};
use crate::oci::Reference;

pub use mirrored::Mirrored;

/// Where it is written which mirrors there are.
#[derive(Debug, Clone, Default)]
pub struct MirrorFiles {
    /// Candidates for `registries.conf`; the first one that exists is read, and with it the files
    /// `*.conf` of the directory `registries.conf.d` beside it.
    pub registries_conf: Vec<PathBuf>,
    /// Directories with `HOST/hosts.toml`; the first one that has the host is taken.
    pub hosts: Vec<PathBuf>,
}

/// A registry to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// What the image is called there.
    pub reference: Reference,
    /// Whether certificates are not verified, and plain HTTP will do.
    pub insecure: bool,
    /// Certificate authorities to trust as well.
    pub ca_files: Vec<PathBuf>,
    /// What is particular about its API.
    pub api: Api,
    /// What may be asked there.
    pub answers: Answers,
}

impl Endpoint {
    /// One of which nothing is said.
    fn new(reference: Reference) -> Endpoint {
        Endpoint {
            reference,
            insecure: false,
            ca_files: Vec::new(),
            api: Api::default(),
            answers: Answers::Everything,
        }
    }
}

/// What a registry is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    Everything,
    /// Only what a digest names: the mirror may be behind.
    Digests,
    /// Only what a tag names.
    Tags,
    /// Nothing: one may push there.
    Nothing,
}

/// The registries to ask, in order; the last one is that of the image itself.
///
/// # Errors
/// A file that cannot be read or is not what it should be, a registry that is blocked, a name that
/// cannot be one.
pub(super) fn endpoints(settings: &Settings, image: &Reference) -> Result<Vec<Endpoint>, Error> {
    let files = &settings.mirrors;
    let mut found = registries_conf::endpoints(&files.registries_conf, image)?;
    // The mirrors of containerd belong to the registry that is asked in the end.
    let Some(own) = found.pop() else {
        return Err(Error::Settings {
            what: "registries.conf".to_owned(),
            why: "it leaves no registry to ask".to_owned(),
        });
    };
    found.extend(hosts_toml::endpoints(&files.hosts, own)?);
    Ok(found)
}

/// The error of a file that is not what it should be.
fn wrong(path: &Path, why: impl Into<String>) -> Error {
    Error::Settings {
        what: path.display().to_string(),
        why: why.into(),
    }
}

/// Reads a file of TOML; `None` where there is none.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let path = path.to_owned();
            return Err(Error::Io { path, source });
        }
    };
    match toml::from_str(&text) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let line = error.span().map(|span| {
                let before = text.get(..span.start).unwrap_or_default();
                before.matches('\n').count() + 1
            });
            let at = line.map_or_else(String::new, |line| format!("line {line}: "));
            Err(wrong(path, format!("{at}{}", error.message())))
        }
    }
}
