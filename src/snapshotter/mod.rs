//! The snapshotter of containerd: layers of containers and images as directories that build on
//! each other.
//!
//! containerd *prepares* a snapshot over a parent, writes a layer into it, *commits* it under a
//! name, and prepares the next one over that. A container runs in one that is never committed, and
//! a *view* is only read. What containerd gets are mounts, which it makes by itself:
//!
//! * for a layer that it unpacks, an `overlay`, whose upper directory it writes to directly;
//! * for a container or a view, a file system of ours, by way of its mount helper, or for a container
//!   the kernel's `overlay` over that of its image (`writable`);
//! * where there is nothing to unite, a bind mount.
//!
//! The images of the store take part too: a snapshot can *stand for* the lowest layers of one
//! (`images`). containerd then neither fetches nor unpacks them, and containers run from the index
//! of the chain.
//!
//! # Invariants
//! * A call happens whole or not at all: metadata change in one transaction, directories are made
//!   before and removed after it. What a crash leaves of them is removed at the next start.
//! * No mount of a container is made, served or ended by the process that runs this, so it can be
//!   stopped, killed and replaced at any time.
//! * Only snapshots that containerd made are ever listed to it.
//! * A committed snapshot is durable before its name is.
//!
//! # Locking
//! The transactions of `metadata` come one after another. Nothing is held between calls but, for
//! an image on its way, its own lock.

mod allocated;
mod commit;
mod database;
mod error;
mod filter;
mod images;
mod info;
mod metadata;
mod mounts;
mod prepare;
mod remove;
mod served;
#[cfg(test)]
mod tests;
pub mod transport;
mod writable;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

pub use error::{Error, Result};
pub use images::Remote;
pub use info::{Info, Kind, Labels, Mount};

use crate::options::WritableLayer;
use crate::store::{Store, Usage};
use filter::Filter;
use images::Images;
use metadata::Metadata;

/// The snapshots of a store.
#[derive(Debug)]
pub struct Snapshotter {
    store: Store,
    metadata: Metadata,
    images: Images,
    /// Whether something in the store may have lost the snapshot that kept it.
    images_to_sweep: AtomicBool,
    /// The store's directory, as options of mounts name it.
    root: String,
    /// Whether containers write through the kernel's overlay.
    kernel_writes: bool,
}

/// How the snapshotter works.
#[derive(Debug)]
pub struct Settings {
    /// How images are fetched, when containerd lets us.
    pub remote: Remote,
    /// What containers write through.
    pub writable: WritableLayer,
}

impl Snapshotter {
    /// Opens the snapshots of a store, and removes what calls that were cut short have left.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process serves them; [`Error::InvalidArgument`] for a store
    /// whose path containerd cannot be told, or on which the kernel cannot do what is asked of it;
    /// [`Error::Store`], [`Error::Database`].
    pub fn open(store: Store, settings: Settings) -> Result<Snapshotter> {
        let root = path_for_containerd(store.root().to_owned())?;
        let directory = store.create_snapshots()?;
        let kernel_writes = writable::is_kernel(settings.writable, &store)?;
        let snapshotter = Snapshotter {
            metadata: Metadata::open(&directory)?,
            store,
            images: Images::new(settings.remote),
            // The process before may have been killed before it came to that.
            images_to_sweep: AtomicBool::new(true),
            root,
            kernel_writes,
        };
        snapshotter.cleanup()?;
        Ok(snapshotter)
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Database`].
    pub fn stat(&self, key: &str) -> Result<Info> {
        Ok(self.metadata.record(key)?.info(key))
    }

    /// Changes labels of a snapshot: all of them, or those that `paths` name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidArgument`] for a path that is no label, or
    /// [`Error::Database`].
    pub fn update(&self, name: &str, labels: Labels, paths: &[String]) -> Result<Info> {
        self.metadata.update(name, labels, paths)
    }

    /// The snapshots that any of the filters lets through; all without filters.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a filter that cannot be read, or [`Error::Database`].
    pub fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        self.metadata.list(&Filter::parse(filters)?)
    }

    /// What a snapshot takes of the disk: of a committed one as it was then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`] or [`Error::Database`].
    pub fn usage(&self, key: &str) -> Result<Usage> {
        let record = self.metadata.record(key)?;
        match record.usage {
            Some(usage) => Ok(usage),
            None => {
                let upper = self.store.snapshot(record.number).upper();
                Ok(Usage::of_tree(&upper)?)
            }
        }
    }
}

/// The text of a path that goes into options of mounts, where containerd cuts at commas and colons
/// without knowing of escapes.
fn path_for_containerd(path: PathBuf) -> Result<String> {
    let text = path.into_os_string().into_string();
    let reason = match &text {
        Ok(text) if !text.contains([',', ':', '\\', '"']) => return Ok(text.clone()),
        Ok(text) => format!("the store's path has a character that containerd cuts at: {text}"),
        Err(path) => format!("the store's path is not UTF-8: {}", path.display()),
    };
    Err(Error::InvalidArgument(reason))
}
