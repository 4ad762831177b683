//! The store: images, layers and what is on its way to become one, on disk.
//!
//! ```text
//! <store>/
//!   oci-layout, index.json, blobs/sha256/<hex>   an OCI image layout
//!   store.json                                   the version of the rest
//!   layers/sha256/<diffID>/  index, pack, files/<n>, layer.json
//!   chains/sha256/<chainID>/ index
//!   containers/<name>/       upper/, work/, container.json, mount-points.json, lock
//!   served/                  lock, <manifest>/: mounts of images that containers share
//!   snapshots/<number>/      fs/, work/, image.json: of the containerd snapshotter
//!   ingest/<algorithm>-<hex>/                    a blob on its way, locked while in use
//!   leases/<name>.json                           what live processes need, locked while they live
//!   uploads/<name>                               where interrupted pushes go on, for a day
//!   reserve/                                     space kept back for when the disk is full
//!   trash/                                       being deleted
//!   lock                                         held while index.json changes or garbage is swept
//! ```
//!
//! # Invariants
//! * An object stands under its final name only when it is complete and synced; it is renamed
//!   there in one step and never changed afterwards.
//! * `index.json` publishes: an image is in the store when it stands there, and then everything it
//!   needs is there too.
//! * What nothing refers to is found by walking from `index.json` and the live leases; no count is
//!   kept that could be wrong.
//!
//! # Locking
//! All locks are flocks. `lock` is held while `index.json` changes and while garbage is swept, and
//! never while waiting for another lock: those that are taken under it are only tried. An ingest and
//! a container are locked by their own `lock` file, what is being made under `ingest/*.new` by itself,
//! the trash by its directory, while it is emptied, which happens under no other lock. A lease is live
//! as long as its file is locked. Whoever locks a file by its name looks afterwards whether it still
//! has that name.

mod containers;
mod error;
mod files;
mod garbage;
mod images;
mod ingest;
mod layers;
mod lease;
mod leased;
mod mount_points;
mod rebuild;
mod reserve;
mod snapshots;
mod staging;
mod sync;
mod tidy;
mod uploads;
mod usage;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::oci::{ChainId, DiffId, Digest};

pub use containers::{Container, ContainerRecord, is_container_name};
pub use error::{Error, SUBORDINATE};
pub use garbage::{Object, ObjectKind, Swept};
pub use images::{REFERENCE_ANNOTATION, Record};
pub use ingest::Ingest;
pub use layers::{LayerRecord, LayerSource};
pub use lease::{Lease, LeaseKind, LeaseRecord};
pub use rebuild::Rebuilt;
pub use snapshots::{SnapshotDirectory, SnapshotImage};
pub use staging::Staging;
pub use sync::Syncer;
pub use uploads::UploadFile;
pub use usage::Usage;

/// The result of an operation on a store.
pub type Result<T> = std::result::Result<T, Error>;

/// The version of the layout that this program reads and writes.
const VERSION: u32 = 1;

/// What makes a directory an OCI layout and a store: file names and what stands in them.
const MARKS: [(&str, &[u8]); 2] = [
    ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
    ("store.json", br#"{"version":1}"#),
];

#[derive(Serialize, Deserialize)]
struct StoreFile {
    version: u32,
}

/// A store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    syncer: Syncer,
}

/// The store's lock, held until dropped.
#[derive(Debug)]
pub struct StoreLock(#[allow(dead_code)] File);

impl Store {
    /// Opens the store at `root`, making it if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] names the path that could not be made or read, [`Error::Version`] a store of
    /// another version, [`Error::NotEmpty`] a directory of something else.
    pub fn create(root: &Path) -> Result<Store> {
        if std::fs::metadata(root).is_ok_and(|found| !found.is_dir()) {
            return Err(Error::NotADirectory(root.to_owned()));
        }
        if !is_empty(root)? && !has_layers(root) {
            return Err(Error::NotEmpty(root.to_owned()));
        }
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o700);
        // Images hold files that only their owners may read, so the store is private.
        make.create(root)
            .map_err(|error| Error::io(error, "making the store", root))?;
        // That of layers comes first: by it a store is known that was made no further.
        let private = ["layers/sha256", "blobs/sha256", "chains/sha256"];
        for name in private.into_iter().chain(["ingest", "leases", "trash"]) {
            let path = root.join(name);
            make.create(&path)
                .map_err(|error| Error::io(error, "making the store", &path))?;
        }
        // Two first commands at once: whoever comes second finds the files. In a store that is
        // there nothing is made anew: an empty list of images would make all of it garbage.
        let lock = lock_at(root)?;
        let is_store = root.join("store.json").exists();
        let [layout, own] = MARKS;
        for (name, content) in [layout, (images::INDEX, images::EMPTY_INDEX), own] {
            let path = root.join(name);
            let must_not_be_made = is_store && name == images::INDEX;
            if !must_not_be_made && !path.exists() {
                files::write_file(root, &path, content)?;
            }
        }
        drop(lock);
        let store = Store::open(root)?;
        if !is_store {
            store.keep_reserve()?;
        }
        Ok(store)
    }

    /// Whether [`Store::create`] would find or make a store at `root`, as far as what is there tells.
    #[must_use]
    pub fn may_be_made(root: &Path) -> bool {
        is_empty(root).unwrap_or(false) || has_layers(root)
    }

    /// Opens the store at `root`.
    ///
    /// # Errors
    /// [`Error::NoStore`] when there is none, otherwise as [`Store::create`].
    pub fn open(root: &Path) -> Result<Store> {
        let path = root.join("store.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !keeps_layers(root) => {
                return Err(Error::NoStore(root.to_owned()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(Error::NotADirectory(root.to_owned()));
            }
            Err(error) => return Err(Error::io(error, "reading", &path)),
        };
        let found: StoreFile =
            serde_json::from_slice(&bytes).map_err(|error| Error::json(error, &path))?;
        if found.version != VERSION {
            return Err(Error::Version {
                root: root.to_owned(),
                found: found.version,
            });
        }
        let root = root
            .canonicalize()
            .map_err(|error| Error::io(error, "opening", root))?;
        let directory = File::open(&root).map_err(|error| Error::io(error, "opening", &root))?;
        Ok(Store {
            root,
            syncer: Syncer::new(directory),
        })
    }

    /// The directory of the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes what was written durable; see [`Syncer::sync`].
    ///
    /// # Errors
    /// What syncfs(2) reports.
    pub fn sync(&self) -> Result<()> {
        self.syncer
            .sync()
            .map_err(|error| Error::io(error, "syncing", &self.root))
    }

    /// Takes the lock under which `index.json` changes and garbage is swept.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn lock(&self) -> Result<StoreLock> {
        lock_at(&self.root)
    }

    /// As [`Store::lock`], unless another process has it.
    fn try_lock(&self) -> Result<Option<StoreLock>> {
        let path = self.root.join("lock");
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(StoreLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io(error, "locking", &path)),
        }
    }

    /// Where the blob with this digest lies, or would.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root
            .join("blobs")
            .join(digest.algorithm().as_str())
            .join(digest.hex())
    }

    /// Whether the blob is there.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Reads a whole small blob (a manifest, an index, a configuration) and verifies it.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Damaged`] or [`Error::Io`].
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Missing {
                    what: "blob",
                    digest: *digest,
                });
            }
            Err(error) => return Err(Error::io(error, "reading", &path)),
        };
        if Digest::with(digest.algorithm(), &bytes) != *digest {
            return Err(Error::Damaged {
                what: "blob",
                digest: *digest,
            });
        }
        Ok(bytes)
    }

    /// Stores a small blob, whose digest the caller has verified, durably.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let path = self.blob_path(digest);
        if std::fs::read(&path).is_ok_and(|stored| stored == bytes) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| Error::io(error, "making", parent))?;
        }
        files::write_file(&self.root, &path, bytes)
    }

    /// The directory of a packed layer, or where it would be.
    #[must_use]
    pub fn layer_path(&self, layer: &DiffId) -> PathBuf {
        self.root
            .join("layers")
            .join(layer.0.algorithm().as_str())
            .join(layer.0.hex())
    }

    /// The directory of a chain, or where it would be.
    #[must_use]
    pub fn chain_path(&self, chain: &ChainId) -> PathBuf {
        self.root
            .join("chains")
            .join(chain.0.algorithm().as_str())
            .join(chain.0.hex())
    }
}

/// Whether this is a store, whatever became of the files that mark it.
fn has_layers(root: &Path) -> bool {
    root.join("layers/sha256").is_dir()
}

/// Whether layers are in it: one that was not made to its end has none, and is no store yet.
fn keeps_layers(root: &Path) -> bool {
    std::fs::read_dir(root.join("layers/sha256")).is_ok_and(|mut it| it.next().is_some())
}

/// Whether nothing is there, or no more than mkfs leaves, or another process that makes a store has made
/// first: whoever finds more than that can tell by [`has_layers`] whose it is.
fn is_empty(root: &Path) -> Result<bool> {
    match std::fs::read_dir(root) {
        Ok(mut entries) => Ok(entries.all(|entry| {
            entry.is_ok_and(|it| it.file_name() == "lost+found" || it.file_name() == "layers")
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io(error, "opening", root)),
    }
}

fn lock_at(root: &Path) -> Result<StoreLock> {
    let path = root.join("lock");
    let file = open_lock(&path)?;
    file.lock()
        .map_err(|error| Error::io(error, "locking", &path))?;
    Ok(StoreLock(file))
}

fn open_lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    file.map_err(|error| Error::io(error, "opening", path))
}
