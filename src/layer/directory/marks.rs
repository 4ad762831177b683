//! What overlay filesystems write about an object into its extended attributes.
//!
//! # See
//! `Documentation/filesystems/overlayfs.rst` (redirect_dir, metacopy, opaque directories, nesting)
//! and the documentation of fuse-overlayfs (`xattr_permissions`).

use std::io;

use crate::layer::FileKind;
use crate::sys::at::RootFd;
use crate::sys::process;
use crate::whiteout::Namespace;

/// Whether a directory hides what lower layers have in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opacity {
    /// It does not.
    #[default]
    Transparent,
    /// It does.
    Opaque,
    /// It does not, but some of its files are whiteouts by attribute.
    HasWhiteouts,
}

/// Where an object continues in the layers below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// Under another name in the same directory.
    Relative(Box<[u8]>),
    /// At this path from the root, split into its components.
    Absolute(Vec<Box<[u8]>>),
    /// Nowhere: the value is no name and no path.
    Invalid(Box<[u8]>),
}

impl Redirect {
    /// Reads the value of an `overlay.redirect` attribute.
    #[must_use]
    pub fn parse(value: &[u8]) -> Redirect {
        let value = value.strip_suffix(b"\0").unwrap_or(value);
        let name = |name: &[u8]| {
            let bad = matches!(name, b"" | b"." | b"..") || name.len() > 255;
            (!bad && !name.contains(&0) && !name.contains(&b'/')).then(|| Box::from(name))
        };
        let redirect = match value.strip_prefix(b"/") {
            Some(path) => {
                let components = path.split(|byte| *byte == b'/').map(name);
                components.collect::<Option<_>>().map(Redirect::Absolute)
            }
            None => name(value).map(Redirect::Relative),
        };
        redirect.unwrap_or_else(|| Redirect::Invalid(Box::from(value)))
    }
}

/// The marks of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Meaningful for directories.
    pub opacity: Opacity,
    /// Where directories and metacopy files continue.
    pub redirect: Option<Redirect>,
    /// Whether the content of a regular file lies in a lower layer.
    pub metacopy: bool,
    /// Whether a regular file of no length in a directory that [`Opacity::HasWhiteouts`] is one.
    pub whiteout: bool,
}

impl Marks {
    /// Reads the marks of `name` in `directory` (empty: of the directory itself) that are in `namespace`.
    /// One system call for an object without any.
    ///
    /// # Errors
    /// What listxattr(2) or getxattr(2) report.
    pub fn read(directory: &RootFd, name: &[u8], namespace: Namespace) -> io::Result<Marks> {
        let mut marks = Marks::default();
        let names = match directory.xattr_names(name) {
            Ok(names) => names,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(marks),
            Err(error) => return Err(error),
        };
        for attribute in names.split(|byte| *byte == 0) {
            let Some(mark) = namespace.mark(attribute) else {
                continue;
            };
            match mark {
                b"whiteout" => marks.whiteout = true,
                b"metacopy" => marks.metacopy = true,
                b"opaque" if marks.opacity != Opacity::Opaque => {
                    marks.opacity = match directory.xattr(name, attribute)?.as_slice() {
                        b"y" => Opacity::Opaque,
                        b"x" => Opacity::HasWhiteouts,
                        _ => marks.opacity,
                    };
                }
                b"redirect" if marks.redirect.is_none() => {
                    let value = directory.xattr(name, attribute)?;
                    marks.redirect = Some(Redirect::parse(&value));
                }
                _ => {}
            }
        }
        Ok(marks)
    }
}

/// The namespace of marks that this process can write and see: `trusted.` takes an administrator of the first user
/// namespace.
#[must_use]
pub fn namespace_of_process() -> Namespace {
    let first = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
    let is_first = std::fs::read_to_string("/proc/self/uid_map").is_ok_and(first);
    if is_first && process::is_administrator().unwrap_or_default() {
        Namespace::Trusted
    } else {
        Namespace::User
    }
}

/// The attribute in which owner, mode and kind are kept where the file itself cannot have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrideKey {
    /// `xattr_permissions=1`
    Privileged,
    /// `xattr_permissions=2`, and what containers/storage writes
    Containers,
    /// What fuse-overlayfs wrote once.
    Legacy,
}

impl OverrideKey {
    /// The name of the attribute.
    #[must_use]
    pub fn name(self) -> &'static [u8] {
        match self {
            OverrideKey::Privileged => b"security.fuseoverlayfs.override_stat",
            OverrideKey::Containers => b"user.containers.override_stat",
            OverrideKey::Legacy => b"user.fuseoverlayfs.override_stat",
        }
    }

    /// The key that the root of a layer has.
    pub(super) fn detect(root: &RootFd) -> io::Result<Option<OverrideKey>> {
        let names = match root.xattr_names(b"") {
            Ok(names) => names,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error),
        };
        let keys = [
            OverrideKey::Privileged,
            OverrideKey::Legacy,
            OverrideKey::Containers,
        ];
        Ok(keys.into_iter().find(|key| {
            names
                .split(|byte| *byte == 0)
                .any(|name| name == key.name())
        }))
    }
}

/// What an override attribute says: `uid:gid:mode[:type[-major-minor]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `07777` bits.
    pub permissions: u16,
    /// Kind, and the numbers of a device, where the file on disk is of another kind.
    pub kind: Option<(FileKind, (u32, u32))>,
}

impl Override {
    /// Reads the value of an override attribute.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Override> {
        let value = std::str::from_utf8(value.strip_suffix(b"\0").unwrap_or(value)).ok()?;
        let mut fields = value.splitn(4, ':');
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let permissions = u16::from_str_radix(fields.next()?, 8).ok()? & 0o7777;
        let kind = match fields.next() {
            None => None,
            Some(kind) => Some(override_kind(kind)?),
        };
        Some(Override {
            uid,
            gid,
            permissions,
            kind,
        })
    }
}

fn override_kind(text: &str) -> Option<(FileKind, (u32, u32))> {
    let plain = |kind| Some((kind, (0, 0)));
    match text {
        "dir" => plain(FileKind::Directory),
        "file" => plain(FileKind::Regular),
        "symlink" => plain(FileKind::Symlink),
        "pipe" => plain(FileKind::Fifo),
        "socket" => plain(FileKind::Socket),
        _ => {
            let mut parts = text.splitn(3, '-');
            let kind = match parts.next()? {
                "block" => FileKind::BlockDevice,
                "char" => FileKind::CharDevice,
                _ => return None,
            };
            let device = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            Some((kind, device))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        let name = |name: &[u8]| Box::from(name);
        let cases: [(&[u8], Redirect); 3] = [
            (b"name", Redirect::Relative(name(b"name"))),
            (b"/a/b\0", Redirect::Absolute(vec![name(b"a"), name(b"b")])),
            (b"/a", Redirect::Absolute(vec![name(b"a")])),
        ];
        for (value, expected) in cases {
            assert_eq!(Redirect::parse(value), expected, "{}", value.escape_ascii());
        }
        for value in [
            &b""[..],
            b"/",
            b"a/b",
            b"/a//b",
            b"/a/../b",
            b"..",
            b"/a/",
            b"a\0b",
        ] {
            assert_eq!(Redirect::parse(value), Redirect::Invalid(name(value)));
        }
    }

    #[test]
    fn overrides() {
        let found = |permissions, kind| {
            Some(Override {
                uid: 1,
                gid: 2,
                permissions,
                kind,
            })
        };
        let cases: [(&[u8], Option<Override>); 9] = [
            (b"1:2:0755", found(0o755, None)),
            (b"1:2:100644", found(0o644, None)),
            (
                b"1:2:4755:file",
                found(0o4755, Some((FileKind::Regular, (0, 0)))),
            ),
            (
                b"1:2:600:char-5-1",
                found(0o600, Some((FileKind::CharDevice, (5, 1)))),
            ),
            (
                b"1:2:777:symlink",
                found(0o777, Some((FileKind::Symlink, (0, 0)))),
            ),
            (b"1:2", None),
            (b"1:2:9", None),
            (b"1:2:6:block-1", None),
            (b"-1:2:6", None),
        ];
        for (value, expected) in cases {
            assert_eq!(Override::parse(value), expected, "{}", value.escape_ascii());
        }
    }
}
