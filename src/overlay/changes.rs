//! What an upper directory changes of its base, by reading it from outside: also while another
//! process has it mounted.
//!
//! # Invariants
//! * Nothing is written, and nothing is locked.
//! * What moved with a directory that was renamed is told name by name, as gone here and new there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use super::upper::failed;
use super::{NodeNumber, Result, Union};
use crate::layer::FileKind;
use crate::layer::directory::{Marks, Opacity, Redirect};
use crate::sys::at::RootFd;
use crate::whiteout::Namespace;

/// What happened to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is new.
    Added,
    /// It stands for something else, or what it stands for has other contents or attributes.
    Changed,
    /// It is gone.
    Deleted,
}

/// A directory, as it is and as it was.
struct Place<'a> {
    /// What the upper has of it.
    upper: Option<(&'a RootFd, &'a Marks)>,
    /// The directory of the base that is seen in it.
    below: Option<NodeNumber>,
    /// The directory of the base that was there.
    before: Option<NodeNumber>,
    path: &'a [u8],
}

struct Walk<'a> {
    base: &'a Union,
    marks: Namespace,
    but: &'a BTreeSet<Vec<u8>>,
    found: Vec<(Change, Vec<u8>)>,
}

/// Tells what the directory `upper`, whose marks are in the namespace `marks`, changes of `base`: paths from the root
/// without a leading slash, each directory before what is in it. What `but` names counts as
/// not made, unless something in it changed: what it hides of the base is told as gone.
///
/// # Errors
/// What reading either of them reports.
pub fn changes(
    base: &Union,
    upper: &Path,
    marks: Namespace,
    but: &BTreeSet<Vec<u8>>,
) -> Result<Vec<(Change, Vec<u8>)>> {
    let doing = failed("reading the upper");
    let root = RootFd::open(upper)
        .and_then(|root| root.listable(b""))
        .map_err(&doing)?;
    let root_marks = Marks::read(&root, b"", marks).map_err(&doing)?;
    let below = (root_marks.opacity != Opacity::Opaque).then_some(NodeNumber::ROOT);
    let place = Place {
        upper: Some((&root, &root_marks)),
        below,
        before: Some(NodeNumber::ROOT),
        path: b"",
    };
    let mut walk = Walk {
        base,
        marks,
        but,
        found: Vec::new(),
    };
    walk.directory(&place)?;
    Ok(walk.found)
}

impl Walk<'_> {
    fn directory(&mut self, place: &Place<'_>) -> Result<()> {
        let own = match place.upper {
            Some((directory, marks)) => entries(directory, marks, self.marks)?,
            None => BTreeMap::new(),
        };
        let mut names: BTreeSet<Vec<u8>> = own.keys().cloned().collect();
        if place.below != place.before {
            // What came along from elsewhere is told too, and so is what did not stay.
            names.extend(self.names(place.before)?);
            names.extend(self.names(place.below)?);
        }
        for name in names {
            let in_upper = own.get(&name).copied();
            let path = match place.path {
                b"" => name.clone(),
                above => [above, b"/", &name].concat(),
            };
            let (before, below) = (
                self.child(place.before, &name)?,
                self.child(place.below, &name)?,
            );
            let is_there = in_upper.map_or(below.is_some(), |kind| kind.is_some());
            if !is_there {
                if before.is_some() {
                    self.found.push((Change::Deleted, path));
                }
                continue;
            }
            let change = match before {
                Some(_) => Change::Changed,
                None => Change::Added,
            };
            let number = self.found.len();
            self.found.push((change, path.clone()));
            // The directory of the base that is seen in it.
            let mut seen = None;
            let directory_of = |found: Option<(NodeNumber, FileKind)>| {
                found
                    .filter(|(_, kind)| *kind == FileKind::Directory)
                    .map(|(node, _)| node)
            };
            let (below, before) = (directory_of(below), directory_of(before));
            match in_upper {
                Some(Some(FileKind::Directory)) => {
                    let Some((parent, _)) = place.upper else {
                        continue;
                    };
                    let doing = failed("reading the upper");
                    let directory = parent.listable(&name).map_err(&doing)?;
                    let marks = Marks::read(&directory, b"", self.marks).map_err(&doing)?;
                    let below = match (&marks.opacity, &marks.redirect) {
                        (Opacity::Opaque, _) => None,
                        (_, None) => below,
                        (_, Some(redirect)) => self.redirected(place.below, redirect)?,
                    };
                    seen = below;
                    self.directory(&Place {
                        upper: Some((&directory, &marks)),
                        below,
                        before,
                        path: &path,
                    })?;
                }
                None if below.is_some() => self.directory(&Place {
                    upper: None,
                    below,
                    before,
                    path: &path,
                })?,
                _ => {}
            }
            // What shows the contents of another directory counts in any case.
            if self.but.contains(&path) && (seen.is_none() || seen == before) {
                self.leave_out(number, seen.is_none() && change == Change::Changed);
            }
        }
        Ok(())
    }

    /// Leaves out what was found as `number`, if nothing that stays is in it. If it hides something of the base, that
    /// is gone instead.
    fn leave_out(&mut self, number: usize, hides: bool) {
        let mut inside = self.found.iter().skip(number + 1);
        if !inside.all(|(change, _)| hides && *change == Change::Deleted) {
            return;
        }
        self.found.truncate(number + usize::from(hides));
        if hides && let Some((change, _)) = self.found.last_mut() {
            *change = Change::Deleted;
        }
    }

    fn names(&self, directory: Option<NodeNumber>) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        if let Some(directory) = directory {
            self.base.list(directory, 2, &mut |entry| {
                names.push(entry.name.to_vec());
                ControlFlow::Continue(())
            })?;
        }
        Ok(names)
    }

    /// What the base has at a name. Its reference is kept: the union ends with the walk.
    fn child(
        &self,
        directory: Option<NodeNumber>,
        name: &[u8],
    ) -> Result<Option<(NodeNumber, FileKind)>> {
        let Some(directory) = directory else {
            return Ok(None);
        };
        let found = self.base.lookup(directory, name)?;
        Ok(found.map(|found| (found.node, found.kind)))
    }

    /// Where a renamed directory was in the base.
    fn redirected(
        &self,
        parent: Option<NodeNumber>,
        redirect: &Redirect,
    ) -> Result<Option<NodeNumber>> {
        let (mut at, names) = match redirect {
            Redirect::Relative(name) => (parent, std::slice::from_ref(name)),
            Redirect::Absolute(names) => (Some(NodeNumber::ROOT), names.as_slice()),
            Redirect::Invalid(_) => return Ok(None),
        };
        for name in names {
            at = self.child(at, name)?.map(|(node, _)| node);
        }
        Ok(at)
    }
}

/// The entries of an upper directory; `None` is a whiteout.
fn entries(
    directory: &RootFd,
    marks: &Marks,
    namespace: Namespace,
) -> Result<BTreeMap<Vec<u8>, Option<FileKind>>> {
    let doing = failed("reading a directory of the upper");
    let mut names = Vec::new();
    directory
        .entries(&mut Vec::new(), &mut |entry| {
            names.push(entry.name.to_vec())
        })
        .map_err(&doing)?;
    let mut found = BTreeMap::new();
    for name in names {
        let stat = directory.stat(&name).map_err(&doing)?;
        let kind = FileKind::from_mode(stat.mode);
        let whiteout = match kind {
            Some(FileKind::CharDevice) => stat.rdev == (0, 0),
            Some(FileKind::Regular) if stat.size == 0 => {
                marks.opacity == Opacity::HasWhiteouts
                    && Marks::read(directory, &name, namespace)
                        .map_err(&doing)?
                        .whiteout
            }
            _ => false,
        };
        found.insert(name, kind.filter(|_| !whiteout));
    }
    Ok(found)
}
