//! What an archive holds beside the contents of its files, from which containers/storage makes it again, byte by
//! byte: JSON, an object a line, compressed with gzip.
//!
//! A file is told by its name and the CRC of its content, all else by the bytes themselves. So is a file whose content
//! may not be found under its name afterwards.
//!
//! # See
//!
//! <https://github.com/vbatts/tar-split>

use std::collections::HashSet;
use std::io::{self, Read, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use super::entry::EntryKind;
use super::path::{normalise, split};
use super::pipeline::Stream;
use super::reader::Archive;
use super::{Compression, Compressor, Error, Limits, Progress};
use crate::whiteout;

/// The bytes of one object at most, before base64.
const SEGMENT: usize = 1 << 20;

#[derive(Serialize)]
struct Line<'a> {
    /// 1 for a file, 2 for bytes.
    #[serde(rename = "type")]
    kind: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// A name that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_raw: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    payload: String,
    position: u64,
}

/// Writes what `open` gives, a layer blob, to `out` but for the contents of its files. Gives the SHA-256 of what it
/// holds uncompressed, which is what the archive that is made of it again will have.
///
/// # Errors
/// [`Error`].
pub fn write_tar_split<R: Read + Send, W: Write>(
    open: impl Fn() -> io::Result<R>,
    mut out: impl FnMut() -> io::Result<W>,
    limits: &Limits,
) -> Result<[u8; 32], Error> {
    let mut whole = HashSet::new();
    loop {
        let splitter = Splitter {
            out: Compressor::new(Compression::Gzip, out().map_err(Error::WriteArchive)?)
                .map_err(Error::WriteArchive)?,
            limits,
            position: 0,
            seen: HashSet::new(),
            links: HashSet::new(),
            repeated: HashSet::new(),
            whole: &whole,
        };
        let source = open().map_err(Error::Read)?;
        let (digest, repeated) = splitter.run(source)?;
        // Which names come again is known at the end only; it hardly ever happens.
        if repeated.is_subset(&whole) {
            return Ok(digest);
        }
        whole = repeated;
    }
}

struct Splitter<'a, W: Write> {
    out: Compressor<W>,
    limits: &'a Limits,
    position: u64,
    seen: HashSet<Vec<u8>>,
    links: HashSet<Vec<u8>>,
    repeated: HashSet<Vec<u8>>,
    /// Files that are written with their contents.
    whole: &'a HashSet<Vec<u8>>,
}

impl<W: Write> Splitter<'_, W> {
    fn run<R: Read + Send>(mut self, source: R) -> Result<([u8; 32], HashSet<Vec<u8>>), Error> {
        let (limits, progress) = (self.limits, Progress::default());
        std::thread::scope(|scope| {
            let stream = Stream::new(scope, source, limits, &progress)?.copying();
            let mut archive = Archive::new(stream, limits, false);
            let mut path = Vec::new();
            while archive.next()? {
                normalise(&archive.entry.path, "path", limits, &mut path)
                    .map_err(|problem| archive.entry.error(problem))?;
                let is_file = self.is_file(&path, &archive.entry.kind) && !archive.entry.sparse;
                if is_file && archive.entry.stored > 0 {
                    let bytes = archive.stream().copied();
                    self.bytes(&bytes)?;
                    self.file(&path, &mut archive)?;
                    continue;
                }
                loop {
                    let count = archive.data()?.len();
                    if count == 0 {
                        break;
                    }
                    archive.consume(count);
                    if archive.stream().copied_length() >= SEGMENT {
                        let bytes = archive.stream().copied();
                        self.bytes(&bytes)?;
                    }
                }
            }
            let mut stream = archive.into_stream();
            while stream.advance()? {
                let bytes = stream.copied();
                self.bytes(&bytes)?;
            }
            let bytes = stream.copied();
            self.bytes(&bytes)?;
            let (digest, _, _) = stream.finish()?;
            let finished = self.out.finish().and_then(|mut out| out.flush());
            finished.map_err(Error::WriteArchive)?;
            Ok((digest, self.repeated))
        })
    }

    /// Whether an entry's content will be found under its name.
    fn is_file(&mut self, path: &[u8], kind: &EntryKind) -> bool {
        if *kind != EntryKind::Directory && !self.seen.insert(path.to_vec()) {
            self.repeated.insert(path.to_vec());
        }
        if *kind == EntryKind::Symlink {
            self.links.insert(path.to_vec());
        }
        let mut above = split(path).0;
        let mut behind_link = false;
        while !above.is_empty() && !self.links.is_empty() {
            behind_link |= self.links.contains(above);
            above = split(above).0;
        }
        *kind == EntryKind::Regular
            && !behind_link
            && !self.whole.contains(path)
            && whiteout::marker(split(path).1).is_none()
    }

    /// The content of the file at hand, which is told by its CRC.
    fn file<'a, R: Read + Send + 'a>(
        &mut self,
        path: &[u8],
        archive: &mut Archive<'a, '_, R>,
    ) -> Result<(), Error> {
        let size = archive.entry.stored;
        let mut crc = Crc::new();
        loop {
            let bytes = archive.data()?;
            if bytes.is_empty() {
                break;
            }
            crc.update(bytes);
            let count = bytes.len();
            archive.consume(count);
            archive.stream().copied();
        }
        let name = str::from_utf8(path).ok();
        self.line(&Line {
            kind: 1,
            name,
            name_raw: name.is_none().then(|| BASE64_STANDARD.encode(path)),
            size: Some(size),
            payload: BASE64_STANDARD.encode(crc.finish().to_be_bytes()),
            position: self.position,
        })
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for bytes in bytes.chunks(SEGMENT) {
            self.line(&Line {
                kind: 2,
                name: None,
                name_raw: None,
                size: None,
                payload: BASE64_STANDARD.encode(bytes),
                position: self.position,
            })?;
        }
        Ok(())
    }

    fn line(&mut self, line: &Line<'_>) -> Result<(), Error> {
        self.position += 1;
        let written = serde_json::to_writer(&mut self.out, line);
        let written = written.map_err(io::Error::from);
        let ended = written.and_then(|()| self.out.write_all(b"\n"));
        ended.map_err(Error::WriteArchive)
    }
}

/// The CRC-64 of ISO 3309 as Go has it, eight bytes at a time.
struct Crc {
    value: u64,
}

/// What a byte adds that has so many others behind it.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1)
                ^ if value & 1 == 1 {
                    0xd800_0000_0000_0000
                } else {
                    0
                };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut behind = 1;
    while behind < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[behind - 1][byte];
            tables[behind][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        behind += 1;
    }
    tables
}

/// Of one byte; indices of a byte are always there.
fn table(behind: usize, byte: u8) -> u64 {
    let table = TABLES.get(behind);
    table
        .and_then(|table| table.get(usize::from(byte)))
        .copied()
        .unwrap_or_default()
}

impl Crc {
    fn new() -> Crc {
        Crc { value: !0 }
    }

    fn update(&mut self, bytes: &[u8]) {
        let (groups, rest) = bytes.as_chunks::<8>();
        for group in groups {
            let mixed = (self.value ^ u64::from_le_bytes(*group)).to_le_bytes();
            let parts = mixed.iter().enumerate();
            self.value = parts.fold(0, |sum, (at, byte)| sum ^ table(7 - at, *byte));
        }
        for byte in rest {
            let [low, ..] = self.value.to_le_bytes();
            self.value = table(0, low ^ byte) ^ (self.value >> 8);
        }
    }

    fn finish(&self) -> u64 {
        !self.value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::Value;

    use super::super::{TarEntry, TarKind, TarWriter, Uncompressed};
    use super::*;
    use crate::layer::Metadata;

    fn crc(bytes: &[u8]) -> u64 {
        let mut crc = Crc::new();
        crc.update(bytes);
        crc.finish()
    }

    #[test]
    fn checksums_are_those_of_go() {
        assert_eq!(crc(b""), 0);
        assert_eq!(crc(b"a"), 0x3420_0000_0000_0000);
        assert_eq!(crc(b"123456789"), 0xb909_56c7_75a4_1001);
        let long: Vec<u8> = (0..=u8::MAX).cycle().take(1003).collect();
        let mut parts = Crc::new();
        for part in long.chunks(7) {
            parts.update(part);
        }
        assert_eq!(crc(&long), parts.finish());
    }

    /// Makes the archive again as containers/storage does, and tells the names of the files that it needs.
    fn assembled(split: &[u8], files: &HashMap<Vec<u8>, Vec<u8>>) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut text = String::new();
        let mut lines = Uncompressed::new(split, &Limits::default()).unwrap();
        lines.read_to_string(&mut text).unwrap();
        let (mut archive, mut needed) = (Vec::new(), Vec::new());
        for (position, line) in text.lines().enumerate() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["position"], position);
            let decode = |field: &str| BASE64_STANDARD.decode(line[field].as_str()?).ok();
            let payload = decode("payload").unwrap();
            if line["type"] == 2 {
                archive.extend(payload);
                continue;
            }
            let name = line["name"].as_str().map(|name| name.as_bytes().to_vec());
            let name = name.or_else(|| decode("name_raw")).unwrap();
            assert!(
                !needed.contains(&name),
                "containers/storage refuses a name that comes twice"
            );
            let content = &files[&name];
            assert_eq!(line["size"], content.len());
            assert_eq!(crc(content).to_be_bytes(), *payload);
            archive.extend(content);
            needed.push(name);
        }
        (archive, needed)
    }

    #[test]
    fn regression_what_lies_between_the_contents_of_files_is_bounded() {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::hard_link());
        header.set_size(80 << 20);
        header.set_path("link").unwrap();
        header.set_link_name("file").unwrap();
        header.set_cksum();
        let blob = || {
            let data = io::repeat(1).take(80 << 20);
            Ok(header.as_bytes().chain(data))
        };
        let split = write_tar_split(blob, || Ok(io::sink()), &Limits::default());
        let bounded = matches!(
            split,
            Err(Error::TooLarge {
                limit: 0x400_0000,
                ..
            })
        );
        assert!(bounded, "{split:?}");
    }

    #[test]
    fn archives_are_made_again_byte_by_byte() {
        let long = ["directory"; 30].join("/");
        let files: HashMap<Vec<u8>, Vec<u8>> = [
            (&b"etc/empty"[..], vec![]),
            (b"etc/file", vec![7; 5]),
            (b"etc/\xff\xfe", vec![8; 512]),
            (long.as_bytes(), vec![9; 3 << 20]),
            // What is not in the directory of the layer, or not so.
            (b"etc/twice", vec![1; 600]),
            (b"lib/file", vec![3; 100]),
            (b"etc/.wh.gone", vec![4; 10]),
        ]
        .map(|(name, content)| (name.to_vec(), content))
        .into();
        let mut writer = TarWriter::new(Vec::new());
        let mut add = |path: &[u8], kind: TarKind<'_>, content: &[u8]| {
            let (metadata, xattrs) = (Metadata::default(), &[]);
            let entry = TarEntry {
                path,
                metadata,
                kind,
                xattrs,
            };
            writer.append(&entry, &mut &content[..]).unwrap();
        };
        add(b"lib", TarKind::Symlink(b"/usr/lib"), b"");
        add(b"etc/twice", TarKind::Regular(3), b"old");
        for (name, content) in &files {
            add(name, TarKind::Regular(content.len() as u64), content);
        }
        add(b"etc/link", TarKind::HardLink(b"etc/file"), b"");
        let mut archive = writer.finish().unwrap();
        archive.extend_from_slice(b"something behind the end");
        let expected = [&b"etc/file"[..], b"etc/\xff\xfe", long.as_bytes()];
        for compression in [Compression::Plain, Compression::Gzip] {
            let mut blob = Compressor::new(compression, Vec::new()).unwrap();
            blob.write_all(&archive).unwrap();
            let blob = blob.finish().unwrap();
            let split = tempfile::NamedTempFile::new().unwrap();
            let out = || std::fs::File::create(split.path());
            let digest = write_tar_split(|| Ok(&blob[..]), out, &Limits::default()).unwrap();
            assert_eq!(digest, *crate::oci::Digest::of(&archive).as_bytes());
            let (again, mut needed) = assembled(&std::fs::read(split.path()).unwrap(), &files);
            assert!(again == archive);
            needed.sort();
            let mut expected: Vec<_> = expected.iter().map(|name| name.to_vec()).collect();
            expected.sort();
            assert_eq!(needed, expected);
        }
    }
}
