//! What a serving process tells of its mount, for whoever lists mounts.
//!
//! It lies in the memory of that process, under a descriptor that others of the same user (and root)
//! find in `/proc/<pid>/fd`. So it needs no directory, and is gone when the process is, whatever ends it.
//!
//! # Invariants
//! * A mount is known by the device number of its super block, which is nobody else's while it is
//!   served; so copies of the mount in other places and namespaces are known too.
//! * Anybody can publish a lie. It is believed only of a process of the user who made the mount.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::mountinfo::MountEntry;

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
    /// The directory that takes the changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<String>,
    /// What is below, topmost first: directories, or the diffIDs of an image's layers.
    pub layers: Vec<String>,
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
        self.record.device == entry.device && entry.user_id() == Some(self.uid)
    }

    /// Whether it serves that mount still.
    #[must_use]
    pub fn is_there(&self) -> bool {
        of_process(self.pid).is_some_and(|now| now.record.device == self.record.device)
    }
}

/// Publishes `record` until the result is dropped.
pub(super) fn publish(record: &MountRecord) -> io::Result<File> {
    let mut file = File::from(memfd_create(NAME, MFdFlags::MFD_CLOEXEC)?);
    serde_json::to_writer(&file, record)?;
    file.flush()?;
    Ok(file)
}

/// The processes that serve mounts and may be looked at.
///
/// # Errors
/// What reading `/proc` reports.
pub fn servers() -> io::Result<Vec<Server>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        found.extend(pid.and_then(of_process));
    }
    Ok(found)
}

/// Processes come and go, and most are none of ours: whatever cannot be read tells nothing.
fn of_process(pid: u32) -> Option<Server> {
    let process = Path::new("/proc").join(pid.to_string());
    let descriptors = fs::read_dir(process.join("fd")).ok()?;
    let ours = descriptors.flatten().find(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|link| link.as_os_str().as_bytes() == LINK)
    })?;
    let uid = fs::metadata(&process).ok()?.uid();
    let mut text = Vec::new();
    let file = File::open(ours.path()).ok()?;
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    let record = serde_json::from_slice(&text).ok()?;
    Some(Server { pid, uid, record })
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
        };
        let own = std::process::id();
        let find = || {
            let servers = servers().unwrap();
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
}
