//! Character devices 0:0 that users make: where the upper keeps one, it would be a whiteout.
//!
//! So it is kept as an empty file with mode 1000, which hardly anything else has, and the mark
//! `overlay.plyfs.device` with the permissions that are meant, in octal. Overlays that keep their
//! upper directory in a mount of ours make such devices: for them they are whiteouts.

use super::{Temporary, Upper, failed};
use crate::layer::FileKind;
use crate::sys::at::Stat;
use crate::sys::writable::At;
use crate::union::{Error, Result};

/// Mode of what stands for such a device: a change of owner leaves it alone.
const PLACEHOLDER: u32 = libc::S_IFREG | libc::S_ISVTX;

impl Upper {
    /// Whether something like this cannot be kept as what it is.
    pub(in crate::overlay) fn needs_placeholder(&self, kind: FileKind, device: (u32, u32)) -> bool {
        kind == FileKind::CharDevice && device == (0, 0) && !self.override_stat
    }

    /// The permissions of the device that an object stands for, if it does.
    pub(super) fn null_device(&self, at: At<'_>, stat: &Stat) -> Result<Option<u16>> {
        if stat.mode != PLACEHOLDER || stat.size != 0 {
            return Ok(None);
        }
        let said = at.xattr(&self.names.device);
        let Some(said) = said.map_err(failed("reading a device of the upper"))? else {
            return Ok(None);
        };
        let permissions = std::str::from_utf8(&said).ok();
        let permissions = permissions.and_then(|text| u16::from_str_radix(text, 8).ok());
        let permissions = permissions.filter(|permissions| *permissions <= 0o7777);
        permissions.map(Some).ok_or_else(|| {
            let said = said.escape_ascii();
            Error::broken(format!("a device in the upper has the permissions {said}"))
        })
    }

    /// Makes an empty file that has its owner already stand for such a device, or changes its
    /// permissions.
    pub(in crate::overlay) fn set_null_device(&self, at: At<'_>, permissions: u16) -> Result<()> {
        let doing = failed("keeping a device in the upper");
        let said = format!("{permissions:o}");
        at.set_xattr(&self.names.device, said.as_bytes(), 0)
            .map_err(&doing)?;
        at.set_mode(PLACEHOLDER & 0o7777).map_err(doing)
    }

    /// What RENAME_WHITEOUT leaves: such a device, without permissions, of this process.
    pub(in crate::overlay) fn temporary_null_device(&self) -> Result<Temporary<'_>> {
        let device = self.temporary_file()?;
        if self.override_stat {
            let kind = FileKind::CharDevice;
            self.set_override(device.at(), kind, (0, 0), self.own_ids, 0)?;
        } else {
            self.set_null_device(device.at(), 0)?;
        }
        Ok(device)
    }
}
