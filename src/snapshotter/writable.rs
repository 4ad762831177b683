//! Whether containers write through the kernel's overlay.

use super::{Error, Result};
use crate::mount;
use crate::options::WritableLayer;
use crate::store::Store;

/// Whether it is the kernel's, for snapshots of this store.
///
/// # Errors
/// [`Error::InvalidArgument`] if it must be and cannot; [`Error::Store`].
pub(super) fn is_kernel(writable: WritableLayer, store: &Store) -> Result<bool> {
    if writable == WritableLayer::Fuse {
        return Ok(false);
    }
    let staging = store.staging()?;
    match mount::try_overlay(staging.path(), &[]) {
        Ok(()) => Ok(true),
        Err(error) if writable == WritableLayer::Auto => {
            log::info!(
                "containers write through plyfs, since the kernel's overlay cannot: {error}"
            );
            Ok(false)
        }
        Err(error) => Err(Error::InvalidArgument(format!(
            "the kernel's overlay cannot write to {}: {error}",
            store.root().display()
        ))),
    }
}
