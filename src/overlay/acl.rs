//! What ACLs and modes have to do with one another: a default ACL with something new, as posix_acl_create() of the
//! kernel does it, and an access ACL with the mode of its file.
//!
//! The first is only needed for what is made in the work directory, the second for a plain user's upper: elsewhere
//! the file system does it.

const ENTRY: usize = 8;
const VERSION: [u8; 4] = 2u32.to_le_bytes();
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The mode of something new, and its access ACL if that says more than the mode. None for a value
/// in a form that is not known.
pub(super) fn inherit(default: &[u8], permissions: u16) -> Option<(u16, Option<Vec<u8>>)> {
    let mut value = default.to_vec();
    let mut mode = permissions & 0o777;
    let says_more = each_class(&mut value, |shift, allowed| {
        let allowed = allowed & (mode >> shift);
        mode = (mode & !(7 << shift)) | (allowed << shift);
        allowed
    })?;
    Some(((permissions & !0o777) | mode, says_more.then_some(value)))
}

/// What an access ACL makes of the mode of its file, and whether it says more than the mode then does.
pub(super) fn mode_of(access: &[u8], permissions: u16) -> Option<(u16, bool)> {
    let mut mode = permissions;
    let says_more = each_class(&mut access.to_vec(), |shift, allowed| {
        mode = (mode & !(7 << shift)) | (allowed << shift);
        allowed
    })?;
    Some((mode, says_more))
}

/// An access ACL after chmod(2).
pub(super) fn with_mode(access: &[u8], permissions: u16) -> Option<Vec<u8>> {
    let mut value = access.to_vec();
    each_class(&mut value, |shift, _| (permissions >> shift) & 7)?;
    Some(value)
}

/// Lets `change` say what the owner, the group class and others may, each with its place in the mode. Says
/// whether the ACL has more entries than these. None for a value in a form that is not known.
fn each_class(acl: &mut [u8], mut change: impl FnMut(u16, u16) -> u16) -> Option<bool> {
    let entries = acl.strip_prefix(&VERSION)?;
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
    let (_, entries) = acl.split_at_mut(VERSION.len());
    for [t0, t1, p0, p1, ..] in entries.as_chunks_mut::<ENTRY>().0 {
        let tag = u16::from_le_bytes([*t0, *t1]);
        let shift = match tag {
            USER_OBJ => 6,
            OTHER => 0,
            tag if tag == group_class => 3,
            _ => continue,
        };
        let allowed = change(shift, u16::from_le_bytes([*p0, *p1]) & 7);
        [*p0, *p1] = allowed.to_le_bytes();
    }
    let says_more = |tag: &u16| !matches!(*tag, USER_OBJ | GROUP_OBJ | OTHER);
    Some(tags.iter().any(says_more))
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

    #[test]
    fn modes_and_access_acls_say_the_same() {
        let minimal = acl(&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 0)]);
        assert_eq!(mode_of(&minimal, 0o4600), Some((0o4750, false)));
        let full = acl(&[(USER_OBJ, 6), (2, 7), (GROUP_OBJ, 5), (MASK, 4), (OTHER, 1)]);
        assert_eq!(mode_of(&full, 0o777), Some((0o641, true)));
        let changed = acl(&[(USER_OBJ, 7), (2, 7), (GROUP_OBJ, 5), (MASK, 2), (OTHER, 0)]);
        assert_eq!(with_mode(&full, 0o2720), Some(changed));
        assert_eq!(mode_of(b"\x02\0\0\0x", 0), None);
    }
}
