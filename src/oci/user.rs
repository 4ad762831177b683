//! Who a container's process runs as: `user[:group]` of an image, by the container's own tables.

use super::ParseError;

/// The numbers that a `user[:group]` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUser {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups, which the table of groups gives a user whose group was not named; sorted.
    pub additional_gids: Vec<u32>,
    /// The home directory, if the user is in the table.
    pub home: Option<Vec<u8>>,
}

impl ContainerUser {
    /// Looks `spec` up in the contents of `/etc/passwd` and `/etc/group`, as Docker does: names come
    /// before numbers, a number need not be in a table, nothing at all is root.
    ///
    /// # Errors
    /// [`ParseError::User`] for a name that is in no table, and for a number beyond 32 bits.
    pub fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Self, ParseError> {
        let error = |why: &str| ParseError::User {
            text: super::quoted(spec),
            why: why.to_owned(),
        };
        let (user, named_group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (spec, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let number = id(user.as_bytes());
        let by_name = users(passwd).find(|entry| entry.name == user.as_bytes());
        let entry = by_name.or_else(|| users(passwd).find(|entry| Some(entry.uid) == number));
        let uid = match (&entry, number) {
            (Some(entry), _) => entry.uid,
            (None, Some(number)) => number,
            (None, None) => return Err(error("it is not in the image's /etc/passwd")),
        };
        let mut resolved = ContainerUser {
            uid,
            gid: entry.as_ref().map_or(0, |entry| entry.gid),
            additional_gids: Vec::new(),
            home: entry.as_ref().map(|entry| entry.home.to_vec()),
        };
        match named_group {
            Some(named) => {
                let by_name = groups(group).find(|entry| entry.name == named.as_bytes());
                let gid = by_name
                    .map(|entry| entry.gid)
                    .or_else(|| id(named.as_bytes()));
                resolved.gid =
                    gid.ok_or_else(|| error("its group is not in the image's /etc/group"))?;
            }
            None => {
                let name = entry.as_ref().map_or(user.as_bytes(), |entry| entry.name);
                let member =
                    |entry: &Group<'_>| entry.members.split(|&b| b == b',').any(|m| m == name);
                let gids = groups(group).filter(member).map(|entry| entry.gid);
                resolved.additional_gids = gids.filter(|&gid| gid != resolved.gid).collect();
                resolved.additional_gids.sort_unstable();
                resolved.additional_gids.dedup();
            }
        }
        Ok(resolved)
    }
}

struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// The lines of a table that can be read; others are left out, as the C library does.
fn users(table: &[u8]) -> impl Iterator<Item = User<'_>> {
    rows(table).filter_map(|mut fields| {
        let name = fields.next()?;
        let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
        let home = fields.nth(1).unwrap_or_default();
        Some(User {
            name,
            uid,
            gid,
            home,
        })
    })
}

fn groups(table: &[u8]) -> impl Iterator<Item = Group<'_>> {
    rows(table).filter_map(|mut fields| {
        let name = fields.next()?;
        let gid = id(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default();
        Some(Group { name, gid, members })
    })
}

fn rows(table: &[u8]) -> impl Iterator<Item = impl Iterator<Item = &[u8]>> {
    let lines = table.split(|&byte| byte == b'\n');
    lines
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| line.split(|&byte| byte == b':'))
}

/// A number of decimal digits alone: `+1` is none.
fn id(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| str::from_utf8(text).ok()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# c\n\nbroken:x:y\n\
        app:x:1000:100:App:/srv/app:/bin/sh\n42:x:7:8::/seven:\nshort:x:9:9";
    const GROUP: &[u8] = b"root:x:0:\nusers:x:100:\nwheel:x:10:root,app\naudio:x:5:app\nempty:x:6";

    fn resolve(spec: &str) -> (u32, u32, Vec<u32>, Option<String>) {
        let user = ContainerUser::resolve(spec, PASSWD, GROUP).unwrap();
        let home = user.home.map(|home| String::from_utf8(home).unwrap());
        (user.uid, user.gid, user.additional_gids, home)
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        let home = |home: &str| Some(home.to_owned());
        for (spec, expected) in [
            ("", (0, 0, vec![10], home("/root"))),
            ("root", (0, 0, vec![10], home("/root"))),
            ("app", (1000, 100, vec![5, 10], home("/srv/app"))),
            ("1000", (1000, 100, vec![5, 10], home("/srv/app"))),
            ("app:wheel", (1000, 10, vec![], home("/srv/app"))),
            ("app:77", (1000, 77, vec![], home("/srv/app"))),
            ("app:", (1000, 100, vec![5, 10], home("/srv/app"))),
            (":wheel", (0, 10, vec![], home("/root"))),
            // A name before the number that it looks like.
            ("42", (7, 8, vec![], home("/seven"))),
            ("5000", (5000, 0, vec![], None)),
            ("5000:5001", (5000, 5001, vec![], None)),
            ("short", (9, 9, vec![], home(""))),
        ] {
            assert_eq!(resolve(spec), expected, "{spec:?}");
        }
    }

    #[test]
    fn who_is_in_no_table() {
        for spec in [
            "nobody",
            "broken",
            "app:nogroup",
            "-1",
            "+5",
            "4294967296",
            "a b",
        ] {
            let error = ContainerUser::resolve(spec, PASSWD, GROUP).unwrap_err();
            assert!(error.to_string().contains("no such"), "{spec}: {error}");
        }
        assert_eq!(
            ContainerUser::resolve("0", b"", b"").unwrap().uid,
            0,
            "an image without tables"
        );
    }
}
