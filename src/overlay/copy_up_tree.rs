//! Copying up a whole directory, for a rename that shall leave no redirect.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::copy_up::Want;
use super::directory::{Contents, Entry};
use super::engine::Engine;
use super::node::Node;
use super::publish::restore_times;
use super::rename::Place;
use super::upper::failed;
use crate::layer::FileKind;
use crate::sys::writable::WritableDir;
use crate::union::{NodeNumber, Result};

impl Engine {
    /// Copies everything up that is in a directory, and makes it opaque.
    pub(super) fn copy_up_tree(&self, root: &Arc<Node>) -> Result<()> {
        // Directories on the way down, each with the subdirectories that are left.
        let mut way = vec![(Arc::clone(root), None::<Vec<Arc<Node>>>)];
        let result = loop {
            let Some((directory, left)) = way.last_mut() else {
                break Ok(());
            };
            let directory = Arc::clone(directory);
            let step = match left {
                None => self.copy_up_entries(&directory).map(|below| {
                    *left = Some(below);
                    None
                }),
                Some(below) => match below.pop() {
                    Some(next) => Ok(Some(next)),
                    None => {
                        way.pop();
                        let done = self.make_opaque(&directory);
                        if !Arc::ptr_eq(&directory, root) {
                            self.release(directory.number, 1);
                        }
                        done.map(|()| None)
                    }
                },
            };
            match step {
                Ok(Some(next)) => way.push((next, None)),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
        };
        for (directory, below) in way {
            for node in below.into_iter().flatten() {
                self.release(node.number, 1);
            }
            if !Arc::ptr_eq(&directory, root) {
                self.release(directory.number, 1);
            }
        }
        result
    }

    /// Copies up what is in a directory; returns its subdirectories, with references.
    fn copy_up_entries(&self, directory: &Arc<Node>) -> Result<Vec<Arc<Node>>> {
        self.copy_up_directory(directory)?;
        let mut names = Vec::new();
        self.list(NodeNumber(directory.number), 2, false, &mut |listed, _| {
            names.push(listed.name.to_vec());
            ControlFlow::Continue(())
        })?;
        let mut below = Vec::new();
        for name in names {
            let found = {
                let _still = self.still();
                self.find(directory, &name)
            };
            let copied = found.and_then(|node| {
                let Some(node) = node else { return Ok(()) };
                if node.kind == FileKind::Directory {
                    below.push(node);
                    return Ok(());
                }
                let place = Place {
                    directory,
                    name: &name,
                };
                let copied = self
                    .copy_up(&node, Want::Data(u64::MAX).for_kind(node.kind))
                    .and_then(|()| self.bring_up(place, &node));
                self.release(node.number, 1);
                copied
            });
            if let Err(error) = copied {
                for node in below {
                    self.release(node.number, 1);
                }
                return Err(error);
            }
        }
        Ok(below)
    }

    /// Makes a directory opaque, all of which is in the upper.
    fn make_opaque(&self, node: &Arc<Node>) -> Result<()> {
        let _still = self.still();
        let mut contents = self.contents_mut(node)?;
        let Some(base) = contents.base else {
            return Ok(());
        };
        let mut is_complete = true;
        let mut offsets = Vec::new();
        self.base.list(NodeNumber(base), 2, &mut |listed| {
            is_complete &= !Engine::is_base_only(&contents, listed.name);
            offsets.push((Box::from(listed.name), listed.next_offset - 1));
            ControlFlow::Continue(())
        })?;
        if !is_complete {
            // Whoever wants it finds out, and begins again.
            return Ok(());
        }
        let directory = self.upper.directory(node)?;
        let mark = directory
            .at(b"")
            .set_xattr(&self.upper.names.opaque, b"y", 0);
        mark.map_err(failed("marking a directory as opaque"))?;
        let whiteouts: Vec<Vec<u8>> = contents
            .entries()
            .filter(|(_, entry)| matches!(entry, Entry::Whiteout))
            .map(|(name, _)| name.to_vec())
            .collect();
        contents.hide_base(offsets);
        contents.has_xattr_whiteouts = false;
        self.remove_whiteouts(&directory, &mut contents, whiteouts);
        Ok(())
    }

    /// Removes whiteouts of an opaque directory, which they leave as old as it was.
    pub(super) fn remove_whiteouts(
        &self,
        directory: &WritableDir,
        contents: &mut Contents,
        whiteouts: Vec<Vec<u8>>,
    ) {
        if whiteouts.is_empty() {
            return;
        }
        let before = directory.at(b"").stat();
        for name in whiteouts {
            self.remove_whiteout(directory, contents, &name);
        }
        match before {
            Ok(before) => restore_times(directory, (before.atime, before.mtime)),
            Err(error) => log::warn!("cannot restore the times of a directory: {error}"),
        }
    }
}
