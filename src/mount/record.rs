//! What a serving process tells of its mount, for whoever lists mounts.
//!
//! It lies in the memory of that process, under a descriptor that others of the same user (and root)
//! find in `/proc/<pid>/fd`. So it needs no directory, and is gone when the process is, whatever ends it.
//!
//! # Invariants
//! * A mount is known by the device number of its super block, which is nobody else's while it is
//!   served; so copies of the mount in other places and namespaces are known too.
//! * Anybody can publish a lie. It is believed only of a process of the user who made the mount.
//! * Anybody can give any descriptor the name of ours. Only a sealed file in the memory of the kernel is
//!   opened and read, so whoever looks never waits for another process.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::mountinfo::{self, MountEntry};

/// The name of the descriptor, and what the link in `/proc` says of it.
const NAME: &str = "plyfs-mount";
const LINK: &[u8] = b"/memfd:plyfs-mount (deleted)";

/// More than any honest record has: 65 thousand layers of 200 bytes.
const LONGEST: u64 = 16 << 20;

/// A live mount and how it came about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountRecord {
    /// Major and minor number of the super block; filled in when it is mounted.
    pub device: (u32, u32),
    /// The image, if one is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The directory that takes the changes, as [`super::path_text`] has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<String>,
    /// What is below, topmost first: directories (as [`super::path_text`] has them), or the diffIDs of an image's layers.
    pub layers: Vec<String>,
    /// Of a mount that outlives the process that serves it: the numbers of the descriptors by which its holder is
    /// asked for something, and answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<(RawFd, RawFd)>,
}

/// A process that serves a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its number.
    pub pid: u32,
    /// The user it runs as.
    pub uid: u32,
    /// What it tells.
    pub record: MountRecord,
}

impl Server {
    /// Whether it serves the mount `entry`.
    #[must_use]
    pub fn serves(&self, entry: &MountEntry) -> bool {
        self.record.device == entry.device && mountinfo::owner(entry) == Some(self.uid)
    }

    /// Whether it serves that mount still.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let Ok(memory) = memory() else { return false };
        let now = of_process(self.pid, &memory, &|uid| uid == self.uid);
        now.is_some_and(|now| now.record.device == self.record.device)
    }
}

/// What is never undone of a record, so that reading it neither waits nor ends early.
const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Publishes `record` until the result is dropped.
pub(super) fn publish(record: &MountRecord) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(NAME, flags)?);
    file.write_all(&serde_json::to_vec(record)?)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(file)
}

/// As [`publish`]; a mount that cannot be published lives all the same.
pub(super) fn publish_or_not(record: &MountRecord) -> Option<File> {
    let published = publish(record);
    published
        .inspect_err(|error| log::debug!("the mount will be listed without details: {error}"))
        .ok()
}

/// The processes that serve mounts of this mount namespace and may be looked at.
///
/// # Errors
/// What reading `/proc` reports.
pub fn servers() -> io::Result<Vec<Server>> {
    let owners = mountinfo::ours()?;
    servers_of(&owners.iter().filter_map(mountinfo::owner).collect())
}

/// The processes of these users.
fn servers_of(owners: &HashSet<u32>) -> io::Result<Vec<Server>> {
    let mut found = Vec::new();
    if owners.is_empty() {
        return Ok(found);
    }
    let memory = memory()?;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        found.extend(pid.and_then(|pid| of_process(pid, &memory, &|uid| owners.contains(&uid))));
    }
    Ok(found)
}

/// Processes come and go, and most are none of ours: whatever cannot be read tells nothing.
fn of_process(pid: u32, memory: &str, is_wanted: &dyn Fn(u32) -> bool) -> Option<Server> {
    let process = Path::new("/proc").join(pid.to_string());
    let uid = uid(&fs::read_to_string(process.join("status")).ok()?)?;
    if !is_wanted(uid) {
        return None;
    }
    let descriptors = fs::read_dir(process.join("fd")).ok()?;
    let record = descriptors.flatten().find_map(|descriptor| {
        let link = fs::read_link(descriptor.path()).ok()?;
        (link.as_os_str().as_bytes() == LINK).then_some(())?;
        read(&descriptor.path(), memory)
    })?;
    Some(Server { pid, uid, record })
}

/// The user of a process, from its `status`. Who runs a set-user-ID program chooses what that inherits,
/// and the owner of `/proc/<pid>` is root for whoever may not be traced: neither tells anything.
fn uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut ids = line.split_ascii_whitespace();
    let uid = ids.next()?;
    ids.all(|id| id == uid).then(|| uid.parse().ok())?
}

/// The record behind a link in `/proc`. Until the file is known to lie in memory it is only pointed at:
/// opening a FIFO, or asking a file of another FUSE mount for anything, waits for whoever made it.
fn read(link: &Path, memory: &str) -> Option<MountRecord> {
    let pointed = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(link)
        .ok()?;
    if mount_of(&pointed).ok()? != memory {
        return None;
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", pointed.as_raw_fd()))
        .ok()?;
    let seals = SealFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GET_SEALS).ok()?);
    let looks = file.metadata().ok()?;
    if !looks.is_file() || looks.size() > LONGEST || !seals.contains(SEALS) {
        return None;
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The kernel's own mount on which all memory files lie.
fn memory() -> io::Result<String> {
    mount_of(&File::from(memfd_create("plyfs", MFdFlags::MFD_CLOEXEC)?))
}

/// The number of the mount on which an open file lies; asks the file nothing.
fn mount_of(file: &File) -> io::Result<String> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let mount = about.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let mount = mount.ok_or_else(|| io::Error::other("a descriptor without a mount"))?;
    Ok(mount.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_found_while_it_is_kept() {
        let record = MountRecord {
            device: (0, 4_000_000),
            image: Some("docker.io/library/a:b".into()),
            upper: None,
            layers: vec!["/a".into(), "/b,c".into()],
            control: None,
        };
        let own = std::process::id();
        let owners = HashSet::from([nix::unistd::geteuid().as_raw()]);
        let find = || {
            let servers = servers_of(&owners).unwrap();
            let mut own = servers.into_iter().filter(|server| server.pid == own);
            own.find(|server| server.record == record)
        };
        assert_eq!(find(), None);
        let kept = publish(&record).unwrap();
        let server = find().unwrap();
        assert!(server.is_there());
        drop(kept);
        assert!(!server.is_there());
    }

    #[test]
    fn a_record_is_read_from_sealed_memory_only() {
        let record = MountRecord::default();
        let text = serde_json::to_vec(&record).unwrap();
        let memory = memory().unwrap();
        let told = |file: &File| {
            read(
                Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())),
                &memory,
            )
        };
        assert_eq!(told(&publish(&record).unwrap()), Some(record.clone()));
        let mut open = File::from(memfd_create(NAME, MFdFlags::MFD_ALLOW_SEALING).unwrap());
        open.write_all(&text).unwrap();
        assert_eq!(told(&open), None);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&text).unwrap();
        assert_eq!(told(&file), None);
    }

    #[test]
    fn regression_only_whole_identities_count() {
        assert_eq!(uid("Name:\ta\nUid:\t7\t7\t7\t7\n"), Some(7));
        // A set-user-ID program that an ordinary user runs.
        assert_eq!(uid("Name:\ta\nUid:\t7\t0\t0\t0\n"), None);
        assert_eq!(uid("Name:\ta\n"), None);
    }
}
