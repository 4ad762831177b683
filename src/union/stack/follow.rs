//! Following `overlay.redirect` and `overlay.metacopy` into the layers below.
//!
//! A redirect names where an object lies in the layers below the one that has it: another name in
//! the same directory, or a path from the root. Each lower layer is searched by itself, and on the
//! way further marks can change the path for the layers that follow. The rules are the kernel's
//! (`ovl_lookup` in `fs/overlayfs/namei.c`).

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::directory::Directory;
use super::lower::LowerDirectory;
use super::{Stack, failed};
use crate::layer::directory::{Marks, Opacity, Redirect};
use crate::sys::at::Stat;
use crate::union::{Error, Result};
use crate::whiteout;

/// The way of one object down through the layers.
#[derive(Debug)]
pub(super) struct Trail<'a> {
    stack: &'a Stack,
    /// Where to look next: directories of different layers, topmost first.
    bases: &'a [Arc<LowerDirectory>],
    /// The layer that was looked at last.
    layer: u16,
    /// From the base to the object; a single name until an absolute redirect was met.
    path: Vec<Box<[u8]>>,
    /// Whether an absolute redirect was met.
    absolute: bool,
    /// Whether something hides all further layers.
    stop: bool,
}

/// A name in a directory of a layer.
type Place = (Arc<LowerDirectory>, Box<[u8]>);

impl<'a> Trail<'a> {
    /// Begins below branch `at` of a directory with these `branches`, with `name`.
    pub(super) fn new(
        stack: &'a Stack,
        branches: &'a [Arc<LowerDirectory>],
        at: u16,
        name: &[u8],
    ) -> Trail<'a> {
        let (above, below) = branches
            .split_at_checked(usize::from(at) + 1)
            .unwrap_or((branches, &[]));
        Trail {
            stack,
            bases: below,
            layer: above.last().map_or(0, |last| last.layer),
            path: vec![Box::from(name)],
            absolute: false,
            stop: false,
        }
    }

    /// Goes on from an object that was found and has this redirect.
    pub(super) fn redirect(&mut self, redirect: Redirect) -> Result<()> {
        self.replace(1, redirect)
    }

    /// Replaces what leads to the component that `remaining` components end with.
    fn replace(&mut self, remaining: usize, redirect: Redirect) -> Result<()> {
        let at = self.path.len().saturating_sub(remaining);
        match redirect {
            Redirect::Relative(name) => {
                if let Some(component) = self.path.get_mut(at) {
                    *component = name;
                }
            }
            Redirect::Absolute(path) => {
                self.path
                    .splice(..=at.min(self.path.len().saturating_sub(1)), path);
                let below = usize::from(self.layer) + 1;
                self.bases = self.stack.roots.get(below..).unwrap_or_default();
                self.absolute = true;
                // What hid the old path says nothing of the new one.
                self.stop = false;
            }
            Redirect::Invalid(value) => {
                let value = value.escape_ascii();
                return Err(Error::broken(format!("following the redirect {value}")));
            }
        }
        Ok(())
    }

    /// The next layer's directory.
    pub(super) fn next_directory(&mut self) -> Result<Option<Arc<LowerDirectory>>> {
        while let Some((directory, name)) = self.next_place()? {
            if let Some(found) = self.enter(&directory, &name)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The next layer's regular file.
    fn next_file(&mut self) -> Result<Option<Place>> {
        while let Some((directory, name)) = self.next_place()? {
            self.notice_whiteout(&directory, &name)?;
            match self.stat(&directory, &name)? {
                None => {}
                Some(stat) if stat.mode & libc::S_IFMT == libc::S_IFREG => {
                    return Ok(Some((directory, name)));
                }
                Some(_) => self.stop = true,
            }
        }
        Ok(None)
    }

    /// Goes down all components but the last, in the next layer that has them.
    fn next_place(&mut self) -> Result<Option<Place>> {
        while !self.stop
            && let Some((base, rest)) = self.bases.split_first()
        {
            self.bases = rest;
            self.layer = base.layer;
            if let Some(directory) = self.descend(base)? {
                let name = self.path.last().cloned().unwrap_or_default();
                return Ok(Some((directory, name)));
            }
        }
        Ok(None)
    }

    fn descend(&mut self, base: &Arc<LowerDirectory>) -> Result<Option<Arc<LowerDirectory>>> {
        let mut directory = Arc::clone(base);
        // Counted from the end, since redirects on the way replace what lies before.
        let mut remaining = self.path.len();
        while remaining > 1 {
            let at = self.path.len() - remaining;
            let name = self.path.get(at).cloned().unwrap_or_default();
            let Some(next) = self.enter(&directory, &name)? else {
                return Ok(None);
            };
            let marks = self.marks(&next)?;
            if marks.opacity == Opacity::Opaque {
                self.stop = true;
            } else if let Some(redirect) = marks.redirect {
                self.replace(remaining, redirect)?;
            }
            directory = next;
            remaining -= 1;
        }
        Ok(Some(directory))
    }

    /// Opens a directory; anything else of that name hides the layers below.
    fn enter(
        &mut self,
        parent: &Arc<LowerDirectory>,
        name: &[u8],
    ) -> Result<Option<Arc<LowerDirectory>>> {
        self.notice_whiteout(parent, name)?;
        let handles = &self.stack.handles;
        let open = || handles.making_room(|| handles.get(parent)?.directory(name));
        match open() {
            Ok(open) => {
                let directory = Arc::new(LowerDirectory::below(parent, name));
                handles.remember(&directory, open);
                Ok(Some(directory))
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENAMETOOLONG) => Ok(None),
                Some(libc::ENOTDIR | libc::ELOOP) => {
                    self.stop = true;
                    Ok(None)
                }
                _ => Err(failed(error, "following a redirect")),
            },
        }
    }

    /// Looks for a `.wh.` file that hides `name` in the layers below.
    fn notice_whiteout(&mut self, directory: &LowerDirectory, name: &[u8]) -> Result<()> {
        let marker = [whiteout::PREFIX, name].concat();
        if self.stat(directory, &marker)?.is_some() {
            self.stop = true;
        }
        Ok(())
    }

    fn stat(&self, directory: &LowerDirectory, name: &[u8]) -> Result<Option<Stat>> {
        let stat = || self.stack.handles.get(directory)?.stat(name);
        match stat() {
            Ok(stat) => Ok(Some(stat)),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENAMETOOLONG) => Ok(None),
                _ => Err(failed(error, "following a redirect")),
            },
        }
    }

    fn marks(&self, directory: &LowerDirectory) -> Result<Marks> {
        let read = || {
            let handle = self.stack.handles.get(directory)?;
            Marks::read(&handle, b"", self.stack.options.marks)
        };
        let mut marks =
            read().map_err(|error| failed(error, "reading the marks of a directory"))?;
        if self.stat(directory, whiteout::OPAQUE)?.is_some() {
            marks.opacity = Opacity::Opaque;
        }
        Ok(marks)
    }
}

impl Stack {
    /// Opens the content of a regular file, which may lie in a lower layer, for reading.
    pub(super) fn open_content(
        &self,
        parent: &Directory,
        branch: u16,
        name: &[u8],
        marks: Marks,
    ) -> Result<File> {
        let open = |directory: &LowerDirectory, name: &[u8]| {
            let handles = &self.handles;
            let open = || handles.making_room(|| handles.get(directory)?.open_file(name));
            open().map_err(|error| failed(error, "opening a file of a layer"))
        };
        let top = self.branch(parent, branch)?;
        if !marks.metacopy {
            return open(top, name);
        }
        let mut trail = Trail::new(self, self.branches(parent)?, branch, name);
        let mut redirect = marks.redirect;
        loop {
            if let Some(redirect) = redirect {
                trail.redirect(redirect)?;
            }
            let Some((directory, name)) = trail.next_file()? else {
                break;
            };
            let marks = self.marks(&directory, &name)?;
            if !marks.metacopy {
                return open(&directory, &name);
            }
            redirect = marks.redirect;
        }
        if trail.absolute
            && let Some(file) = self.open_data(&trail.path)?
        {
            return Ok(file);
        }
        let name = name.escape_ascii();
        Err(Error::broken(format!(
            "opening {name}: no layer has the content of this metacopy"
        )))
    }

    /// Looks for content in the data-only layers.
    fn open_data(&self, path: &[Box<[u8]>]) -> Result<Option<File>> {
        let path = path.join(&b'/');
        for layer in &self.data_layers {
            let open = || layer.root().open_file_beneath(&path);
            match self.handles.making_room(open) {
                Ok(file) => return Ok(Some(file)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => {}
                    _ => return Err(failed(error, "opening a file of a data-only layer")),
                },
            }
        }
        Ok(None)
    }

    /// The marks of a file of a layer.
    pub(super) fn marks(&self, directory: &LowerDirectory, name: &[u8]) -> Result<Marks> {
        let read = || -> io::Result<Marks> {
            Marks::read(&*self.handles.get(directory)?, name, self.options.marks)
        };
        read().map_err(|error| failed(error, "reading the marks of a file"))
    }
}
