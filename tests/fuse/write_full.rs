//! Writing where there is no room.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use plyfs::sys::mapping::Mapping;

use crate::support::{MountGuard, Need, Store, require, succeed, temp_dir, wait_for};

/// The kernel collects what is written, and tells of a failure at the next fsync or close only.
#[test]
fn regression_who_writes_on_and_on_is_told_that_there_is_no_room() {
    let Some(small) = Small::new() else { return };
    let mount = small.mount();
    let mut file = File::create(mount.path().join("file")).unwrap();
    let chunk = vec![1; 8 << 20];
    // More than there is room for, sent at once.
    let sent = file.write_all(&chunk).and_then(|()| file.sync_data());
    let no_room = |error: &std::io::Error| error.raw_os_error() == Some(libc::ENOSPC);
    assert!(sent.as_ref().is_err_and(no_room), "{sent:?}");
    wait_for("a write that fails", || {
        let written = file.write(&chunk[..4096]);
        assert!(written.is_ok() || written.as_ref().is_err_and(no_room));
        written.is_err()
    });
    // Looking at it goes on to work, and writing where there is room again.
    assert!(fs::metadata(mount.path().join("file")).is_ok());
    file.set_len(0).unwrap();
    wait_for("a write that succeeds", || file.write(b"x").is_ok());
    drop(file);
    fs::write(mount.path().join("other"), "other").unwrap();
    mount.unmount();
}

/// Of what it has collected the kernel sees the error of a write only, not that some of it was not written.
#[test]
fn regression_the_end_of_a_write_is_not_lost_without_a_word() {
    let Some(small) = Small::new() else { return };
    let mount = small.mount();
    // One request, of which a part has room.
    let filler = vec![1; (SMALL - (512 << 10)) as usize];
    fs::write(small.base.path().join("filler"), filler).unwrap();
    let mut file = File::create(mount.path().join("file")).unwrap();
    let sent = file.write_all(&[2; 1 << 20]).and_then(|()| file.sync_all());
    let no_room = |error: &std::io::Error| error.raw_os_error() == Some(libc::ENOSPC);
    assert!(sent.as_ref().is_err_and(no_room), "{sent:?}");
    drop(file);
    mount.unmount();
}

/// The kernel takes what is written before there is a copy to write to.
#[test]
fn a_lower_file_that_cannot_be_copied_up_is_as_it_was() {
    let Some(small) = Small::new() else { return };
    let lower = vec![7; 2 * SMALL as usize];
    fs::write(small.lower.path().join("file"), &lower).unwrap();
    let mount = small.mount();
    let path = mount.path().join("file");
    let is_as_it_was = |path: &Path| {
        let size = fs::metadata(path).unwrap().len();
        size == lower.len() as u64 && fs::read(path).unwrap() == lower
    };
    // Nobody who reads it is harmed by what another one cannot write.
    let reader = File::open(&path).unwrap();
    let mapping = Mapping::new(&reader).unwrap();
    for somebody_looks in [false, true, false] {
        let mut file = File::options().append(true).open(&path).unwrap();
        let sent = file.write_all(b"more").and_then(|()| file.sync_all());
        let no_room = |error: &std::io::Error| error.raw_os_error() == Some(libc::ENOSPC);
        assert!(sent.as_ref().is_err_and(no_room), "{sent:?}");
        wait_for("what was lost to go", || {
            if somebody_looks {
                fs::metadata(&path).unwrap();
            }
            fs::read(&path).unwrap().starts_with(&lower) && mapping[..] == lower[..]
        });
        drop(file);
    }
    drop((reader, mapping));
    wait_for("the file as it was", || is_as_it_was(&path));
    for part in ["upper", "work/work"] {
        let left = fs::read_dir(small.base.path().join(part)).unwrap();
        assert_eq!(left.count(), 0, "{part}");
    }
    mount.unmount();
}

/// Bytes that there is room for.
const SMALL: u64 = 4 << 20;

/// Somewhere to write to with little room.
struct Small {
    store: Store,
    base: tempfile::TempDir,
    lower: tempfile::TempDir,
}

impl Small {
    fn new() -> Option<Small> {
        if !require(&[Need::Fuse, Need::Root]) {
            return None;
        }
        let (store, base, lower) = (Store::new(), temp_dir(), temp_dir());
        let size = format!("size={SMALL}");
        let small = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        succeed(Command::new("mount").args(small).arg(base.path()));
        for name in ["upper", "work"] {
            fs::create_dir(base.path().join(name)).unwrap();
        }
        Some(Small { store, base, lower })
    }

    fn mount(&self) -> MountGuard<'_> {
        let (lower, base) = (self.lower.path().display(), self.base.path().display());
        let options =
            format!("data=cached,lowerdir={lower},upperdir={base}/upper,workdir={base}/work");
        let mount = self.store.guard();
        let mut command = self.store.command(["mount", "-o", &options]);
        succeed(command.arg(self.store.mountpoint()));
        mount
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let base = self.base.path();
        let done = nix::mount::umount2(base, nix::mount::MntFlags::MNT_DETACH);
        done.unwrap_or_else(|errno| eprintln!("{} stays: {errno}", base.display()));
    }
}

/// Who mounted it tried whether attributes can be set, on a directory that was made for it.
#[test]
fn regression_an_upper_without_room_is_mounted_to_make_some() {
    let Some(small) = Small::new() else { return };
    let mount = small.mount();
    fs::write(mount.path().join("file"), "text").unwrap();
    mount.unmount();
    let base = small.base.path();
    let space = nix::sys::statvfs::statvfs(base).unwrap();
    let used = space.files() - space.files_free();
    let full = format!("remount,size=4k,nr_inodes={used}");
    succeed(Command::new("mount").args(["-o", &full]).arg(base));
    let made = fs::create_dir(base.join("more")).unwrap_err();
    assert_eq!(made.raw_os_error(), Some(libc::ENOSPC));
    let mount = small.mount();
    fs::remove_file(mount.path().join("file")).unwrap();
    // The kernel forgets a moment later what has no name.
    let other = mount.path().join("other");
    wait_for("room", || fs::write(&other, "").is_ok());
    mount.unmount();
}

/// A limit of the size of files, which whoever mounts may have, sent the process a signal that ends it.
#[test]
fn regression_a_file_beyond_the_limit_does_not_end_the_daemon() {
    if !require(&[Need::Program("prlimit")]) {
        return;
    }
    crate::writable::each(|_, mount| {
        let daemon = crate::fixture::daemon(mount).unwrap().to_string();
        succeed(Command::new("prlimit").args(["--pid", &daemon, "--fsize=100000"]));
        let write = |name: &str, exclusively: bool| {
            let mut options = File::options();
            options.append(true).create_new(exclusively);
            let mut file = options.open(mount.join(name))?;
            file.write_all(&vec![1; 200_000])?;
            file.sync_all()
        };
        assert!(write("new", true).is_err());
        assert!(write("large", false).is_err());
        assert_eq!(fs::read(mount.join("small")).unwrap(), b"small\n");
        fs::write(mount.join("small"), "other").unwrap();
    });
}
