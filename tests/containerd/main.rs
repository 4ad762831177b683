//! The snapshotter below a real containerd: its own suite, and containers that runc runs.

#[path = "../support/mod.rs"]
mod support;

mod fixture;
mod kernel_writes;
mod kubernetes;
mod ordinary;
mod process;
mod whole_image;

use std::process::Command;

use support::{Need, helper_program, plyfs_program, require, script, text};

/// What building Go programs with containerd's packages takes.
const SOURCES: [Need; 2] = [
    Need::Program("go"),
    Need::File("/usr/share/gocode/src/github.com/containerd/containerd"),
];

#[test]
fn containerds_own_suite_passes() {
    if !require(&[&[Need::Root, Need::Fuse, Need::Helper][..], &SOURCES].concat()) {
        return;
    }
    let mut suite = Command::new(script("containerd-suite"));
    suite.args([plyfs_program(), helper_program()]);
    let output = suite.output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let passed = said.matches("    --- PASS: ").count();
    // 21 cases, and none is skipped.
    assert!(passed >= 21 && !said.contains("--- SKIP"), "{said}");
    assert!(said.contains("--- PASS: TestPlyfs/Rename "), "{said}");
}
