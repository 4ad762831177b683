//! Archives made block by block, so that they can say anything, and trees printed for comparison.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use super::plyfs::layer::tree::{DetachedAction, Kind, NodeId, Target, Tree};
use super::plyfs::layer::{Content, Place};
use super::plyfs::pack::{Error, Limits, Packed, Progress, pack_layer};

/// A tar archive under construction.
#[derive(Clone, Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

pub(crate) type Edit<'a> = &'a dyn Fn(&mut [u8; 512]);

impl Archive {
    pub(crate) fn new() -> Archive {
        Archive::default()
    }

    /// Any entry; `edit` may change the header before its checksum is set.
    pub(crate) fn entry(
        mut self,
        kind: u8,
        path: &[u8],
        link: &[u8],
        data: &[u8],
        edit: Edit<'_>,
    ) -> Self {
        let mut block = [0; 512];
        let name = path.len().min(100);
        block[..name].copy_from_slice(&path[..name]);
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        block[136..148].copy_from_slice(b"00000000000\0");
        block[156] = kind;
        let target = link.len().min(100);
        block[157..157 + target].copy_from_slice(&link[..target]);
        block[257..265].copy_from_slice(b"ustar\x0000");
        edit(&mut block);
        set_checksum(&mut block);
        self.0.extend_from_slice(&block);
        self.data(data)
    }

    /// Data padded to blocks.
    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.entry(b'5', path.as_bytes(), b"", b"", &|block| {
            block[104..107].copy_from_slice(b"755")
        })
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        self.entry(b'0', path.as_bytes(), b"", content.as_bytes(), &|_| ())
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path.as_bytes(), target.as_bytes(), b"", &|_| ())
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path.as_bytes(), target.as_bytes(), b"", &|_| ())
    }

    /// A PAX header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let body: Vec<u8> = records
            .iter()
            .flat_map(|(k, v)| record(k.as_bytes(), v))
            .collect();
        self.entry(b'x', b"PaxHeaders.0/x", b"", &body, &|_| ())
    }

    /// A GNU long name (`L`) or link target (`K`) for the next entry.
    pub(crate) fn gnu_long(self, kind: u8, name: &[u8]) -> Self {
        let name = [name, b"\0"].concat();
        self.entry(kind, b"././@LongLink", b"", &name, &|block| gnu(block))
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(crate) fn gnu(block: &mut [u8; 512]) {
    block[257..265].copy_from_slice(b"ustar  \0");
}

pub(crate) fn set_checksum(block: &mut [u8; 512]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).find(|n| *n == rest + n.to_string().len()).unwrap();
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Packs `bytes` into `staging`.
pub(crate) fn pack_into(bytes: &[u8], staging: &Path, limits: &Limits) -> Result<Packed, Error> {
    pack_layer(Cursor::new(bytes), staging, limits, &Progress::default())
}

/// The bytes of a content.
pub(crate) fn read(content: &Content, staging: &Path) -> Vec<u8> {
    let bytes = match content.place {
        Place::Empty => Vec::new(),
        Place::Pack(start) => {
            let pack = std::fs::read(staging.join("pack")).unwrap();
            pack[start as usize..(start + content.size) as usize].to_vec()
        }
        Place::File(number) => {
            std::fs::read(staging.join("files").join(number.to_string())).unwrap()
        }
    };
    assert_eq!(bytes.len() as u64, content.size);
    assert_eq!(*blake3::hash(&bytes).as_bytes(), content.digest);
    bytes
}

/// One line per name, sorted: `d` directory (`!` opaque, `?` implied), `f` file, `l` symbolic
/// link, `c`, `b`, `p`, `s`, `w` whiteout, `h` unresolved link, `=` another name of a node;
/// then the detached entries in archive order, with `@`.
pub(crate) fn describe(tree: &Tree, staging: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut seen = HashMap::new();
    if tree.is_opaque(Tree::ROOT) {
        lines.push("d! ".into());
    }
    children(tree, staging, Tree::ROOT, "", &mut seen, &mut lines);
    for detached in &tree.detached {
        let path = detached.path.escape_ascii().to_string();
        match detached.action {
            DetachedAction::Whiteout => lines.push(format!("@w {path}")),
            DetachedAction::Opaque => lines.push(format!("@! {path}")),
            DetachedAction::Put(node) => match seen.get(&node) {
                Some(first) => lines.push(format!("@= {path} {first}")),
                None => lines.push(format!("@{}", line(tree, staging, node, &path))),
            },
        }
    }
    lines
}

fn children(
    tree: &Tree,
    staging: &Path,
    directory: NodeId,
    prefix: &str,
    seen: &mut HashMap<NodeId, String>,
    lines: &mut Vec<String>,
) {
    for (name, target) in tree.sorted_children(directory) {
        let path = format!("{prefix}{}", name.escape_ascii());
        let node = match target {
            Target::Whiteout => {
                lines.push(format!("w {path}"));
                continue;
            }
            Target::Node(node) => node,
        };
        if let Some(first) = seen.get(&node) {
            lines.push(format!("= {path} {first}"));
            continue;
        }
        seen.insert(node, path.clone());
        lines.push(line(tree, staging, node, &path));
        if tree.is_directory(node) {
            children(tree, staging, node, &format!("{path}/"), seen, lines);
        }
    }
}

fn line(tree: &Tree, staging: &Path, node: NodeId, path: &str) -> String {
    match tree.kind(node) {
        Kind::Directory => {
            let opaque = if tree.is_opaque(node) { "!" } else { "" };
            let implied = if tree.is_implied(node) { "?" } else { "" };
            format!("d{opaque}{implied} {path}")
        }
        Kind::Regular(content) => {
            format!("f {path}={}", read(content, staging).escape_ascii())
        }
        Kind::Symlink(target) => format!("l {path} -> {}", target.escape_ascii()),
        Kind::CharDevice { major, minor } => format!("c {path} {major}:{minor}"),
        Kind::BlockDevice { major, minor } => format!("b {path} {major}:{minor}"),
        Kind::Fifo => format!("p {path}"),
        Kind::Socket => format!("s {path}"),
        Kind::UnresolvedLink(target) => format!("h {path} -> {}", target.escape_ascii()),
    }
}
