//! Layers from a few lines of text, and unions as text again.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use plyfs::layer::FileKind;
use plyfs::layer::directory::DirectoryLayer;
use plyfs::union::stack::{Stack, StackOptions};
use plyfs::union::{Attributes, NodeNumber};

/// What a test needs beyond an ordinary user and a temporary directory.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Devices, `trusted.` attributes, mounts.
    Root,
    /// POSIX ACLs in temporary directories.
    Acls,
    /// /dev/fuse.
    Fuse,
}

/// Whether `need` is there. Says why a test is skipped, and does not let CI skip it.
pub fn require(need: Need) -> bool {
    let there = match need {
        Need::Root => nix::unistd::geteuid().is_root(),
        Need::Fuse => Path::new("/dev/fuse").exists(),
        Need::Acls => {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let mut acl = vec![2, 0, 0, 0];
            for tag in [1u16, 4, 32] {
                acl.extend(tag.to_le_bytes());
                acl.extend([7, 0, 255, 255, 255, 255]);
            }
            set_xattr(dir.path(), "system.posix_acl_default", &acl).is_ok()
        }
    };
    if !there {
        assert!(std::env::var_os("CI").is_none(), "{need:?} is needed");
        println!("SKIP: needs {need:?}");
    }
    there
}

/// A title, layers topmost first, and their union.
pub type Case<'a> = (&'a str, &'a [&'a [&'a str]], &'a [&'a str]);

/// A temporary directory with layers.
pub struct Lab {
    dir: tempfile::TempDir,
    layers: usize,
}

impl Lab {
    pub fn new() -> Lab {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Lab { dir, layers: 0 }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// An empty layer.
    pub fn empty(&mut self) -> PathBuf {
        self.layers += 1;
        let path = self.dir.path().join(format!("layer{}", self.layers));
        std::fs::create_dir(&path).expect("a layer");
        path
    }

    /// A layer with these objects, one per line; see [`make`].
    pub fn layer(&mut self, lines: &[&str]) -> PathBuf {
        let path = self.empty();
        for line in lines {
            make(&path, line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        path
    }

    /// Layers, topmost first.
    pub fn layers(&mut self, layers: &[&[&str]]) -> Vec<PathBuf> {
        layers.iter().map(|lines| self.layer(lines)).collect()
    }
}

/// Makes one object:
/// `d P` directory, `f P TEXT` file, `l P TARGET` symlink, `h P OLD` hard link, `c P` character
/// device 5:1, `p P` fifo, `wc P` whiteout device, `wx P` whiteout by attribute, `wa P` whiteout by
/// name, `oa P` opaque by name, `x P NAME VALUE` attribute.
pub fn make(root: &Path, line: &str) -> io::Result<()> {
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (verb, path, rest) = (word(), root.join(word()), word());
    let parent = path.parent().expect("a path below the root");
    let name = path.file_name().unwrap_or_default();
    if verb != "x" && verb != "oa" {
        std::fs::create_dir_all(parent)?;
    }
    let with_prefix = |prefix: &str| parent.join([OsStr::new(prefix), name].concat_os());
    let node = |kind, device| Ok(mknod(&path, kind, Mode::from_bits_truncate(0o644), device)?);
    match verb {
        "d" => std::fs::create_dir_all(&path),
        "f" => std::fs::write(&path, rest),
        "l" => std::os::unix::fs::symlink(rest, &path),
        "h" => std::fs::hard_link(root.join(rest), &path),
        "c" => node(SFlag::S_IFCHR, makedev(5, 1)),
        "p" => node(SFlag::S_IFIFO, 0),
        "wc" => node(SFlag::S_IFCHR, 0),
        "wa" => std::fs::write(with_prefix(".wh."), ""),
        "oa" => std::fs::write(path.join(".wh..wh..opq"), ""),
        "wx" => {
            std::fs::write(&path, "")?;
            set_xattr(&path, "trusted.overlay.whiteout", b"")
        }
        "x" => {
            let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
            set_xattr(&path, name, value.as_bytes())
        }
        _ => panic!("no such verb: {verb}"),
    }
}

trait ConcatOs {
    fn concat_os(&self) -> std::ffi::OsString;
}

impl ConcatOs for [&OsStr; 2] {
    fn concat_os(&self) -> std::ffi::OsString {
        let mut all = self[0].to_owned();
        all.push(self[1]);
        all
    }
}

#[allow(unsafe_code)]
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name)?;
    // SAFETY: both strings end with a zero byte, and the value is as long as said.
    let result = unsafe {
        let value_start = value.as_ptr().cast();
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value_start, value.len(), 0)
    };
    Ok(nix::errno::Errno::result(result).map(drop)?)
}

pub fn open(layers: &[PathBuf]) -> Stack {
    open_with(layers, &[], StackOptions::default())
}

pub fn open_with(layers: &[PathBuf], data: &[PathBuf], options: StackOptions) -> Stack {
    let open = |paths: &[PathBuf]| -> Vec<DirectoryLayer> {
        let open = |path: &PathBuf| DirectoryLayer::open(path).expect("a layer that opens");
        paths.iter().map(open).collect()
    };
    Stack::new(open(layers), open(data), options).expect("a stack that opens")
}

/// What a tree shows of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub kind: FileKind,
    pub permissions: u16,
    pub owner: (u32, u32),
    pub nlink: u32,
    pub device: (u32, u32),
    pub size: u64,
    pub mtime: (i64, u32),
    pub target: Vec<u8>,
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub ino: u64,
}

pub type Rows = BTreeMap<Vec<u8>, Row>;

/// The whole union. Also checks what must hold of any union: listings with and without attributes,
/// lookups and attributes tell the same, and giving all references back leaves no node.
pub fn rows(stack: &Stack) -> Rows {
    let mut rows = Rows::new();
    let mut pending = vec![(NodeNumber::ROOT, Vec::new())];
    let mut held = Vec::new();
    while let Some((directory, path)) = pending.pop() {
        let mut plain = Vec::new();
        let mut next = 0;
        stack
            .list(directory, 0, &mut |listed| {
                plain.push((listed.name.to_vec(), listed.node, listed.kind));
                next += 1;
                assert_eq!(listed.next_offset, next);
                ControlFlow::Continue(())
            })
            .expect("a listing");
        let mut entries = Vec::new();
        stack
            .list_with_attributes(directory, 0, &mut |listed, attributes| {
                assert_eq!(listed.node, attributes.node);
                entries.push((listed.name.to_vec(), *attributes));
                ControlFlow::Continue(())
            })
            .expect("a listing with attributes");
        let short = |(name, a): &(Vec<u8>, Attributes)| (name.clone(), a.node, a.kind);
        assert_eq!(plain, entries.iter().map(short).collect::<Vec<_>>());
        for (name, attributes) in entries.into_iter().skip(2) {
            held.push(attributes.node);
            let found = stack.lookup(directory, &name).expect("a lookup");
            assert_eq!(found, Some(attributes), "{}", name.escape_ascii());
            held.push(attributes.node);
            assert_eq!(stack.attributes(attributes.node).ok(), Some(attributes));
            let path = [&path[..], b"/", &name].concat();
            if attributes.kind == FileKind::Directory {
                pending.push((attributes.node, path.clone()));
            }
            rows.insert(path, row(stack, &attributes));
        }
    }
    for node in held {
        stack.forget(node, 1);
    }
    assert_eq!(stack.nodes_in_use(), 1);
    rows
}

pub fn content(stack: &Stack, node: NodeNumber) -> Vec<u8> {
    let open = stack.open(node).expect("a file that opens");
    let mut content = Vec::new();
    (&*open.file)
        .read_to_end(&mut content)
        .expect("a file that can be read");
    content
}

fn row(stack: &Stack, attributes: &Attributes) -> Row {
    let node = attributes.node;
    let target = match attributes.kind {
        FileKind::Symlink => stack.read_link(node).expect("a target").into_owned(),
        _ => Vec::new(),
    };
    let content = match attributes.kind {
        FileKind::Regular => content(stack, node),
        _ => Vec::new(),
    };
    let names = stack.xattr_names(node).expect("xattrs");
    let value = |name: &[u8]| {
        stack
            .xattr(node, name)
            .expect("an xattr")
            .expect("its value")
    };
    Row {
        kind: attributes.kind,
        permissions: attributes.permissions,
        owner: (attributes.uid, attributes.gid),
        nlink: attributes.nlink,
        device: attributes.device,
        size: attributes.size,
        mtime: (attributes.mtime.seconds, attributes.mtime.nanoseconds),
        target,
        content,
        xattrs: names
            .iter()
            .map(|n| (n.to_vec(), value(n).into_owned()))
            .collect(),
        ino: node.0,
    }
}

/// The union as lines in the language of [`make`], sorted by path.
pub fn text(stack: &Stack) -> Vec<String> {
    let line = |(path, row): (&Vec<u8>, &Row)| {
        let path = path.strip_prefix(b"/").unwrap_or(path).escape_ascii();
        match row.kind {
            FileKind::Directory => format!("d {path}"),
            FileKind::Regular => format!("f {path} {}", row.content.escape_ascii()),
            FileKind::Symlink => format!("l {path} {}", row.target.escape_ascii()),
            FileKind::CharDevice => format!("c {path}"),
            FileKind::Fifo => format!("p {path}"),
            kind => format!("{kind:?} {path}"),
        }
    };
    rows(stack).iter().map(line).collect()
}

/// Looks a path up; keeps references to all nodes on the way.
pub fn find(stack: &Stack, path: &str) -> Option<Attributes> {
    let mut found = stack.attributes(NodeNumber::ROOT).ok()?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        found = stack
            .lookup(found.node, name.as_bytes())
            .expect("a lookup")?;
    }
    Some(found)
}

/// Unmounts what another thread may hold for a moment: a child that it starts has all our descriptors until
/// it runs its program.
pub fn unmount(at: &Path) {
    for _ in 0..250 {
        match nix::mount::umount(at) {
            Err(nix::errno::Errno::EBUSY) => std::thread::sleep(Duration::from_millis(20)),
            done => return done.expect("umount"),
        }
    }
    panic!("{} is busy", at.display());
}
