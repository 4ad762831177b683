//! Writable unions of directories, and ways to mount them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    MountGuard, Need, Store, User, command_as, is_root, require, succeed, temp_dir,
};

/// The ways in which contents are read and written, as options.
pub const WAYS: [&str; 2] = ["data=passthrough", "data=cached"];

/// Size of `large`, which is beyond what goes through the page cache in passthrough mounts.
pub const LARGE: usize = 1 << 20;

/// A lower tree with an upper and a work directory beside it.
pub struct Writable {
    pub store: Store,
    user: User,
    directory: tempfile::TempDir,
}

impl Writable {
    /// For whoever runs the tests; `None` when the tests cannot run.
    pub fn new() -> Option<Writable> {
        require(&[Need::Fuse, Need::Root]).then(|| Writable::of(User::Same))
    }

    pub fn of(user: User) -> Writable {
        if is_root() {
            fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
        }
        let directory = temp_dir();
        if user == User::Plain && is_root() {
            std::os::unix::fs::chown(directory.path(), Some(65534), Some(65534)).unwrap();
        }
        let parts = ["lower", "upper", "work"].map(|part| directory.path().join(part));
        succeed(command_as(user, "mkdir").args(parts));
        let lower = directory.path().join("lower");
        fs::create_dir_all(lower.join("dir/sub")).unwrap();
        fs::create_dir(lower.join("closed")).unwrap();
        fs::set_permissions(lower.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(lower.join("closed/in"), "in").unwrap();
        fs::write(lower.join("small"), "small\n").unwrap();
        fs::write(lower.join("dir/file"), "file\n").unwrap();
        fs::write(lower.join("dir/sub/deep"), "deep\n").unwrap();
        fs::write(lower.join("large"), large()).unwrap();
        fs::write(lower.join("setid"), "program").unwrap();
        fs::set_permissions(lower.join("setid"), fs::Permissions::from_mode(0o6777)).unwrap();
        fs::hard_link(lower.join("large"), lower.join("dir/twin")).unwrap();
        symlink("small", lower.join("link")).unwrap();
        Writable {
            store: Store::of(user),
            user,
            directory,
        }
    }

    pub fn lower(&self) -> PathBuf {
        self.directory.path().join("lower")
    }

    pub fn upper(&self) -> PathBuf {
        self.directory.path().join("upper")
    }

    /// The option that names the directories.
    pub fn layers(&self) -> String {
        let directory = self.directory.path().display();
        format!("lowerdir={directory}/lower,upperdir={directory}/upper,workdir={directory}/work")
    }

    pub fn command(&self, options: &[&str]) -> Command {
        let all = [&[self.layers().as_str()], options].concat().join(",");
        let mut command = self.store.command(["mount", "-o", &all]);
        command.arg(self.store.mountpoint());
        command
    }

    pub fn mount(&self, options: &[&str]) -> MountGuard<'_> {
        let guard = self.store.guard();
        succeed(&mut self.command(options));
        guard
    }

    /// Unmounts what a command of [`Writable::command`] has mounted.
    pub fn mount_guard(&self) -> MountGuard<'_> {
        self.store.guard()
    }

    /// Runs a shell script as the user of the mount, in its root.
    pub fn shell(&self, script: &str) -> String {
        let script = format!("cd \"$M\"; {script}");
        let mut command = command_as(self.user, "sh");
        command
            .args(["-euc", &script])
            .current_dir("/")
            .env("M", self.store.mountpoint());
        String::from_utf8(succeed(&mut command).stdout).unwrap()
    }
}

/// The bytes of `large`.
pub fn large() -> Vec<u8> {
    (0..LARGE).map(|at| (at / 7) as u8).collect()
}

/// Runs `test` on a fresh union in each way; the lower tree must be as it was afterwards.
pub fn each(test: impl Fn(&Writable, &Path)) {
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        let before = fingerprint(&union.lower());
        let mount = union.mount(&[way]);
        test(&union, mount.path());
        mount.unmount();
        assert_eq!(
            before,
            fingerprint(&union.lower()),
            "{way}: the lower layer has changed"
        );
    }
}

/// Contents and attributes of everything below `root`.
pub fn fingerprint(root: &Path) -> String {
    let list = "find . -printf '%p %y %m %s %T@ %n %l\\n' | sort; \
                find . -type f -exec sha1sum {} + | sort";
    let output = succeed(Command::new("sh").args(["-c", list]).current_dir(root));
    String::from_utf8(output.stdout).unwrap()
}
