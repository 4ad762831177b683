//! Directories of the union: which directories of layers they are made of, and what is in them.

use std::io;
use std::sync::{Arc, OnceLock};

use super::follow::Trail;
use super::listing::{Found, Listing, Merge};
use super::lower::LowerDirectory;
use super::{Stack, failed};
use crate::layer::directory::{Marks, Opacity};
use crate::union::{Attributes, Error, Result};

/// A directory of the union.
#[derive(Debug)]
pub(super) struct Directory {
    /// What stat(2) tells of the topmost branch.
    pub(super) attributes: Attributes,
    /// The directory of the union that contains it; none for the root.
    pub(super) parent: Option<Arc<Directory>>,
    /// The topmost branch. Its name is the name in the union too.
    pub(super) top: Arc<LowerDirectory>,
    /// Which branch of the parent contains the topmost branch.
    pub(super) branch: u16,
    /// Branches of the parent that have a directory of this name too.
    pub(super) below: Box<[u16]>,
    /// All branches, topmost first; known once the directory has been read.
    pub(super) branches: OnceLock<Box<[Arc<LowerDirectory>]>>,
}

impl Directory {
    /// Whether both are at the same place of the union.
    pub(super) fn is_same(&self, other: &Directory) -> bool {
        let parent = |directory: &Directory| directory.parent.as_ref().map(|p| p.attributes.node);
        parent(self) == parent(other) && self.top.name == other.top.name
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // One after another: the chain may be longer than the stack is deep.
        let mut parent = self.parent.take();
        while let Some(mut directory) = parent.and_then(Arc::into_inner) {
            parent = directory.parent.take();
        }
    }
}

impl Stack {
    /// The listing of `directory`, which reads it if that was not done lately.
    pub(super) fn listing(&self, directory: &Directory) -> Result<Arc<Listing>> {
        if let Some(listing) = self.listings.get(directory.top.id) {
            return Ok(listing);
        }
        let mut merge = Merge::default();
        if let Some(branches) = directory.branches.get() {
            for branch in branches {
                self.scan(branch, &mut merge)?;
            }
        } else {
            let branches = self.merge(directory, &mut merge)?;
            // Another thread that came first has found the same.
            directory.branches.get_or_init(|| branches);
        }
        let listing = merge
            .finish()
            .map_err(|error| failed(error, "merging a directory"))?;
        let listing = Arc::new(listing);
        self.listings.insert(directory.top.id, &listing);
        Ok(listing)
    }

    /// The branches of `directory`.
    pub(super) fn branches<'a>(
        &self,
        directory: &'a Directory,
    ) -> Result<&'a [Arc<LowerDirectory>]> {
        if directory.branches.get().is_none() {
            self.listing(directory)?;
        }
        let branches = directory.branches.get();
        branches
            .map(|b| &**b)
            .ok_or_else(|| Error::broken("a directory without branches"))
    }

    /// One branch of `directory`.
    pub(super) fn branch<'a>(
        &self,
        directory: &'a Directory,
        branch: u16,
    ) -> Result<&'a Arc<LowerDirectory>> {
        let branches = self.branches(directory)?;
        let branch = branches.get(usize::from(branch));
        branch.ok_or_else(|| Error::broken("a branch that does not exist"))
    }

    /// Reads the branches of a directory as long as they are not opaque, following redirects.
    fn merge(
        &self,
        directory: &Directory,
        merge: &mut Merge,
    ) -> Result<Box<[Arc<LowerDirectory>]>> {
        let mut branches = Vec::with_capacity(1 + directory.below.len());
        let Some(parent) = &directory.parent else {
            for root in &self.roots {
                branches.push(Arc::clone(root));
                if self.scan(root, merge)?.opacity == Opacity::Opaque {
                    break;
                }
            }
            return Ok(branches.into());
        };
        let name = &directory.top.name;
        let mut below = directory.below.iter();
        let mut at = directory.branch;
        let mut trail: Option<Trail<'_>> = None;
        let mut next = Some(Arc::clone(&directory.top));
        while let Some(branch) = next {
            let is_last = usize::from(branch.layer) + 1 >= self.roots.len();
            let marks = self.scan(&branch, merge)?;
            branches.push(branch);
            if is_last || marks.opacity == Opacity::Opaque {
                break;
            }
            if let Some(redirect) = marks.redirect {
                let begin = Trail::new(self, self.branches(parent)?, at, name);
                trail.get_or_insert(begin).redirect(redirect)?;
            }
            next = match (&mut trail, below.next()) {
                (Some(trail), _) => trail.next_directory()?,
                (None, Some(&branch)) => {
                    at = branch;
                    let parent = self.branch(parent, branch)?;
                    Some(Arc::new(LowerDirectory::below(parent, name)))
                }
                (None, None) => None,
            };
        }
        Ok(branches.into())
    }

    /// Adds what lies in one branch to `merge`.
    fn scan(&self, branch: &LowerDirectory, merge: &mut Merge) -> Result<Marks> {
        let mut read = || -> io::Result<Marks> {
            let open = self.handles.listable(branch)?;
            let marks = merge.scan.read(&open, self.options.marks)?;
            merge.end_branch()?;
            Ok(marks)
        };
        read().map_err(|error| failed(error, "reading a directory of a layer"))
    }

    /// The directory that `found` stands for in `parent`; `beyond_mount` says that it is a mount
    /// point itself.
    pub(super) fn subdirectory(
        &self,
        parent: &Arc<Directory>,
        found: Found<'_>,
        attributes: Attributes,
        beyond_mount: bool,
    ) -> Result<Directory> {
        let mut top = LowerDirectory::below(self.branch(parent, found.branch)?, found.name);
        top.beyond_mount |= beyond_mount;
        Ok(Directory {
            attributes,
            parent: Some(Arc::clone(parent)),
            top: Arc::new(top),
            branch: found.branch,
            below: Box::from(found.below),
            branches: OnceLock::new(),
        })
    }
}
