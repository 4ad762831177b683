//! Mounting and unmounting through the set-user-id helper `fusermount3`, for plain users.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::error::{Error, Result};
use crate::sys::descriptor;

/// Its names, the newer one first.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Escapes what fusermount3 would take for the end of a value.
fn escaped(value: &OsStr) -> OsString {
    let mut escaped = Vec::new();
    for &byte in value.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    OsString::from_vec(escaped)
}

/// Mounts on `target` and returns the device.
pub(super) fn mount(target: &Path, source: &OsStr, options: &[&str]) -> Result<OwnedFd> {
    let doing = "cannot talk to fusermount3";
    let (ours, theirs) = UnixStream::pair().map_err(Error::system(doing))?;
    descriptor::inherit(&theirs).map_err(Error::system(doing))?;
    let mut list = OsString::from("subtype=plyfs,fsname=");
    list.push(escaped(source));
    for option in options {
        list.push(",");
        list.push(option);
    }
    let number = theirs.as_raw_fd().to_string();
    let output = run(|command| {
        command
            .arg("-o")
            .arg(&list)
            .arg("--")
            .arg(target)
            .env("_FUSE_COMMFD", &number);
    })?;
    drop(theirs);
    if !output.status.success() {
        return Err(Error::Fusermount {
            message: said(&output),
        });
    }
    match descriptor::receive(&ours).map_err(Error::system(doing))? {
        Some(device) => Ok(device),
        None => Err(Error::Fusermount {
            message: said(&output),
        }),
    }
}

/// Unmounts `target`.
pub(super) fn unmount(target: &Path, lazy: bool) -> Result<()> {
    let output = run(|command| {
        command.arg("-u");
        if lazy {
            command.arg("-z");
        }
        command.arg("--").arg(target);
    })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Fusermount {
            message: said(&output),
        }),
    }
}

fn run(arguments: impl Fn(&mut Command)) -> Result<Output> {
    let mut missing = io::Error::from(io::ErrorKind::NotFound);
    for program in PROGRAMS {
        let mut command = Command::new(program);
        arguments(&mut command);
        match command.stdin(Stdio::null()).output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing = error,
            result => return result.map_err(Error::system("cannot run fusermount3")),
        }
    }
    Err(Error::System {
        doing: "cannot run fusermount3 (package fuse3), which a user without rights needs",
        source: missing,
    })
}

fn said(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    match said.trim() {
        "" => format!("fusermount3 failed ({})", output.status),
        said => said.replace('\n', "; "),
    }
}
