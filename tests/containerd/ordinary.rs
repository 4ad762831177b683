//! Images that containerd fetches and unpacks by itself.

use crate::fixture::{Containerd, require_containerd, small_archive};

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
        let script: Vec<_> = (0..8)
            .map(|n| {
                let (key, name) = (format!("k{round}-{n}"), format!("n{round}-{n}"));
                (
                    snapshots(&it, &["prepare", &key]),
                    snapshots(&it, &["commit", &name, &key]),
                )
            })
            .collect();
        let caller = std::thread::spawn(move || {
            for (mut prepare, mut commit) in script {
                prepare.output().unwrap();
                commit.output().unwrap();
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(60 + 37 * round));
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
        for thread in 0..4 {
            let it = &it;
            scope.spawn(move || {
                for round in 0..3 {
                    let name = format!("c{thread}-{round}");
                    let script = format!("echo {name} > /name; cat /name");
                    assert_eq!(it.shell(IMAGE, &name, &script), format!("{name}\n"));
                }
            });
        }
    });
    it.remove_images(&[IMAGE]);
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
        let output = crate::support::succeed(&mut command);
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
