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

/// In which namespace of extended attributes a mount keeps its marks, and believes those that it finds.
///
/// Anybody can set a `user.` attribute of what is his: a mount for several users that believed those would show
/// him what others keep from him (`overlay.redirect`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// `trusted.overlay.`, which only the privileged can write and see.
    #[default]
    Trusted,
    /// `user.overlay.`, and `user.fuseoverlayfs.` of earlier days.
    User,
}

/// Below this prefix in a private namespace stands an attribute of a nested overlay, escaped.
const ESCAPE: &[u8] = b"overlay.";
const LEGACY: &[u8] = b"user.fuseoverlayfs.";

impl Namespace {
    /// `trusted.` or `user.`, in which marks are written.
    #[must_use]
    pub fn prefix(self) -> &'static [u8] {
        match self {
            Namespace::Trusted => b"trusted.",
            Namespace::User => b"user.",
        }
    }

    /// What is marked, if `name` is the name of a mark: the part after `overlay.`.
    #[must_use]
    pub fn mark(self, name: &[u8]) -> Option<&[u8]> {
        self.split(name).map(|(_, rest)| rest)
    }

    /// The same, with the prefix. Who believes `user.` marks believes those of the privileged too.
    fn split(self, name: &[u8]) -> Option<(&'static [u8], &[u8])> {
        let prefixes: &[&'static [u8]] = match self {
            Namespace::Trusted => &[b"trusted.overlay."],
            Namespace::User => &[b"trusted.overlay.", b"user.overlay.", LEGACY],
        };
        let split = |prefix: &&'static [u8]| name.strip_prefix(*prefix).map(|rest| (*prefix, rest));
        prefixes.iter().find_map(split)
    }

    /// The name under which a layer stores what users know as `name`; `None` when users cannot have
    /// such an attribute.
    #[must_use]
    pub fn stored_name(self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self.split(name) {
            None => Some(Cow::Borrowed(name)),
            Some((LEGACY, _)) => None,
            Some((prefix, rest)) => Some(Cow::Owned([prefix, ESCAPE, rest].concat())),
        }
    }

    /// The name by which users know the stored attribute `name`; `None` when it is private.
    #[must_use]
    pub fn shown_name(self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self.split(name) {
            None => Some(Cow::Borrowed(name)),
            Some((LEGACY, _)) => None,
            Some((prefix, rest)) => {
                let nested = rest.strip_prefix(ESCAPE)?;
                Some(Cow::Owned([prefix, nested].concat()))
            }
        }
    }
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
        type Case = (Namespace, &'static [u8], Option<&'static [u8]>);
        let cases: [Case; 7] = [
            (Namespace::Trusted, b"trusted.overlay.opaque", None),
            (Namespace::User, b"user.fuseoverlayfs.origin", None),
            (Namespace::User, b"user.overlay.origin", None),
            (
                Namespace::User,
                b"user.overlay.overlay.opaque",
                Some(b"user.overlay.opaque"),
            ),
            (
                Namespace::Trusted,
                b"user.overlay.overlay.opaque",
                Some(b"user.overlay.overlay.opaque"),
            ),
            (
                Namespace::Trusted,
                b"user.fuseoverlayfs.x",
                Some(b"user.fuseoverlayfs.x"),
            ),
            (Namespace::User, b"user.mime", Some(b"user.mime")),
        ];
        for (namespace, stored, shown) in cases {
            let name = stored.escape_ascii();
            assert_eq!(
                namespace.shown_name(stored).as_deref(),
                shown,
                "{namespace:?} {name}"
            );
            if let Some(shown) = shown {
                assert_eq!(namespace.stored_name(shown).as_deref(), Some(stored));
            }
        }
        assert_eq!(Namespace::User.stored_name(b"user.fuseoverlayfs.x"), None);
    }
}
