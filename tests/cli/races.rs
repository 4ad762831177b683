//! Many commands on one store at once.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::made::{Layout, Made};
use super::support::{Store, odd_image};
use super::{import, layout};

#[test]
fn regression_pulls_removals_and_checks_at_once_leave_a_sound_store() {
    let (store, odd) = (Store::new(), odd_image());
    let other = Store::new();
    import(&other, "small:1", b"small");
    let odd = layout(&odd.layout, "odd");
    let small = layout(&other.root(), "docker.io/library/small:1");
    let jobs: [&[&str]; 6] = [
        &["pull", "-q", &odd, "--name", "a:1"],
        &["pull", "-q", &odd, "--name", "b:1"],
        &["pull", "-q", &small, "--name", "a:1"],
        &["image", "rm", "a:1"],
        &["image", "rm", "b:1"],
        &["check"],
    ];
    store.run(jobs[0]);
    let until = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        for job in jobs {
            let store = &store;
            scope.spawn(move || {
                while Instant::now() < until {
                    let output = store.command(job).stdin(Stdio::null()).output().unwrap();
                    let said = String::from_utf8_lossy(&output.stderr);
                    let told = String::from_utf8_lossy(&output.stdout);
                    match job[0] {
                        // It may be removed at that moment.
                        "image" => assert!(
                            output.status.success() || said.contains("not in the store"),
                            "{job:?}: {said}"
                        ),
                        _ => assert!(output.status.success(), "{job:?}: {told}{said}"),
                    }
                    assert!(!said.contains("warning"), "{job:?}: {said}");
                }
            });
        }
    });
    store.run(["check"]);
    store.run(jobs[0]);
    store.run(["check"]);
}

/// Verbs that name, remove and prune images, at once and again and again: whatever is listed in the
/// end is whole, and nothing else is left.
#[test]
fn names_that_come_and_go_leave_a_whole_store() {
    let store = Store::new();
    let mut layout = Layout::new(&store, "layout");
    for tag in ["1", "2", "3"] {
        let image = Made {
            layers: &["base", tag],
            ..Made::default()
        };
        layout.add(tag, &image);
    }
    let place = |tag: &str| super::layout(&layout.path, tag);
    let lines: [&[&str]; 6] = [
        &["pull", "-q", &place("1"), "--name", "app:1"],
        &["pull", "-q", &place("2"), "--name", "app:1"],
        &["pull", "-q", &place("3"), "--name", "app:3"],
        &["tag", "app:1", "app:2", "app:3"],
        &["rmi", "-f", "app:1"],
        &["image", "prune", "-f"],
    ];
    store.run(lines[0]);
    std::thread::scope(|scope| {
        for line in lines {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..12 {
                    let output = store.command(line).output().unwrap();
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    // What another one removed is not there; nothing else may go wrong.
                    let gone = said.contains("it is not in the store");
                    assert!(output.status.success() || gone, "{line:?}: {said}");
                }
            });
        }
    });
    store.run(["check"]);
    for name in store.stdout(["images", "--format", "{{.ID}}"]).lines() {
        let content = store.stdout(["cat", &format!("{name}:/file")]);
        assert!(["1", "2", "3"].contains(&content.as_str()), "{content}");
    }
    store.run(["image", "prune", "-a", "-f"]);
    for place in [
        "blobs/sha256",
        "layers/sha256",
        "chains/sha256",
        "ingest",
        "trash",
        "leases",
    ] {
        assert!(super::names(&store, place).is_empty(), "{place}");
    }
}
