//! Open files.
//!
//! A handle belongs to a node, not to a layer: a file that was opened for reading while its data
//! lay in the base shows the data of the upper as soon as there are any.

use super::{NodeNumber, OpenContent, Result};
use nix::errno::Errno;

/// An open regular file.
#[derive(Debug)]
pub struct OverlayFile {
    node: NodeNumber,
    content: OpenContent,
}

impl OverlayFile {
    /// The node that was opened.
    #[must_use]
    pub fn node(&self) -> NodeNumber {
        self.node
    }

    /// Whether it was opened for writing.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        false
    }

    /// The data as they lie on disk at present: for passthrough, where `whole`.
    ///
    /// # Errors
    /// What open(2) reports.
    pub fn content(&self) -> Result<OpenContent> {
        Ok(self.content.clone())
    }

    /// Whether the data lie in the upper.
    #[must_use]
    pub fn is_upper(&self) -> bool {
        false
    }

    /// Reads until `buffer` is full or the file ends; returns the number of bytes.
    ///
    /// # Errors
    /// What pread(2) reports.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.content.read_at(buffer, offset)
    }

    /// Writes all of `data`, or says how much of it was written before an error.
    ///
    /// # Errors
    /// `EBADF` when not opened for writing, or what pwrite(2) reports.
    pub fn write_at(&self, _data: &[u8], _offset: u64) -> Result<usize> {
        Err(Errno::EBADF.into())
    }

    /// fallocate(2) with any mode.
    ///
    /// # Errors
    /// As [`OverlayFile::write_at`].
    pub fn allocate(&self, _mode: i32, _offset: u64, _length: u64) -> Result<()> {
        Err(Errno::EBADF.into())
    }

    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`.
    ///
    /// # Errors
    /// `ENXIO` beyond the end, `EINVAL` for other ways.
    pub fn seek(&self, _offset: i64, _whence: i32) -> Result<i64> {
        Err(Errno::EINVAL.into())
    }

    /// Makes what was written durable; of the attributes only what is needed to read it if
    /// `data_only`. Nothing on a volatile overlay.
    ///
    /// # Errors
    /// What fsync(2) reports.
    pub fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    /// copy_file_range(2) between two open files; returns the number of bytes.
    ///
    /// # Errors
    /// As [`OverlayFile::write_at`].
    pub fn copy_range(
        &self,
        _offset: u64,
        _to: &OverlayFile,
        _to_offset: u64,
        _length: u64,
    ) -> Result<u64> {
        Err(Errno::EBADF.into())
    }
}
