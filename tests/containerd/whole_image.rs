//! Images that plyfs pulls as a whole, when a client says which image a layer belongs to.

use crate::SOURCES;
use crate::fixture::{Containerd, layout, require_containerd};
use crate::support::{Need, Registry};

fn require() -> bool {
    require_containerd(&[&SOURCES[..], &[Need::Program("docker-registry")]].concat())
}

fn records(it: &Containerd) -> usize {
    let snapshots = std::fs::read_dir(it.store().join("snapshots")).unwrap();
    let paths = snapshots.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.join("image.json").is_file())
        .count()
}

#[test]
fn the_image_is_pulled_whole_and_containers_run_from_its_chain() {
    if !require() {
        return;
    }
    let mut it = Containerd::start();
    let registry = Registry::start();
    registry.push(&layout(&it.path("")), "large", "large:1");
    let image = registry.reference("large:1");
    it.pull_described(&image);
    assert_eq!(records(&it), 4);
    // containerd has the documents, but no layer.
    let content = it.run(&["content", "ls", "-q"]);
    assert_eq!(content.lines().count(), 2, "{content}");
    let shown = "head -n 1 /etc/issue; ls -A /usr/share/demo; echo x > /etc/issue; cat /etc/issue";
    assert_eq!(it.shell(&image, "one", shown), "changed\nx\n");
    it.start_container(&image, "two");
    it.kill_snapshotter();
    assert_eq!(it.exec("two", "head -n 1 /etc/issue"), "changed\n");
    assert_eq!(it.shell(&image, "three", shown), "changed\nx\n");
    it.remove_container("two");
    it.remove_images(&[&image]);
}

/// The layers of another image lie above those that stand for one of ours.
#[test]
fn ordinary_layers_lie_above_an_image() {
    if !require() {
        return;
    }
    let mut it = Containerd::start();
    let registry = Registry::start();
    let layout = layout(&it.path(""));
    registry.push(&layout, "small", "small:1");
    registry.push(&layout, "large", "large:1");
    let (small, large) = (registry.reference("small:1"), registry.reference("large:1"));
    it.pull_described(&small);
    assert_eq!(records(&it), 2);
    it.run(&[
        "images",
        "pull",
        "--plain-http",
        "--snapshotter",
        "plyfs",
        &large,
    ]);
    assert_eq!(records(&it), 2);
    let shown =
        "head -n 1 /etc/issue; ls -A /usr/share/demo; echo x >> /etc/issue; tail -n 1 /etc/issue";
    let expected = "changed\nx\n";
    assert_eq!(it.shell(&large, "one", shown), expected);
    // The mount of the lower image went away, as with a restart of the machine.
    it.kill_snapshotter();
    let mounts = it.mounts();
    let lower = mounts
        .iter()
        .find(|point| point.ends_with("image"))
        .unwrap();
    nix::mount::umount2(lower, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert_eq!(it.shell(&large, "two", shown), expected);
    it.remove_images(&[&small, &large]);
}

#[test]
fn what_cannot_be_pulled_is_left_to_containerd() {
    if !require() {
        return;
    }
    let it = Containerd::start();
    let registry = Registry::start();
    let layout = layout(&it.path(""));
    registry.push(&layout, "large", "large:1");
    let image = registry.reference("large:1");
    // The name that the labels give leads nowhere: nobody answers there.
    it.pull_described_as(&image, "127.0.0.1:1/large:1");
    assert_eq!(records(&it), 0);
    assert_eq!(it.shell(&image, "one", "head -n 1 /etc/issue"), "changed\n");
    it.remove_images(&[&image]);
}
