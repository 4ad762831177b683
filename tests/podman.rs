//! podman and buildah with the mount helper as their mount program: what they build, commit and save is what
//! it is with the kernel's overlay, and with fuse-overlayfs where that is installed.

mod support;

use std::process::Command;

use support::{
    Need, alone, copy_program, helper_program, is_root, require, script, succeed, temp_dir, text,
    user_with_a_range,
};

const NEEDS: [Need; 6] = [
    Need::Fuse,
    Need::Helper,
    Need::Program("podman"),
    Need::Program("buildah"),
    Need::Program("runc"),
    Need::Program("busybox"),
];

#[test]
fn podman_and_buildah_as_root() {
    if !require(&[&NEEDS[..], &[Need::Root]].concat()) {
        return;
    }
    let mut suite = Command::new(script("podman-suite"));
    let output = succeed(&mut alone(suite.arg(helper_program()).env_remove("TMPDIR")));
    assert!(text(&output).contains("equal: "), "{}", text(&output));
}

#[test]
fn podman_and_buildah_as_an_ordinary_user() {
    let more = [Need::Program("newuidmap"), Need::Program("setpriv")];
    if !require(&[&NEEDS[..], &more].concat()) {
        return;
    }
    let Some(user) = user_with_a_range() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "no ordinary user is in /etc/subuid, and CI is set"
        );
        eprintln!("SKIP: no ordinary user is in /etc/subuid");
        return;
    };
    // The scripts may lie in a closed home.
    let scripts = temp_dir();
    for name in [
        "podman-suite",
        "layer-listing",
        "demo-image",
        "tar_writer.py",
    ] {
        copy_program(&script(name), &scripts.path().join(name));
    }
    let mut suite = Command::new("setpriv");
    if is_root() {
        let (uid, gid) = (user.uid, user.gid);
        suite.args([&format!("--reuid={uid}"), &format!("--regid={gid}")]);
        suite.args(["--clear-groups", "--inh-caps=-all"]);
    }
    suite.arg("--").arg(scripts.path().join("podman-suite"));
    suite
        .arg(helper_program())
        .env_remove("TMPDIR")
        .current_dir("/");
    let output = succeed(&mut alone(&suite));
    assert!(text(&output).contains("equal: "), "{}", text(&output));
}
