//! What an overlay shows, as a tar archive: all of it, or what its upper changes of its base.
//!
//! It is read through the engine, as a mount would show it, so every dialect of an upper (redirected
//! directories, copies without data, owners kept in attributes) comes out as plain files.
//!
//! # Invariants
//! * The archive depends on what is shown alone: names are in the order of their bytes.
//! * Names of one inode are hard links of the first that is written.
//! * Nothing is changed.

mod changes;
mod entry;

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use thiserror::Error as ThisError;

use crate::layer::FileKind;
use crate::overlay::{self, Attributes, NodeNumber, Overlay};
use crate::pack::{self, Escaped, TarWriter};

use entry::Archiver;

/// Why a tree cannot be archived.
#[derive(Debug, ThisError)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// What of it.
        path: Escaped,
        /// The cause.
        source: overlay::Error,
    },
    /// It cannot be written, or not into an archive.
    #[error(transparent)]
    Write(#[from] pack::Error),
}

type Result<T> = std::result::Result<T, Error>;

/// Writes all that `overlay` shows. Gives what an archive cannot hold: sockets.
///
/// # Errors
/// [`Error`].
pub fn write_tree<W: Write>(overlay: &Overlay, tar: &mut TarWriter<W>) -> Result<Vec<Escaped>> {
    let mut archiver = Archiver::new(overlay, tar);
    each(overlay, &mut |path, attributes| {
        archiver.add(path, attributes).map(drop)
    })?;
    Ok(archiver.left_out)
}

/// Writes what `overlay`, whose upper lies in the directory `upper`, changes of its base, as a layer.
/// What `but` names is no change of its own. Gives what a layer cannot hold: sockets.
///
/// # Errors
/// [`Error`]; [`pack::Error::Unarchivable`] for a name that a layer would take for a whiteout.
pub fn write_changes<W: Write>(
    overlay: &Overlay,
    upper: &Path,
    but: &BTreeSet<Vec<u8>>,
    tar: &mut TarWriter<W>,
) -> Result<Vec<Escaped>> {
    changes::write(overlay, upper, but, Archiver::new(overlay, tar))
}

/// A directory that is being gone through.
struct Level {
    node: NodeNumber,
    /// Names that are left, the next one last.
    names: Vec<Vec<u8>>,
    path_length: usize,
}

/// Gives everything that is shown to `take`, the root first, each directory before what is in it.
fn each(overlay: &Overlay, take: &mut dyn FnMut(&[u8], &Attributes) -> Result<()>) -> Result<()> {
    let mut path = Vec::new();
    let root = overlay.attributes(NodeNumber::ROOT);
    take(&path, &root.map_err(cannot_read(&path))?)?;
    let mut levels = vec![Level {
        node: NodeNumber::ROOT,
        names: names(overlay, NodeNumber::ROOT, &path)?,
        path_length: 0,
    }];
    while let Some(level) = levels.last_mut() {
        path.truncate(level.path_length);
        let Some(name) = level.names.pop() else {
            overlay.forget(level.node, 1);
            levels.pop();
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let found = overlay.lookup(level.node, &name);
        let Some(attributes) = found.map_err(cannot_read(&path))? else {
            // Removed since the names were read.
            continue;
        };
        take(&path, &attributes)?;
        if attributes.kind == FileKind::Directory {
            levels.push(Level {
                node: attributes.node,
                names: names(overlay, attributes.node, &path)?,
                path_length: path.len(),
            });
        } else {
            overlay.forget(attributes.node, 1);
        }
    }
    Ok(())
}

/// The names in a directory, the first one last.
fn names(overlay: &Overlay, directory: NodeNumber, path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let listed = overlay.list(directory, 2, &mut |entry| {
        names.push(entry.name.to_vec());
        ControlFlow::Continue(())
    });
    listed.map_err(cannot_read(path))?;
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

fn cannot_read(path: &[u8]) -> impl Fn(overlay::Error) -> Error {
    move |source| Error::Read {
        path: Escaped::new(path),
        source,
    }
}
