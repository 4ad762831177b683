//! Mounts of images outlive the process that serves them, and change over to another program.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::mount::{MntFlags, umount2};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};

use crate::fixture::{LARGE, Lab, MANY, alive, children, ends, large, signal, small, tree};
use crate::support::{
    Need, User, copy_program, is_mounted, plyfs_program, require, succeed, temp_dir, wait_for,
    write_program,
};

/// How often a server is killed in a test.
const KILLS: usize = 100;

/// The image of the other tests, with a program.
fn lab_of(user: User) -> Option<Lab> {
    // The kernel that can do passthrough can send requests again.
    let needs = [Need::Fuse, Need::Root, Need::Passthrough];
    require(&needs).then(|| {
        let source = temp_dir();
        tree(source.path());
        fs::copy("/bin/true", source.path().join("true")).unwrap();
        Lab::with(user, source)
    })
}

/// The one process that serves for `holder`.
fn server(holder: u32) -> u32 {
    let mut found = None;
    wait_for("a server", || {
        found = children(holder).first().copied();
        found.is_some()
    });
    found.unwrap()
}

/// Kills the server of `holder` and waits for another.
fn kill_server(holder: u32) -> u32 {
    let old = server(holder);
    signal(old, SIGKILL);
    wait_for("another server", || {
        children(holder).iter().any(|&pid| pid != old)
    });
    server(holder)
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Lets the kernel forget what it has read of a file.
fn drop_pages(file: &File) {
    posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

#[allow(unsafe_code)]
fn compare_mapped(file: &File, expected: &[u8]) {
    let length = std::num::NonZeroUsize::new(expected.len()).unwrap();
    // SAFETY: the mapping is of a file that never changes, and gone before the function returns.
    unsafe {
        let (access, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE);
        let start = mmap(None, length, access, flags, file, 0).unwrap();
        let seen = std::slice::from_raw_parts(start.as_ptr().cast::<u8>(), expected.len());
        assert!(seen == expected);
        munmap(start, expected.len()).unwrap();
    }
}

/// Everything that programs do with a tree that they can only read, over and over. What fails or is wrong
/// ends a client with a panic.
struct Clients<'a> {
    root: &'a Path,
    large: Vec<u8>,
    stop: AtomicBool,
    done: AtomicU64,
}

impl Clients<'_> {
    fn over(&self, mut work: impl FnMut(u64)) {
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            work(round);
            round += 1;
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn reads(&self) {
        self.over(|round| {
            let number = usize::try_from(round).unwrap() * 37 % MANY;
            let path = self.root.join(format!("many/{number:04}"));
            let mut file = File::open(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            let mut text = Vec::new();
            file.read_to_end(&mut text).unwrap();
            assert!(text == small(number), "{path:?}");
            drop_pages(&file);
        });
    }

    fn reads_large(&self) {
        // One stays open all the time, and others come and go beside it.
        let kept = File::open(self.root.join("large")).unwrap();
        self.over(|round| {
            let file = File::open(self.root.join("large")).unwrap();
            let from = usize::try_from(round * 65_521 % (LARGE - 70_000)).unwrap();
            let mut part = vec![0; 70_000];
            for file in [&kept, &file] {
                drop_pages(file);
                file.read_exact_at(&mut part, from as u64).unwrap();
                assert!(part == self.large[from..from + part.len()]);
                file.sync_all().unwrap();
            }
        });
    }

    fn maps(&self) {
        self.over(|_| {
            let file = File::open(self.root.join("large")).unwrap();
            compare_mapped(&file, &self.large);
            drop_pages(&file);
        });
    }

    fn lists(&self) {
        self.over(|_| {
            let listed = fs::read_dir(self.root.join("many")).unwrap();
            let sizes = listed.map(|entry| entry.unwrap().metadata().unwrap().len());
            let expected: usize = (0..MANY).map(|number| small(number).len()).sum();
            assert_eq!(sizes.sum::<u64>(), expected as u64);
            assert!(nix::sys::statvfs::statvfs(self.root).is_ok());
        });
    }

    fn looks_up(&self) {
        self.over(|round| {
            // Names that the kernel has never heard of.
            let missing = fs::symlink_metadata(self.root.join(format!("many/no-{round}")));
            assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
            let target = fs::read_link(self.root.join("link")).unwrap();
            assert_eq!(target, Path::new("deep/er/also"));
        });
    }

    fn executes(&self) {
        self.over(|_| {
            let status = Command::new(self.root.join("true")).status();
            assert!(status.unwrap().success());
        });
    }

    /// Runs them all while `disturb` does its work.
    fn while_busy(root: &Path, disturb: impl FnOnce(&Clients<'_>)) {
        let clients = Clients {
            root,
            large: large(),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
        };
        let it = &clients;
        std::thread::scope(|scope| {
            let threads = [
                scope.spawn(|| it.reads()),
                scope.spawn(|| it.reads_large()),
                scope.spawn(|| it.maps()),
                scope.spawn(|| it.lists()),
                scope.spawn(|| it.looks_up()),
                scope.spawn(|| it.executes()),
            ];
            let disturbed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| disturb(it)));
            it.stop.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().expect("a client saw a failure");
            }
            disturbed.unwrap();
        });
    }

    /// Lets every client do something.
    fn progress(&self) {
        let before = self.done.load(Ordering::Relaxed);
        wait_for("the clients to go on", || {
            self.done.load(Ordering::Relaxed) > before + 20
        });
    }
}

fn survives_kills(lab: &Lab, options: &[&str]) {
    let mount = lab.mount(options);
    let holder = lab.daemon();
    let before = descriptors(holder);
    Clients::while_busy(mount.path(), |clients| {
        for kill in 0..KILLS {
            kill_server(holder);
            clients.progress();
            std::thread::sleep(Duration::from_millis((kill % 4) as u64 * 25));
        }
    });
    assert_eq!(children(holder).len(), 1);
    wait_for(format!("{before} descriptors"), || {
        descriptors(holder) == before
    });
    let last = server(holder);
    mount.unmount();
    ends(holder);
    ends(last);
}

#[test]
fn no_operation_fails_while_the_server_is_killed_a_hundred_times() {
    let Some(lab) = lab_of(User::Same) else {
        return;
    };
    survives_kills(&lab, &["data=cached"]);
}

#[test]
fn nor_where_the_kernel_reads_files_by_itself() {
    let Some(lab) = lab_of(User::Same) else {
        return;
    };
    survives_kills(&lab, &["data=passthrough"]);
}

#[test]
fn nor_as_it_is_mounted_unless_told_otherwise() {
    let Some(lab) = lab_of(User::Same) else {
        return;
    };
    survives_kills(&lab, &[]);
}

#[test]
fn an_ordinary_user_has_the_same() {
    let Some(lab) = lab_of(User::Plain) else {
        return;
    };
    // Root may not come in, so nothing is looked at from here but by that user.
    let mount = lab.mount(&[]);
    let holder = lab.daemon();
    let large = mount.path().join("large");
    let compare = |plain: &Path| {
        let mut cmp = crate::support::command_as(User::Plain, "cmp");
        succeed(cmp.arg(plain).arg(&large));
    };
    let plain = temp_dir();
    fs::set_permissions(plain.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = plain.path().join("copy");
    fs::write(&copy, crate::fixture::large()).unwrap();
    for _ in 0..5 {
        compare(&copy);
        kill_server(holder);
    }
    compare(&copy);
    lab.store
        .run(["upgrade".as_ref(), mount.path().as_os_str()]);
    compare(&copy);
    mount.unmount();
}

#[test]
fn the_server_goes_on_alone_when_its_holder_is_killed() {
    let Some(lab) = lab_of(User::Same) else {
        return;
    };
    for polite in [false, true] {
        let mount = lab.mount(&[]);
        let holder = lab.daemon();
        let server = server(holder);
        signal(holder, SIGKILL);
        wait_for("the server to be known", || {
            let listed = lab.store.listed(mount.path()).unwrap();
            listed["pid"].as_u64() == Some(server.into())
        });
        assert_eq!(fs::read(mount.path().join("hello")).unwrap(), b"hello\n");
        let said = lab
            .store
            .fails(1, ["upgrade".as_ref(), mount.path().as_os_str()]);
        assert!(said.contains("has no holder"), "{said}");
        // What protects the image is held still.
        let said = lab.store.fails(1, ["image", "rm", "fixture"]);
        assert!(said.contains("mounted"), "{said}");
        if polite {
            signal(server, SIGTERM);
        } else {
            mount.unmount();
        }
        ends(server);
    }
}

#[test]
fn a_server_that_dies_at_once_again_and_again_is_given_up() {
    let Some(lab) = lab_of(User::Same) else {
        return;
    };
    let mount = lab.mount(&[]);
    let holder = lab.daemon();
    wait_for("the holder to give up", || {
        for _ in 0..100 {
            for pid in children(holder) {
                // It may have ended meanwhile.
                let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
                nix::sys::signal::kill(pid, SIGKILL).ok();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        !alive(holder)
    });
    assert!(!is_mounted(mount.path()));
}

#[test]
fn a_mount_that_goes_while_nobody_serves_it_ends_its_holder() {
    let Some(lab) = lab_of(User::Same) else {
        return;
    };
    for _ in 0..20 {
        let mount = lab.mount(&[]);
        let holder = lab.daemon();
        signal(server(holder), SIGKILL);
        umount2(mount.path(), MntFlags::MNT_DETACH).unwrap();
        ends(holder);
    }
}

/// A copy of the program under test in a directory of its own.
fn other_program(directory: &Path) -> PathBuf {
    let path = directory.join("plyfs-next");
    copy_program(plyfs_program(), &path);
    path
}

fn program_of(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

#[test]
fn another_program_takes_over_and_no_operation_fails() {
    let Some(lab) = lab_of(User::Same) else {
        return;
    };
    let directory = temp_dir();
    let next = other_program(directory.path());
    for way in crate::fixture::WAYS {
        let mount = lab.mount(&[way]);
        Clients::while_busy(mount.path(), |clients| {
            for program in [&next, plyfs_program(), &next] {
                let old = lab.daemon();
                succeed(Command::new(program).arg("upgrade").arg(mount.path()));
                ends(old);
                let holder = lab.daemon();
                for pid in [holder, server(holder)] {
                    assert_eq!(&program_of(pid), program);
                }
                assert_eq!(mount.pid(), u64::from(holder));
                clients.progress();
                // It recovers as the one before did.
                kill_server(holder);
                clients.progress();
            }
        });
        // The image is protected, as before.
        let said = lab.store.fails(1, ["image", "rm", "fixture"]);
        assert!(said.contains("mounted"), "{said}");
        let holder = lab.daemon();
        mount.unmount();
        ends(holder);
    }
}

#[test]
fn all_mounts_of_images_are_upgraded_and_others_are_left_alone() {
    let Some(lab) = lab_of(User::Plain) else {
        return;
    };
    let container = lab.store.mountpoint().with_file_name("container");
    fs::create_dir(&container).unwrap();
    std::os::unix::fs::chown(&container, Some(65534), Some(65534)).unwrap();
    let mount = lab.mount(&[]);
    let mut writable = lab.store.command(["mount", "--name", "web", "fixture"]);
    succeed(writable.arg(&container));
    let guard = crate::support::MountGuard::of(&lab.store, &container);
    let (held, other) = (mount.pid(), guard.pid());
    lab.store.run(["upgrade", "--all"]);
    assert_ne!(mount.pid(), held);
    assert_eq!(guard.pid(), other);
    let said = lab
        .store
        .fails(1, ["upgrade".as_ref(), container.as_os_str()]);
    assert!(said.contains("has no holder"), "{said}");
}

/// Runs `upgrade` so that the holder finds `stand_in` where the program was when it asked.
fn upgrade_to(lab: &Lab, stand_in: &Path) -> String {
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$1\" \"$2\" && exec \"$2\" upgrade \"$3\"";
    command.args(["--mount", "--", "sh", "-c", script, "sh"]);
    command.arg(plyfs_program()).arg(stand_in);
    crate::support::fail(command.arg(lab.store.mountpoint()), 1)
}

#[test]
fn a_program_that_cannot_take_over_leaves_the_mount_as_it_is() {
    let Some(lab) = lab_of(User::Same) else {
        return;
    };
    let mount = lab.mount(&[]);
    let holder = lab.daemon();
    let directory = temp_dir();
    let stand_in = directory.path().join("program");
    Clients::while_busy(mount.path(), |clients| {
        for (text, reason) in [
            ("no program at all", "Exec format error"),
            ("#!/bin/sh\nexit 3\n", "ended without a word"),
            ("#!/bin/sh\nexec cat >&0\n", "recovery"),
            (
                "#!/bin/sh\necho prepared >&0; read l; read l\n",
                "ended without a word",
            ),
        ] {
            write_program(&stand_in, text);
            let said = upgrade_to(&lab, &stand_in);
            assert!(said.contains(reason), "{text}: {said}");
            assert_eq!(lab.daemon(), holder);
            clients.progress();
        }
        // The same program, which cannot open the store any more.
        let (there, away) = ("store.json", "store.away");
        let root = lab.store.root();
        fs::rename(root.join(there), root.join(away)).unwrap();
        let upgrade = ["upgrade".as_ref(), mount.path().as_os_str()];
        let said = lab.store.fails(1, upgrade);
        fs::rename(root.join(away), root.join(there)).unwrap();
        assert!(said.contains("store.json"), "{said}");
        assert_eq!(lab.daemon(), holder);
        clients.progress();
    });
    assert_eq!(children(holder).len(), 1);
}

/// The kernel knows nothing of changes in a tree that has none, and asks all the same.
#[test]
fn regression_what_cannot_change_can_be_made_durable() {
    let Some(lab) = Lab::new() else { return };
    for way in crate::fixture::WAYS {
        let mount = lab.mount(&[way]);
        for name in ["hello", "large", "many"] {
            let path = mount.path().join(name);
            File::open(&path).unwrap().sync_all().unwrap();
        }
    }
}

/// Or the second one would take away what was mounted there before.
#[test]
fn regression_a_signal_to_all_processes_of_a_mount_takes_only_that_away() {
    let Some(lab) = lab_of(User::Same) else {
        return;
    };
    let point = lab.store.mountpoint();
    succeed(
        Command::new("mount")
            .args(["-t", "tmpfs", "below"])
            .arg(&point),
    );
    for _ in 0..20 {
        let mount = lab.mount(&[]);
        let holder = lab.daemon();
        let server = server(holder);
        // Which one comes first is a matter of chance; each alone is enough.
        signal(server, SIGTERM);
        // It may have ended already.
        let pid = nix::unistd::Pid::from_raw(holder.cast_signed());
        nix::sys::signal::kill(pid, SIGTERM).ok();
        ends(holder);
        ends(server);
        std::mem::forget(mount);
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let place = format!(" {} ", point.display());
        let left: Vec<_> = table.lines().filter(|line| line.contains(&place)).collect();
        assert!(left.len() == 1 && left[0].starts_with("below "), "{left:?}");
    }
    umount2(&point, MntFlags::empty()).unwrap();
}
