//! Read-only memory mappings of files that are never changed in place.
//!
//! # Invariants
//! The store never truncates or rewrites a file that may be mapped (it renames new ones into
//! place), so a mapping cannot fault.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;

/// A private read-only mapping of a whole file.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is read-only and private, so sharing it between threads shares only reads.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps all of `file`.
    ///
    /// # Errors
    /// Returns what fstat(2) or mmap(2) reports; an empty file maps to an empty slice.
    pub fn new(file: &File) -> io::Result<Mapping> {
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let Some(nonzero) = NonZeroUsize::new(length) else {
            return Ok(Mapping {
                start: NonNull::dangling(),
                length: 0,
            });
        };
        // SAFETY: a fresh private read-only mapping at an address the kernel chooses aliases
        // nothing of ours.
        let start = unsafe {
            nix::sys::mman::mmap(
                None,
                nonzero,
                nix::sys::mman::ProtFlags::PROT_READ,
                nix::sys::mman::MapFlags::MAP_PRIVATE,
                file,
                0,
            )?
        };
        Ok(Mapping {
            start: start.cast(),
            length,
        })
    }

    /// Lets the kernel drop the resident pages of the mapping; later reads bring them back.
    pub fn release_pages(&self) {
        if self.length == 0 {
            return;
        }
        // SAFETY: the range is exactly the mapping; MADV_DONTNEED of a private file mapping that
        // was never written only discards clean page table entries.
        let result = unsafe {
            nix::sys::mman::madvise(
                self.start.cast(),
                self.length,
                nix::sys::mman::MmapAdvise::MADV_DONTNEED,
            )
        };
        if let Err(error) = result {
            log::debug!("madvise of a mapped index: {error}");
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: start and length describe a live mapping (or a dangling, empty one), which is
        // unmapped only on drop, and the file below it never changes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length == 0 {
            return;
        }
        // SAFETY: the range was returned by mmap and is unmapped once.
        if let Err(error) = unsafe { nix::sys::mman::munmap(self.start.cast(), self.length) } {
            log::debug!("munmap of an index: {error}");
        }
    }
}
