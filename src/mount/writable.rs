//! A directory on top that takes the changes: from options to a writable overlay.
//!
//! Two kinds of upper directories are told apart by who reads them. Those that callers name
//! (`upperdir=`) are read by others, such as the differs of container engines, so nothing is written
//! that these do not know. Those of our own containers are ours.

use super::error::{Error, Result};
use crate::layer::directory::namespace_of_process;
use crate::options::MountOptions;
use crate::overlay::{Namespace, Overlay, OverlayOptions};
use crate::union::Union;

/// Who else reads an upper directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// Whoever named it.
    Others,
    /// Nobody: it is that of a container.
    Nobody,
}

/// `base`, below the directory that `options` name, if they name one.
pub(super) fn overlay(base: Union, options: &MountOptions, readers: Readers) -> Result<Overlay> {
    let (upper, work) = match (&options.upper, &options.work) {
        (Some(upper), Some(work)) => (upper, work),
        (Some(_), None) => {
            let reason = "upperdir= needs workdir=, a directory on the same file system";
            return Err(Error::Unsupported(reason.into()));
        }
        (None, _) => {
            if let (true, Some(option)) = (options.strict, options.for_writing()) {
                let reason = format!("option '{option}' has no effect without a writable layer");
                return Err(Error::Unsupported(reason));
            }
            return Ok(Overlay::read_only(base));
        }
    };
    Overlay::writable(base, upper, work, kept(options, readers)?).map_err(|source| Error::Upper {
        path: upper.clone(),
        source,
    })
}

/// How things are kept in the upper directory.
pub(super) fn kept(options: &MountOptions, readers: Readers) -> Result<OverlayOptions> {
    if options.xattr_permissions == 1 {
        let reason =
            "xattr_permissions=1 is for reading; what is written needs xattr_permissions=2";
        return Err(Error::Unsupported(reason.into()));
    }
    let asked = options.metacopy.or(options.redirect_dir);
    Ok(OverlayOptions {
        metacopy_redirect: asked.unwrap_or(readers == Readers::Nobody),
        namespace: options.userxattr.then_some(Namespace::User),
        volatile: options.volatile,
        ids: options.ids.clone(),
        // An ordinary user can give files to nobody.
        override_stat: overrides_stat(options),
    })
}

fn overrides_stat(options: &MountOptions) -> bool {
    options.xattr_permissions == 2 || !nix::unistd::geteuid().is_root()
}

/// The marks that count in directories which were made by mounts with these options.
pub(super) fn marks(options: &MountOptions) -> Namespace {
    if options.userxattr || overrides_stat(options) {
        Namespace::User
    } else {
        namespace_of_process()
    }
}
