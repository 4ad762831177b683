//! Directory layers as something to serve: from `lowerdir=` to a stack.

use std::ffi::OsString;
use std::path::PathBuf;

use super::error::{Error, Result};
use super::{Serving, Target};
use crate::layer::directory::{DirectoryLayer, OverrideKey};
use crate::options::MountOptions;
use crate::overlay::Overlay;
use crate::union::Union;
use crate::union::stack::{Stack, StackOptions};

/// Prepares the directories that `options` name for serving.
///
/// # Errors
/// The directory that cannot be used as a layer, and why.
pub fn serving(target: Target, options: MountOptions) -> Result<Serving> {
    let lowers = open(&options.lowers)?;
    let data_only = open(&options.data_only)?;
    let stack_options = StackOptions {
        ids: options.ids.clone(),
        override_key: match options.xattr_permissions {
            1 => Some(OverrideKey::Privileged),
            2 => Some(OverrideKey::Containers),
            _ => None,
        },
    };
    let stack = Stack::new(lowers, data_only, stack_options).map_err(|source| Error::Layer {
        path: options.lowers.first().cloned().unwrap_or_default(),
        source,
    })?;
    Ok(Serving {
        overlay: Overlay::read_only(Union::Stack(stack)),
        source: OsString::from("plyfs"),
        target,
        options,
        hold: None,
        on_ready: None,
    })
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
