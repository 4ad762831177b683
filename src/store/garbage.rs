//! Finds and removes what nothing refers to: mark from the images and live leases, sweep the rest.
//!
//! # Invariants
//! * Marking that fails sweeps nothing: what cannot be read, or is lost, may have referred to anything.
//! * An object leaves its place by one rename into `trash/`, under the store's lock; deleting it
//!   takes its time afterwards, and a crash leaves it in `trash/` for the next sweep.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::tidy::RESUMABLE;
use super::{
    Error, LeaseKind, LeaseRecord, Record, Result, Store, StoreLock, Usage, files, reserve,
};
use crate::cause;
use crate::oci::{ChainId, DiffId, Digest, Document, ImageConfig, Manifest};

/// Kind of an object of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A blob: manifest, configuration or compressed layer.
    Blob,
    /// A packed layer.
    Layer,
    /// A chain index.
    Chain,
}

impl ObjectKind {
    fn directory(self) -> &'static str {
        match self {
            ObjectKind::Blob => "blobs",
            ObjectKind::Layer => "layers",
            ObjectKind::Chain => "chains",
        }
    }
}

/// An object of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// Kind.
    pub kind: ObjectKind,
    /// Blob digest, diffID or chainID.
    pub digest: Digest,
}

/// What is known of a digest that something refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It is the manifest or index of an image, so that what it needs cannot be told without it.
    Needed,
    /// It may be any blob, may not have come yet, or belong to a platform that nobody pulled.
    Perhaps,
}

impl Known {
    fn must_be_there(self, what: &'static str, digest: Digest) -> Result<()> {
        match self {
            Known::Needed => Err(Error::Missing { what, digest }),
            Known::Perhaps => Ok(()),
        }
    }
}

/// What a sweep removed.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// The objects.
    pub objects: Vec<Object>,
    /// The bytes that this freed, as far as known.
    pub bytes: u64,
}

impl Store {
    /// Removes all garbage, and with it the layers that interrupted pulls had finished. While a
    /// check is under way nothing is removed.
    ///
    /// # Errors
    /// What marking reports; then nothing was removed.
    pub fn sweep(&self, now: SystemTime) -> Result<Swept> {
        let lock = self.lock()?;
        self.sweep_ingests(now)?;
        let swept = self.sweep_locked(&lock, now, Duration::ZERO)?;
        drop(lock);
        self.clear_trash();
        self.keep_reserve()?;
        Ok(swept)
    }

    /// As [`Store::sweep`], but keeps the layers that interrupted pulls had finished.
    ///
    /// # Errors
    /// As [`Store::sweep`].
    pub(super) fn sweep_but_interrupted(&self, now: SystemTime) -> Result<()> {
        let lock = self.lock()?;
        self.sweep_locked(&lock, now, RESUMABLE)?;
        drop(lock);
        self.clear_trash();
        self.keep_reserve()
    }

    /// Removes what nothing refers to, but for what pulls that were interrupted less than
    /// `resumable` ago had finished.
    pub(super) fn sweep_locked(
        &self,
        lock: &StoreLock,
        now: SystemTime,
        resumable: Duration,
    ) -> Result<Swept> {
        let mut swept = Swept::default();
        let mut leases = self.read_leases(lock)?;
        let checking = |lease: &LeaseRecord| lease.kind == LeaseKind::Check;
        if leases.live.iter().any(checking) {
            return Ok(swept);
        }
        let mut done = Vec::new();
        for lease in leases.ended {
            let age = now.duration_since(lease.modified).unwrap_or_default();
            match lease.pull {
                Some(pull) if age < resumable => leases.live.push(pull),
                _ => done.push(lease.path),
            }
        }
        let live = self.mark(leases.live, &[])?;
        for object in self.objects()? {
            if !live.contains(&object) {
                swept.bytes += self.discard(&object)?;
                swept.objects.push(object);
            }
        }
        // When this is interrupted, or power is lost before it is durable, the next one begins again.
        if !done.is_empty() {
            let paths = swept.objects.iter().map(|object| self.object_path(object));
            let parents = paths.filter_map(|path| path.parent().map(Path::to_owned));
            for parent in parents.collect::<HashSet<PathBuf>>() {
                files::sync_directory(&parent)?;
            }
        }
        for lease in done {
            files::remove_if_there(&lease)?;
        }
        Ok(swept)
    }

    /// What would become garbage if these images were unpublished; nothing is removed.
    ///
    /// # Errors
    /// What marking reports.
    pub fn garbage_without(&self, gone: &[Record]) -> Result<Swept> {
        let lock = self.lock()?;
        let before = self.mark(self.read_leases(&lock)?.live, &[])?;
        let after = self.mark(self.read_leases(&lock)?.live, gone)?;
        let mut garbage = Swept::default();
        for object in self.objects()? {
            if before.contains(&object) && !after.contains(&object) {
                garbage.bytes += Usage::of_tree_if_there(&self.object_path(&object))?.bytes;
                garbage.objects.push(object);
            }
        }
        Ok(garbage)
    }

    /// Everything that the leases need, and the images but for those in `gone`.
    fn mark(&self, leases: Vec<LeaseRecord>, gone: &[Record]) -> Result<HashSet<Object>> {
        let mut live = HashSet::new();
        for image in self.images()? {
            if gone.contains(&image) {
                continue;
            }
            self.mark_document(&mut live, image.descriptor.digest, Known::Needed)?;
        }
        for (_, container) in self.recorded_containers()? {
            let container = container?;
            for digest in [container.image_digest, container.manifest_digest] {
                self.mark_document(&mut live, digest, Known::Needed)?;
            }
        }
        for snapshot in self.snapshot_images()? {
            self.mark_document(&mut live, snapshot.manifest_digest, Known::Needed)?;
        }
        for lease in leases {
            self.mark_lease(&mut live, lease)?;
        }
        Ok(live)
    }

    pub(super) fn mark_lease(&self, live: &mut HashSet<Object>, lease: LeaseRecord) -> Result<()> {
        for digest in lease.digests {
            for kind in [ObjectKind::Layer, ObjectKind::Chain] {
                live.insert(Object { kind, digest });
            }
            self.mark_document(live, digest, Known::Perhaps)?;
        }
        Ok(())
    }

    /// Marks a blob and, if it is a manifest or index, all that it refers to.
    fn mark_document(
        &self,
        live: &mut HashSet<Object>,
        digest: Digest,
        known: Known,
    ) -> Result<()> {
        live.insert(Object {
            kind: ObjectKind::Blob,
            digest,
        });
        let path = self.blob_path(&digest);
        let size = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return known.must_be_there("manifest", digest);
            }
            Err(error) => return Err(Error::io(error, "reading", &path)),
        };
        if known == Known::Perhaps && size > crate::oci::MAX_DOCUMENT_SIZE {
            return Ok(());
        }
        match (Document::parse(&self.read_blob(&digest)?, None), known) {
            (Ok(Document::Manifest(manifest)), _) => self.mark_manifest(live, &manifest, known),
            (Ok(Document::Index(index)), _) => {
                for entry in &index.manifests {
                    self.mark_document(live, entry.digest, Known::Perhaps)?;
                }
                Ok(())
            }
            (Err(source), Known::Needed) => Err(Error::Document {
                what: "manifest",
                digest,
                source,
            }),
            (Err(_), Known::Perhaps) => Ok(()),
        }
    }

    fn mark_manifest(
        &self,
        live: &mut HashSet<Object>,
        manifest: &Manifest,
        known: Known,
    ) -> Result<()> {
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            live.insert(Object {
                kind: ObjectKind::Blob,
                digest: blob.digest,
            });
        }
        let config = manifest.config.digest;
        if !manifest.config.media_type.is_config() {
            return Ok(());
        }
        if !self.has_blob(&config) {
            return known.must_be_there("image configuration", config);
        }
        let parsed = ImageConfig::parse(&self.read_blob(&config)?);
        let parsed = parsed.map_err(|source| Error::Document {
            what: "image configuration",
            digest: config,
            source,
        })?;
        let mut chain: Option<ChainId> = None;
        for layer in parsed.rootfs.diff_ids {
            live.insert(Object {
                kind: ObjectKind::Layer,
                digest: layer.0,
            });
            let next = match chain {
                Some(below) => Some(below.with(layer)),
                None => ChainId::of(&[layer]),
            };
            if let Some(next) = next {
                live.insert(Object {
                    kind: ObjectKind::Chain,
                    digest: next.0,
                });
            }
            chain = next;
        }
        Ok(())
    }

    /// Every object that is in the store.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn objects(&self) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        for kind in [ObjectKind::Blob, ObjectKind::Layer, ObjectKind::Chain] {
            for algorithm in names(&self.root().join(kind.directory()))? {
                if !self.root().join(kind.directory()).join(&algorithm).is_dir() {
                    continue;
                }
                for name in names(&self.root().join(kind.directory()).join(&algorithm))? {
                    // What is not named like a digest is not ours to judge.
                    if let Ok(digest) = format!("{algorithm}:{name}").parse() {
                        objects.push(Object { kind, digest });
                    }
                }
            }
        }
        Ok(objects)
    }

    /// Moves an object into the trash and returns its size; [`Store::empty_trash`] removes it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard(&self, object: &Object) -> Result<u64> {
        let path = self.object_path(object);
        let size = Usage::of_tree_if_there(&path)?.bytes;
        self.trash(&path)?;
        Ok(size)
    }

    fn object_path(&self, object: &Object) -> PathBuf {
        match object.kind {
            ObjectKind::Blob => self.blob_path(&object.digest),
            ObjectKind::Layer => self.layer_path(&DiffId(object.digest)),
            ObjectKind::Chain => self.chain_path(&ChainId(object.digest)),
        }
    }

    pub(super) fn trash(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let trash = self.trash_path();
        // A name that no other process uses now; a killed one may have left it.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let target = loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let target = trash.join(format!("{name}.{}-{count}", std::process::id()));
            if !target.exists() {
                break target;
            }
        };
        match std::fs::rename(path, &target) {
            // No space for another entry in the trash.
            Err(error) if reserve::is_full(&error) && path.is_dir() => files::remove_in_place(path),
            Err(error) if reserve::is_full(&error) => files::remove_if_there(path),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(error, "removing", path))
            }
            _ => Ok(()),
        }
    }

    /// Deletes what earlier removals moved into the trash. One process does so at a time; others
    /// wait, and find nothing left of what they moved there. What cannot be deleted stays, and is
    /// no hindrance to the rest.
    ///
    /// # Errors
    /// [`Error::Io`], for the first that cannot be deleted.
    pub fn empty_trash(&self) -> Result<()> {
        let trash = self.open_trash()?;
        trash
            .lock()
            .map_err(|error| Error::io(error, "locking", &self.trash_path()))?;
        self.delete_trash()
    }

    /// As [`Store::empty_trash`], where nothing depends on it: what cannot be deleted is told once,
    /// and left to who comes next.
    pub fn clear_trash(&self) {
        static TOLD: Once = Once::new();
        if let Err(error) = self.empty_trash() {
            TOLD.call_once(|| {
                let why = cause::chain(&error);
                let way_out = error.way_out();
                log::warn!("some of what was removed takes up space still: {why}{way_out}");
            });
        }
    }

    /// As [`Store::empty_trash`], unless another process is at it.
    pub(super) fn empty_trash_if_free(&self) -> Result<()> {
        let trash = self.open_trash()?;
        match trash.try_lock() {
            Ok(()) => self.delete_trash(),
            Err(TryLockError::WouldBlock) => Ok(()),
            Err(TryLockError::Error(error)) => Err(Error::io(error, "locking", &self.trash_path())),
        }
    }

    fn open_trash(&self) -> Result<File> {
        let path = self.trash_path();
        File::open(&path).map_err(|error| Error::io(error, "opening", &path))
    }

    /// Deletes what is in the trash, which is locked.
    fn delete_trash(&self) -> Result<()> {
        let trash = self.trash_path();
        let mut result = Ok(());
        for name in names(&trash)? {
            let path = trash.join(name);
            let deleted = if path.is_dir() {
                files::remove_tree_if_there(&path)
            } else {
                files::remove_if_there(&path)
            };
            result = result.and(deleted);
        }
        result
    }

    fn trash_path(&self) -> PathBuf {
        self.root().join("trash")
    }
}

/// As [`names`], none of a directory that is not there.
pub(super) fn names_if_there(directory: &Path) -> Result<Vec<String>> {
    match names(directory) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found,
    }
}

/// The names in a directory that are UTF-8, as all of ours are.
pub(super) fn names(directory: &Path) -> Result<Vec<String>> {
    let failed = |error| Error::io(error, "reading", directory);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store whose trash has an entry that nobody can delete: a directory that is mounted on would
    /// be one; a name in a directory without write permission is one for all but root.
    #[test]
    fn regression_what_cannot_be_deleted_is_no_hindrance() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        let trash = directory.path().join("trash");
        for name in ["a", "b", "c"] {
            std::fs::create_dir_all(trash.join(name).join("in")).unwrap();
        }
        let stuck = files::stuck_in_tests(&trash.join("b"));
        assert!(store.empty_trash().is_err());
        assert_eq!(names(&trash).unwrap(), ["b"]);
        store.clear_trash();
        let digest = Digest::of(b"blob");
        let ingest = store.ingest(&digest, || ()).unwrap();
        ingest.finish(&store).unwrap();
        assert!(store.sweep(SystemTime::now()).is_ok());
        drop(stuck);
    }
}
