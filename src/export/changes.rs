//! What an upper changes, as a layer.
//!
//! A layer cannot say that a directory came from elsewhere, so what was renamed is written in full at
//! its new place. What is gone is a whiteout each, also below opaque directories: that says the same,
//! and every tool understands it.

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::path::Path;

use super::entry::Archiver;
use super::{Result, cannot_read, each};
use crate::layer::FileKind;
use crate::overlay::{Attributes, Change, NodeNumber, Origin, Overlay, changes};
use crate::pack::{self, Escaped, Problem};
use crate::whiteout;

pub(super) fn write<W: Write>(
    overlay: &Overlay,
    upper: &Path,
    but: &BTreeSet<Vec<u8>>,
    mut archiver: Archiver<'_, W>,
) -> Result<Vec<Escaped>> {
    let marks = overlay.marks().unwrap_or_default();
    let found = changes(overlay.base(), upper, marks, but).map_err(cannot_read(b"."))?;
    let mut finder = Finder {
        overlay,
        held: Vec::new(),
    };
    let root = overlay.attributes(NodeNumber::ROOT);
    archiver.add(b"", &root.map_err(cannot_read(b"."))?)?;
    for (change, path) in &found {
        refuse_reserved(path)?;
        let now = match change {
            Change::Deleted => None,
            Change::Added | Change::Changed => finder.find(path)?,
        };
        let is_written = match &now {
            Some(attributes) => archiver.add(path, attributes)?,
            None => false,
        };
        if !is_written && *change != Change::Added {
            archiver.tar.append_whiteout(path)?;
        }
        finder.done(now);
    }
    finder.leave(0);
    if overlay.has_linked_copies() || archiver.lacks_names() {
        let written: HashSet<Vec<u8>> = found.into_iter().map(|(_, path)| path).collect();
        write_other_names(overlay, &written, but, &mut archiver)?;
    }
    Ok(archiver.left_out)
}

/// Writes the names that only the base has of files that are in the layer, so that they stay one file,
/// and the directories that those names are in: without them tools make some up.
///
/// A link to a name below would be shorter, but some tools unpack a layer by itself.
fn write_other_names<W: Write>(
    overlay: &Overlay,
    written: &HashSet<Vec<u8>>,
    but: &BTreeSet<Vec<u8>>,
    archiver: &mut Archiver<'_, W>,
) -> Result<()> {
    // Those on the way that are not in the layer.
    let mut parents: Vec<(Vec<u8>, Attributes)> = Vec::new();
    each(overlay, &mut |path, attributes| {
        let is_below = |parent: &[u8]| {
            path.strip_prefix(parent)
                .is_some_and(|p| p.starts_with(b"/"))
        };
        while parents.pop_if(|(parent, _)| !is_below(parent)).is_some() {}
        if path.is_empty() || written.contains(path) {
            return Ok(());
        }
        if attributes.kind == FileKind::Directory {
            parents.push((path.to_vec(), *attributes));
            return Ok(());
        }
        if but.contains(path) {
            return Ok(());
        }
        let origin = overlay.origin(attributes.node).map_err(cannot_read(path))?;
        if matches!(origin, Origin::Upper(_)) || archiver.has(&origin) {
            for (parent, attributes) in parents.drain(..) {
                archiver.add(&parent, &attributes)?;
            }
            archiver.add(path, attributes)?;
        }
        Ok(())
    })
}

/// Refuses names that mean something else in a layer.
fn refuse_reserved(path: &[u8]) -> Result<()> {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    if whiteout::marker(name).is_none() {
        return Ok(());
    }
    let (path, problem) = (Escaped::new(path), Problem::ReservedName);
    Err(pack::Error::Unarchivable { path, problem }.into())
}

/// Finds paths one after another that lie near each other.
struct Finder<'a> {
    overlay: &'a Overlay,
    /// The directories on the way to the last one, each with a reference.
    held: Vec<(Vec<u8>, NodeNumber)>,
}

impl Finder<'_> {
    /// What is at `path`, with a reference; nothing if it is gone meanwhile.
    fn find(&mut self, path: &[u8]) -> Result<Option<Attributes>> {
        let cannot_read = cannot_read(path);
        let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let Some(last) = names.pop() else {
            return Ok(None);
        };
        let same = self.held.iter().zip(&names);
        let same = same.take_while(|((held, _), name)| held == *name).count();
        self.leave(same);
        for name in names.into_iter().skip(same) {
            let found = self.overlay.lookup(self.at(), name).map_err(&cannot_read)?;
            match found {
                Some(found) => self.held.push((name.to_vec(), found.node)),
                None => return Ok(None),
            }
        }
        self.overlay.lookup(self.at(), last).map_err(cannot_read)
    }

    /// Gives back what was found.
    fn done(&self, found: Option<Attributes>) {
        if let Some(found) = found {
            self.overlay.forget(found.node, 1);
        }
    }

    fn at(&self) -> NodeNumber {
        self.held.last().map_or(NodeNumber::ROOT, |(_, node)| *node)
    }

    /// Gives back all but the first `keep` directories.
    fn leave(&mut self, keep: usize) {
        for (_, node) in self.held.drain(keep..) {
            self.overlay.forget(node, 1);
        }
    }
}
