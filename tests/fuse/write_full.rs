//! Writing where there is no room.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use crate::support::{Need, Store, require, succeed, temp_dir, wait_for};

/// The kernel collects what is written, and tells of a failure at the next fsync or close only.
#[test]
fn regression_who_writes_on_and_on_is_told_that_there_is_no_room() {
    if !require(&[Need::Fuse, Need::Root]) {
        return;
    }
    let (store, base, lower) = (Store::new(), temp_dir(), temp_dir());
    let small = ["-t", "tmpfs", "-o", "size=4m", "tmpfs"];
    succeed(Command::new("mount").args(small).arg(base.path()));
    let _small = Detached(base.path());
    for name in ["upper", "work"] {
        fs::create_dir(base.path().join(name)).unwrap();
    }
    let (lower, base) = (lower.path().display(), base.path().display());
    let options = format!("data=cached,lowerdir={lower},upperdir={base}/upper,workdir={base}/work");
    let mount = store.guard();
    succeed(
        store
            .command(["mount", "-o", &options])
            .arg(store.mountpoint()),
    );
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

struct Detached<'a>(&'a std::path::Path);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        let done = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
        done.unwrap_or_else(|errno| eprintln!("{} stays: {errno}", self.0.display()));
    }
}
