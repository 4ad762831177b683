//! Many processes that create, rename, link, remove and look at few names at once: afterwards every name that is listed
//! can be reached, and the tree is the same when it is mounted again.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Need, User, command_as, is_root, require, succeed};
use crate::writable::{WAYS, Writable, fingerprint};

const PROGRAM: &str = include_str!("races.py");

/// Lower files, some with several names, in the directories that the program works in.
fn plant(union: &Writable) {
    // A plain user cannot read it.
    fs::remove_dir_all(union.lower().join("closed")).unwrap();
    for directory in ["a", "b", "a/sub", "b/sub"] {
        let directory = union.lower().join(directory);
        fs::create_dir_all(&directory).unwrap();
        for number in 0..2 {
            let file = directory.join(format!("lower{number}"));
            fs::write(&file, "lower").unwrap();
            fs::hard_link(&file, directory.join(format!("linked{number}"))).unwrap();
        }
    }
}

/// The program on the mount, as `user`.
fn program(union: &Writable, user: User, verb: &str) -> Command {
    let mut command = command_as(user, "python3");
    // A plain user may have no way to the Python of whoever runs the tests.
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.args(["-c", PROGRAM, verb]).current_dir("/");
    command.arg(union.store.mountpoint());
    command
}

fn survey(union: &Writable, user: User) -> String {
    let output = succeed(&mut program(union, user, "survey"));
    let mut lines: Vec<_> = output.stdout.split(|byte| *byte == b'\n').collect();
    lines.sort();
    String::from_utf8(lines.join(&b"\n"[..])).unwrap()
}

fn churn(union: &Writable, user: User, seed: u64) {
    let mut processes: Vec<_> = (0..6)
        .map(|number| {
            let mut command = program(union, user, "churn");
            command.args([(seed * 100 + number).to_string().as_str(), "800"]);
            command.stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    // What the kernel forgets is looked up again, while others change it.
    while processes
        .iter_mut()
        .any(|it| it.try_wait().unwrap().is_none())
    {
        if is_root() {
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for process in processes {
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "seed {seed}: {said}");
    }
}

fn all_names_can_be_reached(user: User, options: &[&str]) {
    let rounds = std::env::var("PLYFS_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    for seed in 1..=rounds {
        let union = Writable::of(user);
        plant(&union);
        let before = fingerprint(&union.lower());
        let mount = union.mount(options);
        churn(&union, user, seed);
        let found = survey(&union, user);
        mount.unmount();
        let mount = union.mount(options);
        let again = survey(&union, user);
        assert!(
            found == again,
            "seed {seed}: {found}\nmounted again: {again}"
        );
        mount.unmount();
        assert_eq!(before, fingerprint(&union.lower()), "seed {seed}");
    }
}

#[test]
fn names_that_many_change_at_once_can_be_reached() {
    if require(&[Need::Fuse, Need::Root]) {
        for way in WAYS {
            all_names_can_be_reached(User::Same, &[way]);
        }
    }
}

#[test]
fn names_that_many_change_at_once_can_be_reached_by_an_ordinary_user() {
    if require(&[Need::Fuse, Need::PlainUser]) {
        all_names_can_be_reached(User::Plain, &[]);
    }
}
