//! Containers that write through the kernel's overlay over the one mount of their image.

use crate::SOURCES;
use crate::fixture::{Containerd, layout, require_containerd};
use crate::support::{Need, Registry};

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
