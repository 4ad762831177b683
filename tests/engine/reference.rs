//! Random operations on a writable overlay, and the same on a plain directory that holds the
//! flattened base.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use plyfs::layer::FileKind;
use plyfs::overlay::{Overlay, RenameFlags, SetAttributes, TimeChange, Timestamp};

use super::model::random_layers;
use super::support::{Lab, Need, Rows, make, require, set_xattr};
use super::writable::{Paths, Writable, errno, plain, tree};

/// Times before this are of the base or were set; later ones are of the test.
const OLD: i64 = 1_000_000_000;

/// A small generator, the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

#[derive(Clone, Debug)]
pub enum Op {
    Create(String, u8),
    Mkdir(String),
    Symlink(String),
    Fifo(String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String),
    Exchange(String, String),
    NoReplace(String, String),
    Link(String, String),
    Chmod(String, u16),
    Chown(String, u32),
    Truncate(String, u64),
    Write(String, u8, u64),
    Utimes(String, i64),
    Xattr(String, u8),
    Remount,
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn path(random: &mut Random) -> String {
    let depth = 1 + random.next(3);
    let names: Vec<&str> = (0..depth)
        .map(|_| NAMES[random.next(NAMES.len())])
        .collect();
    names.join("/")
}

pub fn op(random: &mut Random) -> Op {
    let p = path(random);
    match random.next(34) {
        0..3 => Op::Create(p, random.next(256) as u8),
        3..6 => Op::Mkdir(p),
        6 => Op::Symlink(p),
        7 => Op::Fifo(p),
        8..11 => Op::Unlink(p),
        11..14 => Op::Rmdir(p),
        14..20 => Op::Rename(p, path(random)),
        20 | 21 => Op::Exchange(p, path(random)),
        22 => Op::NoReplace(p, path(random)),
        23..25 => Op::Link(p, path(random)),
        25 | 26 => Op::Chmod(p, random.next(0o1000) as u16 | 0o600),
        27 => Op::Chown(p, random.next(5) as u32),
        28 => Op::Truncate(p, random.next(9000) as u64),
        29 | 30 => Op::Write(p, random.next(256) as u8, random.next(9000) as u64),
        31 => Op::Utimes(p, random.next(1000) as i64),
        32 => Op::Xattr(p, random.next(256) as u8),
        _ => Op::Remount,
    }
}

pub fn ours(overlay: &Overlay, op: &Op) -> Result<(), Errno> {
    let paths = Paths(overlay);
    let flags = |exchange, no_replace| RenameFlags {
        exchange,
        no_replace,
        whiteout: false,
    };
    errno(match op {
        Op::Create(p, byte) => paths.create(p, &[*byte; 100]),
        Op::Mkdir(p) => paths.mkdir(p, 0o750),
        Op::Symlink(p) => paths.symlink(p, "target"),
        Op::Fifo(p) => paths.fifo(p),
        Op::Unlink(p) => paths.unlink(p),
        Op::Rmdir(p) => paths.rmdir(p),
        Op::Rename(a, b) => paths.rename(a, b),
        Op::Exchange(a, b) => paths.rename_with(a, b, flags(true, false)),
        Op::NoReplace(a, b) => paths.rename_with(a, b, flags(false, true)),
        Op::Link(a, b) => paths.link(a, b),
        Op::Chmod(p, mode) => paths.chmod(p, *mode),
        Op::Chown(p, id) => paths.set(
            p,
            &SetAttributes {
                uid: Some(*id),
                gid: Some(*id + 1),
                ..SetAttributes::default()
            },
        ),
        Op::Truncate(p, size) => paths.truncate(p, *size),
        Op::Write(p, byte, at) => paths.write(p, &[*byte; 50], *at),
        Op::Utimes(p, time) => {
            let time = TimeChange::At(Timestamp {
                seconds: -*time,
                nanoseconds: 7,
            });
            paths.set(
                p,
                &SetAttributes {
                    atime: Some(time),
                    mtime: Some(time),
                    ..SetAttributes::default()
                },
            )
        }
        Op::Xattr(p, byte) => paths.set_xattr(p, "trusted.test", &[*byte]),
        Op::Remount => Ok(()),
    })
}

/// The same in a directory; no path is followed anywhere, since the engine is asked by names.
pub fn theirs(root: &Path, op: &Op) -> Result<(), Errno> {
    let full = |p: &String| root.join(p);
    let run = || -> io::Result<()> {
        match op {
            Op::Create(p, byte) => {
                use io::Write;
                let mut file = std::fs::File::create_new(full(p))?;
                file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
                file.write_all(&[*byte; 100])
            }
            Op::Mkdir(p) => {
                std::fs::create_dir(full(p))?;
                std::fs::set_permissions(
                    full(p),
                    std::os::unix::fs::PermissionsExt::from_mode(0o750),
                )
            }
            Op::Symlink(p) => std::os::unix::fs::symlink("target", full(p)),
            Op::Fifo(p) => Ok(nix::unistd::mkfifo(
                &full(p),
                Mode::from_bits_truncate(0o600),
            )?),
            Op::Unlink(p) => std::fs::remove_file(full(p)),
            Op::Rmdir(p) => std::fs::remove_dir(full(p)),
            Op::Rename(a, b) => rename2(&full(a), &full(b), 0),
            Op::Exchange(a, b) => rename2(&full(a), &full(b), libc::RENAME_EXCHANGE),
            Op::NoReplace(a, b) => rename2(&full(a), &full(b), libc::RENAME_NOREPLACE),
            Op::Link(a, b) => std::fs::hard_link(full(a), full(b)),
            Op::Chmod(p, mode) => {
                if full(p).symlink_metadata()?.is_symlink() {
                    return Err(Errno::EOPNOTSUPP.into());
                }
                let mode = std::os::unix::fs::PermissionsExt::from_mode(u32::from(*mode));
                std::fs::set_permissions(full(p), mode)
            }
            Op::Chown(p, id) => std::os::unix::fs::lchown(full(p), Some(*id), Some(*id + 1)),
            Op::Truncate(p, size) => regular(&full(p))?.set_len(*size),
            Op::Write(p, byte, at) => {
                use std::os::unix::fs::FileExt;
                regular(&full(p))?.write_all_at(&[*byte; 50], *at)
            }
            Op::Utimes(p, time) => {
                let time = TimeSpec::new(-*time, 7);
                let at = nix::fcntl::AT_FDCWD;
                let how = UtimensatFlags::NoFollowSymlink;
                Ok(utimensat(at, &full(p), &time, &time, how)?)
            }
            Op::Xattr(p, byte) => set_xattr(&full(p), "trusted.test", &[*byte]),
            Op::Remount => Ok(()),
        }
    };
    let (first, second) = match op {
        Op::Rename(a, b) | Op::Exchange(a, b) | Op::NoReplace(a, b) | Op::Link(a, b) => {
            (a, Some(b))
        }
        Op::Create(p, _)
        | Op::Mkdir(p)
        | Op::Symlink(p)
        | Op::Fifo(p)
        | Op::Unlink(p)
        | Op::Rmdir(p)
        | Op::Chmod(p, _)
        | Op::Chown(p, _)
        | Op::Truncate(p, _)
        | Op::Write(p, ..)
        | Op::Utimes(p, _)
        | Op::Xattr(p, _) => (p, None),
        Op::Remount => return Ok(()),
    };
    walk(root, first)?;
    if let Some(second) = second {
        if matches!(op, Op::Link(..)) && full(first).symlink_metadata().is_err() {
            return Err(Errno::ENOENT);
        }
        walk(root, second)?;
    }
    run().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// What is wrong with the directories of a path, symlinks not followed.
fn walk(root: &Path, path: &str) -> Result<(), Errno> {
    let mut at = root.to_owned();
    let (parent, _) = path.rsplit_once('/').unwrap_or(("", path));
    for name in parent.split('/').filter(|name| !name.is_empty()) {
        at.push(name);
        match at.symlink_metadata() {
            Err(_) => return Err(Errno::ENOENT),
            Ok(found) if !found.is_dir() => return Err(Errno::ENOTDIR),
            Ok(_) => {}
        }
    }
    Ok(())
}

fn regular(path: &Path) -> io::Result<std::fs::File> {
    let kind = path.symlink_metadata()?.file_type();
    if kind.is_dir() {
        return Err(Errno::EISDIR.into());
    }
    if !kind.is_file() {
        return Err(Errno::EINVAL.into());
    }
    std::fs::File::options().write(true).open(path)
}

#[allow(unsafe_code)]
fn rename2(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    // SAFETY: both strings end with a zero byte.
    let result = unsafe {
        let at = libc::AT_FDCWD;
        libc::syscall(
            libc::SYS_renameat2,
            at,
            from.as_ptr(),
            at,
            to.as_ptr(),
            flags,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

/// Puts a tree on disk.
pub fn materialize(rows: &Rows, root: &Path) {
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for (path, row) in rows {
        let at = root.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
        if row.kind != FileKind::Directory
            && let Some(known) = first.get(&row.ino)
        {
            std::fs::hard_link(known, &at).expect("a link");
            continue;
        }
        first.insert(row.ino, at.clone());
        match row.kind {
            FileKind::Directory => std::fs::create_dir(&at).expect("a directory"),
            FileKind::Regular => std::fs::write(&at, &row.content).expect("a file"),
            FileKind::Symlink => {
                std::os::unix::fs::symlink(OsStr::from_bytes(&row.target), &at).expect("a link");
            }
            _ => make(
                root,
                &format!("p {}", at.strip_prefix(root).expect("below").display()),
            )
            .expect("a fifo"),
        }
        if row.kind != FileKind::Symlink {
            let mode = u32::from(row.permissions);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&at, mode).expect("a mode");
        }
        std::os::unix::fs::lchown(&at, Some(row.owner.0), Some(row.owner.1)).expect("an owner");
    }
    age(root);
}

/// What [`age`] makes of times.
pub const AGED: (i64, u32) = (500, 9);

/// Makes everything below old, by the number of bytes of its path.
pub fn age(root: &Path) {
    let time = TimeSpec::new(AGED.0, AGED.1.into());
    let mut pending = vec![root.to_owned()];
    let mut all = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_dir() {
                pending.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    for path in all.iter().rev() {
        let how = UtimensatFlags::NoFollowSymlink;
        utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, how).expect("times");
    }
}

/// Compares trees, and the numbers of nodes with those of the last time.
pub fn compare(ours: &Rows, theirs: &Rows, known: &mut BTreeMap<u64, (u64, u32)>, context: &str) {
    let paths = |rows: &Rows| -> Vec<String> {
        rows.iter()
            .map(|(p, r)| format!("{} {:?}", p.escape_ascii(), r.kind))
            .collect()
    };
    assert_eq!(paths(ours), paths(theirs), "{context}");
    let mut now = BTreeMap::new();
    for ((path, a), b) in ours.iter().zip(theirs.values()) {
        let path = path.escape_ascii();
        // Base files may have names that the union does not show.
        let is_directory = a.kind == FileKind::Directory;
        let hidden = if is_directory {
            0
        } else {
            a.nlink.saturating_sub(b.nlink)
        };
        let seen = now.insert(b.ino, (a.ino, hidden));
        assert!(
            seen.is_none_or(|seen| seen.0 == a.ino),
            "{path}: names of one inode; {context}"
        );
        if let Some(before) = known.get(&b.ino) {
            assert_eq!(
                *before,
                (a.ino, hidden),
                "{path}: another number or count; {context}"
            );
        }
        let mut a = a.clone();
        a.nlink -= hidden;
        a.ino = b.ino;
        if a.kind == FileKind::Directory {
            (a.nlink, a.size) = (b.nlink, b.size);
        }
        if a.mtime.0 > OLD && b.mtime.0 > OLD {
            a.mtime = b.mtime;
        }
        assert_eq!(a, *b, "{path}; {context}");
    }
    let distinct: std::collections::BTreeSet<u64> = now.values().map(|(ino, _)| *ino).collect();
    assert_eq!(
        distinct.len(),
        now.len(),
        "numbers are not distinct; {context}"
    );
    *known = now;
}

fn run(seed: u64, metacopy_redirect: bool, steps: usize, packed: bool) {
    run_with(seed, metacopy_redirect, steps, packed, false);
}

fn run_with(seed: u64, metacopy_redirect: bool, steps: usize, packed: bool, override_stat: bool) {
    let mut lab = Lab::new();
    let layers = random_layers(&mut lab, seed as u8);
    add_links(&layers);
    for layer in &layers {
        age(layer);
    }
    let model = lab.empty();
    let mut writable = Writable::over(lab, layers);
    writable.options.metacopy_redirect = metacopy_redirect;
    writable.options.override_stat = override_stat;
    let mut overlay = writable.open();
    let rows = tree(&overlay);
    materialize(&rows, &model);
    if packed {
        drop(overlay);
        let content = writable.lab.empty();
        writable.packed = Some((rows, content));
        overlay = writable.open();
    }
    let before: Vec<Rows> = writable.layers.iter().map(|layer| plain(layer)).collect();
    let mut known = BTreeMap::new();
    compare(&tree(&overlay), &plain(&model), &mut known, "at the start");
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut history = Vec::new();
    for _ in 0..steps {
        let op = op(&mut random);
        history.push(op.clone());
        let context = format!("seed {seed} {metacopy_redirect} {packed}: {history:?}");
        if matches!(op, Op::Remount) {
            drop(overlay);
            overlay = writable.open();
        } else {
            let (a, b) = (ours(&overlay, &op), theirs(&model, &op));
            assert_eq!(a, b, "{context}");
        }
        compare(&tree(&overlay), &plain(&model), &mut known, &context);
    }
    drop(overlay);
    let overlay = writable.open();
    compare(&tree(&overlay), &plain(&model), &mut known, "after the end");
    let after: Vec<Rows> = writable.layers.iter().map(|layer| plain(layer)).collect();
    assert_eq!(before, after, "layers have changed");
    assert!(super::writable::names(&writable.work.join("work")).is_empty());
}

/// Gives some files of layers further names.
pub fn add_links(layers: &[PathBuf]) {
    for layer in layers {
        for (old, new) in [("a", "z"), ("b/a", "b/y"), ("c", "c2"), ("a/b", "x")] {
            let (old, new) = (layer.join(old), layer.join(new));
            if old.symlink_metadata().is_ok_and(|m| m.is_file()) && !new.exists() {
                std::fs::hard_link(old, new).expect("a link");
            }
        }
    }
}

#[test]
fn random_operations_with_marks() {
    if require(Need::Root) {
        for seed in 0..60 {
            run(seed, true, 60, false);
        }
    }
}

#[test]
fn random_operations_without_marks() {
    if require(Need::Root) {
        for seed in 100..160 {
            run(seed, false, 60, false);
        }
    }
}

#[test]
fn random_operations_over_a_packed_image() {
    if require(Need::Root) {
        for seed in 200..240 {
            run(seed, seed % 2 == 0, 60, true);
        }
    }
}

#[test]
fn random_operations_with_owners_kept_in_attributes() {
    if require(Need::Root) {
        for seed in 300..340 {
            run_with(seed, false, 60, seed % 2 == 0, true);
        }
    }
}

#[test]
#[ignore = "takes minutes"]
fn random_operations_at_length() {
    if require(Need::Root) {
        for seed in 1000..1400 {
            run(seed, seed % 2 == 0, 150, seed % 3 == 0);
        }
    }
}
