//! The vocabulary of absence: how layers say that a name is gone, in every dialect we read.
//!
//! Pure: names and values in, meanings out.
//!
//! # See
//! `Documentation/filesystems/overlayfs.rst` (whiteouts, opaque directories, xattr escapes) and
//! the OCI image specification, `layer.md`.

use std::borrow::Cow;

/// The prefix of AUFS whiteouts, which is also that of OCI layers.
pub const PREFIX: &[u8] = b".wh.";
/// The AUFS and OCI mark of an opaque directory.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names with this prefix belong to AUFS itself.
const RESERVED: &[u8] = b".wh..wh.";

/// What a `.wh.` name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker<'a> {
    /// This name is hidden.
    Whiteout(&'a [u8]),
    /// The directory hides all that lower layers have in it.
    Opaque,
    /// AUFS' own bookkeeping: ignored.
    Reserved,
    /// `.wh.` followed by nothing, `.` or `..`: no dialect gives it a meaning.
    Invalid,
}

/// Reads a name as a marker; `None` is an ordinary name.
#[must_use]
pub fn marker(name: &[u8]) -> Option<Marker<'_>> {
    let hidden = name.strip_prefix(PREFIX)?;
    Some(if name == OPAQUE {
        Marker::Opaque
    } else if name.starts_with(RESERVED) {
        Marker::Reserved
    } else if hidden.is_empty() || hidden == b"." || hidden == b".." {
        Marker::Invalid
    } else {
        Marker::Whiteout(hidden)
    })
}

/// The namespaces in which overlay filesystems keep their own attributes.
const PRIVATE: [&[u8]; 3] = [
    b"trusted.overlay.",
    b"user.overlay.",
    b"user.fuseoverlayfs.",
];
/// Below this prefix in a private namespace stands an attribute of a nested overlay, escaped.
const ESCAPE: &[u8] = b"overlay.";

/// The name under which a layer stores what users know as `name`; `None` when users cannot have
/// such an attribute.
#[must_use]
pub fn stored_xattr_name(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    for namespace in [&b"trusted."[..], b"user."] {
        let overlay = [namespace, ESCAPE].concat();
        if let Some(rest) = name.strip_prefix(overlay.as_slice()) {
            return Some(Cow::Owned([namespace, ESCAPE, ESCAPE, rest].concat()));
        }
    }
    (!name.starts_with(b"user.fuseoverlayfs.")).then_some(Cow::Borrowed(name))
}

/// The name by which users know the stored attribute `name`; `None` when it is private.
#[must_use]
pub fn shown_xattr_name(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    for prefix in PRIVATE {
        let Some(rest) = name.strip_prefix(prefix) else {
            continue;
        };
        if prefix == b"user.fuseoverlayfs." {
            return None;
        }
        let nested = rest.strip_prefix(ESCAPE)?;
        return Some(Cow::Owned([prefix, nested].concat()));
    }
    Some(Cow::Borrowed(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers() {
        let cases: [(&[u8], Option<Marker<'_>>); 8] = [
            (b"plain", None),
            (b".wh", None),
            (b".wh.a", Some(Marker::Whiteout(b"a"))),
            (b".wh..a", Some(Marker::Whiteout(b".a"))),
            (b".wh..wh..opq", Some(Marker::Opaque)),
            (b".wh..wh.plnk", Some(Marker::Reserved)),
            (b".wh.", Some(Marker::Invalid)),
            (b".wh...", Some(Marker::Invalid)),
        ];
        for (name, expected) in cases {
            assert_eq!(marker(name), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn private_attributes_are_hidden_and_nested_ones_unescaped() {
        assert_eq!(shown_xattr_name(b"trusted.overlay.opaque"), None);
        assert_eq!(shown_xattr_name(b"user.fuseoverlayfs.origin"), None);
        assert_eq!(
            shown_xattr_name(b"user.overlay.overlay.opaque").as_deref(),
            Some(&b"user.overlay.opaque"[..])
        );
        assert_eq!(
            shown_xattr_name(b"user.mime").as_deref(),
            Some(&b"user.mime"[..])
        );
        assert_eq!(
            stored_xattr_name(b"trusted.overlay.opaque").as_deref(),
            Some(&b"trusted.overlay.overlay.opaque"[..])
        );
        assert_eq!(stored_xattr_name(b"user.fuseoverlayfs.x"), None);
    }
}
