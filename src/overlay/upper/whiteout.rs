//! Whiteouts of the upper: one is made and linked wherever one is needed.

use std::io;

use super::{Upper, failed};
use crate::layer::FileKind;
use crate::sys::at::Stat;
use crate::sys::writable::{At, WritableDir};
use crate::union::Result;

/// The whiteout to link.
#[derive(Debug, Default)]
pub(super) struct SharedWhiteout {
    name: Option<Vec<u8>>,
    by_attribute: bool,
    links: u32,
}

/// Links of one whiteout; file systems differ in how many they allow.
const MOST_LINKS: u32 = 30_000;

impl Upper {
    /// Whether whiteouts are made by attribute.
    pub(in crate::overlay) fn makes_whiteouts_by_attribute(&self) -> Result<bool> {
        let mut shared = self.whiteout.lock();
        if shared.name.is_none() {
            self.renew(&mut shared)
                .map_err(failed("making a whiteout"))?;
        }
        Ok(shared.by_attribute)
    }

    /// Makes a whiteout; says whether it is one by attribute, so that its directory needs a mark.
    pub(in crate::overlay) fn make_whiteout(
        &self,
        directory: &WritableDir,
        name: &[u8],
    ) -> Result<bool> {
        let make = || -> io::Result<bool> {
            let mut shared = self.whiteout.lock();
            loop {
                let source = match &shared.name {
                    Some(source) if shared.links < MOST_LINKS => source.clone(),
                    _ => self.renew(&mut shared)?,
                };
                match self.work.at(&source).link(directory, name) {
                    Ok(()) => {
                        shared.links += 1;
                        return Ok(shared.by_attribute);
                    }
                    Err(error) if error.raw_os_error() == Some(libc::EMLINK) => {
                        shared.links = MOST_LINKS;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        make().map_err(failed("making a whiteout"))
    }

    fn renew(&self, shared: &mut SharedWhiteout) -> io::Result<Vec<u8>> {
        if let Some(old) = shared.name.take() {
            self.work.unlink(&old)?;
        }
        let name = self.new_name();
        let device = self.work.make_node(&name, libc::S_IFCHR | 0o600, (0, 0));
        shared.by_attribute = match device {
            Ok(()) => false,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EINVAL)) => true,
            Err(error) => return Err(error),
        };
        if shared.by_attribute {
            self.work.create_file(&name, 0o600)?;
            let marked = self.work.at(&name).set_xattr(&self.names.whiteout, b"y", 0);
            if let Err(error) = marked {
                self.discard(&name);
                return Err(error);
            }
        }
        shared.name = Some(name.clone());
        shared.links = 1;
        Ok(name)
    }

    /// Whether something in an upper directory is a whiteout; `by_attribute` says that the directory
    /// may have some that are by attribute.
    pub(in crate::overlay) fn is_whiteout(
        &self,
        at: At<'_>,
        stat: &Stat,
        by_attribute: bool,
    ) -> io::Result<bool> {
        Ok(match FileKind::from_mode(stat.mode) {
            Some(FileKind::CharDevice) => stat.rdev == (0, 0),
            Some(FileKind::Regular) if by_attribute && stat.size == 0 => {
                at.xattr(&self.names.whiteout)?.is_some()
            }
            _ => false,
        })
    }
}
