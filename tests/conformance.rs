//! Foreign test suites on writable mounts, in short; `make conformance-writes` runs them at length.

mod support;

use std::process::Command;

use support::{Need, plyfs_program, require, script, succeed, temp_dir};

fn suites_pass(way: &str) {
    let needs = [
        Need::Root,
        Need::Fuse,
        Need::Program("python3"),
        Need::Program("setpriv"),
        Need::Program("nsenter"),
        Need::Tool("pjdfstest"),
        Need::Tool("fsx"),
    ];
    if !require(&needs) {
        return;
    }
    let directory = temp_dir();
    let mut command = Command::new(script("conformance-writes"));
    command
        .args(["--short", "--plyfs"])
        .arg(plyfs_program())
        .arg("--work")
        .arg(directory.path())
        .arg(way);
    let output = succeed(&mut command);
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn pjdfstest_and_fsx_with_passthrough() {
    suites_pass("passthrough");
}

#[test]
fn pjdfstest_and_fsx_through_the_page_cache() {
    suites_pass("cached");
}

#[test]
fn pjdfstest_and_fsx_of_an_ordinary_user() {
    suites_pass("user");
}

#[test]
fn pjdfstest_and_fsx_in_a_user_namespace() {
    suites_pass("namespace");
}
