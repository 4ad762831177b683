//! Layer tar from entries: reproducible ustar, with PAX where ustar does not suffice.
//!
//! # Invariants
//! * The bytes depend on the entries alone: no user names, no access or change times, no clock.
//! * Everything that [`pack_layer`](super::pack_layer) keeps is written so that it reads it back.

use std::io::{Read, Write};

use tar::Header;

use super::header::BLOCK;
use super::{Error, Escaped, Problem, sparse};
use crate::layer::{Metadata, Timestamp};

/// One entry to be written.
#[derive(Clone, Copy, Debug)]
pub struct TarEntry<'a> {
    /// The path, without a leading slash; the root is empty.
    pub path: &'a [u8],
    /// Owner, mode, time.
    pub metadata: Metadata,
    /// What it is.
    pub kind: TarKind<'a>,
    /// Names and values; written in the order of the names.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// What a [`TarEntry`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TarKind<'a> {
    /// A directory.
    Directory,
    /// A regular file of this many bytes.
    Regular(u64),
    /// A regular file of this many bytes with holes; the content is that of its data only.
    Sparse {
        /// Size of the file.
        size: u64,
        /// Offset and length of each run of data, ascending.
        segments: &'a [(u64, u64)],
    },
    /// A symbolic link with its target.
    Symlink(&'a [u8]),
    /// A hard link to a path that was written before.
    HardLink(&'a [u8]),
    /// A character device: major and minor.
    CharDevice(u32, u32),
    /// A block device: major and minor.
    BlockDevice(u32, u32),
    /// A FIFO.
    Fifo,
}

/// Writes entries as a layer tar.
#[derive(Debug)]
pub struct TarWriter<W> {
    inner: W,
    records: Vec<u8>,
    buffer: Vec<u8>,
    /// Bytes of holes from which on they are left out of a file.
    pub(super) least_holes: u64,
}

impl<W: Write> TarWriter<W> {
    /// Writes to `inner`, which is best buffered.
    pub fn new(inner: W) -> TarWriter<W> {
        TarWriter {
            inner,
            records: Vec::new(),
            buffer: Vec::new(),
            least_holes: sparse::LEAST_HOLES,
        }
    }

    /// Writes one entry; `content` is read only for regular files, and to exactly its size.
    ///
    /// # Errors
    /// [`Error::WriteArchive`]; [`Error::Unarchivable`] for what tar cannot hold or a content
    /// that ends too early; [`Error::ReadTree`] if `content` fails.
    pub fn append(&mut self, entry: &TarEntry<'_>, content: &mut dyn Read) -> Result<(), Error> {
        let refuse = |problem| Error::Unarchivable {
            path: Escaped::new(entry.path),
            problem,
        };
        let header = self.header(entry).map_err(refuse)?;
        if !self.records.is_empty() {
            self.write_records(entry.path)?;
        }
        self.write(header.as_bytes())?;
        match entry.kind {
            TarKind::Regular(size) => self.write_content(entry.path, size, content),
            TarKind::Sparse { size, segments } => {
                self.write(&sparse::map_text(segments, size))?;
                self.write_content(entry.path, data_size(segments), content)
            }
            _ => Ok(()),
        }
    }

    /// Writes the whiteout of `path`, which hides what lower layers have there.
    ///
    /// # Errors
    /// As [`TarWriter::append`].
    pub fn append_whiteout(&mut self, path: &[u8]) -> Result<(), Error> {
        let (parent, name) = super::path::split(path);
        self.append_mark(parent, &[b".wh.", name].concat())
    }

    /// Writes the mark that makes the directory `path` opaque.
    ///
    /// # Errors
    /// As [`TarWriter::append`].
    pub fn append_opaque(&mut self, path: &[u8]) -> Result<(), Error> {
        self.append_mark(path, b".wh..wh..opq")
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// [`Error::WriteArchive`].
    pub fn finish(mut self) -> Result<W, Error> {
        self.write(&[0; 2 * BLOCK])?;
        self.inner.flush().map_err(Error::WriteArchive)?;
        Ok(self.inner)
    }

    fn append_mark(&mut self, parent: &[u8], name: &[u8]) -> Result<(), Error> {
        let mut path = parent.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        // Engines give whiteouts the time 0, so that they do not make layers differ.
        let metadata = Metadata {
            permissions: 0o600,
            ..Metadata::default()
        };
        let kind = TarKind::Regular(0);
        self.append(
            &TarEntry {
                path: &path,
                metadata,
                kind,
                xattrs: &[],
            },
            &mut std::io::empty(),
        )
    }

    /// The plain header of `entry`; what does not fit goes into `records`.
    fn header(&mut self, entry: &TarEntry<'_>) -> Result<Header, Problem> {
        self.records.clear();
        let mut header = Header::new_ustar();
        // The field layout of new_ustar is right, so this is always there.
        let Some(ustar) = header.as_ustar_mut() else {
            return Err(Problem::Checksum);
        };
        let path = archive_path(entry);
        if path.contains(&0) {
            return Err(Problem::Nul("path"));
        }
        if !split_path(&path, &mut ustar.name, &mut ustar.prefix) {
            record(&mut self.records, b"path", &path);
            let head = path.get(..ustar.name.len()).unwrap_or_default();
            copy(head, &mut ustar.name);
        }
        let (kind, size, link, device) = match entry.kind {
            TarKind::Regular(size) => (b'0', size, &b""[..], None),
            TarKind::Sparse { size, segments } => {
                for (key, value) in [("major", 1), ("minor", 0), ("realsize", size)] {
                    let key = format!("GNU.sparse.{key}");
                    record(
                        &mut self.records,
                        key.as_bytes(),
                        value.to_string().as_bytes(),
                    );
                }
                let map = sparse::map_text(segments, size).len() as u64;
                (b'0', map + data_size(segments), &b""[..], None)
            }
            TarKind::HardLink(target) => (b'1', 0, target, None),
            TarKind::Symlink(target) => (b'2', 0, target, None),
            TarKind::CharDevice(major, minor) => (b'3', 0, &b""[..], Some((major, minor))),
            TarKind::BlockDevice(major, minor) => (b'4', 0, &b""[..], Some((major, minor))),
            TarKind::Directory => (b'5', 0, &b""[..], None),
            TarKind::Fifo => (b'6', 0, &b""[..], None),
        };
        ustar.typeflag = [kind];
        if link.contains(&0) {
            return Err(Problem::Nul("link target"));
        }
        if !copy(link, &mut ustar.linkname) {
            record(&mut self.records, b"linkpath", link);
        }
        let metadata = &entry.metadata;
        octal(u64::from(metadata.permissions & 0o7777), &mut ustar.mode);
        for (key, value, field) in [
            (&b"size"[..], size, &mut ustar.size[..]),
            (b"uid", u64::from(metadata.uid), &mut ustar.uid),
            (b"gid", u64::from(metadata.gid), &mut ustar.gid),
        ] {
            if !octal(value, field) {
                record(&mut self.records, key, value.to_string().as_bytes());
            }
        }
        let seconds = u64::try_from(metadata.mtime.seconds).unwrap_or(u64::MAX);
        let whole = metadata.mtime.nanoseconds == 0;
        if !(octal(seconds, &mut ustar.mtime) && whole) {
            record(
                &mut self.records,
                b"mtime",
                timestamp(metadata.mtime).as_bytes(),
            );
        }
        let (major, minor) = device.unwrap_or_default();
        let major = octal(u64::from(major), &mut ustar.dev_major);
        if !(octal(u64::from(minor), &mut ustar.dev_minor) && major) {
            return Err(Problem::Number("device number"));
        }
        self.xattr_records(entry)?;
        header.set_cksum();
        Ok(header)
    }

    fn xattr_records(&mut self, entry: &TarEntry<'_>) -> Result<(), Problem> {
        let mut sorted: Vec<_> = entry.xattrs.iter().collect();
        sorted.sort_unstable();
        for (name, value) in sorted {
            if name.is_empty() || name.contains(&0) {
                return Err(Problem::Pax("an attribute without a valid name"));
            }
            let key = [b"SCHILY.xattr.", encode_name(name).as_slice()].concat();
            record(&mut self.records, &key, value);
        }
        Ok(())
    }

    fn write_records(&mut self, path: &[u8]) -> Result<(), Error> {
        let refuse = |problem| Error::Unarchivable {
            path: Escaped::new(path),
            problem,
        };
        let mut header = Header::new_ustar();
        let size = self.records.len() as u64;
        if let Some(ustar) = header.as_ustar_mut() {
            // Only people see this name, in tools that do not know the format.
            let name = super::path::split(path.trim_ascii_end()).1;
            let name = [
                b"PaxHeaders.0/",
                name.get(..name.len().min(80)).unwrap_or(name),
            ]
            .concat();
            copy(&name, &mut ustar.name);
            octal(0o644, &mut ustar.mode);
            octal(0, &mut ustar.uid);
            octal(0, &mut ustar.gid);
            octal(0, &mut ustar.mtime);
            if !octal(size, &mut ustar.size) {
                return Err(refuse(Problem::Pax("too long")));
            }
            ustar.typeflag = *b"x";
        }
        header.set_cksum();
        self.write(header.as_bytes())?;
        let result = self.inner.write_all(&self.records);
        result.map_err(Error::WriteArchive)?;
        self.pad(size)
    }

    fn write_content(
        &mut self,
        path: &[u8],
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(128 * 1024, 0);
        let mut rest = size;
        while rest > 0 {
            let wanted = usize::try_from(rest)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let read = content.read(buffer.get_mut(..wanted).unwrap_or_default());
            let count = match read {
                Ok(0) => {
                    let (path, problem) = (Escaped::new(path), Problem::Short(size));
                    return Err(Error::Unarchivable { path, problem });
                }
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(Error::ReadTree {
                        path: Escaped::new(path),
                        source,
                    });
                }
            };
            self.write(buffer.get(..count).unwrap_or_default())?;
            rest -= count as u64;
        }
        self.buffer = buffer;
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<(), Error> {
        let padding = (size.wrapping_neg() % BLOCK as u64) as usize;
        self.write([0; BLOCK].get(..padding).unwrap_or_default())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.inner.write_all(bytes).map_err(Error::WriteArchive)
    }
}

fn data_size(segments: &[(u64, u64)]) -> u64 {
    segments.iter().map(|(_, length)| length).sum()
}

/// The path as archives have it: directories end with a slash, and the root is `./`.
fn archive_path(entry: &TarEntry<'_>) -> Vec<u8> {
    let mut path = entry.path.to_vec();
    if path.is_empty() {
        path.push(b'.');
    }
    if entry.kind == TarKind::Directory {
        path.push(b'/');
    }
    path
}

/// Splits `path` into the two fields of a header, at a slash; `false` if it does not fit.
fn split_path(path: &[u8], name: &mut [u8], prefix: &mut [u8]) -> bool {
    if path.len() <= name.len() {
        return copy(path, name);
    }
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    for (at, _) in slashes {
        let (front, back) = (
            path.get(..at).unwrap_or_default(),
            path.get(at + 1..).unwrap_or_default(),
        );
        let fits = !back.is_empty() && back.len() <= name.len() && front.len() <= prefix.len();
        if fits && !front.is_empty() {
            return copy(front, prefix) && copy(back, name);
        }
    }
    false
}

/// Copies `bytes` to the start of `field`, if they fit.
fn copy(bytes: &[u8], field: &mut [u8]) -> bool {
    match field.get_mut(..bytes.len()) {
        Some(start) => {
            start.copy_from_slice(bytes);
            true
        }
        None => false,
    }
}

/// Writes `value` in octal and a NUL, if it fits; else a zero.
fn octal(value: u64, field: &mut [u8]) -> bool {
    let digits = field.len() - 1;
    let fits = value >> (3 * digits) == 0;
    let text = format!("{:0digits$o}", if fits { value } else { 0 });
    copy(text.as_bytes(), field) && fits
}

/// Appends one record, whose length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// A decimal fraction of seconds; the fraction counts away from zero.
fn timestamp(time: Timestamp) -> String {
    let mut seconds = i128::from(time.seconds);
    let mut nanoseconds = time.nanoseconds;
    let sign = if seconds < 0 { "-" } else { "" };
    if seconds < 0 && nanoseconds > 0 {
        seconds += 1;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    let whole = seconds.unsigned_abs();
    if nanoseconds == 0 {
        return format!("{sign}{whole}");
    }
    let fraction = format!("{nanoseconds:09}");
    format!("{sign}{whole}.{}", fraction.trim_end_matches('0'))
}

/// An attribute name as GNU tar writes it: an equals sign would end the key. A percent sign is
/// encoded only where it would be taken for such a code, because other readers know neither.
fn encode_name(name: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        match first {
            b'=' => encoded.extend_from_slice(b"%3D"),
            b'%' if tail.starts_with(b"3D") || tail.starts_with(b"25") => {
                encoded.extend_from_slice(b"%25");
            }
            other => encoded.push(*other),
        }
        rest = tail;
    }
    encoded
}
