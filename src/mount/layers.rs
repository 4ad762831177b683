//! Directory layers as something to serve: from `lowerdir=` and `upperdir=` to an overlay.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
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
    let paths = options.lowers.iter().chain(&options.data_only);
    refuse_overlap(paths.zip(lowers.iter().chain(&data_only)), &options)?;
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

/// Refuses layers that the mount itself would change, as overlayfs does (`ELOOP`): the upper or the work directory,
/// or something in them.
fn refuse_overlap<'a>(
    layers: impl Iterator<Item = (&'a PathBuf, &'a DirectoryLayer)>,
    options: &MountOptions,
) -> Result<()> {
    let written = [("upper", &options.upper), ("work", &options.work)];
    // What cannot be looked at is refused when it is opened.
    let written = written.map(|(name, path)| {
        let path = path.as_ref()?;
        let looks = path.metadata().ok()?;
        Some((name, path, (looks.dev(), looks.ino())))
    });
    // Layers are often siblings, so what lies above one has been looked at for another.
    let mut harmless = HashSet::new();
    for (path, layer) in layers {
        let above = layer.root().ancestors(&|id| harmless.contains(&id));
        let above = above.map_err(Error::system("cannot look for what is above a layer"))?;
        for (name, written, id) in written.iter().flatten() {
            let at = above.iter().position(|above| above == id);
            let (layer, written) = (path.display(), written.display());
            let reason = match at {
                None => continue,
                Some(0) => {
                    format!("{layer} is a layer and the {name} directory ({written}) at once")
                }
                Some(_) => format!("the layer {layer} lies in the {name} directory {written}"),
            };
            return Err(Error::Unsupported(reason));
        }
        harmless.extend(above.into_iter().skip(1));
    }
    Ok(())
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
