//! What podman needs to send or save a layer: how its archive is made again, byte by byte.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use super::{Error, Result, parallel};
use crate::cause;
use crate::oci::{DiffId, Digest};
use crate::pack::{self, Limits, write_tar_split};
use crate::store::Store;

/// How many layers are read at a time.
const WORKERS: usize = 4;

/// What is to be written of a layer.
#[derive(Debug)]
pub(super) struct TarSplit {
    /// Where.
    pub path: PathBuf,
    /// What was unpacked.
    pub diff_id: DiffId,
    /// What it is unpacked from.
    pub blob: Digest,
}

/// Writes those that are not there. A layer whose blob cannot be read does without, with a warning.
///
/// # Errors
/// What writing reports.
pub(super) fn write(store: &Store, splits: Vec<TarSplit>) -> Result<()> {
    let missing = splits.into_iter().filter(|split| !split.path.exists());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    parallel::each(missing.collect(), WORKERS.min(threads), |split| {
        let new = split.path.with_extension("new");
        let written = match write_one(store, &split, &new) {
            Ok(()) => {
                // What is there under its name is taken for whole.
                let synced = File::open(&new).and_then(|file| file.sync_all());
                let renamed = synced.and_then(|()| fs::rename(&new, &split.path));
                return renamed.map_err(|error| cannot(error, &split));
            }
            Err(Error::Pack(pack::Error::WriteArchive(error))) => Err(cannot(error, &split)),
            Err(error) => {
                let why = cause::chain(&error);
                log::warn!("podman cannot save layer {}: {why}", split.diff_id);
                Ok(())
            }
        };
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                written.and(Err(cannot(error, &split)))
            }
            _ => written,
        }
    })
}

fn write_one(store: &Store, split: &TarSplit, new: &Path) -> Result<()> {
    let limits = Limits::default();
    let open = || File::open(store.blob_path(&split.blob));
    let out = || File::create(new).map(BufWriter::new);
    let found = Digest::from_sha256(write_tar_split(open, out, &limits)?);
    let expected = split.diff_id.0;
    match found == expected {
        true => Ok(()),
        false => Err(Error::DiffIdMismatch { expected, found }),
    }
}

fn cannot(error: io::Error, split: &TarSplit) -> Error {
    Error::io(error, format!("writing {}", split.path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_what_cannot_be_written_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(&directory.path().join("store")).unwrap();
        let split = |path: &str| TarSplit {
            path: directory.path().join(path),
            diff_id: DiffId(Digest::of(b"layer")),
            blob: Digest::of(b"blob"),
        };
        assert!(write(&store, vec![split("missing/split")]).is_err());
        // A blob that is not there is a warning.
        write(&store, vec![split("split")]).unwrap();
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 1, "the store alone");
    }
}
