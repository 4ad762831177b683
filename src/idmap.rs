//! Which owner is shown for the owner on disk, and which is stored for the owner that is meant.
//!
//! Container runtimes without privileges ask for it (`uidmapping=`, `gidmapping=`, `squash_to_*`),
//! because the layers they hand over belong to subordinate ids. Pure: numbers in, numbers out.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// What an id that no range maps is shown as (`/proc/sys/kernel/overflowuid`).
pub const OVERFLOW: u32 = 65534;

/// A run of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    stored: u32,
    shown: u32,
    length: u32,
}

/// Ranges of ids; without any, ids are left as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdRanges(Vec<Range>);

/// Why a text is no list of ranges.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A field is no number.
    #[error("{0:?} is not an id")]
    Number(String),
    /// The number of fields is not a multiple of three.
    #[error("ids come in threes: id on disk, id shown, length")]
    Fields,
    /// A range ends beyond the largest id.
    #[error("the range that begins with {0} is too long")]
    Length(u32),
}

impl FromStr for IdRanges {
    type Err = ParseError;

    /// Reads `STORED:SHOWN:LENGTH[:STORED:SHOWN:LENGTH...]`, with or without a colon in front.
    fn from_str(text: &str) -> Result<IdRanges, ParseError> {
        let text = text.strip_prefix(':').unwrap_or(text);
        if text.is_empty() {
            return Ok(IdRanges::default());
        }
        let numbers = text
            .split(':')
            .map(|field| {
                field
                    .parse()
                    .map_err(|_| ParseError::Number(field.to_owned()))
            })
            .collect::<Result<Vec<u32>, _>>()?;
        let (triples, rest) = numbers.as_chunks::<3>();
        if !rest.is_empty() {
            return Err(ParseError::Fields);
        }
        let range = |&[stored, shown, length]: &[u32; 3]| {
            if stored.checked_add(length).is_none() || shown.checked_add(length).is_none() {
                return Err(ParseError::Length(stored));
            }
            Ok(Range {
                stored,
                shown,
                length,
            })
        };
        triples
            .iter()
            .map(range)
            .collect::<Result<_, _>>()
            .map(IdRanges)
    }
}

impl fmt::Display for IdRanges {
    /// Writes what [`IdRanges::from_str`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, range) in self.0.iter().enumerate() {
            let colon = if number == 0 { "" } else { ":" };
            let Range {
                stored,
                shown,
                length,
            } = range;
            write!(f, "{colon}{stored}:{shown}:{length}")?;
        }
        Ok(())
    }
}

impl IdRanges {
    /// The id that is shown for the id on disk.
    #[must_use]
    pub fn shown(&self, stored: u32) -> u32 {
        if self.0.is_empty() {
            return stored;
        }
        self.0
            .iter()
            .find_map(|range| {
                let distance = stored.checked_sub(range.stored)?;
                (distance < range.length).then(|| range.shown + distance)
            })
            .unwrap_or(OVERFLOW)
    }

    /// The id on disk for an id that users mean; `None` when none is mapped to it.
    #[must_use]
    pub fn stored(&self, shown: u32) -> Option<u32> {
        if self.0.is_empty() {
            return Some(shown);
        }
        self.0.iter().find_map(|range| {
            let distance = shown.checked_sub(range.shown)?;
            (distance < range.length).then(|| range.stored + distance)
        })
    }

    /// The id on disk of what somebody makes: [`OVERFLOW`] for who is not mapped. podman makes files in a
    /// container as its own user, whom the mapping of the container lacks.
    #[must_use]
    pub fn stored_of_maker(&self, shown: u32) -> u32 {
        self.stored(shown).unwrap_or(OVERFLOW)
    }
}

/// How owners on disk and owners shown belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    /// `uidmapping=`
    pub users: IdRanges,
    /// `gidmapping=`
    pub groups: IdRanges,
    /// `squash_to_uid=`: everything is shown as owned by this user.
    pub squash_to_uid: Option<u32>,
    /// `squash_to_gid=`: everything is shown as owned by this group.
    pub squash_to_gid: Option<u32>,
    /// `squash_to_root`: user and group 0, where the two above say nothing.
    pub squash_to_root: bool,
}

impl IdMap {
    /// Whether ids are left as they are.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        *self == IdMap::default()
    }

    /// The user that is shown for the user on disk.
    #[must_use]
    pub fn shown_uid(&self, stored: u32) -> u32 {
        self.squash(self.squash_to_uid)
            .unwrap_or_else(|| self.users.shown(stored))
    }

    /// The group that is shown for the group on disk.
    #[must_use]
    pub fn shown_gid(&self, stored: u32) -> u32 {
        self.squash(self.squash_to_gid)
            .unwrap_or_else(|| self.groups.shown(stored))
    }

    fn squash(&self, to: Option<u32>) -> Option<u32> {
        to.or(self.squash_to_root.then_some(0))
    }

    /// The value of a `system.posix_acl_*` attribute with the ids that are shown. A value in a
    /// form that is not known is left as it is.
    #[must_use]
    pub fn shown_acl<'a>(&self, value: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
        self.map_acl(value, |ranges, id| Some(ranges.shown(id)))
            .unwrap_or_default()
    }

    /// The other way: the value to store for one that is meant; `None` when an id in it cannot be
    /// stored.
    #[must_use]
    pub fn stored_acl<'a>(&self, value: Cow<'a, [u8]>) -> Option<Cow<'a, [u8]>> {
        self.map_acl(value, IdRanges::stored)
    }

    fn map_acl<'a>(
        &self,
        value: Cow<'a, [u8]>,
        map: impl Fn(&IdRanges, u32) -> Option<u32>,
    ) -> Option<Cow<'a, [u8]>> {
        const VERSION: [u8; 4] = 2u32.to_le_bytes();
        const USER: [u8; 2] = 2u16.to_le_bytes();
        const GROUP: [u8; 2] = 8u16.to_le_bytes();
        if (self.users.0.is_empty() && self.groups.0.is_empty()) || !value.starts_with(&VERSION) {
            return Some(value);
        }
        let mut value = value.into_owned();
        let (_, entries) = value.split_at_mut(VERSION.len());
        for entry in entries.as_chunks_mut::<8>().0 {
            let [t0, t1, _, _, id @ ..] = entry;
            let ranges = match [*t0, *t1] {
                USER => &self.users,
                GROUP => &self.groups,
                _ => continue,
            };
            *id = map(ranges, u32::from_le_bytes(*id))?.to_le_bytes();
        }
        Some(Cow::Owned(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let map: IdRanges = ":0:1000:1:1:100000:65536"
            .parse()
            .expect("a list of ranges");
        assert_eq!(map, "0:1000:1:1:100000:65536".parse().expect("the same"));
        for (stored, shown) in [(0, 1000), (1, 100_000), (65536, 165_535)] {
            assert_eq!(map.shown(stored), shown);
            assert_eq!(map.stored(shown), Some(stored));
        }
        assert_eq!(map.shown(65537), OVERFLOW);
        assert_eq!(map.stored(1001), None);
        assert_eq!(
            (map.stored_of_maker(1001), map.stored_of_maker(1000)),
            (OVERFLOW, 0)
        );
        assert_eq!(IdRanges::default().shown(u32::MAX), u32::MAX);
        assert_eq!("".parse(), Ok(IdRanges::default()));
    }

    #[test]
    fn what_is_no_list_of_ranges() {
        let cases = [
            ("1:2", ParseError::Fields),
            ("a:0:1", ParseError::Number("a".into())),
            ("1::1", ParseError::Number(String::new())),
            ("-1:0:1", ParseError::Number("-1".into())),
            ("4294967295:0:2", ParseError::Length(u32::MAX)),
            ("0:4294967296:1", ParseError::Number("4294967296".into())),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<IdRanges>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_user_wins_over_root_and_root_over_ranges() {
        let map = IdMap {
            users: "0:5:10".parse().expect("a range"),
            squash_to_uid: Some(7),
            squash_to_root: true,
            ..IdMap::default()
        };
        assert_eq!((map.shown_uid(1), map.shown_gid(1)), (7, 0));
        assert!(!map.is_identity());
    }

    #[test]
    fn acl_entries_of_users_and_groups_are_mapped() {
        let map = IdMap {
            users: "1:101:10".parse().expect("a range"),
            groups: "1:201:10".parse().expect("a range"),
            ..IdMap::default()
        };
        let acl = |user: u32, group: u32| {
            let mut value = vec![2, 0, 0, 0];
            for (tag, id) in [(1u16, u32::MAX), (2, user), (4, u32::MAX), (8, group)] {
                value.extend(tag.to_le_bytes());
                value.extend(6u16.to_le_bytes());
                value.extend(id.to_le_bytes());
            }
            value
        };
        assert_eq!(map.shown_acl(acl(1, 2).into()), acl(101, 202));
        assert_eq!(map.stored_acl(acl(101, 202).into()), Some(acl(1, 2).into()));
        assert_eq!(map.stored_acl(acl(1, 2).into()), None);
        let other = Cow::Borrowed(&b"\x03\0\0\0"[..]);
        assert_eq!(map.shown_acl(other.clone()), other);
    }
}
