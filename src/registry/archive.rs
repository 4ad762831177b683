//! Tar archives that images are saved in, as a table of where each file lies.
//!
//! Nothing is ever unpacked: one pass over the headers notes names and positions, and names are only
//! compared with those that the formats prescribe. So no name can do harm.
//!
//! # Invariants
//!
//! * Every entry lies wholly within the file.
//! * Memory is bounded: entries, names and extended headers have limits.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tar::{EntryType, Header};

use super::Error;
use super::exact::{Section, read_limited};

const BLOCK: u64 = 512;
const MOST_ENTRIES: usize = 1_000_000;
/// Of all names together, in bytes.
const MOST_NAMES: usize = 64 << 20;
/// Of one extended header or long name, in bytes.
const LARGEST_EXTENSION: u64 = 1 << 20;
/// How many symbolic links are followed one after another.
const MOST_LINKS: usize = 8;

/// An archive whose headers have been read.
#[derive(Debug)]
pub(super) struct TarFile {
    path: PathBuf,
    file: Arc<File>,
    entries: HashMap<Vec<u8>, Entry>,
    /// Whether it has the marker that ends it.
    whole: bool,
}

#[derive(Debug)]
enum Entry {
    /// A regular file: position and size.
    File(u64, u64),
    /// A link to another entry, by its full name.
    Link(Vec<u8>),
}

/// What extended headers say about the entry that follows them.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl TarFile {
    /// Reads the headers of an archive.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        // Opening a pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            let path = path.to_owned();
            let why = "it is not a file".to_owned();
            return Err(Error::Archive { path, why });
        }
        Self::of(File::open(path).map_err(io)?, path)
    }

    /// Reads the headers of an archive that is open, and is called `path`.
    pub(super) fn of(file: File, path: &Path) -> Result<Self, Error> {
        let length = file.metadata().map(|metadata| metadata.len());
        let mut tar = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            entries: HashMap::new(),
            whole: false,
        };
        let length = length.map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        tar.refuse_compressed(length)?;
        tar.read_headers(length)?;
        Ok(tar)
    }

    /// An error about this archive.
    pub(super) fn wrong(&self, why: impl Into<String>) -> Error {
        Error::Archive {
            path: self.path.clone(),
            why: why.into(),
        }
    }

    /// Whether its end is there.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// An error about something that is not in this archive, perhaps because its end is missing.
    pub(super) fn lacks(&self, why: &str) -> Error {
        if self.whole {
            self.wrong(why)
        } else {
            self.wrong(format!("it is cut short, without its end marker: {why}"))
        }
    }

    /// Position and size of a file; links within the archive are followed.
    pub(super) fn find(&self, name: &[u8]) -> Option<(u64, u64)> {
        let mut name = normal(name);
        for _ in 0..MOST_LINKS {
            match self.entries.get(&name)? {
                Entry::File(position, size) => return Some((*position, *size)),
                Entry::Link(target) => name = target.clone(),
            }
        }
        None
    }

    /// A reader of the archive's bytes from `position` up to `end`.
    pub(super) fn section(&self, position: u64, end: u64) -> Section {
        Section::new(Arc::clone(&self.file), position, end)
    }

    /// The content of a file of at most `limit` bytes; `None` if there is no such file.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some((position, size)) = self.find(name.as_bytes()) else {
            return Ok(None);
        };
        if size > limit {
            return Err(Error::TooLarge {
                what: format!("{name} in {}", self.path.display()),
                limit,
            });
        }
        let section = self.section(position, position + size);
        let bytes = read_limited(section, limit).map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })?;
        Ok(bytes)
    }

    fn refuse_compressed(&self, length: u64) -> Result<(), Error> {
        let mut start = [0; 6];
        let known = start
            .len()
            .min(usize::try_from(length).unwrap_or(usize::MAX));
        self.read_at(&mut start[..known], 0)?;
        let tool = match start {
            [0x1f, 0x8b, ..] => "gzip -d",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd -d",
            [b'B', b'Z', b'h', ..] => "bzip2 -d",
            [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz -d",
            _ => return Ok(()),
        };
        Err(self.wrong(format!(
            "it is compressed, and must be decompressed first with {tool}"
        )))
    }

    fn read_headers(&mut self, length: u64) -> Result<(), Error> {
        let mut position = 0;
        let mut names = 0;
        let mut extension = Extension::default();
        while position + BLOCK <= length {
            let mut block = [0; BLOCK as usize];
            self.read_at(&mut block, position)?;
            if block.iter().all(|byte| *byte == 0) {
                self.whole = true;
                break;
            }
            let header = Header::from_byte_slice(&block);
            let damaged = |what: &str| self.wrong(format!("{what} at byte {position}"));
            if header.cksum().map_or(true, |sum| sum != checksum(&block)) {
                return Err(damaged("it is not a tar archive: no header"));
            }
            let kind = header.entry_type();
            let declared = header
                .entry_size()
                .map_err(|_| damaged("the header has no valid size"))?;
            let is_extension = kind.is_pax_local_extensions()
                || kind.is_pax_global_extensions()
                || kind.is_gnu_longname()
                || kind.is_gnu_longlink();
            // The size from an extended header belongs to the entry itself, never to another extension.
            let size = if is_extension {
                declared
            } else {
                extension.size.unwrap_or(declared)
            };
            let has_content = !matches!(
                kind,
                EntryType::Link
                    | EntryType::Symlink
                    | EntryType::Directory
                    | EntryType::Char
                    | EntryType::Block
                    | EntryType::Fifo
            );
            let content = position + BLOCK;
            let size = if has_content { size } else { 0 };
            let end = content
                .checked_add(size)
                .filter(|end| *end <= length)
                .ok_or_else(|| damaged("it is cut short: the file does not contain the entry"))?;
            if is_extension {
                if size > LARGEST_EXTENSION {
                    return Err(damaged("the extended header is too large"));
                }
                let mut bytes = vec![0; size as usize];
                self.read_at(&mut bytes, content)?;
                if kind.is_pax_local_extensions() {
                    extension
                        .take_pax(&bytes)
                        .ok_or_else(|| damaged("a bad extended header"))?;
                } else if kind.is_gnu_longname() {
                    extension.name = Some(until_nul(bytes));
                } else if kind.is_gnu_longlink() {
                    extension.link = Some(until_nul(bytes));
                }
            } else {
                let said = std::mem::take(&mut extension);
                let name = normal(
                    &said
                        .name
                        .unwrap_or_else(|| header.path_bytes().into_owned()),
                );
                let link = || {
                    said.link
                        .or_else(|| header.link_name_bytes().map(|b| b.into_owned()))
                };
                let entry = match kind {
                    EntryType::Regular | EntryType::Continuous => Some(Entry::File(content, size)),
                    EntryType::Symlink => link().map(|to| Entry::Link(beside(&name, &to))),
                    EntryType::Link => link().map(|to| Entry::Link(normal(&to))),
                    _ => None,
                };
                if let Some(entry) = entry {
                    names += name.len();
                    if self.entries.len() >= MOST_ENTRIES || names > MOST_NAMES {
                        return Err(damaged("it has too many entries"));
                    }
                    // Of several entries of one name the last counts, as when unpacking.
                    self.entries.insert(name, entry);
                }
            }
            position = end.next_multiple_of(BLOCK);
        }
        if self.entries.is_empty() {
            return Err(self.lacks("it has no files in it"));
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<(), Error> {
        self.file
            .read_exact_at(buffer, position)
            .map_err(|source| Error::Io {
                path: self.path.clone(),
                source,
            })
    }
}

impl Extension {
    /// Reads the records `LENGTH KEY=VALUE\n` of a PAX header.
    fn take_pax(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ')?;
            let length = number(&bytes[..space])?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            bytes = &bytes[length..];
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let value = &record[equals + 1..];
            match &record[..equals] {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number(value)? as u64),
                _ => {}
            }
        }
        Some(())
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    digits.iter().try_fold(0, |sum, digit| {
        digit
            .is_ascii_digit()
            .then(|| sum * 10 + usize::from(digit - b'0'))
    })
}

/// The checksum of a header: its bytes added up, with the checksum itself taken as spaces.
fn checksum(block: &[u8]) -> u32 {
    let byte = |(at, byte): (usize, &u8)| {
        if (148..156).contains(&at) {
            32
        } else {
            u32::from(*byte)
        }
    };
    block.iter().enumerate().map(byte).sum()
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// A name without empty and `.` parts; `..` takes back the part before it.
fn normal(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// What a symbolic link at `name` with this target points to.
fn beside(name: &[u8], target: &[u8]) -> Vec<u8> {
    if target.starts_with(b"/") {
        return normal(target);
    }
    normal(&[name, b"/../", target].concat())
}

/// Reads the first bytes of a section, for sniffing; fewer if it is shorter.
pub(super) fn start_of(mut section: Section) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    section.by_ref().take(4).read_to_end(&mut start)?;
    Ok(start)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A tar archive of regular files.
    pub(in crate::registry) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn open(bytes: &[u8]) -> Result<TarFile, Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        std::fs::write(&path, bytes).unwrap();
        TarFile::open(&path)
    }

    #[test]
    fn files_and_links() {
        let long = format!("{}/x", "d".repeat(150));
        let mut builder =
            tar::Builder::new(tar_of(&[("./a/layer.tar", b"first"), (&long, b"long")]));
        builder.get_mut().truncate(5 * 512 + 512);
        for (name, target, kind) in [
            ("b/layer.tar", "../a/layer.tar", EntryType::Symlink),
            ("c/layer.tar", "../b/layer.tar", EntryType::Symlink),
            ("loop", "loop", EntryType::Symlink),
            ("hard", "a/layer.tar", EntryType::Link),
            ("out", "../../../etc/passwd", EntryType::Symlink),
        ] {
            let mut header = Header::new_ustar();
            header.set_entry_type(kind);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        }
        let tar = open(&builder.into_inner().unwrap()).unwrap();
        for name in [
            "a/layer.tar",
            "b/layer.tar",
            "c/layer.tar",
            "hard",
            "./a//layer.tar",
        ] {
            assert_eq!(
                tar.read(name, 10).unwrap().as_deref(),
                Some(&b"first"[..]),
                "{name}"
            );
        }
        assert_eq!(tar.read(&long, 10).unwrap().as_deref(), Some(&b"long"[..]));
        for name in ["loop", "out", "missing"] {
            assert_eq!(tar.read(name, 10).unwrap(), None, "{name}");
        }
        assert!(matches!(tar.read("hard", 4), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn extended_headers() {
        let mut extension = Extension::default();
        assert!(
            extension
                .take_pax(b"12 path=abc\n16 size=1234567\n")
                .is_some()
        );
        assert_eq!(
            (extension.name.as_deref(), extension.size),
            (Some(&b"abc"[..]), Some(1234567))
        );
        for bad in [
            &b"x"[..],
            b"99 path=a\n",
            b"0 path=a\n",
            b"3 \n",
            b"9 size=-\n",
            b"8 patha\n",
        ] {
            assert!(Extension::default().take_pax(bad).is_none(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn damage_is_survived(at in 0..4096_usize, bytes: Vec<u8>) {
            let long = "d".repeat(150);
            let mut archive = tar_of(&[(&long, b"content"), ("b", b"more")]);
            let at = at.min(archive.len());
            let end = (at + bytes.len()).min(archive.len());
            archive[at..end].copy_from_slice(&bytes[..end - at]);
            if let Ok(tar) = open(&archive) {
                for name in tar.entries.keys() {
                    if let Some((position, size)) = tar.find(name) {
                        assert!(position + size <= archive.len() as u64);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_refused() {
        let good = tar_of(&[("a", &[7; 2000])]);
        let mut huge = tar_of(&[("a", b"")]);
        huge[124..136].copy_from_slice(b"77777777777\0");
        let sum = format!("{:06o}\0 ", checksum(&huge[..512]));
        huge[148..156].copy_from_slice(sum.as_bytes());
        for (bytes, why) in [
            (&b""[..], "no files"),
            (&[0; 1024], "no files"),
            (b"\x1f\x8b\x08\0\0\0\0", "gzip -d"),
            (b"\x28\xb5\x2f\xfd\0\0", "zstd -d"),
            (&[b'x'; 600], "not a tar archive"),
            (&good[..1500], "cut short"),
            (&huge, "cut short"),
        ] {
            let error = open(bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
