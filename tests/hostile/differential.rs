//! GNU tar as the other party: what we write it unpacks, what it writes we read back the same.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::archive::{pack_into, read};
use super::plyfs::layer::tree::{Kind, NodeId, Target, Tree};
use super::plyfs::layer::{Metadata, Timestamp};
use super::plyfs::pack::{Limits, TarEntry, TarKind, TarWriter, write_directory};

#[derive(Clone, Debug, PartialEq)]
enum Content {
    Directory,
    /// Data, number of zeros (holes) before more data.
    File(Vec<u8>, usize),
    Symlink(Vec<u8>),
    /// A link to the n-th file, if there is one.
    HardLink(usize),
    Fifo,
}

#[derive(Clone, Debug)]
struct Item {
    content: Content,
    metadata: Metadata,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a format of tar can hold.
#[derive(Clone, Copy, PartialEq)]
enum Format {
    Plain,
    Full,
}

fn name(format: Format) -> BoxedStrategy<Vec<u8>> {
    let byte = prop_oneof![
        5 => b'a'..=b'e',
        1 => any::<u8>().prop_filter("not in names", |byte| *byte != 0 && *byte != b'/'),
    ];
    let length = if format == Format::Plain {
        1..5
    } else {
        1..200
    };
    vec(byte, length)
        .prop_filter("reserved", |name| {
            name != b"." && name != b".." && !name.starts_with(b".wh.")
        })
        .boxed()
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        3 => Just(Content::Directory),
        3 => (vec(any::<u8>(), 0..2000), prop_oneof![Just(0), Just(70_000), Just(300_000)])
            .prop_map(|(data, zeros)| Content::File(data, zeros)),
        1 => vec(b'a'..=b'z', 1..300).prop_map(Content::Symlink),
        1 => any::<usize>().prop_map(Content::HardLink),
        1 => Just(Content::Fifo),
    ]
}

fn item(format: Format) -> BoxedStrategy<Item> {
    let root = effective_uid() == 0;
    let owner = move || match (root, format) {
        (false, _) => (effective_uid()..=effective_uid()).boxed(),
        (true, Format::Plain) => (0..2_097_152_u32).boxed(),
        (true, Format::Full) => prop_oneof![0..70_000_u32, 0..u32::MAX - 1].boxed(),
    };
    let seconds = match format {
        Format::Plain => 0..(1_i64 << 33),
        Format::Full => -(1_i64 << 31)..(1_i64 << 33),
    };
    let xattr_name = vec(b'!'..=b'~', 1..20).prop_map(|name| [b"user.", &name[..]].concat());
    let xattrs = btree_map(xattr_name, vec(any::<u8>(), 0..100), 0..3);
    (
        content(),
        0..=0o777_u16,
        owner(),
        owner(),
        seconds,
        0..1_000_000_000_u32,
        xattrs,
    )
        .prop_map(
            move |(content, permissions, uid, gid, seconds, nanoseconds, xattrs)| {
                // Owners need to get at their own files when the tests do not run as root.
                let permissions = permissions | if root { 0 } else { 0o700 };
                let nanoseconds = if format == Format::Plain {
                    0
                } else {
                    nanoseconds
                };
                let mtime = Timestamp {
                    seconds,
                    nanoseconds,
                };
                let has_xattrs = matches!(content, Content::Directory | Content::File(..));
                let xattrs = if has_xattrs && format == Format::Full {
                    xattrs.into_iter().collect()
                } else {
                    Vec::new()
                };
                Item {
                    content,
                    metadata: Metadata {
                        permissions,
                        uid,
                        gid,
                        mtime,
                    },
                    xattrs,
                }
            },
        )
        .boxed()
}

/// Paths and items: names at the top, and in each directory some more.
fn tree(format: Format) -> BoxedStrategy<BTreeMap<Vec<u8>, Item>> {
    let level = move || btree_map(name(format), item(format), 0..6);
    (level(), vec(level(), 6))
        .prop_map(|(top, below)| {
            let mut all = BTreeMap::new();
            let mut files: Vec<Vec<u8>> = Vec::new();
            let mut add = |path: Vec<u8>, mut item: Item| {
                if let Content::HardLink(number) = item.content {
                    let Some(first) = (!files.is_empty()).then(|| &files[number % files.len()])
                    else {
                        return;
                    };
                    let first: &Item = &all[first];
                    item = Item {
                        content: Content::HardLink(number % files.len()),
                        ..first.clone()
                    };
                } else if matches!(item.content, Content::File(..)) {
                    files.push(path.clone());
                }
                all.insert(path, item);
            };
            for ((name, item), below) in top.into_iter().zip(below) {
                let is_directory = item.content == Content::Directory;
                add(name.clone(), item);
                if is_directory {
                    for (child, item) in below {
                        add([&name[..], b"/", &child].concat(), item);
                    }
                }
            }
            all
        })
        .boxed()
}

fn effective_uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn bytes(data: &[u8], zeros: usize) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if zeros > 0 {
        bytes.resize(data.len() + zeros, 0);
        bytes.extend_from_slice(data);
    }
    bytes
}

fn files(items: &BTreeMap<Vec<u8>, Item>) -> Vec<&Vec<u8>> {
    let files = items
        .iter()
        .filter(|(_, item)| matches!(item.content, Content::File(..)));
    files.map(|(path, _)| path).collect()
}

fn write(items: &BTreeMap<Vec<u8>, Item>) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    let files = files(items);
    // Links come behind what they name, whatever their own names are.
    let (links, others): (Vec<_>, Vec<_>) = items
        .iter()
        .partition(|(_, item)| matches!(item.content, Content::HardLink(_)));
    for (path, item) in others.into_iter().chain(links) {
        let mut data = Vec::new();
        let kind = match &item.content {
            Content::Directory => TarKind::Directory,
            Content::File(start, zeros) => {
                data = bytes(start, *zeros);
                TarKind::Regular(data.len() as u64)
            }
            Content::Symlink(target) => TarKind::Symlink(target),
            Content::HardLink(number) => TarKind::HardLink(files[*number]),
            Content::Fifo => TarKind::Fifo,
        };
        let xattrs = if matches!(kind, TarKind::HardLink(_)) {
            &[][..]
        } else {
            &item.xattrs
        };
        let entry = TarEntry {
            path,
            metadata: item.metadata,
            kind,
            xattrs,
        };
        writer.append(&entry, &mut &data[..]).unwrap();
    }
    writer.finish().unwrap()
}

/// Fails unless `archive` holds exactly `items`.
fn compare(archive: &[u8], items: &BTreeMap<Vec<u8>, Item>, what: &str) {
    let staging = tempfile::tempdir().unwrap();
    let mut tree = pack_into(archive, staging.path(), &Limits::default())
        .unwrap()
        .tree;
    assert_eq!(count(&tree, Tree::ROOT), items.len(), "{what}");
    let find = |tree: &Tree, path: &[u8]| -> NodeId {
        let names = path.split(|byte| *byte == b'/');
        names.fold(Tree::ROOT, |node, name| tree.lookup(node, name).unwrap())
    };
    let files = files(items);
    for (path, item) in items {
        let node = find(&tree, path);
        let label = format!("{what}: {}", path.escape_ascii());
        let mut metadata = item.metadata;
        match (&item.content, tree.kind(node)) {
            (Content::Directory, Kind::Directory) | (Content::Fifo, Kind::Fifo) => {}
            (Content::Symlink(expected), Kind::Symlink(target)) => {
                assert_eq!(expected[..], target[..], "{label}");
                metadata.permissions = 0o777;
            }
            (Content::File(data, zeros), Kind::Regular(content)) => {
                assert!(
                    read(content, staging.path()) == bytes(data, *zeros),
                    "{label}"
                );
            }
            (Content::HardLink(number), Kind::Regular(_)) => {
                assert_eq!(node, find(&tree, files[*number]), "{label}");
            }
            (expected, found) => panic!("{label}: {expected:?}, {found:?}"),
        }
        assert_eq!(tree.metadata(node), metadata, "{label}");
        let xattrs = item
            .xattrs
            .iter()
            .map(|(name, value)| (&name[..], &value[..]));
        let xattrs = tree.xattr_set(xattrs).unwrap();
        assert_eq!(tree.xattrs(node), xattrs, "{label}: {:?}", item.xattrs);
    }
}

fn count(tree: &Tree, directory: NodeId) -> usize {
    let children = tree.children(directory).map(|(_, target)| match target {
        Target::Node(node) if tree.is_directory(node) => 1 + count(tree, node),
        _ => 1,
    });
    children.sum()
}

/// Unpacks our archive with GNU tar.
fn unpack(archive: &[u8], directory: &Path) {
    let mut tar = Command::new("tar")
        .args([
            "-xpSf",
            "-",
            "--xattrs",
            "--xattrs-include=*",
            "--delay-directory-restore",
            "--warning=no-timestamp",
            "-C",
        ])
        .arg(directory)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut tar.stdin.take().unwrap(), archive).unwrap();
    assert!(tar.wait().unwrap().success());
}

fn create(directory: &Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["-cf", "-", "--sort=name"])
        .args(options)
        .arg("-C")
        .arg(directory)
        .arg(".")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", output.stderr.escape_ascii());
    output.stdout
}

fn has_tar() -> bool {
    let found = Command::new("tar").arg("--version").output();
    let found = found.is_ok_and(|output| output.stdout.starts_with(b"tar (GNU tar)"));
    if !found {
        assert!(std::env::var_os("CI").is_none(), "GNU tar is needed");
        eprintln!("SKIP: no GNU tar");
    }
    found
}

/// What GNU tar keeps of a link group is that of its first name; mtime without PAX is whole.
fn whole_seconds(items: &BTreeMap<Vec<u8>, Item>) -> BTreeMap<Vec<u8>, Item> {
    let mut items = items.clone();
    for item in items.values_mut() {
        item.metadata.mtime.nanoseconds = 0;
        item.xattrs.clear();
    }
    items
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn full_trees(items in tree(Format::Full)) {
        if !has_tar() {
            return Ok(());
        }
        let ours = write(&items);
        compare(&ours, &items, "written by us");
        let directory = tempfile::tempdir().unwrap();
        unpack(&ours, directory.path());

        let mut writer = TarWriter::new(Vec::new());
        write_directory(directory.path(), None, &mut writer).unwrap();
        compare(&writer.finish().unwrap(), &items, "directory written by us");

        let xattrs = ["--xattrs", "--xattrs-include=*", "--format=pax"];
        compare(&create(directory.path(), &xattrs), &items, "pax");
        for version in ["0.0", "0.1", "1.0"] {
            let version = format!("--sparse-version={version}");
            let options = [&xattrs[..], &["--sparse", &version]].concat();
            compare(&create(directory.path(), &options), &items, &version);
        }
        let seconds = whole_seconds(&items);
        compare(&create(directory.path(), &["--format=gnu"]), &seconds, "gnu");
        compare(&create(directory.path(), &["--format=gnu", "--sparse"]), &seconds, "gnu sparse");
    }

    #[test]
    fn plain_trees(items in tree(Format::Plain)) {
        if !has_tar() {
            return Ok(());
        }
        // What the oldest formats cannot hold is not made.
        let short = |item: &Item| !matches!(&item.content, Content::Symlink(to) if to.len() > 99);
        let items: BTreeMap<_, _> = items.into_iter().filter(|(_, item)| short(item)).collect();
        let directory = tempfile::tempdir().unwrap();
        unpack(&write(&items), directory.path());
        compare(&create(directory.path(), &["--format=ustar"]), &items, "ustar");
        compare(&create(directory.path(), &["--format=oldgnu"]), &items, "oldgnu");
        let mut without_fifos = items;
        without_fifos.retain(|_, item| item.content != Content::Fifo);
        let directory = tempfile::tempdir().unwrap();
        unpack(&write(&without_fifos), directory.path());
        compare(&create(directory.path(), &["--format=v7"]), &without_fifos, "v7");
    }
}
