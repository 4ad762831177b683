//! An image with something of everything, and ways to mount it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use tempfile::TempDir;

use crate::support::{
    MountGuard, Need, Store, User, is_root, require, succeed, temp_dir, wait_for,
};
pub use crate::support::{alive, children};

/// The ways in which contents reach readers, as options.
pub const WAYS: [&str; 2] = ["data=cached", "data=passthrough"];

/// Small files in `many/`.
pub const MANY: usize = 400;
/// Size of `large`, which begins with data, has a hole, and ends with data.
pub const LARGE: u64 = 3 << 20;

/// The content of the small file with this number.
pub fn small(number: usize) -> Vec<u8> {
    format!("{number} ").repeat(number * 7 % 3000).into_bytes()
}

/// The bytes of `large`.
pub fn large() -> Vec<u8> {
    let mut bytes = vec![0; LARGE as usize];
    let (head, tail) = bytes.split_at_mut(1 << 20);
    for (at, byte) in head.iter_mut().enumerate() {
        *byte = (at / 13) as u8;
    }
    let from = tail.len() - 5000;
    tail[from..].fill(b'z');
    bytes
}

/// Makes the tree below `root`.
pub fn tree(root: &Path) {
    let make = |path: &str| {
        fs::create_dir_all(root.join(path)).unwrap();
        root.join(path)
    };
    let many = make("many");
    for number in 0..MANY {
        fs::write(many.join(format!("{number:04}")), small(number)).unwrap();
    }
    fs::write(root.join("hello"), "hello\n").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::hard_link(root.join("hello"), make("deep/er").join("also")).unwrap();
    symlink("deep/er/also", root.join("link")).unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), Mode::from_bits_truncate(0o640)).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"b\xffd")), "odd").unwrap();
    fs::write(root.join("secret"), "secret\n").unwrap();
    fs::set_permissions(root.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();

    let file = fs::File::create(root.join("large")).unwrap();
    let bytes = large();
    file.write_all_at(&bytes[..1 << 20], 0).unwrap();
    file.write_all_at(&bytes[bytes.len() - 5000..], LARGE - 5000)
        .unwrap();

    let old = root.join("old");
    fs::write(&old, "old").unwrap();
    let time = TimeSpec::new(-86_400, 250_000_000);
    let flags = UtimensatFlags::NoFollowSymlink;
    utimensat(AT_FDCWD, &old, &time, &time, flags).unwrap();
}

/// A store with the image `fixture`, and the tree that it was made of.
pub struct Lab {
    pub store: Store,
    pub source: TempDir,
}

impl Lab {
    /// For whoever runs the tests; `None` when the tests cannot run.
    pub fn new() -> Option<Lab> {
        require(&[Need::Fuse, Need::Root]).then(|| Lab::of(User::Same))
    }

    pub fn of(user: User) -> Lab {
        let source = temp_dir();
        tree(source.path());
        Lab::with(user, source)
    }

    /// With another tree than the usual one.
    pub fn with(user: User, source: TempDir) -> Lab {
        if is_root() {
            // A plain user must be able to mount; the device may be closed to all but root.
            fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
        }
        let store = Store::of(user);
        let mut import = store.command(["import", "-", "fixture"]);
        // The archive comes from whoever made the tree: a plain user may not read all of it.
        let archive = archive(source.path());
        import.stdin(fs::File::open(archive.path()).unwrap());
        succeed(&mut import);
        Lab { store, source }
    }

    pub fn mount(&self, options: &[&str]) -> MountGuard<'_> {
        self.store.mount("fixture", options)
    }

    /// The process that serves the mount on the usual mount point.
    pub fn daemon(&self) -> u32 {
        daemon(&self.store.mountpoint()).expect("a daemon")
    }
}

fn archive(tree: &Path) -> tempfile::NamedTempFile {
    let archive = tempfile::NamedTempFile::new().unwrap();
    let mut tar = Command::new("tar");
    // Holes stay holes, and fractions of seconds are kept.
    tar.args(["--format=posix", "--xattrs", "--sparse", "--numeric-owner"])
        .arg("-cf")
        .arg(archive.path());
    succeed(tar.arg("-C").arg(tree).arg("."));
    archive
}

/// The process that has `mountpoint` among its arguments and lives.
pub fn daemon(mountpoint: &Path) -> Option<u32> {
    let mountpoint = mountpoint.as_os_str().as_bytes();
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let arguments = fs::read(entry.path().join("cmdline")).ok()?;
        let ours = arguments
            .split(|&byte| byte == 0)
            .any(|word| word == mountpoint);
        (ours && alive(pid)).then_some(pid)
    })
}

/// Waits until a process has ended.
pub fn ends(pid: u32) {
    wait_for(format!("the end of {pid}"), || !alive(pid));
}

/// Sends a signal.
pub fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}
