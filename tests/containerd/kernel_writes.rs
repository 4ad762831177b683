//! Containers that write through the kernel's overlay over the one mount of their image.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::SOURCES;
use crate::fixture::{Containerd, layout, require_containerd};
use crate::support::{Need, Registry, children, plyfs_program, require, succeed, wait_for};

/// Tells what a container's root is.
const ROOT: &str = "grep ' / ' /proc/mounts | cut -d ' ' -f 3";

fn with_image() -> Option<(Containerd, String, Registry)> {
    let needs = [&SOURCES[..], &[Need::Program("docker-registry")]].concat();
    if !require_containerd(&needs) {
        return None;
    }
    let it = Containerd::start_writing("kernel");
    let registry = Registry::start();
    registry.push(&layout(&it.path("")), "large", "large:1");
    let image = registry.reference("large:1");
    it.pull_described(&image);
    Some((it, image, registry))
}

#[test]
fn all_containers_of_an_image_share_its_mount() {
    let Some((mut it, image, _registry)) = with_image() else {
        return;
    };
    assert_eq!(it.shell(&image, "first", ROOT), "overlay\n");
    it.start_container(&image, "one");
    it.start_container(&image, "two");
    for name in ["one", "two"] {
        let script = format!("echo {name} > /etc/issue; rm -r /usr/share/demo; cat /etc/issue");
        assert_eq!(it.exec(name, &script), format!("{name}\n"));
    }
    let ours = it.mounts();
    let images = ours.iter().filter(|path| path.ends_with("image"));
    assert_eq!(images.count(), 1, "{ours:?}");
    // Nobody needs the snapshotter but who wants another container.
    it.kill_snapshotter();
    assert_eq!(it.exec("one", "head -n 1 /etc/issue"), "one\n");
    for name in ["one", "two"] {
        it.remove_container(name);
    }
    it.remove_images(&[&image]);
}

#[test]
fn a_container_changes_between_the_two_ways_while_it_is_stopped() {
    let Some((mut it, image, _registry)) = with_image() else {
        return;
    };
    it.start_container(&image, "web");
    let change =
        "echo kernel > /etc/issue; rm -r /usr/share/demo; mkdir /usr/share/demo; echo 1 > /new";
    it.exec("web", change);
    let mut expected = "kernel\n1\n".to_owned();
    for (writable, kind) in [
        ("fuse", "fuse.plyfs"),
        ("kernel", "overlay"),
        ("auto", "overlay"),
    ] {
        it.stop_container("web");
        it.kill_snapshotter_and_write(writable);
        it.run(&["tasks", "start", "--detach", "web"]);
        assert_eq!(it.exec("web", ROOT).trim(), kind);
        assert_eq!(
            it.exec("web", "cat /etc/issue /new; ls -A /usr/share/demo"),
            expected
        );
        it.exec(
            "web",
            &format!("echo {writable} >> /new; rm -f /etc/passwd"),
        );
        expected += &format!("{writable}\n");
    }
    it.remove_container("web");
    it.remove_images(&[&image]);
}

/// The labels of Kubernetes user namespaces: such a container is written through a mount of ours, beside others of
/// the image that the kernel writes.
#[test]
fn a_container_in_a_user_namespace_has_its_own_owners() {
    let Some((mut it, image, _registry)) = with_image() else {
        return;
    };
    it.start_container(&image, "plain");
    let mapped = [
        "--uidmap",
        "0:5000:65536",
        "--gidmap",
        "0:6000:65536",
        "--remap-labels",
    ];
    let head = ["run", "--detach", "--snapshotter", "plyfs"];
    let tail = [&image, "mapped", "/bin/sh", "-c", "sleep 1000"];
    it.run(&[&head[..], &mapped, &tail].concat());
    assert_eq!(it.exec("mapped", ROOT), "fuse.plyfs\n");
    let script =
        "echo x > /root/new; chown 7:8 /etc/issue; stat -c %u:%g /root /root/new /etc/issue /bin";
    let owners = "0:0\n0:0\n7:8\n0:0\n";
    assert_eq!(it.exec("mapped", script), owners);
    // On disk they are who they are in the container, whoever that is outside.
    it.stop_container("mapped");
    it.kill_snapshotter_and_write("fuse");
    it.run(&["tasks", "start", "--detach", "mapped"]);
    let look = "stat -c %u:%g /root /root/new /etc/issue /bin";
    assert_eq!(it.exec("mapped", look), owners);
    for name in ["plain", "mapped"] {
        it.remove_container(name);
    }
    it.remove_images(&[&image]);
}

/// The process that holds the mount on `path`.
fn holder(path: &Path) -> u32 {
    let mounts = succeed(Command::new(plyfs_program()).args(["mounts", "--json"]));
    let mounts: serde_json::Value = serde_json::from_slice(&mounts.stdout).unwrap();
    let mut mounts = mounts.as_array().unwrap().iter();
    let mount = mounts.find(|mount| mount["mountPoint"] == text_of(path));
    mount.unwrap()["pid"].as_u64().unwrap().try_into().unwrap()
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Lets the kernel forget what nobody has mapped of a file.
fn drop_pages(path: &Path) {
    let file = File::open(path).unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

/// Reads, looks up, lists, executes and writes until it is enough; the first failure ends it.
const WORK: &str = "set -e; i=0; while [ $i -lt 3000 ] && [ ! -e /enough ]; do i=$((i + 1))
cat /bin/busybox > /copy; cmp /bin/busybox /copy
if [ -e /bin/missing-$i ]; then exit 1; fi
ls -lR /etc /bin > /list; /bin/true
echo $i >> /etc/issue; done; echo $((i > 0))";

#[test]
fn no_container_notices_when_the_server_of_their_image_is_killed() {
    // The kernel that can do passthrough can send requests again.
    if !require(&[Need::Passthrough]) {
        return;
    }
    let Some((it, image, _registry)) = with_image() else {
        return;
    };
    let names = ["one", "two"];
    for name in names {
        it.start_container(&image, name);
    }
    let ours = it.mounts();
    let root = ours.iter().find(|path| path.ends_with("image")).unwrap();
    let before = holder(root);
    std::thread::scope(|scope| {
        let work = names.map(|name| {
            let it = &it;
            scope.spawn(move || it.exec(name, WORK))
        });
        for kills in 1..=10 {
            let mut servers = Vec::new();
            wait_for("one server", || {
                servers = children(holder(root));
                servers.len() == 1
            });
            let server = servers[0];
            kill(Pid::from_raw(server.try_into().unwrap()), Signal::SIGKILL).unwrap();
            wait_for("another server", || {
                children(holder(root)).iter().any(|&pid| pid != server)
            });
            drop_pages(&root.join("bin/busybox"));
            if kills == 5 {
                succeed(Command::new(plyfs_program()).arg("upgrade").arg(root));
            }
            std::thread::sleep(std::time::Duration::from_millis(60));
        }
        for name in names {
            it.exec_beside("end", name, ": > /enough");
        }
        for work in work {
            assert_eq!(work.join().unwrap(), "1\n");
        }
    });
    assert_ne!(holder(root), before);
    for name in names {
        it.remove_container(name);
    }
    it.remove_images(&[&image]);
}
