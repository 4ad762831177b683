//! Directory layers as something to serve: from `lowerdir=` and `upperdir=` to an overlay.

use std::ffi::OsString;
use std::path::PathBuf;

use super::error::{Error, Result};
use super::text::path_text;
use super::writable::{self, Readers};
use super::{MountRecord, Serving, Target};
use crate::layer::directory::{DirectoryLayer, OverrideKey};
use crate::options::MountOptions;
use crate::union::Union;
use crate::union::stack::{Stack, StackOptions};

/// Prepares the directories that `options` name for serving.
///
/// # Errors
/// The directory that cannot be used as a layer, and why.
pub fn serving(target: Target, mut options: MountOptions) -> Result<Serving> {
    if options.as_lower {
        return Err(Error::Unsupported(
            "as_lower goes with an image only".into(),
        ));
    }
    if options.read_only == Some(true)
        && let Some(upper) = options.upper.take()
    {
        // Nothing will change, so it is a layer like the others.
        options.work = None;
        options.lowers.insert(0, upper);
    }
    let lowers = open(&options.lowers)?;
    let data_only = open(&options.data_only)?;
    let stack_options = StackOptions {
        ids: options.ids.clone(),
        override_key: match options.xattr_permissions {
            1 => Some(OverrideKey::Privileged),
            2 => Some(OverrideKey::Containers),
            _ => None,
        },
        marks: writable::marks(&options),
    };
    let stack = Stack::new(lowers, data_only, stack_options).map_err(|source| Error::Layer {
        path: options.lowers.first().cloned().unwrap_or_default(),
        source,
    })?;
    let text = |path: &PathBuf| {
        let absolute = path.canonicalize();
        path_text(absolute.as_ref().unwrap_or(path))
    };
    let record = MountRecord {
        upper: options.upper.as_ref().map(text),
        layers: options.lowers.iter().map(text).collect(),
        ..MountRecord::default()
    };
    let overlay = writable::overlay(Union::Stack(stack), &options, Readers::Others)?;
    let mut serving = Serving::new(overlay, OsString::from("plyfs"), target, options);
    serving.record = record;
    Ok(serving)
}

fn open(paths: &[PathBuf]) -> Result<Vec<DirectoryLayer>> {
    let open = |path: &PathBuf| {
        DirectoryLayer::open(path).map_err(|error| Error::Layer {
            path: path.clone(),
            source: crate::union::Error::io(error, ""),
        })
    };
    paths.iter().map(open).collect()
}
