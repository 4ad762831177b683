//! Many commands on one store at once.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::made::{Layout, Made};
use super::support::{Store, odd_image, plyfs_program, succeed, wait_for};
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

/// The image is removed between being found and being leased.
#[test]
fn regression_no_container_is_made_of_an_image_that_goes_meanwhile() {
    let store = Store::new();
    import(&store, "one:1", b"one");
    let direct = plyfs::store::Store::open(&store.root()).unwrap();
    let lock = direct.lock().unwrap();
    let path = store.mountpoint();
    let mut command = store.command([
        "mount".as_ref(),
        "--name".as_ref(),
        "web".as_ref(),
        "one:1".as_ref(),
        path.as_os_str(),
    ]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_until_blocked(child.id());
    direct.unpublish(&lock, &direct.images().unwrap()).unwrap();
    drop(lock);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("not in the store"), "{said}");
    assert!(direct.containers().unwrap().is_empty());
}

/// The image gets another name while it is removed.
#[test]
fn regression_an_image_with_another_name_is_not_told_to_be_deleted() {
    let store = Store::new();
    import(&store, "one:1", b"one");
    let direct = plyfs::store::Store::open(&store.root()).unwrap();
    let lock = direct.lock().unwrap();
    let mut command = store.command(["image", "rm", "one:1"]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    wait_until_blocked(child.id());
    let one = direct.images().unwrap().remove(0);
    let name = "docker.io/library/other:1".parse().unwrap();
    let other = plyfs::store::Record::named(name, one.descriptor);
    direct.publish(&lock, other).unwrap();
    drop(lock);
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        told.contains("Untagged") && !told.contains("Deleted"),
        "{told}"
    );
    assert_eq!(store.stdout(["cat", "other:1:/file"]), "one");
}

/// Waits until a process waits for a lock.
fn wait_until_blocked(pid: u32) {
    let waits = format!(" {pid} ");
    wait_for("a process that waits for the lock", || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks
            .lines()
            .any(|line| line.contains("->") && line.contains(&waits))
    });
}

/// Who ignores interruptions, as under nohup, is neither ended by one nor told that.
#[test]
fn regression_a_pull_that_ignores_interruptions_goes_on() {
    let store = Store::new();
    let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/a:1", registry.local_addr().unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' INT; exec \"$@\"", "sh"]);
    shell.arg(plyfs_program()).arg("--root").arg(store.root());
    shell.args(["pull", "--insecure", &name]);
    let child = shell.stderr(Stdio::piped()).spawn().unwrap();
    let (connection, _) = registry.accept().unwrap();
    let pid = child.id().to_string();
    succeed(Command::new("kill").args(["-INT", &pid]));
    // Who is told of it blocks it, and has it pending until then.
    wait_for("the signal to be taken", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let pending = status.lines().find(|line| line.starts_with("ShdPnd:"));
        pending.is_some_and(|line| line.ends_with("0000000000000000"))
    });
    drop((connection, registry));
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("interrupted"), "{said}");
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
