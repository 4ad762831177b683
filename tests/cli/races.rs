//! Many commands on one store at once.

use std::process::Stdio;
use std::time::{Duration, Instant};

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
