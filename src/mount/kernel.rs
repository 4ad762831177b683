//! Whether the kernel's own overlayfs can be the writable layer.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::sys::mount::Context;

/// Makes an overlay in `directory`, which is its own, and throws it away.
///
/// # Errors
/// Why the kernel, or the file system there, does not let this process have one.
pub fn try_overlay(directory: &Path) -> io::Result<()> {
    let context = Context::new(c"overlay")?;
    for (key, name) in [
        (c"lowerdir", "lower"),
        (c"upperdir", "upper"),
        (c"workdir", "work"),
    ] {
        let path = directory.join(name);
        fs::create_dir(&path)?;
        context.set(key, &OsString::from(path))?;
    }
    context.create()?;
    // A file system without attributes or whiteouts makes it read-only, with no more than a warning.
    let flags = fstatvfs(context.mount(0)?)?.flags();
    if flags.contains(FsFlags::ST_RDONLY) {
        return Err(io::Error::other("it would be read-only"));
    }
    Ok(())
}
