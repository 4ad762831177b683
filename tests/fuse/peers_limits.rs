//! Defects of other union file systems that come from where a mount stands: what lies below it, how much, and who waits.

use std::fs::{self, File};
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::fixture::{daemon, signal};
use crate::support::{
    Need, Store, User, alone, command_as, require, succeed, temp_dir, text, wait_for,
};
use crate::writable::{WAYS, Writable};

/// It hangs or loses what is written when a path is asked for instead of a descriptor.
#[test]
fn peers_the_upper_directory_may_be_the_mount_point() {
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        let place = union.upper();
        let options = format!("{},{way}", union.layers());
        let mut command = union.store.command(["mount", "-o", &options]);
        succeed(command.arg(&place));
        assert_eq!(fs::read(place.join("small")).unwrap(), b"small\n");
        fs::write(place.join("small"), "changed").unwrap();
        fs::write(place.join("new"), "new").unwrap();
        fs::rename(place.join("dir"), place.join("moved")).unwrap();
        assert_eq!(fs::read(place.join("moved/file")).unwrap(), b"file\n");
        succeed(&mut union.store.command(["umount".as_ref(), place.as_os_str()]));
        assert_eq!(fs::read(place.join("small")).unwrap(), b"changed");
        assert_eq!(fs::read(place.join("moved/file")).unwrap(), b"file\n");
    }
}

/// An ACL that a lower file system cannot have is none, and no reason to refuse anything.
#[test]
fn peers_a_lower_file_system_knows_no_attributes() {
    if !require(&[Need::Program("setfacl"), Need::PlainUser]) {
        return;
    }
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        let none: Option<&Path> = None;
        let lower = union.lower().with_file_name("ram");
        fs::create_dir(&lower).unwrap();
        let flags = MsFlags::empty();
        nix::mount::mount(none, &lower, Some("ramfs"), flags, none).unwrap();
        succeed(
            Command::new("cp")
                .args(["-a", "-T"])
                .arg(union.lower())
                .arg(&lower),
        );
        std::os::unix::fs::chown(lower.join("small"), Some(5), Some(5)).unwrap();
        let layers = union.layers();
        let layers = layers.split_once(',').map(|(_, rest)| rest).unwrap();
        let options = format!("lowerdir={},{layers},allow_other,{way}", lower.display());
        let guard = union.mount_guard();
        let mut command = union.store.command(["mount", "-o", &options]);
        succeed(command.arg(guard.path()));
        let mut read = command_as(User::Plain, "cat");
        read.args(["small", "dir/file"]).current_dir(guard.path());
        assert_eq!(text(&succeed(&mut read)), "small\nfile\n");
        let script = "chmod 600 dir/file; setfacl -m u:5:r dir/file; getfacl -cnp dir/file | grep user:5; \
                      cp -a small copy; stat -c %u copy";
        assert_eq!(union.shell(script), "user:5:r--\n5\n");
        guard.unmount();
        umount2(&lower, MntFlags::MNT_DETACH).unwrap();
    }
}

/// A capability that is for a user whom a user namespace does not know counts for nobody there.
#[test]
fn peers_a_capability_of_an_unknown_user_does_not_hinder_copying_up() {
    let needs = [
        Need::Fuse,
        Need::Root,
        Need::PlainUser,
        Need::Program("setcap"),
    ];
    if !require(&needs) {
        return;
    }
    let union = Writable::of(User::Plain);
    succeed(
        Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(union.lower()),
    );
    let set = ["-n", "4000", "cap_net_raw+ep"];
    succeed(
        Command::new("setcap")
            .args(set)
            .arg(union.lower().join("setid")),
    );
    let mount = union.command(&[]);
    let words = std::iter::once(mount.get_program()).chain(mount.get_args());
    let words: Vec<_> = words.map(ToOwned::to_owned).collect();
    let is_program = |word: &std::ffi::OsString| word.to_string_lossy().ends_with("/plyfs");
    let program = words.iter().position(is_program).unwrap();
    let script =
        "\"$@\"; cd \"$0\"; chmod 640 setid; stat -c %a setid; echo more >> setid; cat setid
        cd /; umount \"$0\"";
    let mut command = command_as(User::Plain, "unshare");
    let names = [
        "--user",
        "--map-root-user",
        "--mount",
        "--",
        "sh",
        "-euc",
        script,
    ];
    command.args(names).arg(union.store.mountpoint());
    let said = text(&succeed(&mut alone(command.args(&words[program..]))));
    assert_eq!(said, "640\nprogrammore\n");
}

/// Memory is taken for what is in use, not for all that was ever looked at.
#[test]
fn peers_large_directories_need_little_memory() {
    const FILES: usize = 20_000;
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        let lower = union.lower().join("many");
        fs::create_dir(&lower).unwrap();
        for number in 0..FILES {
            File::create(lower.join(format!("file{number}"))).unwrap();
        }
        let mount = union.mount(&[way]);
        let many = mount.path().join("many");
        for round in 0..3 {
            let listed = fs::read_dir(&many).unwrap().map(|entry| entry.unwrap());
            let listed = listed.filter(|entry| entry.metadata().is_ok()).count();
            assert_eq!(listed, FILES + round);
            File::create(many.join(format!("new{round}"))).unwrap();
        }
        let pid = daemon(mount.path()).unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|rss| rss.trim().strip_suffix(" kB")).unwrap();
        let rss: usize = rss.trim().parse().unwrap();
        assert!(rss < 100_000, "{way}: {rss} KiB for {FILES} files");
    }
}

/// While a file is copied up from a layer that does not answer, everything else goes on.
#[test]
fn peers_a_copy_up_that_takes_long_stalls_nobody_else() {
    for way in WAYS {
        let Some(union) = Writable::new() else { return };
        let (source, below) = (temp_dir(), Store::new());
        fs::write(source.path().join("slow"), vec![b'x'; 300_000]).unwrap();
        fs::write(source.path().join("quick"), "quick").unwrap();
        let slow = below.guard();
        let options = format!("lowerdir={},data=cached", source.path().display());
        let mut command = below.command(["mount", "-o", &options]);
        succeed(command.arg(slow.path()));
        let layers = union.layers().replace("lowerdir=", "");
        let options = format!("lowerdir={}:{layers},{way}", slow.path().display());
        let guard = union.mount_guard();
        let mut command = union.store.command(["mount", "-o", &options]);
        succeed(command.arg(guard.path()));
        let root = guard.path();
        // What the kernel knows of the lower mount it does not ask for. Whatever else it forgets meanwhile, it keeps
        // what is open.
        assert_eq!(fs::read(root.join("quick")).unwrap(), b"quick");
        succeed(Command::new("find").arg(root).args(["-ls"]));
        let places = [
            root.join("dir"),
            root.join("slow"),
            slow.path().join("slow"),
        ];
        let kept = places.map(|place| {
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            nix::fcntl::open(&place, flags, Mode::empty()).unwrap()
        });
        let [directory, file, _] = kept.each_ref().map(|kept| {
            let number = std::os::fd::AsRawFd::as_raw_fd(kept);
            Path::new("/proc/self/fd").join(number.to_string())
        });
        let pid = daemon(slow.path()).unwrap();
        signal(pid, Signal::SIGSTOP);
        let copy = || {
            let mut file = fs::OpenOptions::new()
                .append(true)
                .open(root.join("slow"))?;
            // Many requests, if the kernel collects them.
            file.write_all(&vec![b'x'; 16 << 20])
                .and_then(|()| file.sync_all())
        };
        std::thread::scope(|scope| {
            let writer = scope.spawn(copy);
            let others = scope.spawn(|| {
                for number in 0..50 {
                    let (new, moved) = (directory.join("new"), directory.join("moved"));
                    fs::write(&new, [number]).unwrap();
                    fs::rename(&new, &moved).unwrap();
                    assert_eq!(fs::read(&moved).unwrap(), [number]);
                    fs::remove_file(&moved).unwrap();
                    assert!(fs::metadata(&file).unwrap().len() >= 300_000);
                }
            });
            let went_on = std::panic::catch_unwind(AssertUnwindSafe(|| {
                wait_for("the others", || others.is_finished());
                writer.is_finished()
            }));
            signal(pid, Signal::SIGCONT);
            assert!(
                !went_on.expect("others wait for the copy"),
                "{way}: it was no wait"
            );
            others.join().unwrap();
            writer.join().unwrap().unwrap();
        });
        drop(kept);
        guard.unmount();
        slow.unmount();
    }
}
