//! Mounting through the command line: odd places, odd ends, and who sees what.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::sys::signal::Signal::SIGKILL;

use crate::fixture::{Lab, alive, ends, signal};
use crate::support::{
    MountGuard, Need, Store, User, alone, children, command_as, fail, is_root, plyfs_program,
    require, succeed, temp_dir, text, wait_for,
};
use crate::writable::Writable;

/// A layer that contains the mount point would have the union ask itself, for ever.
#[test]
fn regression_a_layer_that_contains_the_mount_point_is_walked_to_an_end() {
    if !require(&[Need::Fuse, Need::Root]) {
        return;
    }
    for writable in [false, true] {
        let (store, layer, other) = (Store::new(), temp_dir(), temp_dir());
        let point = layer.path().join("sub/mnt");
        for directory in [&point, &other.path().join("u"), &other.path().join("w")] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(layer.path().join("file"), "x").unwrap();
        fs::write(point.join("covered"), "x").unwrap();
        let mut options = format!("lowerdir={}", layer.path().display());
        if writable {
            let other = other.path().display();
            options += &format!(",upperdir={other}/u,workdir={other}/w");
        }
        let mut command = store.command(["mount", "-o", &options]);
        succeed(command.arg(&point));
        let guard = Detach(&point);
        let within = |program: &str, args: &[&str]| {
            let mut command = Command::new("timeout");
            command.args(["-s", "KILL", "30", program]).args(args);
            String::from_utf8(succeed(command.arg(&point)).stdout).unwrap()
        };
        let listed = within("ls", &["-R"]);
        assert_eq!(listed.matches("file").count(), 1, "{listed}");
        let mut find = Command::new("timeout");
        find.args(["-s", "KILL", "30", "find"]).arg(&point);
        let found = String::from_utf8(succeed(find.args(["-printf", "%P\n"])).stdout).unwrap();
        let mut names: Vec<_> = found.lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["", "file", "sub", "sub/mnt"]);
        if writable {
            fs::write(point.join("sub/new"), "new").unwrap();
            fs::write(point.join("sub/mnt/deep"), "deep").unwrap();
            within("ls", &["-R"]);
            assert!(other.path().join("u/sub/mnt/deep").exists());
            fs::remove_dir_all(point.join("sub")).unwrap();
            assert!(layer.path().join("file").exists());
        }
        let mut umount = store.command([std::ffi::OsStr::new("umount"), point.as_os_str()]);
        succeed(&mut umount);
        drop(guard);
        assert!(point.join("covered").exists());
    }
}

struct Detach<'a>(&'a std::path::Path);

impl Drop for Detach<'_> {
    fn drop(&mut self) {
        if crate::support::is_mounted(self.0) {
            let done = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
            done.unwrap_or_else(|errno| eprintln!("{} stays: {errno}", self.0.display()));
        }
    }
}

fn listed_pid(store: &Store, mount: &MountGuard<'_>) -> u32 {
    let pid = mount.pid();
    assert!(store.listed(mount.path()).is_some());
    u32::try_from(pid).unwrap()
}

#[test]
fn mounts_lists_directory_unions_with_their_process_and_layers() {
    let Some(union) = Writable::new() else { return };
    let mount = union.mount(&["noatime"]);
    let daemon = crate::fixture::daemon(mount.path()).unwrap();
    assert_eq!(listed_pid(&union.store, &mount), daemon);
    let row = union.store.listed(mount.path()).unwrap();
    let lower = union.lower().display().to_string();
    assert_eq!(row["layers"], serde_json::json!([lower]));
    assert_eq!(
        row["upper"],
        serde_json::json!(union.upper().display().to_string())
    );
    let options = row["options"].as_str().unwrap();
    let mut words: Vec<_> = options.split(',').collect();
    let count = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), count, "{options}");
    let table = union.store.stdout(["mounts"]);
    let line = table
        .lines()
        .find(|line| line.contains(&*mount.path().to_string_lossy()));
    let cells: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(cells[2..], ["1", &daemon.to_string()]);
    mount.unmount();
    // Whoever unmounts may go on with the upper directory at once.
    assert!(!alive(daemon) || union.store.listed(&union.store.mountpoint()).is_none());
    let mount = union.mount(&[]);
    mount.unmount();
}

#[test]
fn mounts_tells_the_processes_of_stacked_mounts_apart() {
    let Some(lab) = Lab::new() else { return };
    let below = lab.mount(&[]);
    let first = below.pid();
    let above = lab.mount(&["nosuid"]);
    let table: serde_json::Value =
        serde_json::from_str(&lab.store.stdout(["mounts", "--json"])).unwrap();
    let at = serde_json::json!(below.path().display().to_string());
    let rows = table.as_array().unwrap().iter();
    let pids: Vec<u64> = rows
        .filter(|row| row["mountPoint"] == at)
        .map(|row| row["pid"].as_u64().unwrap())
        .collect();
    assert_eq!(pids.len(), 2, "{pids:?}");
    assert_eq!(pids[0], first);
    assert_ne!(pids[0], pids[1]);
    // The upper one goes first, and its own process with it.
    lab.store
        .run([std::ffi::OsStr::new("umount"), above.path().as_os_str()]);
    ends(u32::try_from(pids[1]).unwrap());
    assert!(alive(u32::try_from(first).unwrap()));
    drop(above);
    drop(below);
}

#[test]
fn an_ordinary_user_is_told_whose_mount_he_cannot_unmount() {
    let Some(lab) = Lab::new() else { return };
    let mount = lab.mount(&[]);
    // The way there must be open to him.
    let mut command = command_as(User::Plain, plyfs_program());
    let said = fail(command.arg("umount").arg(mount.path()), 1);
    assert!(said.contains("was mounted by root"), "{said}");
    assert!(said.contains("hint: "), "{said}");
    mount.unmount();
}

/// Negated without a look these seconds overflow, which once ended the thread that read them.
#[test]
fn regression_extreme_times_are_set_and_seen_as_on_disk() {
    if !require(&[Need::Program("python3")]) {
        return;
    }
    let set = r#"
import ctypes, os, sys
class Time(ctypes.Structure): _fields_ = [("s", ctypes.c_long), ("n", ctypes.c_long)]
libc = ctypes.CDLL(None, use_errno=True)
for seconds in (-2**63, -2**63 + 1, 2**63 - 1, -1, 0):
    for nanoseconds in (0, 1, 999999999):
        times = (Time * 2)(Time(seconds, nanoseconds), Time(seconds, nanoseconds))
        if libc.utimensat(-100, sys.argv[1].encode(), times, 0):
            print("errno", ctypes.get_errno())
        else:
            print(os.stat(sys.argv[1]).st_atime_ns, os.stat(sys.argv[1]).st_mtime_ns)
"#;
    let Some(union) = Writable::new() else { return };
    let on_disk = temp_dir();
    fs::write(on_disk.path().join("file"), "x").unwrap();
    for way in crate::writable::WAYS {
        let mount = union.mount(&[way]);
        let run = |path: &std::path::Path| {
            let mut command = Command::new("timeout");
            command
                .args(["-s", "KILL", "60", "python3", "-c", set])
                .arg(path);
            let said = String::from_utf8(succeed(&mut command).stdout).unwrap();
            said.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        for name in ["small", "new"] {
            fs::write(mount.path().join(name), "x").unwrap();
            let (seen, expected) = (
                run(&mount.path().join(name)),
                run(&on_disk.path().join("file")),
            );
            if way == "data=passthrough" {
                assert_eq!(seen, expected);
            }
            // With writeback the kernel keeps the time of the last change to itself for a while.
            let first = |lines: &[String]| {
                let word = |line: &String| line.split(' ').next().unwrap().to_owned();
                lines.iter().map(word).collect::<Vec<_>>()
            };
            assert_eq!(first(&seen), first(&expected), "{way}");
        }
        mount.unmount();
    }
}

#[test]
fn a_volatile_union_is_mounted_again_after_a_clean_end_and_refused_after_a_crash() {
    let Some(union) = Writable::new() else { return };
    let mount = union.mount(&["volatile"]);
    fs::write(mount.path().join("kept"), "kept").unwrap();
    mount.unmount();
    for options in [&["volatile"][..], &[], &["fsync=0"]] {
        let mount = union.mount(options);
        assert_eq!(
            fs::read(mount.path().join("kept")).unwrap(),
            b"kept",
            "{options:?}"
        );
        mount.unmount();
    }
    let mount = union.mount(&["volatile"]);
    signal(crate::fixture::daemon(mount.path()).unwrap(), SIGKILL);
    wait_for("the mount to die", || fs::metadata(mount.path()).is_err());
    mount.unmount();
    for options in [&["volatile"][..], &[]] {
        let said = fail(&mut union.command(options), 1);
        assert!(said.contains("work/incompat/volatile"), "{said}");
    }
    // The way out that is named, and that containers/storage takes by itself.
    let mark = union
        .upper()
        .with_file_name("work")
        .join("work/incompat/volatile");
    fs::remove_dir_all(mark).unwrap();
    union.mount(&["volatile"]).unmount();
}

/// Whoever unmounts by other means, as podman does, and mounts again at once.
#[test]
fn regression_a_union_is_mounted_again_while_its_last_server_ends() {
    let Some(union) = Writable::new() else { return };
    for _ in 0..10 {
        let mount = union.mount(&[]);
        // Not here: what other tests start at this moment would have the file open for a while.
        union.shell("echo x > new");
        succeed(Command::new("fusermount3").arg("-u").arg(mount.path()));
    }
}

/// As fstab's own users, with subordinate ids, as rootless container engines mount.
#[test]
fn a_user_namespace_with_subordinate_ids_takes_a_writable_union() {
    let needs = [
        Need::Root,
        Need::Fuse,
        Need::PlainUser,
        Need::Program("newuidmap"),
    ];
    if !require(&needs) {
        return;
    }
    fs::set_permissions(
        "/dev/fuse",
        std::os::unix::fs::PermissionsExt::from_mode(0o666),
    )
    .unwrap();
    let room = temp_dir();
    std::os::unix::fs::chown(room.path(), Some(65534), Some(65534)).unwrap();
    let ranges = temp_dir();
    fs::write(ranges.path().join("ranges"), "nobody:200000:65536\n").unwrap();
    // Whatever subordinate ids the machine gives to whom: here they are given to nobody.
    let outer = r#"
        for kind in subuid subgid; do
            test -e /etc/$kind || : > /etc/$kind
            mount --bind "$1/ranges" /etc/$kind
        done
        shift
        exec "$@"
    "#;
    // In the namespace 0 is the user, 1 the first subordinate id.
    let script = r#"
        cd "$1"; mkdir l u w m u2 w2
        echo lower > l/file; chown 5:6 l/file; chmod 600 l/file
        "$2" mount -o lowerdir=l,upperdir=u,workdir=w m
        stat -c '%u %g %a' m/file; echo more >> m/file; chown 7:8 m/file; mkdir m/dir
        chown 100:100 m/dir; rm -rf m/dir; mkdir m/dir; mknod m/null c 0 0 2>/dev/null || echo no node
        stat -c '%u %g' m/file u/file; cat m/file; umount m
        "$2" mount -o "lowerdir=l,upperdir=u2,workdir=w2,uidmapping=0:0:1:5:1000:1,gidmapping=0:0:1:6:1000:1" m
        stat -c '%u %g' m/file; chown 0:0 m/file; stat -c '%u %g' m/file u2/file; umount m
    "#;
    let mut inner = command_as(User::Plain, "unshare");
    inner
        .args(["--user", "--map-auto", "--map-root-user", "--mount"])
        .args(["sh", "-euc", script, "sh"])
        .args([room.path(), plyfs_program()]);
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-euc",
            outer,
            "sh",
        ])
        .arg(ranges.path())
        .arg(inner.get_program())
        .args(inner.get_args());
    let said = String::from_utf8(succeed(&mut alone(&command)).stdout).unwrap();
    let said = said.replace("no node\n", "");
    let expected = "5 6 600\n7 8\n7 8\nlower\nmore\n1000 1000\n0 0\n0 0\n";
    assert_eq!(said, expected);
}

#[test]
fn mappings_and_squashing_show_and_store_other_owners() {
    let Some(union) = Writable::new() else { return };
    let lower = union.lower();
    std::os::unix::fs::chown(lower.join("small"), Some(1000), Some(2000)).unwrap();
    std::os::unix::fs::chown(lower.join("setid"), Some(1001), Some(2001)).unwrap();
    let owner = |path: &std::path::Path| {
        let stat = fs::metadata(path).unwrap();
        (stat.uid(), stat.gid())
    };
    let mapping = "uidmapping=0:0:1:1000:0:1:1001:70:10,gidmapping=0:0:1:2000:0:1:2001:80:10";
    let mount = union.mount(&[mapping]);
    assert_eq!(owner(&mount.path().join("small")), (0, 0));
    assert_eq!(owner(&mount.path().join("setid")), (70, 80));
    fs::write(mount.path().join("new"), "x").unwrap();
    std::os::unix::fs::chown(mount.path().join("new"), Some(71), Some(81)).unwrap();
    assert_eq!(owner(&mount.path().join("new")), (71, 81));
    assert_eq!(owner(&union.upper().join("new")), (1002, 2002));
    let error = std::os::unix::fs::chown(mount.path().join("new"), Some(9999), None);
    assert!(error.is_err(), "nothing is mapped to 9999");
    mount.unmount();
    for (squash, shown) in [
        ("squash_to_root", (0, 0)),
        ("squash_to_uid=5,squash_to_gid=6", (5, 6)),
    ] {
        let mount = union.mount(&[squash]);
        assert_eq!(owner(&mount.path().join("small")), shown, "{squash}");
        assert_eq!(owner(&mount.path().join("dir")), shown, "{squash}");
        mount.unmount();
    }
}

/// As podman makes mount points in a container whose mapping lacks podman's own user.
#[test]
fn regression_who_is_not_mapped_makes_files_of_nobody() {
    let Some(union) = Writable::new() else { return };
    let mount = union.mount(&["uidmapping=:0:1:1000:65534:5000:1,gidmapping=:0:1:1000"]);
    let made = mount.path().join("made");
    fs::create_dir(&made).unwrap();
    fs::write(made.join("file"), "x").unwrap();
    std::os::unix::fs::symlink("file", made.join("link")).unwrap();
    for name in ["made", "made/file", "made/link"] {
        let (shown, stored) = (mount.path().join(name), union.upper().join(name));
        let [shown, stored] = [shown, stored].map(|path| fs::symlink_metadata(path).unwrap());
        assert_eq!((shown.uid(), shown.gid()), (5000, 65534), "{name}");
        assert_eq!((stored.uid(), stored.gid()), (65534, 65534), "{name}");
    }
    let given = std::os::unix::fs::chown(made.join("file"), Some(0), None);
    assert_eq!(given.unwrap_err().raw_os_error(), Some(libc::EOVERFLOW));
    mount.unmount();
}

#[test]
fn a_label_is_no_reason_to_fail_where_there_are_none() {
    if !require(&[Need::Fuse, Need::PlainUser]) {
        return;
    }
    for user in [User::Same, User::Plain] {
        if user == User::Same && !is_root() {
            continue;
        }
        let union = Writable::of(user);
        let label = "context=\"system_u:object_r:container_file_t:s0:c1,c2\"";
        let output = union
            .command(&[label, "strictatime", "nodiratime"])
            .output()
            .unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        let mount = union.mount_guard();
        // Through fusermount3 these cannot be asked for, and nothing is dropped without a word.
        if user == User::Plain {
            assert!(
                said.contains("strictatime, nodiratime: without effect"),
                "{said}"
            );
        } else {
            assert_eq!(said, "");
        }
        mount.unmount();
    }
}

/// The lock has to outlive the process that was started, whose child serves the mount.
#[test]
fn regression_directories_that_a_daemon_writes_to_are_not_used_twice() {
    if !require(&[Need::Fuse, Need::Root]) {
        return;
    }
    let (store, base) = (Store::new(), temp_dir());
    let path = |name: &str| base.path().join(name);
    for name in ["lower", "upper", "work", "first", "second"] {
        fs::create_dir(path(name)).unwrap();
    }
    let shown = base.path().display();
    let options = format!("lowerdir={shown}/lower,upperdir={shown}/upper,workdir={shown}/work");
    succeed(store.command(["mount", "-o", &options]).arg(path("first")));
    let first = path("first");
    let guard = Detach(&first);
    let refused = fail(
        store.command(["mount", "-o", &options]).arg(path("second")),
        1,
    );
    assert!(refused.contains("in use"), "{refused}");
    succeed(store.command(["umount"]).arg(&first));
    drop(guard);
    // The next one waits for the end of the server.
    succeed(store.command(["mount", "-o", &options]).arg(path("second")));
    succeed(store.command(["umount"]).arg(path("second")));
}

/// Each time the kernel enlarges the table of a process with threads, all of them wait for ten milliseconds.
#[test]
fn regression_the_table_of_open_files_is_large_before_there_are_threads() {
    let (Some(union), Some(lab)) = (Writable::new(), Lab::new()) else {
        return;
    };
    let has_room = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
        let size: u64 = size.unwrap().trim().parse().unwrap();
        let (_, limit) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        assert!(size >= limit.min(2048), "{size}");
    };
    let mount = union.mount(&[]);
    has_room(crate::fixture::daemon(mount.path()).unwrap());
    let image = lab.mount(&[]);
    wait_for("a server", || !children(lab.daemon()).is_empty());
    children(lab.daemon()).into_iter().for_each(has_room);
    drop(image);
}
