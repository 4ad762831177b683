//! What a rename leaves at the old name: a whiteout where the base has something, a device 0:0 where
//! the caller wants one.

use super::engine::Engine;
use super::rename::Place;
use super::upper::{Temporary, failed};
use crate::sys::writable::WritableDir;
use crate::union::Result;

impl Engine {
    /// Puts what RENAME_WHITEOUT leaves behind at the old name. No one sees the moment between, but
    /// a crash in it leaves nothing there.
    pub(super) fn leave(
        &self,
        from: Place<'_>,
        (device, ino): (Temporary<'_>, u64),
        in_base: bool,
    ) -> Result<()> {
        let directory = self.upper.directory(from.directory)?;
        let mut contents = self.contents_mut(from.directory)?;
        if in_base {
            device.replace(&directory, from.name)?;
        } else {
            device.publish(&directory, from.name)?;
        }
        contents.set_object(from.name, ino, 0, in_base);
        Ok(())
    }

    /// Moves something and leaves a whiteout behind, where the file system cannot do that by itself.
    pub(super) fn move_by_hand(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        (old, new): (&WritableDir, &WritableDir),
        at_target: Option<bool>,
    ) -> Result<()> {
        let doing = failed("renaming in the upper");
        let exchange = || old.rename(from.name, new, to.name, libc::RENAME_EXCHANGE);
        if at_target == Some(false) {
            let (whiteout, by_attribute) = self.upper.temporary_whiteout()?;
            self.mark_whiteouts(old, &mut *self.contents_mut(from.directory)?, by_attribute)?;
            exchange().map_err(&doing)?;
            // What was replaced lies at the old name now.
            return whiteout.exchange(old, from.name).map(drop);
        }
        if at_target.is_none() {
            self.put_whiteout(new, &mut *self.contents_mut(to.directory)?, to.name)?;
        }
        let by_attribute = self.contents(to.directory)?.has_xattr_whiteouts;
        self.mark_whiteouts(old, &mut *self.contents_mut(from.directory)?, by_attribute)?;
        if let Err(error) = exchange() {
            if at_target.is_none() {
                self.remove_whiteout(new, &mut *self.contents_mut(to.directory)?, to.name);
            }
            return Err(doing(error));
        }
        Ok(())
    }
}
