//! A store of one's own, the commands on it, and mounts that are always unmounted.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::{User, command_as, fail, plyfs_program, succeed, temp_dir, text};

/// An empty store that goes away with the value.
#[derive(Debug)]
pub struct Store {
    directory: TempDir,
    user: User,
}

impl Store {
    /// A store of whoever runs the tests.
    pub fn new() -> Store {
        Store::of(User::Same)
    }

    /// A store of `user`.
    pub fn of(user: User) -> Store {
        let store = Store {
            directory: temp_dir(),
            user,
        };
        for path in [
            store.directory.path(),
            &store.root(),
            &store.directory.path().join("mnt"),
        ] {
            fs::create_dir_all(path).unwrap();
            if user == User::Plain && super::is_root() {
                std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
            }
        }
        store
    }

    /// Where the store lies.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// A directory of the store's user to mount on.
    pub fn mountpoint(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// `plyfs ARGS` on this store, not yet started.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = command_as(self.user, plyfs_program());
        command.arg("--root").arg(self.root()).args(args);
        command
    }

    /// Runs `plyfs ARGS`, which must succeed.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        succeed(&mut self.command(args))
    }

    /// Runs `plyfs ARGS` and returns what it printed.
    pub fn stdout<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        String::from_utf8(self.run(args).stdout).unwrap()
    }

    /// Runs `plyfs ARGS`, which must fail with `status`, and returns its complaint.
    pub fn fails<S: AsRef<OsStr>>(&self, status: i32, args: impl IntoIterator<Item = S>) -> String {
        fail(&mut self.command(args), status)
    }

    /// What `plyfs mounts` tells of the mount on `path`; other mounts of the machine are none of ours.
    pub fn listed(&self, path: &Path) -> Option<Value> {
        let table: Value = serde_json::from_str(&self.stdout(["mounts", "--json"])).unwrap();
        let mut mounts = table.as_array().unwrap().clone().into_iter();
        mounts.find(|mount| mount["mountPoint"].as_str().map(Path::new) == Some(path))
    }

    /// Mounts `image` on the store's mountpoint.
    pub fn mount(&self, image: &str, options: &[&str]) -> MountGuard<'_> {
        self.mount_on(image, &self.mountpoint(), options)
    }

    /// Unmounts what will be mounted on the store's mountpoint when it goes.
    pub fn guard(&self) -> MountGuard<'_> {
        MountGuard {
            store: self,
            path: self.mountpoint(),
            mounted: true,
        }
    }

    /// Mounts `image` on `path`.
    pub fn mount_on(&self, image: &str, path: &Path, options: &[&str]) -> MountGuard<'_> {
        let mut command = self.command(["mount".as_ref(), image.as_ref(), path.as_os_str()]);
        if !options.is_empty() {
            command.args(["-o", &options.join(",")]);
        }
        let guard = MountGuard {
            store: self,
            path: path.to_owned(),
            mounted: true,
        };
        succeed(&mut command);
        assert!(
            is_mounted(path),
            "`plyfs mount` succeeded, and {} is no mount",
            path.display()
        );
        guard
    }
}

/// A mount; unmounted when the value goes.
#[derive(Debug)]
pub struct MountGuard<'a> {
    store: &'a Store,
    path: PathBuf,
    mounted: bool,
}

impl<'a> MountGuard<'a> {
    /// Unmounts what is mounted on `path` already when it goes.
    pub fn of(store: &'a Store, path: &Path) -> MountGuard<'a> {
        MountGuard {
            store,
            path: path.to_owned(),
            mounted: true,
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The process that serves it.
    pub fn pid(&self) -> u64 {
        let listed = self.store.listed(&self.path);
        let pid = listed.as_ref().and_then(|mount| mount["pid"].as_u64());
        pid.unwrap_or_else(|| panic!("no process in {listed:?}"))
    }

    /// Unmounts with `plyfs umount`, which must succeed.
    pub fn unmount(mut self) {
        self.store
            .run([OsStr::new("umount"), self.path.as_os_str()]);
        self.mounted = false;
        assert!(
            !is_mounted(&self.path),
            "{} is mounted still",
            self.path.display()
        );
    }
}

impl Drop for MountGuard<'_> {
    fn drop(&mut self) {
        if !self.mounted || !is_mounted(&self.path) {
            return;
        }
        let polite = self
            .store
            .command([OsStr::new("umount"), self.path.as_os_str()])
            .output();
        if is_mounted(&self.path) {
            eprintln!(
                "umount {}: {}",
                self.path.display(),
                polite.map_or_else(|e| e.to_string(), |o| text(&o))
            );
            let lazy = command_as(self.store.user, "fusermount3")
                .arg("-uz")
                .arg(&self.path)
                .output();
            if is_mounted(&self.path) {
                eprintln!(
                    "fusermount3: {}",
                    lazy.map_or_else(|e| e.to_string(), |o| text(&o))
                );
            }
        }
    }
}

/// Whether something is mounted on `path`, by the kernel's own table.
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .any(|point| Path::new(point) == path)
}
