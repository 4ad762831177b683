//! What a default ACL does to something new, as posix_acl_create() of the kernel does it.
//!
//! Only needed for what is made in the work directory: in its place the file system does it.

const ENTRY: usize = 8;
const VERSION: [u8; 4] = 2u32.to_le_bytes();
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The mode of something new, and its access ACL if that says more than the mode. None for a value
/// in a form that is not known.
pub(super) fn inherit(default: &[u8], permissions: u16) -> Option<(u16, Option<Vec<u8>>)> {
    let entries = default.strip_prefix(&VERSION)?;
    let mut value = default.to_vec();
    let mut mode = permissions & 0o777;
    let (chunks, rest) = entries.as_chunks::<ENTRY>();
    if !rest.is_empty() {
        return None;
    }
    let tags: Vec<u16> = chunks
        .iter()
        .map(|[a, b, ..]| u16::from_le_bytes([*a, *b]))
        .collect();
    let group_class = if tags.contains(&MASK) {
        MASK
    } else {
        GROUP_OBJ
    };
    let (_, entries) = value.split_at_mut(VERSION.len());
    for [t0, t1, p0, p1, ..] in entries.as_chunks_mut::<ENTRY>().0 {
        let tag = u16::from_le_bytes([*t0, *t1]);
        let shift = match tag {
            USER_OBJ => 6,
            OTHER => 0,
            tag if tag == group_class => 3,
            _ => continue,
        };
        let allowed = u16::from_le_bytes([*p0, *p1]) & (mode >> shift) & 7;
        [*p0, *p1] = allowed.to_le_bytes();
        mode = (mode & !(7 << shift)) | (allowed << shift);
    }
    let says_more = tags
        .iter()
        .any(|tag| !matches!(*tag, USER_OBJ | GROUP_OBJ | OTHER));
    Some(((permissions & !0o777) | mode, says_more.then_some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut value = VERSION.to_vec();
        for (tag, allowed) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(allowed.to_le_bytes());
            value.extend(u32::MAX.to_le_bytes());
        }
        value
    }

    #[test]
    fn modes_are_masked_by_the_default_acl() {
        let minimal = acl(&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 0)]);
        assert_eq!(inherit(&minimal, 0o666), Some((0o640, None)));
        let full = acl(&[(USER_OBJ, 7), (2, 7), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 5)]);
        let access = acl(&[(USER_OBJ, 6), (2, 7), (GROUP_OBJ, 5), (MASK, 6), (OTHER, 4)]);
        assert_eq!(inherit(&full, 0o2666), Some((0o2664, Some(access))));
        assert_eq!(inherit(b"\x03\0\0\0", 0o666), None);
        assert_eq!(inherit(b"\x02\0\0\0x", 0o666), None);
    }
}
