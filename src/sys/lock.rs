//! Who holds a lock.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The process that holds a `flock` on the file or directory that `file` is open on, the oldest of several; `None`
/// if there is none that may be looked at. Locks are inherited, and what the kernel lists is who took them: so it
/// is looked for who has them open.
///
/// # Errors
/// What reading `/proc` and fstat(2) report.
pub fn holder(file: &File) -> io::Result<Option<u32>> {
    let looks = file.metadata()?;
    let mut holders = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        let pid: Option<u32> = name.to_str().and_then(|name| name.parse().ok());
        // Processes come and go, and most are none of ours: whatever cannot be read tells nothing.
        holders.extend(pid.filter(|_| has_locked(&entry.path(), &looks).unwrap_or(false)));
    }
    Ok(holders.into_iter().min())
}

fn has_locked(process: &Path, looks: &fs::Metadata) -> io::Result<bool> {
    let end = format!(":{} 0 EOF", looks.ino());
    for entry in fs::read_dir(process.join("fdinfo"))? {
        let entry = entry?;
        // Descriptors come and go too.
        let Ok(about) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let is_lock = |line: &str| {
            line.starts_with("lock:") && line.contains(" FLOCK ") && line.ends_with(&end)
        };
        // Only what is locked is asked: a file of another file system may not answer.
        if about.lines().any(is_lock) {
            let there = fs::metadata(process.join("fd").join(entry.file_name()))?;
            if (there.dev(), there.ino()) == (looks.dev(), looks.ino()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, other) = (
            File::open(directory.path()).unwrap(),
            File::open(directory.path()).unwrap(),
        );
        assert_eq!(holder(&other).unwrap(), None);
        ours.try_lock().unwrap();
        assert_eq!(holder(&other).unwrap(), Some(std::process::id()));
        drop(ours);
        assert_eq!(holder(&other).unwrap(), None);
    }
}
