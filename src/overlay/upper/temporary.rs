//! Things under way, in `work/work`, which are gone when they are not published.

use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;

use super::open::clean;
use super::{Upper, failed};
use crate::sys::identity::Identity;
use crate::sys::writable::{At, WritableDir};
use crate::union::Result;

/// Something without a place yet.
#[derive(Debug)]
pub(in crate::overlay) struct Temporary<'a> {
    upper: &'a Upper,
    /// Its name in the work directory; none if it has no name.
    name: Option<Vec<u8>>,
    file: Option<File>,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.upper.discard(name);
        }
    }
}

impl<'a> Temporary<'a> {
    /// The object.
    pub(in crate::overlay) fn at(&self) -> At<'_> {
        match (&self.name, &self.file) {
            (Some(name), _) => self.upper.work.at(name),
            (None, Some(file)) => At::file(file),
            // One of both is always there.
            (None, None) => self.upper.work.at(b"."),
        }
    }

    /// The open file, if it is a regular one.
    pub(in crate::overlay) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Gives it its place, where nothing may be yet.
    pub(in crate::overlay) fn publish(
        self,
        directory: &WritableDir,
        name: &[u8],
    ) -> Result<Option<File>> {
        self.move_to(directory, name, libc::RENAME_NOREPLACE)
    }

    /// Gives it its place, replacing what is there; a directory replaces nothing but what
    /// [`Temporary::exchange`] can exchange.
    pub(in crate::overlay) fn replace(
        self,
        directory: &WritableDir,
        name: &[u8],
    ) -> Result<Option<File>> {
        self.move_to(directory, name, 0)
    }

    fn move_to(mut self, to: &WritableDir, new: &[u8], flags: u32) -> Result<Option<File>> {
        let doing = failed("publishing in the upper");
        match (&self.name, &self.file) {
            (None, Some(file)) if flags != 0 => to.link_file(file, new).map_err(doing)?,
            (None, Some(file)) => {
                let name = self.upper.new_name();
                self.upper.work.link_file(file, &name).map_err(&doing)?;
                self.name = Some(name.clone());
                self.upper
                    .work
                    .rename(&name, to, new, flags)
                    .map_err(doing)?;
                self.name = None;
            }
            (Some(name), _) => {
                self.upper
                    .work
                    .rename(name, to, new, flags)
                    .map_err(doing)?;
                self.name = None;
            }
            (None, None) => {}
        }
        Ok(self.file.take())
    }

    /// Changes places with what is at `name`, and returns that: it is removed when it is dropped.
    pub(in crate::overlay) fn exchange(
        self,
        directory: &WritableDir,
        name: &[u8],
    ) -> Result<Temporary<'a>> {
        if let Some(own) = &self.name {
            let flags = libc::RENAME_EXCHANGE;
            let exchanged = self.upper.work.rename(own, directory, name, flags);
            exchanged.map_err(failed("publishing in the upper"))?;
        }
        Ok(self)
    }

    /// Keeps what has no name and shall get none.
    pub(in crate::overlay) fn pin(&self) -> Result<WritableDir> {
        self.at().pin().map_err(failed("keeping an unnamed file"))
    }
}

impl Upper {
    /// A name that nothing under way has.
    pub(super) fn new_name(&self) -> Vec<u8> {
        let number = self.next_name.fetch_add(1, Ordering::Relaxed);
        format!("#{number:x}").into_bytes()
    }

    /// Removes something under way. What cannot be removed now goes when the overlay is opened next.
    pub(super) fn discard(&self, name: &[u8]) {
        let remove = || -> io::Result<()> {
            match self.work.unlink(name) {
                Err(error) if error.raw_os_error() == Some(libc::EISDIR) => {
                    clean(&self.work.directory(name)?)?;
                    self.work.remove_directory(name)
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                result => result,
            }
        };
        if let Err(error) = remove() {
            log::warn!(
                "cannot remove {} from the work directory: {error}",
                name.escape_ascii()
            );
        }
    }

    fn named<'a>(
        &'a self,
        make: impl FnOnce(&[u8]) -> io::Result<Option<File>>,
    ) -> Result<Temporary<'a>> {
        let name = self.new_name();
        let file = make(&name).map_err(failed("making something in the work directory"))?;
        Ok(Temporary {
            upper: self,
            name: Some(name),
            file,
        })
    }

    /// A new regular file that will have these permissions, and has them already if it may.
    pub(in crate::overlay) fn temporary_file_for(&self, permissions: u16) -> Result<Temporary<'_>> {
        // Whoever may not write to it could not set its attributes; and not all file systems keep
        // set-id bits of what is made.
        if self.override_stat || permissions & 0o600 != 0o600 || permissions & 0o6000 != 0 {
            return self.temporary_file();
        }
        let identity = Identity::take(None);
        let mode = if identity.is_some() {
            permissions
        } else {
            0o600
        };
        self.temporary_file_with(u32::from(mode))
    }

    /// A new regular file.
    pub(in crate::overlay) fn temporary_file(&self) -> Result<Temporary<'_>> {
        self.temporary_file_with(0o600)
    }

    fn temporary_file_with(&self, mode: u32) -> Result<Temporary<'_>> {
        if !self.no_unnamed_files.load(Ordering::Relaxed) {
            match self.work.unnamed_file(mode) {
                Ok(file) => {
                    return Ok(Temporary {
                        upper: self,
                        name: None,
                        file: Some(file),
                    });
                }
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) =>
                {
                    self.no_unnamed_files.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(failed("making an unnamed file")(error)),
            }
        }
        self.named(|name| self.work.create_file(name, mode).map(Some))
    }

    /// A new directory.
    pub(in crate::overlay) fn temporary_directory(&self) -> Result<Temporary<'_>> {
        self.named(|name| self.work.make_directory(name, 0o700).map(|()| None))
    }

    /// A new symlink.
    pub(in crate::overlay) fn temporary_symlink(&self, target: &[u8]) -> Result<Temporary<'_>> {
        self.named(|name| self.work.make_symlink(name, target).map(|()| None))
    }

    /// A new device, FIFO or socket; `mode` includes the type.
    pub(in crate::overlay) fn temporary_node(
        &self,
        mode: u32,
        device: (u32, u32),
    ) -> Result<Temporary<'_>> {
        self.named(|name| self.work.make_node(name, mode, device).map(|()| None))
    }

    /// Another name of an object.
    pub(in crate::overlay) fn temporary_link(&self, of: At<'_>) -> Result<Temporary<'_>> {
        self.named(|name| of.link(&self.work, name).map(|()| None))
    }

    /// A whiteout that is not in place yet; says whether it is one by attribute.
    pub(in crate::overlay) fn temporary_whiteout(&self) -> Result<(Temporary<'_>, bool)> {
        let name = self.new_name();
        let by_attribute = self.make_whiteout(&self.work, &name)?;
        let temporary = Temporary {
            upper: self,
            name: Some(name),
            file: None,
        };
        Ok((temporary, by_attribute))
    }

    /// Takes something out of the tree; it is removed when the result is dropped.
    pub(in crate::overlay) fn take_out(
        &self,
        directory: &WritableDir,
        name: &[u8],
    ) -> Result<Temporary<'_>> {
        let own = self.new_name();
        let moved = directory.rename(name, &self.work, &own, libc::RENAME_NOREPLACE);
        moved.map_err(failed("taking something out of the upper"))?;
        Ok(Temporary {
            upper: self,
            name: Some(own),
            file: None,
        })
    }
}

impl Upper {
    /// A new symlink, or the file that stands for one.
    pub(in crate::overlay) fn new_symlink(&self, target: &[u8]) -> Result<Temporary<'_>> {
        if !self.override_stat {
            return self.temporary_symlink(target);
        }
        let temporary = self.temporary_file()?;
        if let Some(file) = temporary.file() {
            let written = crate::sys::data::write_at(file, target, 0);
            let written = written.map_err(failed("writing the target of a symlink"))?;
            if written != target.len() {
                return Err(nix::errno::Errno::ENOSPC.into());
            }
        }
        Ok(temporary)
    }
}
