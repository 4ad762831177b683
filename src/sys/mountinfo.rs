//! The mounts of this mount namespace, from `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of the table of mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Number of the mount; used again after it is gone.
    pub id: u64,
    /// Major and minor number of the super block.
    pub device: (u32, u32),
    /// Where it is mounted, as this process sees it.
    pub point: PathBuf,
    /// Its options: those of the mount, a comma, those of the super block.
    pub options: OsString,
    /// Whether its super block is read-only, so that no mount of it can be written to.
    pub is_read_only: bool,
    /// Type of file system.
    pub kind: OsString,
    /// What it shows as its source.
    pub source: OsString,
    /// The options of the super block as the kernel writes them: a comma within a value is escaped.
    super_options: Vec<u8>,
}

impl MountEntry {
    /// Who made a FUSE mount, as its options tell.
    #[must_use]
    pub fn user_id(&self) -> Option<u32> {
        let options = self.options.to_str()?;
        let mut values = options
            .split(',')
            .filter_map(|option| option.strip_prefix("user_id="));
        values.next()?.parse().ok()
    }

    /// The upper directory of a mount of the kernel's overlay, as whoever mounted it named it.
    #[must_use]
    pub fn upper(&self) -> Option<PathBuf> {
        self.overlay_path(b"upperdir=")
    }

    /// The lower directory of a mount of the kernel's overlay that has a single one.
    #[must_use]
    pub fn lower(&self) -> Option<PathBuf> {
        self.overlay_path(b"lowerdir=")
    }

    /// The overlay has its own escapes within those of the table.
    fn overlay_path(&self, option: &[u8]) -> Option<PathBuf> {
        if self.kind != "overlay" {
            return None;
        }
        let mut fields = self.super_options.split(|&byte| byte == b',');
        let value = unescape(fields.find_map(|field| field.strip_prefix(option))?).into_vec();
        let mut path = Vec::with_capacity(value.len());
        let mut bytes = value.into_iter();
        while let Some(byte) = bytes.next() {
            path.extend(match byte {
                b'\\' => bytes.next(),
                byte => Some(byte),
            });
        }
        Some(OsString::from_vec(path).into())
    }
}

/// All mounts, in the order in which they were made: the last one at a place is what is seen.
///
/// # Errors
/// What reading `/proc/self/mountinfo` reports.
pub fn all() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Reads the whole table; lines of another shape are passed over.
fn parse(table: &[u8]) -> Vec<MountEntry> {
    table
        .split(|&byte| byte == b'\n')
        .filter_map(line)
        .collect()
}

fn line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let _parent = fields.next()?;
    let device = fields.next()?;
    let colon = device.iter().position(|&byte| byte == b':')?;
    let (major, minor) = (
        number(device.get(..colon)?)?,
        number(device.get(colon + 1..)?)?,
    );
    let _root = fields.next()?;
    let point = PathBuf::from(unescape(fields.next()?));
    let mut options = fields.next()?.to_vec();
    // Any number of optional fields end with a dash.
    fields.find(|&field| field == b"-")?;
    let kind = unescape(fields.next()?);
    let source = unescape(fields.next()?);
    let mut is_read_only = false;
    let super_options = fields.next().unwrap_or_default().to_vec();
    if !super_options.is_empty() {
        let more = &super_options;
        is_read_only = more.split(|&byte| byte == b',').any(|it| it == b"ro");
        options.push(b',');
        options.extend_from_slice(more);
    }
    let device = (u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
    Some(MountEntry {
        id,
        device,
        point,
        options: unescape(&options),
        is_read_only,
        kind,
        source,
        super_options,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Undoes the kernel's `\040` for a space and its like.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = |byte: &u8| matches!(byte, b'0'..=b'7').then(|| u32::from(byte - b'0'));
        let code = match after {
            [a, b, c, ..] if byte == b'\\' => octal(a)
                .zip(octal(b))
                .zip(octal(c))
                .and_then(|((a, b), c)| u8::try_from(a * 64 + b * 8 + c).ok()),
            _ => None,
        };
        match code {
            Some(code) => {
                plain.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_line_with_odd_names_is_read() {
        let table = b"36 35 98:0 / /mnt\\040a\\134b\xff rw,nosuid shared:1 master:2 - fuse.plyfs deb\\054ian ro,user_id=0\n";
        let mounts = parse(table);
        let [mount] = mounts.as_slice() else {
            panic!("{mounts:?}")
        };
        assert_eq!(mount.id, 36);
        assert_eq!(mount.device, (98, 0));
        assert_eq!(mount.point.as_os_str().as_bytes(), b"/mnt a\\b\xff");
        assert_eq!(mount.kind, "fuse.plyfs");
        assert_eq!(mount.source, "deb,ian");
        assert_eq!(mount.options, "rw,nosuid,ro,user_id=0");
        assert_eq!(mount.user_id(), Some(0));
    }

    #[test]
    fn values_of_options_are_told_from_their_separators() {
        let table = b"36 35 0:40 / /m rw - overlay x rw,lowerdir=/a\\134:b,upperdir=/u\\134\\054v,work=/w\n";
        let mounts = parse(table);
        assert_eq!(mounts[0].upper(), Some("/u,v".into()));
        assert_eq!(mounts[0].lower(), Some("/a:b".into()));
    }

    #[test]
    fn lines_of_another_shape_are_passed_over() {
        assert_eq!(parse(b"\nx y z\n1 2 3\n36 35 98:0 / /m rw - \n"), vec![]);
    }
}
