//! The merged listing of a directory, as an immutable value.
//!
//! # Invariants
//! * Entries are sorted by the bytes of their names, so a listing that is built anew is the same,
//!   and positions in it are stable.
//! * A name is hidden or shadowed by what stands above it only; whiteouts are gone.

use std::cmp::Ordering;
use std::io;

use crate::layer::FileKind;
use crate::layer::directory::{Scan, Scanned, What};

/// What a name in a directory of the union stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    /// The name.
    pub(super) name: &'a [u8],
    /// The topmost branch of the directory that has it.
    pub(super) branch: u16,
    /// Its kind there.
    pub(super) kind: FileKind,
    /// Further branches, topmost first, whose directories of this name are merged into it unless
    /// one of them is opaque or redirected.
    pub(super) below: &'a [u16],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    below: u32,
    branch: u16,
    length: u8,
    kind: FileKind,
}

/// The visible names of a directory of the union.
#[derive(Debug)]
pub(super) struct Listing {
    names: Box<[u8]>,
    entries: Box<[Entry]>,
    below: Box<[u16]>,
}

impl Listing {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        let start = entry.start as usize;
        let end = start + usize::from(entry.length);
        self.names.get(start..end).unwrap_or_default()
    }

    /// The entry at `position`.
    pub(super) fn get(&self, position: usize) -> Option<Found<'_>> {
        let entry = self.entries.get(position)?;
        let end = match self.entries.get(position + 1) {
            Some(next) => next.below as usize,
            None => self.below.len(),
        };
        Some(Found {
            name: self.name(entry),
            branch: entry.branch,
            kind: entry.kind,
            below: self
                .below
                .get(entry.below as usize..end)
                .unwrap_or_default(),
        })
    }

    /// The entry of that name.
    pub(super) fn find(&self, name: &[u8]) -> Option<Found<'_>> {
        let order = |entry: &Entry| self.name(entry).cmp(name);
        self.get(self.entries.binary_search_by(order).ok()?)
    }
}

/// A listing under construction: branches are added from the topmost down.
#[derive(Debug, Default)]
pub(super) struct Merge {
    pub(super) scan: Scan,
    branches: Vec<u16>,
    count: u16,
}

/// A name of a branch, while sorting.
struct Item {
    entry: Scanned,
    branch: u16,
}

impl Merge {
    /// Declares what was scanned since the last call to be the next branch.
    pub(super) fn end_branch(&mut self) -> io::Result<()> {
        self.branches.resize(self.scan.entries.len(), self.count);
        let too_many = || io::Error::from_raw_os_error(libc::EFBIG);
        self.count = self.count.checked_add(1).ok_or_else(too_many)?;
        Ok(())
    }

    /// Merges the branches.
    pub(super) fn finish(self) -> io::Result<Listing> {
        let scan = &self.scan;
        let mut items: Vec<Item> = scan
            .entries
            .iter()
            .zip(&self.branches)
            .map(|(&entry, &branch)| Item { entry, branch })
            .collect();
        items.sort_unstable_by(|a, b| compare(scan, a, b));
        let mut names = Vec::with_capacity(scan.names.len());
        let mut entries = Vec::with_capacity(items.len());
        let mut below: Vec<u16> = Vec::new();
        let too_big = |_| io::Error::from_raw_os_error(libc::EFBIG);
        for group in items.chunk_by(|a, b| scan.name(&a.entry) == scan.name(&b.entry)) {
            let Some((top, rest)) = group.split_first() else {
                continue;
            };
            let What::Object(kind) = top.entry.what else {
                continue;
            };
            entries.push(Entry {
                start: u32::try_from(names.len()).map_err(too_big)?,
                below: u32::try_from(below.len()).map_err(too_big)?,
                branch: top.branch,
                length: top.entry.length,
                kind,
            });
            names.extend_from_slice(scan.name(&top.entry));
            if kind == FileKind::Directory {
                merge_below(top.branch, rest, &mut below);
            }
        }
        Ok(Listing {
            names: names.into(),
            entries: entries.into(),
            below: below.into(),
        })
    }
}

/// By name, then from the topmost branch down, then what a branch has before what it hides below.
fn compare(scan: &Scan, a: &Item, b: &Item) -> Ordering {
    let rank = |item: &Item| item.entry.what == What::HiddenBelow;
    (scan.name(&a.entry).cmp(scan.name(&b.entry)))
        .then(a.branch.cmp(&b.branch))
        .then(rank(a).cmp(&rank(b)))
}

/// Collects the branches whose directories are merged below the one in `top`.
fn merge_below(top: u16, rest: &[Item], below: &mut Vec<u16>) {
    let mut last = top;
    for item in rest {
        match item.entry.what {
            What::Object(FileKind::Directory) if item.branch > last => {
                below.push(item.branch);
                last = item.branch;
            }
            // The same name twice in one directory: the file system was being changed.
            What::Object(_) if item.branch == last => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: What = What::Object(FileKind::Regular);
    const DIRECTORY: What = What::Object(FileKind::Directory);

    fn merge(branches: &[&[(&str, What)]]) -> Listing {
        let mut merge = Merge::default();
        for branch in branches {
            for (name, what) in *branch {
                merge.scan.entries.push(Scanned {
                    start: merge.scan.names.len() as u32,
                    length: name.len() as u8,
                    what: *what,
                });
                merge.scan.names.extend_from_slice(name.as_bytes());
            }
            merge.end_branch().expect("few branches");
        }
        merge.finish().expect("few names")
    }

    #[test]
    fn branches_below_a_directory() {
        let hidden = What::HiddenBelow;
        type Case<'a> = (&'a [(usize, What)], Option<(u16, &'a [u16])>);
        let cases: [Case<'_>; 10] = [
            (
                &[(0, DIRECTORY), (1, DIRECTORY), (3, DIRECTORY)],
                Some((0, &[1, 3])),
            ),
            (&[(1, DIRECTORY), (2, FILE), (3, DIRECTORY)], Some((1, &[]))),
            (
                &[(0, DIRECTORY), (1, What::Whiteout), (2, DIRECTORY)],
                Some((0, &[])),
            ),
            (
                &[(0, DIRECTORY), (1, hidden), (1, DIRECTORY), (2, DIRECTORY)],
                Some((0, &[1])),
            ),
            (
                &[(0, hidden), (0, DIRECTORY), (1, DIRECTORY)],
                Some((0, &[])),
            ),
            (&[(0, hidden), (1, DIRECTORY)], None),
            (&[(0, What::Whiteout), (1, FILE)], None),
            (&[(0, FILE), (1, DIRECTORY)], Some((0, &[]))),
            (
                &[(0, DIRECTORY), (0, DIRECTORY), (1, DIRECTORY)],
                Some((0, &[1])),
            ),
            (&[(2, FILE)], Some((2, &[]))),
        ];
        for (case, expected) in cases {
            let branch = |branch| -> Vec<(&str, What)> {
                let here = case.iter().filter(|(at, _)| *at == branch);
                here.map(|(_, what)| ("name", *what)).collect()
            };
            let branches = [branch(0), branch(1), branch(2), branch(3)];
            let branches: Vec<&[(&str, What)]> = branches.iter().map(Vec::as_slice).collect();
            let listing = merge(&branches);
            let found = listing
                .find(b"name")
                .map(|found| (found.branch, found.below));
            assert_eq!(found, expected, "{case:?}");
        }
    }

    #[test]
    fn names_are_sorted_and_found() {
        let listing = merge(&[
            &[("b", FILE), ("a", FILE), ("d", DIRECTORY)],
            &[
                ("c", FILE),
                ("a", FILE),
                ("e", What::Whiteout),
                ("d", DIRECTORY),
            ],
        ]);
        let names = (0..).map_while(|position| listing.get(position));
        let names: Vec<&[u8]> = names.map(|found| found.name).collect();
        assert_eq!(names, [b"a", b"b", b"c", b"d"]);
        assert_eq!(listing.len(), 4);
        assert_eq!(
            listing.find(b"d").map(|found| found.below),
            Some(&[1u16][..])
        );
        for absent in [&b""[..], b"aa", b"e", b"z"] {
            assert_eq!(listing.find(absent), None);
        }
        assert!(merge(&[]).find(b"a").is_none());
    }
}
