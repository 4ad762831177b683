//! Directories of layers, and a bounded number of descriptors to reach them.
//!
//! A directory is remembered by its parent and its own name, never by a path, so that trees deeper
//! than `PATH_MAX` work and no more than one component is resolved per system call.
//!
//! # Locking
//! The cache of descriptors has a lock of its own, which is never held during a system call.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;

use crate::layer::directory::DirectoryLayer;
use crate::sys::at::RootFd;

/// A directory of one layer.
#[derive(Debug)]
pub(super) struct LowerDirectory {
    /// Unique within the process, never used again.
    pub(super) id: u64,
    /// Which layer, counted from the topmost.
    pub(super) layer: u16,
    /// Whether a mount point lies between the root of the layer and this directory.
    pub(super) beyond_mount: bool,
    /// The directory that contains it; none for the root of the layer.
    pub(super) parent: Option<Arc<LowerDirectory>>,
    /// Its name there.
    pub(super) name: Box<[u8]>,
}

impl LowerDirectory {
    /// The root of a layer.
    pub(super) fn root(layer: u16) -> Arc<LowerDirectory> {
        Arc::new(LowerDirectory {
            id: next_id(),
            layer,
            beyond_mount: false,
            parent: None,
            name: Box::default(),
        })
    }

    /// The directory `name` in `parent`.
    pub(super) fn below(parent: &Arc<LowerDirectory>, name: &[u8]) -> LowerDirectory {
        LowerDirectory {
            id: next_id(),
            layer: parent.layer,
            beyond_mount: parent.beyond_mount,
            parent: Some(Arc::clone(parent)),
            name: Box::from(name),
        }
    }
}

impl Drop for LowerDirectory {
    fn drop(&mut self) {
        // One after another: the chain may be longer than the stack is deep.
        let mut parent = self.parent.take();
        while let Some(mut directory) = parent.and_then(Arc::into_inner) {
            parent = directory.parent.take();
        }
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A directory of a layer, open.
#[derive(Debug)]
pub(super) enum Handle<'a> {
    Root(&'a RootFd),
    Cached(Arc<RootFd>),
}

impl Deref for Handle<'_> {
    type Target = RootFd;

    fn deref(&self) -> &RootFd {
        match self {
            Handle::Root(root) => root,
            Handle::Cached(directory) => directory,
        }
    }
}

/// The layers, and the descriptors of their directories that were used last.
#[derive(Debug)]
pub(super) struct Handles {
    layers: Box<[DirectoryLayer]>,
    cache: Mutex<LruCache<u64, Arc<RootFd>>>,
}

impl Handles {
    pub(super) fn new(layers: Box<[DirectoryLayer]>) -> Handles {
        // A quarter: the rest is for files, for mounts beside this one, and for the caller.
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(256, |(soft, _)| soft / 4);
        let capacity = usize::try_from(limit).unwrap_or(usize::MAX).clamp(16, 2048);
        Handles::with_capacity(layers, capacity)
    }

    pub(super) fn with_capacity(layers: Box<[DirectoryLayer]>, capacity: usize) -> Handles {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Handles {
            layers,
            cache: Mutex::new(LruCache::new(capacity)),
        }
    }

    pub(super) fn layers(&self) -> &[DirectoryLayer] {
        &self.layers
    }

    pub(super) fn layer(&self, layer: u16) -> io::Result<&DirectoryLayer> {
        Ok(self.layers.get(usize::from(layer)).ok_or(Errno::EIO)?)
    }

    /// Opens `directory`, or finds it open.
    pub(super) fn get(&self, directory: &LowerDirectory) -> io::Result<Handle<'_>> {
        let mut missing = Vec::new();
        let mut at = directory;
        let mut handle = loop {
            let Some(parent) = &at.parent else {
                break Handle::Root(self.layer(at.layer)?.root());
            };
            if let Some(open) = self.cache.lock().get(&at.id) {
                break Handle::Cached(Arc::clone(open));
            }
            missing.push(at);
            at = parent;
        };
        for directory in missing.into_iter().rev() {
            let open = self.making_room(|| handle.directory(&directory.name))?;
            handle = self.remember(directory, open);
        }
        Ok(handle)
    }

    /// Opens `directory` anew such that it can be listed, from its beginning.
    pub(super) fn listable(&self, directory: &LowerDirectory) -> io::Result<Handle<'_>> {
        let parent = match &directory.parent {
            Some(parent) => self.get(parent)?,
            None => Handle::Root(self.layer(directory.layer)?.root()),
        };
        let open = self.making_room(|| parent.listable(&directory.name))?;
        Ok(self.remember(directory, open))
    }

    pub(super) fn remember(&self, directory: &LowerDirectory, open: RootFd) -> Handle<'static> {
        let open = Arc::new(open);
        if directory.parent.is_some() {
            // What this pushes out is closed after the lock is released.
            let _evicted = self.cache.lock().push(directory.id, Arc::clone(&open));
        }
        Handle::Cached(open)
    }

    pub(super) fn forget(&self, directory: &LowerDirectory) {
        let _closed = self.cache.lock().pop(&directory.id);
    }

    /// Runs what opens a descriptor, and once more with half of the cache closed when there are
    /// too many.
    pub(super) fn making_room<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match open() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                let mut closed = Vec::new();
                {
                    let mut cache = self.cache.lock();
                    for _ in 0..cache.len().div_ceil(2) {
                        closed.extend(cache.pop_lru());
                    }
                }
                drop(closed);
                open()
            }
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_reach_everything() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let names: Vec<String> = (0..20).map(|n| format!("{n}")).collect();
        let mut path = dir.path().to_owned();
        for name in &names {
            path.push(name);
            std::fs::create_dir(&path)?;
        }
        std::fs::write(path.join("leaf"), "")?;
        for capacity in [1, 2, 3, 100] {
            let layer = DirectoryLayer::open(dir.path())?;
            let handles = Handles::with_capacity(Box::new([layer]), capacity);
            let mut chain = vec![LowerDirectory::root(0)];
            for name in &names {
                let below = LowerDirectory::below(&chain[chain.len() - 1], name.as_bytes());
                chain.push(Arc::new(below));
            }
            for at in [20, 0, 10, 20, 19, 20] {
                let open = handles.get(&chain[at])?;
                assert_eq!(open.stat(b"leaf").is_ok(), at == 20);
                assert_eq!(
                    handles.listable(&chain[at])?.stat(b"leaf").is_ok(),
                    at == 20
                );
            }
            assert!(handles.cache.lock().len() <= capacity);
            assert!(handles.layer(1).is_err());
        }
        Ok(())
    }

    #[test]
    fn running_out_of_descriptors_closes_some_and_tries_again() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("d"))?;
        let handles = Handles::with_capacity(Box::new([DirectoryLayer::open(dir.path())?]), 4);
        let root = LowerDirectory::root(0);
        for _ in 0..4 {
            handles.get(&LowerDirectory::below(&root, b"d"))?;
        }
        let tries = AtomicU64::new(0);
        let result = handles.making_room(|| match tries.fetch_add(1, Ordering::Relaxed) {
            0 => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            _ => Ok(handles.cache.lock().len()),
        });
        assert_eq!(result?, 2);
        Ok(())
    }

    #[test]
    fn long_chains_are_dropped_without_recursion() {
        let mut at = LowerDirectory::root(0);
        for _ in 0..200_000 {
            at = Arc::new(LowerDirectory::below(&at, b"d"));
        }
        drop(at);
    }
}
