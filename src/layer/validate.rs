//! Checks every row of an index once, so that readers need not.

use std::collections::HashSet;

use super::FileKind;
use super::format::{self, Entry, Node};
use super::index::{Index, IndexError, IndexKind, XattrIter, check_name, halves};

type Check = Result<(), IndexError>;

fn ensure(condition: bool, what: &'static str) -> Check {
    if condition {
        Ok(())
    } else {
        Err(IndexError::Damaged(what))
    }
}

pub(super) fn validate(index: &Index) -> Check {
    let header = index.header();
    for (section, record, what) in [
        (header.nodes, size_of::<Node>(), "the length of its nodes"),
        (
            header.entries,
            size_of::<Entry>(),
            "the length of its entries",
        ),
        (
            header.detached,
            size_of::<format::Detached>(),
            "the length of its detached entries",
        ),
        (header.layers, 32, "the length of its layers"),
        (
            header.digests,
            size_of::<format::ContentDigest>(),
            "the length of its digests",
        ),
    ] {
        ensure(section.length.get().is_multiple_of(record as u64), what)?;
    }
    ensure(
        index.nodes().len() < format::OPAQUE as usize,
        "the number of its nodes",
    )?;
    let root = index
        .nodes()
        .first()
        .and_then(|n| FileKind::from_mode(n.mode.get()));
    ensure(
        root == Some(FileKind::Directory),
        "its root is no directory",
    )?;
    if index.kind() == IndexKind::Chain {
        ensure(
            index.detached_records().is_empty(),
            "detached entries in a chain",
        )?;
    }
    let sets = xattr_sets(index.xattr_bytes())?;
    let mut directories = Directories::new(index);
    for (number, node) in index.nodes().iter().enumerate() {
        check_node(index, node, &sets)?;
        if FileKind::from_mode(node.mode.get()) == Some(FileKind::Directory) {
            directories.check(number as u32, node)?;
        }
    }
    directories.finish()?;
    let targets = index.targets().len() as u64;
    for row in index.detached_records() {
        let end = u64::from(row.path.get()) + u64::from(row.length.get());
        ensure(end <= targets, "a detached path")?;
        let node = row.node.get();
        let known = node == format::WHITEOUT || node == format::OPAQUE;
        ensure(
            known || (node as usize) < index.nodes().len(),
            "a detached node",
        )?;
    }
    let rows = index
        .content_digests()
        .all(|(node, _)| (node as usize) < index.nodes().len());
    ensure(rows, "a content digest without its node")
}

/// The offsets at which sets begin.
fn xattr_sets(bytes: &[u8]) -> Result<HashSet<u32>, IndexError> {
    let mut starts = HashSet::new();
    let mut at = 0;
    while at < bytes.len() {
        starts.insert(at as u32);
        let Some((length, rest)) = bytes[at..].split_first_chunk() else {
            return Err(IndexError::Damaged("an xattr set"));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let set = rest
            .get(..length)
            .ok_or(IndexError::Damaged("an xattr set"))?;
        let mut attributes = XattrIter::new(set);
        while attributes.next().is_some() {}
        ensure(attributes.rest().is_empty(), "an xattr")?;
        at += 4 + length;
    }
    ensure(bytes.starts_with(&[0; 4]), "its empty xattr set")?;
    Ok(starts)
}

fn check_node(index: &Index, node: &Node, sets: &HashSet<u32>) -> Check {
    ensure(node.mtime_nanoseconds.get() < 1_000_000_000, "a time")?;
    ensure(
        (node.parent.get() as usize) < index.nodes().len(),
        "a parent",
    )?;
    ensure(sets.contains(&node.xattrs.get()), "the xattrs of a node")?;
    let layer = usize::from(node.layer.get());
    ensure(layer < index.layers().len().max(1), "the layer of a node")?;
    let mode = node.mode.get();
    match FileKind::from_mode(mode) {
        None => {
            ensure(mode & libc::S_IFMT == 0, "a file type")?;
            ensure(
                index.kind() == IndexKind::Layer,
                "an unresolved link in a chain",
            )?;
            check_target(index, node)
        }
        Some(FileKind::Symlink) => check_target(index, node),
        Some(FileKind::Regular) => check_content(node),
        Some(_) => ensure(node.size.get() == 0, "the size of a special file"),
    }
}

fn check_target(index: &Index, node: &Node) -> Check {
    let end = node.payload.get().checked_add(node.size.get());
    ensure(
        end.is_some_and(|end| end <= index.targets().len() as u64),
        "a link target",
    )
}

fn check_content(node: &Node) -> Check {
    let place = node.flags.get() & (format::NODE_IN_PACK | format::NODE_IN_FILE);
    let end = match place {
        0 => {
            ensure(node.size.get() == 0, "content without a place")?;
            Some(0)
        }
        format::NODE_IN_PACK => node.payload.get().checked_add(node.size.get()),
        format::NODE_IN_FILE => {
            ensure(node.payload.get() <= u64::from(u32::MAX), "a file number")?;
            Some(node.size.get())
        }
        _ => return Err(IndexError::Damaged("content in two places")),
    };
    // File offsets are signed.
    ensure(
        end.is_some_and(|end| i64::try_from(end).is_ok()),
        "the size of a file",
    )
}

/// That the directories form a tree whose entries are each in one directory, in order.
struct Directories<'a> {
    index: &'a Index,
    entry_used: Vec<bool>,
    named: Vec<bool>,
}

impl<'a> Directories<'a> {
    fn new(index: &'a Index) -> Directories<'a> {
        let (nodes, entries) = (index.nodes().len(), index.entries().len());
        Directories {
            index,
            entry_used: vec![false; entries],
            named: vec![false; nodes],
        }
    }

    fn check(&mut self, number: u32, directory: &Node) -> Check {
        let (first, count) = halves(directory.payload.get());
        let range = first as usize..first as usize + count as usize;
        let entries = self.index.entries().get(range.clone());
        let entries = entries.ok_or(IndexError::Damaged("the entries of a directory"))?;
        for used in &mut self.entry_used[range] {
            ensure(!*used, "an entry in two directories")?;
            *used = true;
        }
        let mut previous: &[u8] = b"";
        for entry in entries {
            let start = entry.name.get() as usize;
            let name = self
                .index
                .names()
                .get(start..start + usize::from(entry.length));
            let name = name.ok_or(IndexError::Damaged("a name"))?;
            ensure(check_name(name).is_ok(), "a name")?;
            ensure(previous < name, "the order of names")?;
            previous = name;
            self.check_entry(number, entry)?;
        }
        Ok(())
    }

    fn check_entry(&mut self, directory: u32, entry: &Entry) -> Check {
        let node = entry.node.get();
        if node == format::WHITEOUT {
            return ensure(
                self.index.kind() == IndexKind::Layer,
                "a whiteout in a chain",
            );
        }
        let record = self.index.nodes().get(node as usize);
        let record = record.ok_or(IndexError::Damaged("the node of an entry"))?;
        if FileKind::from_mode(record.mode.get()) == Some(FileKind::Directory) {
            // Numbers grow downwards, so there is no cycle.
            ensure(node > directory, "a directory above itself")?;
            ensure(
                record.parent.get() == directory,
                "the parent of a directory",
            )?;
            ensure(!self.named[node as usize], "a directory with two names")?;
            self.named[node as usize] = true;
        }
        Ok(())
    }

    fn finish(self) -> Check {
        ensure(
            self.entry_used.iter().all(|&used| used),
            "an entry without a directory",
        )
    }
}
