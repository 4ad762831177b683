//! Foreign test suites on writable mounts, and random operations in each way, in short; `make conformance-writes` and
//! `make soak` run them at length.

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

/// Processes that compare each operation with a plain directory, and others that meet, in each way; whole
/// trees at the end and mounted again.
fn soak_finds_nothing(way: &str) {
    let needs = [
        Need::Root,
        Need::Fuse,
        Need::Program("python3"),
        Need::Program("setpriv"),
        Need::Program("nsenter"),
    ];
    if !require(&needs) {
        return;
    }
    let directory = temp_dir();
    let mut command = Command::new(script("soak"));
    command
        .args(["--minutes", "0.2", "--processes", "4", "--plyfs"])
        .arg(plyfs_program())
        .arg("--work")
        .arg(directory.path())
        .arg(way);
    let output = succeed(&mut command);
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn random_operations_in_a_container() {
    soak_finds_nothing("container");
}

#[test]
fn random_operations_with_passthrough() {
    soak_finds_nothing("stack");
}

#[test]
fn random_operations_through_the_page_cache() {
    soak_finds_nothing("cached");
}

#[test]
fn random_operations_of_an_ordinary_user() {
    soak_finds_nothing("user");
}

#[test]
fn random_operations_in_a_user_namespace() {
    soak_finds_nothing("namespace");
}
