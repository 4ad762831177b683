//! What Kubernetes does: images that containerd's CRI service pulls, and pods of them.

use std::fs;
use std::process::Command;

use crate::SOURCES;
use crate::fixture::{Containerd, layout, require_containerd};
use crate::support::{Need, Registry, succeed, temp_dir};

#[test]
fn pods_run_from_images_that_were_pulled_whole() {
    if !require_containerd(&[&SOURCES[..], &[Need::Program("docker-registry")]].concat()) {
        return;
    }
    let (registry, images) = (Registry::start(), temp_dir());
    let layout = layout(images.path());
    let mut pause = Command::new("umoci");
    let small = format!("{}:small", layout.display());
    pause.args(["config", "--image", &small, "--tag", "pause"]);
    succeed(pause.args(["--config.cmd", "/bin/sleep", "--config.cmd", "1000"]));
    registry.push(&layout, "pause", "pause:1");
    registry.push(&layout, "large", "large:1");
    let (pause, image) = (registry.reference("pause:1"), registry.reference("large:1"));
    for writable in ["fuse", "auto"] {
        let mut it = Containerd::start_for_kubernetes(writable, &pause);
        it.cri(&["pull", &image]);
        // plyfs has pulled it, and containerd no layer.
        let snapshots = it.store().join("snapshots");
        let records = fs::read_dir(&snapshots).unwrap();
        let records = records.map(|entry| entry.unwrap().path().join("image.json"));
        assert_eq!(records.filter(|path| path.is_file()).count(), 4);
        let content = it.run(&["content", "ls", "-q"]);
        assert_eq!(content.lines().count(), 2, "{content}");

        let started = it.cri(&["run", &image, "one", "/bin/sleep", "1000"]);
        let (pod, container) = started.trim().split_once(' ').unwrap();
        let exec = |it: &Containerd, script: &str| it.cri(&["exec", container, "sh", "-c", script]);
        let shown =
            "head -n 1 /etc/issue; ls -A /usr/share/demo; echo x > /etc/issue; cat /etc/issue";
        assert_eq!(exec(&it, shown), "changed\nx\n");
        it.kill_snapshotter();
        assert_eq!(exec(&it, "cat /etc/issue"), "x\n");
        // Another of the same image has nothing of it.
        let second = it.cri(&["run", &image, "two", "/bin/sleep", "1000"]);
        let (other_pod, other) = second.trim().split_once(' ').unwrap();
        assert_eq!(
            it.cri(&["exec", other, "head", "-n", "1", "/etc/issue"]),
            "changed\n"
        );
        it.cri(&["stop", other]);
        it.cri(&["remove-container", other]);
        for pod in [pod, other_pod] {
            it.cri(&["remove", pod]);
        }
        for image in [&image, &pause] {
            it.cri(&["remove-image", image]);
        }
        crate::support::wait_for("containerd's collector", || it.leftovers().is_empty());
    }
}
