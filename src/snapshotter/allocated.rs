//! The file of the database, all of which has its blocks: changing something in it needs no room on the disk, so that snapshots
//! can be removed when that is full.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use redb::backends::FileBackend;
use redb::{DatabaseError, StorageBackend};

/// A file without holes.
#[derive(Debug)]
pub(super) struct Allocated {
    file: File,
    inner: FileBackend,
}

impl Allocated {
    /// Takes the file, and the lock on it.
    ///
    /// # Errors
    /// [`DatabaseError::DatabaseAlreadyOpen`] when another process has it, or what locking reports.
    pub(super) fn new(file: File) -> Result<Allocated, DatabaseError> {
        let inner = FileBackend::new(file.try_clone()?)?;
        // Where there is no room for it now, it goes on as it is.
        if let Err(error) = allocate(&file, inner.len()?) {
            log::debug!("the database of the snapshots keeps its holes: {error}");
        }
        Ok(Allocated { file, inner })
    }
}

impl StorageBackend for Allocated {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        allocate(&self.file, length)?;
        self.inner.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

/// Gives the first bytes of a file their blocks, where the file system can.
fn allocate(file: &File, length: u64) -> io::Result<()> {
    let length = i64::try_from(length).map_err(io::Error::other)?;
    if length == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        allocated => Ok(allocated?),
    }
}
