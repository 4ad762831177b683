//! The 512 bytes of a tar header.
//!
//! The field layout is that of the `tar` crate; numbers are read here, because signed base-256
//! numbers and range checks matter and the crate has neither.

use tar::Header;

use super::Problem;

/// A tar block.
pub(super) const BLOCK: usize = 512;

/// Entry types of GNU tar and PAX that the standard entry types lack.
pub(super) const GNU_SPARSE: u8 = b'S';

/// A header whose checksum is right.
pub(super) struct Block<'a>(&'a Header);

impl<'a> Block<'a> {
    /// Verifies the checksum of `bytes`.
    pub(super) fn new(bytes: &'a [u8; BLOCK]) -> Result<Block<'a>, Problem> {
        let header = Header::from_byte_slice(bytes);
        let field = &header.as_old().cksum;
        let stated = number(field, "checksum")?;
        let all: i64 = bytes.iter().map(|byte| i64::from(*byte)).sum();
        let own: i64 = field.iter().map(|byte| i64::from(*byte)).sum();
        let unsigned = all - own + 8 * i64::from(b' ');
        if stated == unsigned {
            return Ok(Block(header));
        }
        // Some historic writers added the bytes up as signed numbers.
        let high = bytes.iter().filter(|byte| **byte >= 0x80).count() as i64;
        let own_high = field.iter().filter(|byte| **byte >= 0x80).count() as i64;
        if stated == unsigned - 256 * (high - own_high) {
            return Ok(Block(header));
        }
        Err(Problem::Checksum)
    }

    /// The type byte.
    pub(super) fn kind(&self) -> u8 {
        let [kind] = self.0.as_old().linkflag;
        kind
    }

    /// Bytes of data that follow, if the type has any.
    pub(super) fn size(&self) -> Result<u64, Problem> {
        unsigned(&self.0.as_old().size, "size")
    }

    /// Permission bits, without the file type that some writers add.
    pub(super) fn permissions(&self) -> Result<u16, Problem> {
        Ok((number(&self.0.as_old().mode, "mode")? & 0o7777) as u16)
    }

    /// Owner.
    pub(super) fn uid(&self) -> Result<u32, Problem> {
        owner(number(&self.0.as_old().uid, "uid")?, "uid")
    }

    /// Group.
    pub(super) fn gid(&self) -> Result<u32, Problem> {
        owner(number(&self.0.as_old().gid, "gid")?, "gid")
    }

    /// Whole seconds of the time of modification.
    pub(super) fn mtime(&self) -> Result<i64, Problem> {
        number(&self.0.as_old().mtime, "mtime")
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self) -> Result<(u32, u32), Problem> {
        let (major, minor) = match (self.0.as_ustar(), self.0.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            (None, None) => return Ok((0, 0)),
        };
        let part =
            |field, what| u32::try_from(number(field, what)?).map_err(|_| Problem::Number(what));
        Ok((part(major, "device number")?, part(minor, "device number")?))
    }

    /// Appends the path to `path`.
    pub(super) fn path(&self, path: &mut Vec<u8>) {
        if let Some(ustar) = self.0.as_ustar() {
            let bytes = self.0.as_bytes();
            // The star format has a shorter prefix, because times follow it.
            let length = if bytes.ends_with(b"tar\0") { 131 } else { 155 };
            let prefix = text(ustar.prefix.get(..length).unwrap_or_default());
            if !prefix.is_empty() {
                path.extend_from_slice(prefix);
                path.push(b'/');
            }
        }
        path.extend_from_slice(text(&self.0.as_old().name));
    }

    /// The link target.
    pub(super) fn link(&self) -> &[u8] {
        text(&self.0.as_old().linkname)
    }

    /// The fields of the old GNU sparse format.
    pub(super) fn gnu(&self) -> Option<&tar::GnuHeader> {
        self.0.as_gnu()
    }
}

/// The bytes of a field up to its NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// An owner: 32 bits, where -1 stands for none and negative numbers wrap as in chown(2).
pub(super) fn owner(value: i64, what: &'static str) -> Result<u32, Problem> {
    let wrapped = i32::try_from(value)
        .map(|value| value as u32)
        .or_else(|_| u32::try_from(value));
    wrapped
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or(Problem::Number(what))
}

/// A number that cannot be negative.
pub(super) fn unsigned(field: &[u8], what: &'static str) -> Result<u64, Problem> {
    u64::try_from(number(field, what)?).map_err(|_| Problem::Number(what))
}

/// A numeric field: octal between spaces and NULs, or GNU's signed base 256.
pub(super) fn number(field: &[u8], what: &'static str) -> Result<i64, Problem> {
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => {
            // Two's complement over the whole field without the marking bit.
            let start = if first & 0x40 == 0 { 0 } else { -1 };
            let start = (start << 7) | i64::from(first & 0x7f);
            rest.iter().try_fold(start, |value, byte| {
                value.checked_mul(256).map(|value| value | i64::from(*byte))
            })
        }
        _ => {
            let padding = |byte: &u8| *byte == 0 || *byte == b' ';
            let start = field
                .iter()
                .position(|byte| !padding(byte))
                .unwrap_or(field.len());
            let digits = text(field.get(start..).unwrap_or_default()).trim_ascii_end();
            digits.iter().try_fold(0_i64, |value, byte| match byte {
                b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
                _ => None,
            })
        }
    }
    .ok_or(Problem::Number(what))
}

/// A decimal number that is not negative.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}
