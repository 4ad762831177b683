//! Entries of a tar stream: headers, PAX and GNU extensions, and the data between them.
//!
//! Our own loop, because the `tar` crate reads extensions without bound. Where tar
//! implementations disagree, Go's `archive/tar` decides, since Docker, containerd and podman read
//! layers with it.
//!
//! # Invariants
//! * An extension header applies to the next real entry and to nothing else; its own size is
//!   that of its plain header.
//! * The data of an entry is `stored` bytes long, whatever else its headers claim.

use std::io::Read;

use super::entry::{Entry, EntryKind};
use super::header::{BLOCK, Block, GNU_SPARSE};
use super::pipeline::Stream;
use super::sparse::MapReader;
use super::{Error, Escaped, Limits, Problem};
use crate::layer::{Metadata, Timestamp};

/// A tar stream.
pub(super) struct Archive<'scope, 'env, R: Read> {
    stream: Stream<'scope, 'env, R>,
    limits: &'env Limits,
    /// Whether the data of the last entry must be padded.
    strict: bool,
    /// The current entry.
    pub(super) entry: Entry,
    header: [u8; BLOCK],
    /// Whether `header` was read ahead.
    pending: bool,
    /// Data of the current entry that was not read yet, and the zeros after it.
    remaining: u64,
    padding: u64,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    entries: u64,
    /// Whether a block of zeros ended the archive, and not just the end of the stream.
    pub(super) marked: bool,
}

impl<'scope, 'env, R: Read + Send + 'scope> Archive<'scope, 'env, R> {
    pub(super) fn new(stream: Stream<'scope, 'env, R>, limits: &'env Limits, strict: bool) -> Self {
        Archive {
            stream,
            limits,
            strict,
            entry: Entry::default(),
            header: [0; BLOCK],
            pending: false,
            remaining: 0,
            padding: 0,
            long_path: None,
            long_link: None,
            entries: 0,
            marked: false,
        }
    }

    /// Number of entries so far.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.stream.progress().is_cancelled()
    }

    /// The stream that it is read from.
    pub(super) fn stream(&mut self) -> &mut Stream<'scope, 'env, R> {
        &mut self.stream
    }

    /// The stream behind the end of the archive.
    pub(super) fn into_stream(self) -> Stream<'scope, 'env, R> {
        self.stream
    }

    /// Reads the next entry; `false` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<bool, Error> {
        self.skip_data()?;
        self.entry.extensions.clear();
        (self.long_path, self.long_link) = (None, None);
        loop {
            let Some(offset) = self.next_header()? else {
                return Ok(false);
            };
            let header = self.header;
            let at = |problem| Error::Header { offset, problem };
            let block = Block::new(&header).map_err(at)?;
            match block.kind() {
                kind @ (b'x' | b'g' | b'L' | b'K') => {
                    let size = block.size().map_err(at)?;
                    if size > self.limits.extension {
                        let what = "bytes in one extension header";
                        let limit = self.limits.extension;
                        return Err(at(Problem::TooLarge { what, limit }));
                    }
                    self.begin_data(size);
                    match kind {
                        // Container engines ignore global headers, so layers must not mean them.
                        b'g' => self.skip_data()?,
                        b'L' => self.long_path = Some(self.long_name()?),
                        b'K' => self.long_link = Some(self.long_name()?),
                        _ => {
                            // A second one replaces the first.
                            self.entry.extensions.clear();
                            let mut body = std::mem::take(&mut self.entry.extensions.body);
                            self.read_data(&mut body)?;
                            self.entry.extensions.body = body;
                            self.entry.extensions.parse(self.limits).map_err(at)?;
                        }
                    }
                }
                _ => {
                    self.entries += 1;
                    if self.entries > self.limits.entries {
                        let limit = self.limits.entries;
                        return Err(Error::TooLarge {
                            what: "entries",
                            limit,
                        });
                    }
                    self.read_entry(&block, offset)?;
                    return Ok(true);
                }
            }
        }
    }

    /// The data of the entry at hand: some of it, or nothing when there is no more.
    pub(super) fn data(&mut self) -> Result<&[u8], Error> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let offset = self.stream.offset();
        let bytes = self.stream.fill()?;
        if bytes.is_empty() {
            return Err(Error::Truncated { offset });
        }
        let count = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        Ok(bytes.get(..count).unwrap_or_default())
    }

    /// Goes past `count` bytes of what [`Archive::data`] gave.
    pub(super) fn consume(&mut self, count: usize) {
        self.stream.consume(count);
        self.remaining -= (count as u64).min(self.remaining);
    }

    /// Sets up `entry` from its header and what the extension headers before it said.
    fn read_entry(&mut self, block: &Block<'_>, offset: u64) -> Result<(), Error> {
        let entry = &mut self.entry;
        entry.path.clear();
        entry.link.clear();
        // Like Go, the GNU name wins over the PAX path, and that over the plain header.
        let extensions = &entry.extensions;
        if let Some(path) = &self.long_path {
            entry.path.extend_from_slice(path);
        } else if let Some(span) = extensions.sparse.name.as_ref().or(extensions.path.as_ref()) {
            entry.path.extend_from_slice(extensions.get(span));
        } else {
            block.path(&mut entry.path);
        }
        if let Some(link) = &self.long_link {
            entry.link.extend_from_slice(link);
        } else if let Some(span) = &extensions.link {
            entry.link.extend_from_slice(extensions.get(span));
        } else {
            entry.link.extend_from_slice(block.link());
        }
        let path = &entry.path;
        let at = |problem| Error::Entry {
            path: Escaped::new(path),
            problem,
        };
        let kind = block.kind();
        entry.kind = match kind {
            // Before POSIX a directory was known by its slash.
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | GNU_SPARSE => EntryKind::Regular,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(at(Problem::UnknownType(other))),
        };
        // What PAX overrides is not even looked at: it may not have fitted into the header.
        let or = |pax: Option<u32>, plain: &dyn Fn() -> Result<u32, Problem>| match pax {
            Some(value) => Ok(value),
            None => plain(),
        };
        entry.metadata = Metadata {
            permissions: block.permissions().map_err(at)?,
            uid: or(extensions.uid, &|| block.uid()).map_err(at)?,
            gid: or(extensions.gid, &|| block.gid()).map_err(at)?,
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => Timestamp {
                    seconds: block.mtime().map_err(at)?,
                    nanoseconds: 0,
                },
            },
        };
        entry.device = match entry.kind {
            EntryKind::CharDevice | EntryKind::BlockDevice => block.device().map_err(at)?,
            _ => (0, 0),
        };
        entry.stored = match extensions.size {
            Some(size) => size,
            None => block.size().map_err(at)?,
        };
        entry.size = entry.stored;
        entry.sparse = false;
        let stored = entry.stored;
        self.begin_data(stored);
        if self.entry.kind == EntryKind::Regular {
            self.read_map(block, kind, offset)?;
            if self.entry.size > self.limits.file_size {
                let what = "bytes in one file";
                let limit = self.limits.file_size;
                return Err(self.entry.error(Problem::TooLarge { what, limit }));
            }
        } else if kind != 0 && stored > 0 {
            self.skip_optional_data()?;
        }
        Ok(())
    }

    /// Types without content may still have a size. Go and GNU tar then expect no data, while
    /// libarchive writes some behind hard links: there is data if no header follows.
    fn skip_optional_data(&mut self) -> Result<(), Error> {
        let (stored, padding) = (self.remaining, self.padding);
        (self.remaining, self.padding) = (0, 0);
        self.entry.stored = 0;
        self.entry.size = 0;
        if !self.read_block()? {
            return Ok(());
        }
        if self.header == [0; BLOCK] || Block::new(&self.header).is_ok() {
            self.pending = true;
            return Ok(());
        }
        let rest = (stored + padding).saturating_sub(BLOCK as u64);
        (self.remaining, self.padding) = (rest, 0);
        self.skip_data()
    }

    /// Reads the sparse map of the entry at hand, if it has one in any of the four formats.
    fn read_map(&mut self, block: &Block<'_>, kind: u8, offset: u64) -> Result<(), Error> {
        let at = |problem| Error::Header { offset, problem };
        self.entry.map.clear();
        let sparse = &mut self.entry.extensions.sparse;
        if kind == GNU_SPARSE {
            let missing = || at(Problem::Sparse("no gnu header"));
            let gnu = block.gnu().ok_or_else(missing)?;
            self.entry
                .map
                .push_gnu(&gnu.sparse, self.limits)
                .map_err(at)?;
            let what = "size of a sparse file";
            self.entry.map.real_size = super::header::unsigned(&gnu.realsize, what).map_err(at)?;
            let mut more = gnu.isextended != [0];
            while more {
                let mut extension = tar::GnuExtSparseHeader::new();
                self.read_raw(extension.as_mut_bytes())?;
                self.entry
                    .map
                    .push_gnu(&extension.sparse, self.limits)
                    .map_err(at)?;
                more = extension.isextended != [0];
                // Unused entries end a block, so a chain of empty blocks would have no end.
                if more
                    && extension
                        .sparse
                        .last()
                        .is_some_and(|last| last.offset == [0; 12])
                {
                    return Err(at(Problem::Sparse("an unfinished block is continued")));
                }
            }
        } else if sparse.major == Some(1) && sparse.minor == Some(0) {
            self.entry.map.real_size = sparse
                .size
                .ok_or_else(|| at(Problem::Sparse("no size of the file")))?;
            self.read_leading_map()?;
        } else if sparse.major.unwrap_or(0) != 0 || sparse.minor.unwrap_or(0) > 1 {
            return Err(self.entry.error(Problem::Sparse("unknown version")));
        } else if sparse.has_map {
            std::mem::swap(&mut self.entry.map, &mut sparse.map);
            self.entry.map.real_size = sparse
                .size
                .ok_or_else(|| at(Problem::Sparse("no size of the file")))?;
        } else {
            return Ok(());
        }
        self.entry.sparse = true;
        self.entry.stored = self.remaining;
        self.entry.size = self.entry.map.real_size;
        self.entry
            .map
            .check(self.remaining)
            .map_err(|problem| self.entry.error(problem))
    }

    /// The map of PAX format 1.0 stands before the content, in blocks of its own.
    fn read_leading_map(&mut self) -> Result<(), Error> {
        let mut reader = MapReader::default();
        let mut read = 0;
        loop {
            if self.remaining < BLOCK as u64 || read >= self.limits.extension.max(BLOCK as u64) {
                return Err(self.entry.error(Problem::Sparse("the map has no end")));
            }
            let mut block = [0; BLOCK];
            self.read_raw(&mut block)?;
            self.remaining -= BLOCK as u64;
            read += BLOCK as u64;
            let last = reader.block(&block, &mut self.entry.map, self.limits);
            if last.map_err(|problem| self.entry.error(problem))? {
                return Ok(());
            }
        }
    }

    /// A GNU long name ends at its NUL.
    fn long_name(&mut self) -> Result<Vec<u8>, Error> {
        let mut name = Vec::new();
        self.read_data(&mut name)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// Reads the next header into `header` and gives its offset; nothing at the end.
    fn next_header(&mut self) -> Result<Option<u64>, Error> {
        if !std::mem::take(&mut self.pending) && !self.read_block()? {
            return Ok(None);
        }
        let offset = self.stream.offset() - BLOCK as u64;
        if self.header.first() != Some(&0) || self.header != [0; BLOCK] {
            return Ok(Some(offset));
        }
        self.marked = true;
        // Two zero blocks end the archive; the end of the stream does as well.
        if self.read_block()? && self.header != [0; BLOCK] {
            return Err(Error::Header {
                offset,
                problem: Problem::LoneZeroBlock,
            });
        }
        Ok(None)
    }

    /// Reads a block into `header`; `false` if the stream ends before it.
    fn read_block(&mut self) -> Result<bool, Error> {
        if self.stream.fill()?.is_empty() {
            return Ok(false);
        }
        let mut block = [0; BLOCK];
        self.read_raw(&mut block)?;
        self.header = block;
        Ok(true)
    }

    fn read_raw(&mut self, mut to: &mut [u8]) -> Result<(), Error> {
        while !to.is_empty() {
            let offset = self.stream.offset();
            let bytes = self.stream.fill()?;
            if bytes.is_empty() {
                return Err(Error::Truncated { offset });
            }
            let count = bytes.len().min(to.len());
            let (now, later) = to.split_at_mut(count);
            now.copy_from_slice(bytes.get(..count).unwrap_or_default());
            self.stream.consume(count);
            to = later;
        }
        Ok(())
    }

    fn begin_data(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Reads the data of an extension header, whose size has been checked.
    fn read_data(&mut self, to: &mut Vec<u8>) -> Result<(), Error> {
        while self.remaining > 0 {
            let bytes = self.data()?;
            let count = bytes.len();
            to.extend_from_slice(bytes);
            self.consume(count);
        }
        self.skip_data()
    }

    /// Goes to the end of the data and its padding. The stream may end before the padding, or within
    /// it: Go accepts that, and programs that append to layers make such.
    fn skip_data(&mut self) -> Result<(), Error> {
        while self.remaining > 0 {
            let count = self.data()?.len();
            self.consume(count);
        }
        self.remaining = std::mem::take(&mut self.padding);
        while self.remaining > 0 {
            if !self.strict && self.stream.fill()?.is_empty() {
                self.remaining = 0;
                return Ok(());
            }
            let count = self.data()?.len();
            self.consume(count);
        }
        Ok(())
    }
}
