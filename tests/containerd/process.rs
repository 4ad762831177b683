//! The snapshotter as a process: its socket, its signals, and that there is one for each store.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{User, command_as, fail, plyfs_program, temp_dir, wait_for};

struct Place(TempDir);

impl Place {
    fn socket(&self) -> PathBuf {
        self.0.path().join("run/plyfs.sock")
    }

    fn command(&self, store: &str, socket: &Path) -> Command {
        let mut command = command_as(User::Same, plyfs_program());
        command.arg("--root").arg(self.0.path().join(store));
        command.arg("snapshotter").arg("--address").arg(socket);
        command
    }

    fn start(&self) -> Child {
        let mut command = self.command("store", &self.socket());
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        wait_for("the snapshotter", || {
            UnixStream::connect(self.socket()).is_ok()
        });
        child
    }
}

fn end(mut child: Child, signal: Signal) -> Option<i32> {
    let pid = i32::try_from(child.id()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn only_the_owner_may_talk_to_it_and_it_ends_in_order() {
    let place = Place(temp_dir());
    let child = place.start();
    let mode = fs::metadata(place.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A hangup ends nothing.
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    assert!(UnixStream::connect(place.socket()).is_ok());
    assert_eq!(end(child, Signal::SIGTERM), Some(0));
    assert!(!place.socket().exists());
}

#[test]
fn there_is_one_for_each_store_and_socket() {
    let place = Place(temp_dir());
    let child = place.start();
    let other = place.0.path().join("other.sock");
    let said = fail(&mut place.command("store", &other), 1);
    let reason = "plyfs: cannot serve snapshots: another snapshotter serves the store at";
    assert!(said.contains(reason), "{said}");
    let said = fail(&mut place.command("other", &place.socket()), 1);
    assert!(said.contains("another process listens there"), "{said}");
    assert_eq!(end(child, Signal::SIGINT), Some(0));
}

#[test]
fn one_that_was_killed_is_replaced() {
    let place = Place(temp_dir());
    assert_eq!(end(place.start(), Signal::SIGKILL), None);
    assert!(place.socket().exists());
    assert_eq!(end(place.start(), Signal::SIGTERM), Some(0));
}

/// While it answers its last calls another one may begin to listen.
#[test]
fn regression_the_socket_of_another_is_not_removed() {
    let place = Place(temp_dir());
    let child = place.start();
    fs::rename(place.socket(), place.0.path().join("old.sock")).unwrap();
    let other = UnixListener::bind(place.socket()).unwrap();
    assert_eq!(end(child, Signal::SIGTERM), Some(0));
    assert!(UnixStream::connect(place.socket()).is_ok());
    drop(other);
}

#[test]
fn what_is_no_socket_is_not_replaced() {
    let place = Place(temp_dir());
    let path = place.0.path().join("precious");
    fs::write(&path, "content").unwrap();
    let said = fail(&mut place.command("store", &path), 1);
    assert!(said.contains("there is a file that is no socket"), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "content");
}
