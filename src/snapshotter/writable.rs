//! What containers write through: a file system of ours, or the kernel's overlay over one.
//!
//! Both keep what is written in the same directory, in the same format, so a container that is not
//! running can be taken from the one to the other.

use std::str::FromStr;

use super::{Error, Result};
use crate::mount;
use crate::store::Store;

/// What containers write through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WritableLayer {
    /// A mount of ours for each container, with a server of its own.
    #[default]
    Fuse,
    /// The kernel's overlay over the image, which all its containers share with one server and one page
    /// cache.
    Kernel,
    /// The kernel's where it can be had, since it is faster.
    Auto,
}

impl WritableLayer {
    /// Whether it is the kernel's, for snapshots of this store.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it must be and cannot; [`Error::Store`].
    pub(super) fn is_kernel(self, store: &Store) -> Result<bool> {
        if self == WritableLayer::Fuse {
            return Ok(false);
        }
        let staging = store.staging()?;
        match mount::try_overlay(staging.path()) {
            Ok(()) => Ok(true),
            Err(error) if self == WritableLayer::Auto => {
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
}

impl FromStr for WritableLayer {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<WritableLayer, &'static str> {
        match text {
            "fuse" => Ok(WritableLayer::Fuse),
            "kernel" => Ok(WritableLayer::Kernel),
            "auto" => Ok(WritableLayer::Auto),
            _ => Err("must be fuse, kernel or auto"),
        }
    }
}
