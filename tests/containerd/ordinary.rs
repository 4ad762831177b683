//! Images that containerd fetches and unpacks by itself.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fixture::{Containerd, layout, require_containerd, small_archive};
use crate::support::{skopeo_copy, succeed};

const IMAGE: &str = "docker.io/library/small:latest";

fn with_image() -> Containerd {
    let it = Containerd::start();
    let archive = small_archive(&it.path(""), IMAGE);
    let archive = archive.to_str().unwrap();
    it.run(&["images", "import", "--snapshotter", "plyfs", archive]);
    it
}

#[test]
fn containers_run_and_leave_nothing() {
    if !require_containerd(&[]) {
        return;
    }
    let it = with_image();
    let shown = it.shell(
        IMAGE,
        "one",
        "cat /etc/issue; ls /etc; ls /usr/share/demo; stat -c %a /tmp /root; \
         mv /usr/share/common-licenses /moved; rm /etc/issue; echo written > /new; cat /new",
    );
    let expected = "this file comes from the upper layer\nissue\nnew\n1777\n700\nwritten\n";
    assert_eq!(shown, expected);
    // Nothing of it reaches the image.
    let again = it.shell(
        IMAGE,
        "two",
        "cat /etc/issue; ls / | grep -e new -e moved | wc -l",
    );
    assert_eq!(again, "this file comes from the upper layer\n0\n");
    it.remove_images(&[IMAGE]);
}

/// What two namespaces of containerd have of one image is theirs, each by itself.
#[test]
fn two_namespaces_have_one_image() {
    if !require_containerd(&[]) {
        return;
    }
    let it = with_image();
    let archive = it.path("small.tar");
    let other = format!("{}-other", it.path("").file_name().unwrap().display());
    let there = |args: &[&str]| it.run(&[&["-n", &other], args].concat());
    let import = ["images", "import", "--snapshotter", "plyfs"];
    there(&[&import[..], &[archive.to_str().unwrap()]].concat());
    let run = ["run", "--rm", "--snapshotter", "plyfs", IMAGE, "one"];
    let script = [
        "/bin/sh",
        "-c",
        "echo x >> /etc/issue; grep -c . /etc/issue",
    ];
    // A container of the same name in each, while the other is there.
    it.start_container(IMAGE, "one");
    assert_eq!(there(&[&run[..], &script].concat()), "2\n");
    assert_eq!(it.exec("one", "grep -c . /etc/issue"), "1\n");
    it.remove_container("one");
    it.run(&["images", "rm", "--sync", IMAGE]);
    // The collector took what was of the one, and nothing of the other.
    assert_eq!(there(&[&run[..], &script].concat()), "2\n");
    there(&["images", "rm", "--sync", IMAGE]);
    crate::support::wait_for("containerd's collector", || it.leftovers().is_empty());
}

#[test]
fn a_killed_snapshotter_is_not_missed() {
    if !require_containerd(&[]) {
        return;
    }
    let mut it = with_image();
    it.start_container(IMAGE, "before");
    it.exec("before", "echo kept > /kept");
    let listed = it.run(&["snapshots", "--snapshotter", "plyfs", "ls"]);
    it.kill_snapshotter();
    // Its mount lives on, and what was known is known again.
    assert_eq!(
        it.exec("before", "cat /kept /etc/issue | head -1"),
        "kept\n"
    );
    assert_eq!(
        it.run(&["snapshots", "--snapshotter", "plyfs", "ls"]),
        listed
    );
    assert_eq!(it.shell(IMAGE, "after", "echo runs"), "runs\n");
    it.remove_container("before");
    it.remove_images(&[IMAGE]);
}

#[test]
fn the_snapshotter_may_be_killed_at_any_moment() {
    if !require_containerd(&[]) {
        return;
    }
    let mut it = with_image();
    let snapshots = |it: &Containerd, args: &[&str]| {
        let all = [&["snapshots", "--snapshotter", "plyfs"][..], args].concat();
        it.ctr(all)
    };
    for round in 0..6_u64 {
        // Calls of which the last ones are cut short, each time at another point.
        let done = Arc::new(AtomicU64::new(0));
        let script: Vec<_> = (0..8)
            .map(|n| {
                let (key, name) = (format!("k{round}-{n}"), format!("n{round}-{n}"));
                (
                    snapshots(&it, &["prepare", &key]),
                    snapshots(&it, &["commit", &name, &key]),
                )
            })
            .collect();
        let count = Arc::clone(&done);
        let caller = std::thread::spawn(move || {
            for (mut prepare, mut commit) in script {
                prepare.output().unwrap();
                commit.output().unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        crate::support::wait_for("some calls", || {
            done.load(Ordering::Relaxed) > 1 + round % 3
        });
        std::thread::sleep(std::time::Duration::from_millis(7 * round));
        it.kill_snapshotter();
        caller.join().unwrap();
    }
    let listed = it.run(&["snapshots", "--snapshotter", "plyfs", "ls"]);
    let names: Vec<&str> = listed
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 10, "{listed}");
    for name in &names {
        // Whatever containerd believes to be there is there.
        it.run(&["snapshots", "--snapshotter", "plyfs", "info", name]);
        it.run(&["snapshots", "--snapshotter", "plyfs", "usage", name]);
    }
    let ours = names.iter().filter(|name| !name.starts_with("sha256:"));
    for name in ours {
        it.run(&["snapshots", "--snapshotter", "plyfs", "rm", name]);
    }
    it.remove_images(&[IMAGE]);
}

#[test]
fn many_containers_at_once() {
    if !require_containerd(&[]) {
        return;
    }
    let it = with_image();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let it = &it;
            scope.spawn(move || {
                for round in 0..25 {
                    let name = format!("c{thread}-{round}");
                    // Judged inside and told by the status: ctr copies the output by the way.
                    it.shell(
                        IMAGE,
                        &name,
                        &format!("echo {name} > /name; grep -qx {name} /name"),
                    );
                }
            });
        }
    });
    it.remove_images(&[IMAGE]);
    // Nor is there a process of any of their mounts.
    let here = it.path("").into_os_string().into_string().unwrap();
    crate::support::wait_for("the end of their servers", || {
        let processes = std::fs::read_dir("/proc").unwrap();
        let lines =
            processes.filter_map(|entry| std::fs::read(entry.unwrap().path().join("cmdline")).ok());
        let mut lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
        !lines.any(|line| line.contains(&here) && line.contains("mount.plyfs"))
    });
}

/// What a container has changed becomes a layer, as containerd reads it from its mounts.
#[test]
fn a_container_is_committed_and_runs_again() {
    if !require_containerd(&[]) {
        return;
    }
    const COMMITTED: &str = "docker.io/library/committed:latest";
    let it = with_image();
    let changes = "rm -r /etc/issue /usr/share/demo; mkdir /usr/share/demo; mv /usr/share/common-licenses /moved; echo x > /new";
    it.start_container(IMAGE, "one");
    it.exec("one", changes);
    it.stop_container("one");
    let plain = ["--media-type", "application/vnd.oci.image.layer.v1.tar"];
    let diff = ["snapshots", "--snapshotter", "plyfs", "diff"];
    let layer = it.ctr([&diff[..], &plain, &["one"]].concat());
    let layer = succeed({ layer }.stderr(std::process::Stdio::inherit()));
    let path = it.path("layer.tar");
    std::fs::write(&path, layer.stdout).unwrap();
    let image = format!("{}:small", layout(&it.path("")).display());
    let mut add = Command::new("umoci");
    succeed(add.args(["raw", "add-layer", "--image", &image]).arg(path));
    let archive = it.path("committed.tar");
    let to = format!("docker-archive:{}:{COMMITTED}", archive.display());
    skopeo_copy(&[], &format!("oci:{image}"), &to);
    let import = ["images", "import", "--snapshotter", "plyfs"];
    it.run(&[&import[..], &[archive.to_str().unwrap()]].concat());
    let shown = "ls -A /etc /usr/share/demo; ls -d /moved; ls /usr/share; cat /new";
    let before = it.shell(IMAGE, "two", &format!("{changes}; {shown}"));
    assert_eq!(it.shell(COMMITTED, "three", shown), before);
    assert!(before.contains("/moved\n"), "{before}");
    it.run(&["containers", "rm", "one"]);
    it.remove_images(&[IMAGE, COMMITTED]);
}

#[test]
fn the_command_line_and_containerd_do_not_see_each_other() {
    if !require_containerd(&[]) {
        return;
    }
    let it = with_image();
    let plyfs = |args: &[&str]| {
        let mut command =
            crate::support::command_as(crate::support::User::Same, crate::support::plyfs_program());
        command.arg("--root").arg(it.store()).args(args);
        let output = succeed(&mut command);
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(plyfs(&["image", "ls", "-q"]), "");
    let archive = format!("docker-archive:{}", it.path("small.tar").display());
    plyfs(&["pull", "--quiet", &archive]);
    let listed = it.run(&["snapshots", "--snapshotter", "plyfs", "ls"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    // Neither side's removal touches the other.
    plyfs(&["image", "rm", IMAGE]);
    assert_eq!(it.shell(IMAGE, "after", "echo runs"), "runs\n");
    plyfs(&["pull", "--quiet", &archive]);
    it.run(&["images", "rm", "--sync", IMAGE]);
    plyfs(&["check"]);
    assert!(plyfs(&["ls", &format!("{IMAGE}:/etc")]).contains("issue"));
}

/// The labels of Kubernetes user namespaces: root of the container is nobody outside.
#[test]
fn a_container_in_a_user_namespace_has_its_own_owners() {
    if !require_containerd(&[]) {
        return;
    }
    let it = with_image();
    let mapped = [
        "--uidmap",
        "0:5000:65536",
        "--gidmap",
        "0:6000:65536",
        "--remap-labels",
    ];
    let head = ["run", "--rm", "--snapshotter", "plyfs"];
    let script = "cat /proc/self/uid_map | tr -s ' '; echo x > /root/new; stat -c %u:%g /root/new /root /etc/issue";
    let tail = [IMAGE, "mapped", "/bin/sh", "-c", script];
    let said = it.run(&[&head[..], &mapped, &tail].concat());
    assert_eq!(said, " 0 5000 65536\n0:0\n0:0\n0:0\n");
    it.remove_images(&[IMAGE]);
}
