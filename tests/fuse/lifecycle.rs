//! How mounts begin and end.

use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGKILL, SIGTERM};

use crate::fixture::{Lab, alive, children, ends, signal};
use crate::support::{Need, User, alone, require, succeed, text, wait_for, write_program};

/// Whether something is mounted on the usual mount point of `lab`, and what.
fn source_of(lab: &Lab) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = lab.store.mountpoint().display().to_string();
    table
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(&point))
        .map(|line| {
            line.split(" - ")
                .nth(1)
                .unwrap()
                .split(' ')
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        })
}

#[test]
fn a_mount_is_ready_when_the_command_returns_and_names_its_image() {
    let Some(lab) = Lab::new() else { return };
    let mount = lab.mount(&[]);
    assert_eq!(fs::read(mount.path().join("hello")).unwrap(), b"hello\n");
    let shown = source_of(&lab).unwrap();
    assert!(
        shown.starts_with("fuse.plyfs ") && shown.contains("fixture"),
        "{shown}"
    );
    let options = fs::read_to_string("/proc/self/mounts").unwrap();
    let point = mount.path().display().to_string();
    let line = options.lines().find(|line| line.contains(&point)).unwrap();
    for option in ["ro", "allow_other", "default_permissions"] {
        assert!(line.split([' ', ',']).any(|word| word == option), "{line}");
    }
}

#[test]
fn mount_attributes_are_passed_on() {
    let Some(lab) = Lab::new() else { return };
    let mount = lab.mount(&["nosuid,nodev,noexec,noatime"]);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let point = mount.path().display().to_string();
    let line = table.lines().find(|line| line.contains(&point)).unwrap();
    for option in ["nosuid", "nodev", "noexec", "noatime"] {
        assert!(line.split([' ', ',']).any(|word| word == option), "{line}");
    }
}

#[test]
fn each_polite_signal_unmounts() {
    let Some(lab) = Lab::new() else { return };
    for polite in [SIGTERM, SIGINT, SIGHUP] {
        let mount = lab.mount(&[]);
        let daemon = lab.daemon();
        signal(daemon, polite);
        ends(daemon);
        assert_eq!(source_of(&lab), None, "{polite}");
        drop(mount);
    }
}

#[test]
fn an_unmount_from_outside_ends_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let mount = lab.mount(&[]);
    let daemon = lab.daemon();
    wait_for("umount", || {
        umount2(mount.path(), MntFlags::empty()).is_ok()
    });
    ends(daemon);
}

#[test]
fn a_lazy_unmount_leaves_open_files_alone() {
    let Some(lab) = Lab::new() else { return };
    for way in crate::fixture::WAYS {
        let mount = lab.mount(&[way]);
        let daemon = lab.daemon();
        let mut file = File::open(mount.path().join("large")).unwrap();
        umount2(mount.path(), MntFlags::MNT_DETACH).unwrap();
        assert_eq!(source_of(&lab), None);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == crate::fixture::large());
        assert!(alive(daemon));
        drop(file);
        ends(daemon);
    }
}

#[test]
fn a_signal_hides_the_mount_and_the_second_ends_it() {
    let Some(lab) = Lab::new() else { return };
    let mount = lab.mount(&[]);
    let daemon = lab.daemon();
    let file = File::open(mount.path().join("large")).unwrap();
    signal(daemon, SIGTERM);
    wait_for("the mount to vanish", || source_of(&lab).is_none());
    std::thread::sleep(Duration::from_millis(100));
    assert!(alive(daemon), "the file is open still");
    signal(daemon, SIGTERM);
    ends(daemon);
    drop(file);
}

#[test]
fn a_mount_that_is_put_over_the_place_afterwards_is_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let mount = lab.mount(&[]);
    let daemon = lab.daemon();
    // Kept alive by an open file, the daemon sees the end of its mount only later.
    let file = File::open(mount.path().join("large")).unwrap();
    umount2(mount.path(), MntFlags::MNT_DETACH).unwrap();
    succeed(
        Command::new("mount")
            .args(["-t", "tmpfs", "mine"])
            .arg(mount.path()),
    );
    signal(daemon, SIGTERM);
    std::thread::sleep(Duration::from_millis(100));
    drop(file);
    ends(daemon);
    assert_eq!(source_of(&lab).as_deref(), Some("tmpfs mine"));
    umount2(mount.path(), MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn a_mount_point_that_vanishes_ends_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    // In a namespace of its own the directory is a mount point; seen from here it is not, so it can
    // be removed, which takes the mount away.
    let inner = lab.store.mountpoint().join("inner");
    fs::create_dir(&inner).unwrap();
    let mut mount = lab.store.command(["mount"]);
    mount.arg("fixture").arg(&inner);
    let mut words = vec![mount.get_program().to_owned()];
    words.extend(mount.get_args().map(ToOwned::to_owned));
    let mut script = Command::new("unshare");
    script
        .args([
            "--mount",
            "--",
            "sh",
            "-c",
            "\"$@\" && exec sleep 600",
            "sh",
        ])
        .args(words);
    let mut shell = alone(&script).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the daemon", || {
        crate::fixture::daemon(&inner).is_some_and(|pid| pid != shell.id())
    });
    wait_for("the mount", || {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", shell.id())).unwrap();
        table.contains("fuse.plyfs")
    });
    let daemon = crate::fixture::daemon(&inner);
    fs::remove_dir(&inner).unwrap();
    wait_for("the end of the daemon", || !daemon.is_some_and(alive));
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[test]
fn the_end_of_a_mount_namespace_ends_the_daemon_in_it() {
    let Some(lab) = Lab::new() else { return };
    let mut mount = lab.store.command(["mount"]);
    mount.arg("fixture").arg(lab.store.mountpoint());
    let mut words = vec![mount.get_program().to_owned()];
    words.extend(mount.get_args().map(ToOwned::to_owned));
    let mut script = Command::new("unshare");
    // The daemon is in the namespace too, so only a mount it does not hold on to lets it die.
    script.args(["--mount", "--", "sh", "-c", "\"$@\" && umount \"$0\""]);
    script.arg(lab.store.mountpoint()).args(words);
    succeed(&mut alone(&script));
    wait_for("the end", || {
        crate::fixture::daemon(&lab.store.mountpoint()).is_none()
    });
}

#[test]
fn a_killed_daemon_leaves_a_dead_mount_that_can_be_unmounted() {
    let Some(lab) = Lab::new() else { return };
    let mount = lab.mount(&[]);
    let holder = lab.daemon();
    let servers = children(holder);
    signal(holder, SIGKILL);
    for server in servers {
        signal(server, SIGKILL);
    }
    wait_for("the mount to die", || {
        fs::metadata(mount.path()).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
    });
    mount.unmount();
}

#[test]
fn a_place_that_is_no_directory_is_refused_at_once() {
    let Some(lab) = Lab::new() else { return };
    for place in ["missing", "file"] {
        let path = lab.store.mountpoint().join(place);
        if place == "file" {
            fs::write(&path, "").unwrap();
        }
        let started = Instant::now();
        let words = ["mount".as_ref(), "fixture".as_ref(), path.as_os_str()];
        let said = lab.store.fails(1, words);
        assert!(said.contains("mount point"), "{said}");
        assert!(started.elapsed() < Duration::from_secs(30));
        assert_eq!(crate::fixture::daemon(&path), None);
    }
}

#[test]
fn what_waits_for_the_streams_of_the_command_does_not_wait_for_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let mut command = lab.store.command(["mount"]);
    command.arg("fixture").arg(lab.store.mountpoint());
    // output() returns when both pipes are closed by everybody.
    let output = command.stdin(Stdio::piped()).output().unwrap();
    assert!(output.status.success());
    assert!(alive(lab.daemon()));
    lab.store
        .run(["umount".as_ref(), lab.store.mountpoint().as_os_str()]);
}

#[test]
fn a_busy_mount_is_not_unmounted_but_lazily() {
    let Some(lab) = Lab::new() else { return };
    let mount = lab.mount(&[]);
    let daemon = lab.daemon();
    let file = File::open(mount.path().join("hello")).unwrap();
    let words = ["umount".as_ref(), mount.path().as_os_str()];
    let said = lab.store.fails(1, words);
    assert!(said.contains("busy"), "{said}");
    lab.store.run([
        "umount".as_ref(),
        "--lazy".as_ref(),
        mount.path().as_os_str(),
    ]);
    drop(file);
    ends(daemon);
}

#[test]
fn only_mounts_of_ours_are_unmounted() {
    let Some(lab) = Lab::new() else { return };
    let point = lab.store.mountpoint();
    let said = lab.store.fails(1, ["umount".as_ref(), point.as_os_str()]);
    assert!(said.contains("not a plyfs mount"), "{said}");
    succeed(
        Command::new("mount")
            .args(["-t", "tmpfs", "mine"])
            .arg(&point),
    );
    let said = lab.store.fails(1, ["umount".as_ref(), point.as_os_str()]);
    assert!(said.contains("not a plyfs mount"), "{said}");
    umount2(&point, MntFlags::MNT_DETACH).unwrap();
}

/// As timeout(1) does, which signals the process and then its group.
#[test]
fn regression_a_signal_that_comes_twice_at_once_counts_once() {
    let Some(lab) = Lab::new() else { return };
    for _ in 0..4 {
        let mut command = lab.store.command(["mount", "--foreground", "fixture"]);
        let mut child = command.arg(lab.store.mountpoint()).spawn().unwrap();
        wait_for("the mount", || source_of(&lab).is_some());
        let mut open = File::open(lab.store.mountpoint().join("hello")).unwrap();
        signal(child.id(), SIGTERM);
        signal(child.id(), SIGTERM);
        wait_for("the mount to go", || source_of(&lab).is_none());
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
        drop(open);
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn in_the_foreground_the_command_serves_until_it_is_interrupted() {
    let Some(lab) = Lab::new() else { return };
    let mut command = lab.store.command(["mount"]);
    command
        .args(["--foreground", "fixture"])
        .arg(lab.store.mountpoint());
    let mut child = command.spawn().unwrap();
    wait_for("the mount", || source_of(&lab).is_some());
    assert_eq!(
        fs::read(lab.store.mountpoint().join("hello")).unwrap(),
        b"hello\n"
    );
    signal(child.id(), SIGINT);
    assert!(child.wait().unwrap().success());
    assert_eq!(source_of(&lab), None);
}

/// Threads that act for others have a current directory of their own.
#[test]
fn regression_no_thread_of_a_daemon_stays_in_the_directory_of_its_caller() {
    let Some(lab) = Lab::new() else { return };
    let caller = crate::support::temp_dir();
    let mut command = lab.store.command(["mount", "--name", "web", "fixture"]);
    command
        .arg(lab.store.mountpoint())
        .current_dir(caller.path());
    let mount = lab.store.guard();
    succeed(&mut command);
    let open = mount.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    for number in 0..20 {
        let mut touch = crate::support::command_as(User::Plain, "touch");
        succeed(touch.arg(open.join(number.to_string())));
    }
    let tasks = format!("/proc/{}/task", lab.daemon());
    for task in fs::read_dir(tasks).unwrap() {
        // One that has ended meanwhile stays nowhere.
        if let Ok(cwd) = fs::read_link(task.unwrap().path().join("cwd")) {
            assert_eq!(cwd, std::path::Path::new("/"));
        }
    }
}

/// Signals that were sent together are one, however long it takes until the second is looked at.
#[test]
fn regression_an_unmount_that_takes_long_makes_no_second_signal_of_the_first() {
    if !require(&[Need::Fuse, Need::PlainUser]) {
        return;
    }
    let lab = Lab::of(User::Plain);
    let slow = crate::support::temp_dir();
    let path = std::env::var("PATH").unwrap();
    let program = format!("#!/bin/sh\nsleep 0.3\nPATH={path}\nexec fusermount3 \"$@\"\n");
    write_program(&slow.path().join("fusermount3"), &program);
    let mut command = lab.store.command(["mount", "fixture"]);
    command.env("PATH", format!("{}:{path}", slow.path().display()));
    let guard = lab.store.guard();
    succeed(command.arg(guard.path()));
    let daemon = lab.daemon();
    let script = "exec 3< \"$0/hello\"; echo open; read line; cat <&3";
    let mut reader = crate::support::command_as(User::Plain, "sh");
    let reader = reader.args(["-c", script]).arg(guard.path());
    let reader = reader.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut reader = reader.spawn().unwrap();
    let mut open = [0; 5];
    let said = reader.stdout.as_mut().unwrap();
    said.read_exact(&mut open).unwrap();
    signal(daemon, SIGTERM);
    // Or the kernel makes one of the two.
    std::thread::sleep(Duration::from_millis(50));
    signal(daemon, SIGTERM);
    wait_for("the mount to go", || source_of(&lab).is_none());
    drop(reader.stdin.take());
    let output = reader.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"hello\n");
    ends(daemon);
}

/// A copy of the mount keeps its server, and that keeps the container from everybody.
#[test]
fn regression_an_unmount_tells_of_a_copy_in_another_namespace() {
    let Some(lab) = Lab::new() else { return };
    let guard = lab.store.guard();
    let mut command = lab.store.command(["mount", "--name", "web", "fixture"]);
    succeed(command.arg(guard.path()));
    let daemon = lab.daemon();
    let mut keeper = Command::new("unshare");
    keeper.args(["--mount", "sh", "-c", "echo there; read line"]);
    let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut keeper = keeper.spawn().unwrap();
    let said = keeper.stdout.as_mut().unwrap();
    said.read_exact(&mut [0; 6]).unwrap();
    let mut umount = lab.store.command(["umount"]);
    let said = text(&succeed(umount.arg(guard.path())));
    drop(keeper.stdin.take());
    keeper.wait().unwrap();
    for expected in ["a copy of the mount on", &format!("process {daemon} ")] {
        assert!(said.contains(expected), "{said}");
    }
    ends(daemon);
}
