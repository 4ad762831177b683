//! Uploads that a push did not finish: where the registry goes on with them.
//!
//! Each is a file of three lines: the address, how much one request must carry, and what it is an
//! upload of. An address may hold a secret of the registry's, so nobody else can read it. Who pushes
//! holds the file locked, so that no two processes go on with one upload.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::garbage::names;
use super::tidy::hold;
use super::{Error, Result, Store, files};
use crate::oci::Digest;

/// How long a registry is believed to keep what it was sent.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The file of an upload; ours alone while it is there.
#[derive(Debug)]
pub struct UploadFile {
    file: File,
    path: PathBuf,
    subject: String,
}

impl Store {
    /// The file of an upload of a blob to a repository (`HOST/NAME`), new if there is none and `make`
    /// is true; `None` where there is none, or another process has it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn upload_file(
        &self,
        repository: &str,
        blob: &Digest,
        make: bool,
    ) -> Result<Option<UploadFile>> {
        let subject = format!("{repository}@{blob}");
        let directory = self.root().join("uploads");
        let path = directory.join(Digest::of(subject.as_bytes()).hex());
        if make {
            match std::fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io(error, "making", &directory));
                }
                _ => forget_old(&directory, SystemTime::now())?,
            }
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(make).mode(0o600);
        let file = match options.truncate(false).open(&path) {
            Ok(file) => hold(file, &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io(error, "opening", &path)),
        };
        Ok(file.map(|file| UploadFile {
            file,
            path,
            subject,
        }))
    }
}

impl UploadFile {
    /// The address of the upload, and how much one request must carry, in bytes; `None` if it is
    /// too old, or was not written in full.
    #[must_use]
    pub fn read(&self, now: SystemTime) -> Option<(String, u64)> {
        if is_old(&self.path, now) {
            return None;
        }
        let text = std::fs::read_to_string(&self.path).ok()?;
        let mut lines = text.lines();
        let (address, least) = (lines.next()?, lines.next()?.parse().ok()?);
        (lines.next()? == self.subject).then(|| (address.to_owned(), least))
    }

    /// Writes down where the upload goes on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, address: &str, least: u64) -> Result<()> {
        let text = format!("{address}\n{least}\n{}\n", self.subject);
        let emptied = self.file.set_len(0);
        let written = emptied.and_then(|()| self.file.write_all_at(text.as_bytes(), 0));
        written.map_err(|error| Error::io(error, "writing", &self.path))
    }

    /// Forgets the upload.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        files::remove_if_there(&self.path)
    }
}

/// Removes those that registries have given up by now, and nobody holds.
fn forget_old(directory: &Path, now: SystemTime) -> Result<()> {
    for name in names(directory)? {
        let path = directory.join(name);
        if is_old(&path, now)
            && let Ok(file) = File::open(&path)
            && hold(file, &path)?.is_some()
        {
            files::remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn is_old(path: &Path, now: SystemTime) -> bool {
    let modified = std::fs::metadata(path).and_then(|found| found.modified());
    modified.is_ok_and(|time| now.duration_since(time).is_ok_and(|age| age >= KEPT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_for_a_day_and_one_process() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        let (blob, now) = (Digest::of(b"blob"), SystemTime::now());
        let open = |repository, make| store.upload_file(repository, &blob, make).unwrap();
        assert!(open("r.io/app", false).is_none());
        let upload = open("r.io/app", true).unwrap();
        assert_eq!(upload.read(now), None);
        let address = "https://r.io/v2/app/blobs/uploads/1?state=x";
        upload
            .write(
                "https://r.io/much/longer/than/what/comes/later/so/that/it/shows",
                7,
            )
            .unwrap();
        upload.write(address, 5).unwrap();
        assert!(open("r.io/app", true).is_none(), "it is in use");
        drop(upload);
        let upload = open("r.io/app", false).unwrap();
        assert_eq!(upload.read(now), Some((address.to_owned(), 5)));
        assert_eq!(upload.read(now + 2 * KEPT), None);
        assert!(open("r.io/other", false).is_none());
        upload.remove().unwrap();
        assert!(open("r.io/app", false).is_none());

        drop(open("r.io/app", true));
        forget_old(&store.root().join("uploads"), now + 2 * KEPT).unwrap();
        assert!(open("r.io/app", false).is_none());
    }
}
