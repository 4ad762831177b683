//! The kernel's overlayfs as the oracle: the same layers must give the same tree.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::support::{Lab, Need, Row, Rows, open, open_with, require, rows, set_xattr, unmount};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use plyfs::layer::FileKind;
use plyfs::sys::at::RootFd;
use plyfs::union::stack::StackOptions;
use plyfs::whiteout;
use plyfs::whiteout::Namespace;

/// Runs `test` where mounts are seen by nobody else and end with it.
pub fn in_private_mounts(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
            let (none, flags) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
            mount(none, "/", none, flags, none).expect("private mounts");
            test();
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// The kernel follows all it can.
const TRUSTED: &str = "metacopy=on,redirect_dir=on";

/// Mounts `layers` read-only.
fn mount_overlay(at: &Path, layers: &[PathBuf], data: &[PathBuf], options: &str) {
    let join = |paths: &[PathBuf], between: &str| -> String {
        let paths: Vec<&str> = paths.iter().map(|p| p.to_str().expect("text")).collect();
        paths.join(between)
    };
    let mut lower = join(layers, ":");
    if !data.is_empty() {
        lower = format!("{lower}::{}", join(data, "::"));
    }
    let options = format!("lowerdir={lower},{options}");
    std::fs::create_dir_all(at).expect("a mount point");
    mount(
        Some("o"),
        at,
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some(options.as_str()),
    )
    .expect("an overlay mount");
}

/// What a mounted tree shows.
pub fn mounted(root: &Path) -> Rows {
    let mut rows = Rows::new();
    let mut pending = vec![(root.to_owned(), Vec::new())];
    while let Some((directory, path)) = pending.pop() {
        let fd = RootFd::open(&directory).expect("a directory");
        for entry in std::fs::read_dir(&directory).expect("a listing") {
            let name = entry.expect("an entry").file_name();
            let name = name.as_bytes();
            // The kernel lists whiteouts of directories that only one layer has.
            let Ok(stat) = fd.stat(name) else {
                continue;
            };
            let child = directory.join(OsStr::from_bytes(name));
            let path = [&path[..], b"/", name].concat();
            let kind = FileKind::from_mode(stat.mode).expect("a kind");
            let mut xattrs = BTreeMap::new();
            for attribute in fd.xattr_names(name).expect("xattrs").split(|b| *b == 0) {
                if !attribute.is_empty() {
                    let value = fd.xattr(name, attribute).expect("an xattr");
                    xattrs.insert(attribute.to_vec(), value);
                }
            }
            let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
            rows.insert(
                path.clone(),
                Row {
                    kind,
                    permissions: (stat.mode & 0o7777) as u16,
                    owner: (stat.uid, stat.gid),
                    nlink: if kind == FileKind::Directory {
                        1
                    } else {
                        stat.nlink
                    },
                    device: if is_device { stat.rdev } else { (0, 0) },
                    size: stat.size,
                    mtime: stat.mtime,
                    target: match kind {
                        FileKind::Symlink => fd.read_link(name).expect("a target"),
                        _ => Vec::new(),
                    },
                    content: match kind {
                        FileKind::Regular => std::fs::read(&child).expect("content"),
                        _ => Vec::new(),
                    },
                    xattrs,
                    ino: 0,
                },
            );
            if kind == FileKind::Directory {
                pending.push((child, path));
            }
        }
    }
    rows
}

/// Compares row by row, so that a difference can be read.
pub fn assert_same(ours: Rows, theirs: &Rows) {
    let mut ours = ours;
    for (path, expected) in theirs {
        let mut row = ours
            .remove(path)
            .unwrap_or_else(|| panic!("{} is missing", path.escape_ascii()));
        row.ino = expected.ino;
        let same = (row.content.len(), row.content == expected.content);
        assert_eq!(
            same,
            (expected.content.len(), true),
            "{}",
            path.escape_ascii()
        );
        row.content.clone_from(&Vec::new());
        let expected = Row {
            content: Vec::new(),
            ..expected.clone()
        };
        assert_eq!(row, expected, "{}", path.escape_ascii());
    }
    let more: Vec<_> = ours
        .keys()
        .map(|path| path.escape_ascii().to_string())
        .collect();
    assert!(more.is_empty(), "too many: {more:?}");
}

fn compare(layers: &[PathBuf], data: &[PathBuf], at: &Path, options: &str) {
    mount_overlay(at, layers, data, options);
    let theirs = mounted(at);
    let marks = match options.contains("userxattr") {
        true => Namespace::User,
        false => Namespace::Trusted,
    };
    let stack_options = StackOptions {
        marks,
        ..StackOptions::default()
    };
    assert_same(rows(&open_with(layers, data, stack_options)), &theirs);
}

#[test]
fn the_same_tree() {
    if !require(Need::Root) {
        return;
    }
    in_private_mounts(|| {
        let mut lab = Lab::new();
        let layers = lab.layers(&[
            &[
                "f a top",
                "wc gone",
                "d d",
                "x d trusted.overlay.opaque y",
                "f d/new x",
                "wc e/x",
                "d moved",
                "x moved trusted.overlay.redirect /old/deep",
                "wc old",
                "d w",
                "x w trusted.overlay.opaque x",
                "wx w/gone",
                "f w/here x",
                "f file x",
                "d dir",
                "f x user.x x",
                "x x user.mime text/plain",
                "x x trusted.overlay.overlay.redirect nested",
            ],
            &[
                "f a mid",
                "f d/hidden x",
                "f e/x x",
                "f e/y x",
                "l link e",
                "c dev",
                "p pipe",
                "f old/deep/mid x",
                "d old/deep/o",
                "x old/deep/o trusted.overlay.opaque y",
                "d r",
                "x r trusted.overlay.redirect s",
                "d file",
                "f dir x",
                "f hard/a x",
                "h hard/b hard/a",
            ],
            &[
                "f gone x",
                "f e/x low",
                "f e/z low",
                "f link/no x",
                "f old/deep/low x",
                "f old/deep/o/no x",
                "f s/yes x",
                "f r/no x",
                "f w/gone x",
                "f w/kept x",
                "f file/no x",
                "f dir/no x",
                "f only/one x",
                "wc only/w",
            ],
        ]);
        compare(&layers, &[], &lab.path().join("mnt"), TRUSTED);
    });
}

#[test]
fn the_same_content_of_metacopy_files() {
    if !require(Need::Root) {
        return;
    }
    in_private_mounts(|| {
        let mut lab = Lab::new();
        let layers = lab.layers(&[
            &["f d/a 12345", "f m 12345", "f data 123"],
            &["f d/b 12345", "f n 12345"],
            &["f d/a first", "f x/y third"],
        ]);
        let data = lab.layers(&[&["f aa/1 one"]]);
        for (path, redirect) in [
            (layers[0].join("d/a"), None),
            (layers[0].join("m"), Some("/d/b")),
            (layers[1].join("d/b"), Some("/x/y")),
            (layers[1].join("n"), Some("/x/y")),
            (layers[0].join("data"), Some("/aa/1")),
        ] {
            set_xattr(&path, "trusted.overlay.metacopy", b"").expect("a mark");
            if let Some(redirect) = redirect {
                set_xattr(&path, "trusted.overlay.redirect", redirect.as_bytes())
                    .expect("a redirect");
            }
        }
        compare(&layers, &data, &lab.path().join("mnt"), TRUSTED);
    });
}

#[test]
fn random_stacks_are_what_the_kernel_makes_of_them() {
    if !require(Need::Root) {
        return;
    }
    in_private_mounts(|| {
        for seed in 0..60 {
            let mut lab = Lab::new();
            let mut layers = super::model::random_layers(&mut lab, seed);
            // The kernel wants two.
            layers.push(lab.empty());
            let at = lab.path().join("mnt");
            mount_overlay(&at, &layers, &[], TRUSTED);
            assert_same(rows(&open(&layers)), &mounted(&at));
            unmount(&at);
        }
    });
}

#[test]
fn markers_by_name_are_no_names() {
    assert!(whiteout::marker(b".wh.x").is_some());
    let mut lab = Lab::new();
    let layers = lab.layers(&[&["wa x", "oa ."], &["f x y", "f z y"]]);
    assert!(rows(&open(&layers)).is_empty());
}

/// Changes a tree at random, in the ways that leave marks in an upper layer.
pub fn change(root: &Path, mut random: impl FnMut(usize) -> usize) {
    let pick = |random: &mut dyn FnMut(usize) -> usize| {
        let mut all = vec![root.to_owned()];
        let mut next = 0;
        while let Some(directory) = all.get(next).cloned() {
            next += 1;
            if directory.is_dir() && !directory.is_symlink() {
                let entries = std::fs::read_dir(&directory).expect("a listing");
                all.extend(entries.map(|entry| entry.expect("an entry").path()));
            }
        }
        all.swap_remove(random(all.len()))
    };
    for step in 0..25 {
        let (from, to) = (pick(&mut random), pick(&mut random));
        let new = if to.is_dir() {
            to.join(format!("n{}", random(4)))
        } else {
            to
        };
        // Most of what is tried at random is impossible; what is possible counts.
        let _tried = match random(32) {
            0..14 => std::fs::rename(&from, &new),
            14..18 => std::fs::remove_file(&from),
            18 if from != root => std::fs::remove_dir_all(&from),
            19..22 => std::fs::create_dir(&new),
            22..25 => std::fs::write(&new, format!("{step}")),
            25..28 => std::fs::hard_link(&from, &new),
            _ => std::os::unix::fs::chown(&from, Some(step), None),
        };
    }
}

#[test]
fn layers_that_the_kernel_wrote() {
    if !require(Need::Root) {
        return;
    }
    in_private_mounts(|| {
        for seed in 0..20u64 {
            let mut lab = Lab::new();
            let mut state = seed;
            let mut random = |below: usize| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040);
                (state >> 33) as usize % below
            };
            // Every third time with the marks that an ordinary user can make.
            let (options, mut layers) = if seed % 3 == 0 {
                ("userxattr", Vec::new())
            } else {
                (
                    TRUSTED,
                    super::model::random_layers(&mut lab, 100 + seed as u8),
                )
            };
            let lines: Vec<String> = (0..36)
                .map(|n| format!("f k{}/l{}/m{}/f{n} {n}", n % 2, n % 3, n % 4))
                .collect();
            layers.push(lab.layer(&lines.iter().map(String::as_str).collect::<Vec<_>>()));
            let at = lab.path().join("mnt");
            for _ in 0..3 {
                let (upper, work) = (lab.empty(), lab.empty());
                let lower: Vec<&str> = layers.iter().map(|l| l.to_str().expect("text")).collect();
                let writable = format!(
                    "lowerdir={},upperdir={},workdir={},{options}",
                    lower.join(":"),
                    upper.display(),
                    work.display()
                );
                std::fs::create_dir_all(&at).expect("a mount point");
                mount(
                    Some("o"),
                    &at,
                    Some("overlay"),
                    MsFlags::empty(),
                    Some(writable.as_str()),
                )
                .expect("an overlay mount");
                change(&at, &mut random);
                unmount(&at);
                layers.insert(0, upper);
            }
            compare(&layers, &[], &at, options);
            unmount(&at);
        }
    });
}
