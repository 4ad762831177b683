//! What a mount is like, from who makes it and what it shows.
//!
//! * Someone with rights lets everybody in and has the kernel check permissions.
//! * A plain user has the rights that fakeroot gives: without `allow_other` nobody else comes in,
//!   so permissions are not checked, or root's files would be closed to the user who pulled them.
//! * Contents reach readers through the page cache, except where most bytes lie in large files and
//!   the kernel may read those by itself.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::attach::{self, Traits};
use super::error::{Error, Result};
use crate::fuse::{self, Data, Settings, Xattrs};
use crate::options::{DataMode, MountOptions};
use crate::overlay::Overlay;
use crate::sys::{mount as sys, process};

/// Decides everything that must be known before the first message.
pub(super) fn decide(
    overlay: &Overlay,
    source: OsString,
    options: &MountOptions,
) -> Result<(Traits, Settings)> {
    let administrator = process::is_administrator()
        .map_err(Error::system("cannot tell what this process may do"))?;
    let allow_other = administrator || options.allow_other;
    let default_permissions = allow_other || options.default_permissions;
    let traits = Traits {
        source: options.source.clone().unwrap_or(source),
        context: label(options),
        attributes: attributes(options, overlay.is_writable()),
        allow_other,
        default_permissions,
    };
    let settings = Settings {
        data: data(overlay, options, administrator)?,
        acl: default_permissions && overlay.may_have_acls() && !options.noacl && !options.noxattrs,
        xattrs: match (options.noxattrs, overlay.may_have_xattrs()) {
            (true, _) => Xattrs::Hidden,
            (false, true) => Xattrs::Shown,
            (false, false) => Xattrs::Absent,
        },
        sync: !options.volatile,
        threads: std::thread::available_parallelism().map_or(4, |cores| cores.get().max(4)),
        // It stores what a layer holds, which must not come after what was written since.
        read_ahead: !overlay.is_writable(),
    };
    Ok((traits, settings))
}

/// fstab and mount.fuse3 say `rw` without meaning it: what has nothing to write to is read-only.
pub(super) fn attributes(options: &MountOptions, writable: bool) -> u32 {
    let mut attributes = 0;
    let read_only = !writable || options.read_only == Some(true);
    for (on, attribute) in [
        (read_only, sys::ATTRIBUTE_READ_ONLY),
        (options.nosuid, sys::ATTRIBUTE_NOSUID),
        (options.nodev, sys::ATTRIBUTE_NODEV),
        (options.noexec, sys::ATTRIBUTE_NOEXEC),
        (options.noatime, sys::ATTRIBUTE_NOATIME),
        (options.nodiratime, sys::ATTRIBUTE_NODIRATIME),
        (
            options.strictatime && !options.noatime,
            sys::ATTRIBUTE_STRICTATIME,
        ),
    ] {
        if on {
            attributes |= attribute;
        }
    }
    attributes
}

/// The SELinux label, where there is SELinux; elsewhere the kernel refuses the option.
fn label(options: &MountOptions) -> Option<OsString> {
    let label = options.context.clone()?;
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return Some(label);
    }
    log::debug!("no SELinux here: the label is not set");
    None
}

fn data(overlay: &Overlay, options: &MountOptions, administrator: bool) -> Result<Data> {
    let otherwise = if overlay.is_writable() {
        Data::WriteBack
    } else {
        Data::Cached
    };
    let wanted = match options.data {
        DataMode::Cached => false,
        DataMode::Passthrough => true,
        DataMode::Auto => {
            let totals = overlay.base().totals().unwrap_or_default();
            administrator && (overlay.is_writable() || totals.large_bytes > totals.bytes / 2)
        }
    };
    if !wanted {
        return Ok(otherwise);
    }
    let stack_depth = options.stack_depth.unwrap_or(1);
    match try_passthrough(options.upper.as_deref(), stack_depth) {
        Ok(()) => Ok(Data::Passthrough { stack_depth }),
        Err(source) if options.data == DataMode::Passthrough && options.strict => {
            Err(Error::System {
                doing: "passthrough does not work here",
                source,
            })
        }
        Err(error) => {
            let asked = options.data == DataMode::Passthrough;
            let level = if asked {
                log::Level::Warn
            } else {
                log::Level::Info
            };
            log::log!(
                level,
                "passthrough does not work here, contents are cached: {error}"
            );
            Ok(otherwise)
        }
    }
}

/// Only a real attempt tells, see [`fuse::probe`].
fn try_passthrough(upper: Option<&Path>, stack_depth: u32) -> io::Result<()> {
    let (device, mount) = attach::throw_away()?;
    let result = match upper {
        Some(upper) => fuse::probe(device, &nameless_file(upper)?, stack_depth),
        // Any file will do: it is the right to try that is asked for. This one may lie too deep;
        // those of the store may not, and each is tried when it is opened.
        None => match fuse::probe(device, &File::open("/proc/self/exe")?, stack_depth) {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Ok(()),
            result => result,
        },
    };
    drop(mount);
    result
}

/// A file where those lie that will be written.
fn nameless_file(directory: &Path) -> io::Result<File> {
    let mut open = File::options();
    open.read(true).write(true).custom_flags(libc::O_TMPFILE);
    open.open(directory)
}
