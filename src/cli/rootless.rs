//! An ordinary user's own user namespace, in which that user is root and may mount.
//!
//! The namespace has the ranges of `/etc/subuid` and `/etc/subgid` where there are any, so that the
//! users of an image are told apart; else nobody but its root.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, User, getegid, geteuid};

use super::environment;
use crate::idmap::{IdMap, IdRanges};
use crate::oci::Rights;

/// Waits until it is told, and then maps; the kernel lets nobody do this to himself.
const MAP: &str = r#"read -r _ && newuidmap "$0" 0 "$1" 1 1 $2 && newgidmap "$0" 0 "$3" 1 1 $4"#;

/// The rights of this process.
pub fn rights() -> Rights {
    if !geteuid().is_root() {
        return Rights::Plain {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        };
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let words: Vec<&str> = map.split_whitespace().collect();
    if words.is_empty() || words == ["0", "0", "4294967295"] {
        Rights::Root
    } else {
        Rights::Namespace
    }
}

/// Moves this process, which has a single thread, into a user and a mount namespace of its own.
///
/// # Errors
/// What unshare(2) reports where user namespaces are forbidden, and what mapping users reports.
pub fn enter() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    let mapper = ranges(user).and_then(|(users, groups)| {
        environment::program("newuidmap")?;
        let waiting = Command::new("sh")
            .args(["-c", MAP])
            .arg(std::process::id().to_string())
            .args([&user.to_string(), &users, &group.to_string(), &groups])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let told = |error| log::debug!("cannot start newuidmap: {error}");
        waiting.map_err(told).ok()
    });
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    if mapper.is_some_and(is_done) {
        return Ok(());
    }
    log::info!(
        "the container has one user: there is no range in /etc/subuid and /etc/subgid, or no newuidmap"
    );
    std::fs::write("/proc/self/uid_map", format!("0 {user} 1\n"))?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/gid_map", format!("0 {group} 1\n"))
}

/// How the owners of an image's files are to be shown to an ordinary user's user namespaces, as podman makes them:
/// root is that user, the others are those of the range. To others they are shown as they are.
pub fn shown_ids() -> IdMap {
    let Rights::Plain { uid, gid } = rights() else {
        return IdMap::default();
    };
    let (users, groups) = ranges(geteuid()).unzip();
    IdMap {
        users: shown(uid, users),
        groups: shown(gid, groups),
        ..IdMap::default()
    }
}

fn shown(own: u32, range: Option<String>) -> IdRanges {
    let range = range.map_or_else(String::new, |range| {
        format!(":1:{}", range.replace(' ', ":"))
    });
    let ranges = format!("0:{own}:1{range}").parse();
    ranges.unwrap_or_default()
}

fn is_done(mut mapper: Child) -> bool {
    let told = mapper.stdin.take().map(|mut stdin| stdin.write_all(b"\n"));
    let ended = mapper.wait();
    matches!((told, ended), (Some(Ok(())), Ok(status)) if status.success())
}

/// First number and count of the user's range in both tables.
fn ranges(user: Uid) -> Option<(String, String)> {
    let name = User::from_uid(user).ok().flatten().map(|user| user.name);
    let number = user.to_string();
    let range = |path: &str| {
        let table = std::fs::read_to_string(Path::new(path)).ok()?;
        range_of(&table, name.as_deref(), &number)
    };
    Some((range("/etc/subuid")?, range("/etc/subgid")?))
}

fn range_of(table: &str, name: Option<&str>, number: &str) -> Option<String> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let whose = fields.next()?;
        let (first, count) = (fields.next()?, fields.next()?);
        let valid =
            first.parse::<u32>().is_ok() && count.parse::<u32>().is_ok_and(|count| count > 0);
        let ours = Some(whose) == name || whose == number;
        (ours && valid).then(|| format!("{first} {count}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_name_and_by_number() {
        let table = "a:100000:65536\n1001:5:x\nb:1:0\n1001:300000:1000\n";
        assert_eq!(range_of(table, Some("a"), "1000").unwrap(), "100000 65536");
        assert_eq!(range_of(table, None, "1001").unwrap(), "300000 1000");
        assert_eq!(range_of(table, Some("b"), "7"), None);
    }
}
