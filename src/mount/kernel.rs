//! The kernel's own overlayfs as the writable layer.

use std::ffi::{CStr, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::sys::mount::{Context, DetachedMount};

/// An option of the overlay and its value, empty for one that has none.
pub(super) type Setting<'a> = (&'a CStr, &'a str);

/// Makes an overlay with these options in `directory`, which is its own, and throws it away.
///
/// # Errors
/// Why the kernel, or the file system there, does not let this process have one.
pub fn try_overlay(directory: &Path, settings: &[(&CStr, &str)]) -> io::Result<()> {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| directory.join(name));
    for path in [&lower, &upper, &work] {
        fs::create_dir(path)?;
    }
    let mount = overlay(OsStr::new("plyfs"), &lower, &upper, &work, settings, 0)?;
    // A file system without attributes or whiteouts makes it read-only, with no more than a warning.
    if fstatvfs(&mount)?.flags().contains(FsFlags::ST_RDONLY) {
        return Err(io::Error::other("it would be read-only"));
    }
    Ok(())
}

/// Makes an overlay of absolute directories, with `MOUNT_ATTR_*` attributes, that is attached nowhere.
///
/// # Errors
/// What the kernel reports.
pub(super) fn overlay(
    source: &OsStr,
    lower: &Path,
    upper: &Path,
    work: &Path,
    settings: &[Setting<'_>],
    attributes: u32,
) -> io::Result<DetachedMount> {
    let context = Context::new(c"overlay")?;
    context.set(c"source", source)?;
    for (key, path) in [
        (c"lowerdir", lower),
        (c"upperdir", upper),
        (c"workdir", work),
    ] {
        context.set(key, &escaped(path))?;
    }
    for (key, value) in settings {
        match value.is_empty() {
            true => context.set_flag(key)?,
            false => context.set(key, OsStr::new(value))?,
        }
    }
    context.create()?;
    context.mount(attributes)
}

/// A path as the overlay reads it, which takes a colon for a separator.
fn escaped(path: &Path) -> OsString {
    let mut text = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b':' | b',') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    OsString::from_vec(text)
}
