//! The program as people use it: images from every source, mounted and compared with what they must look like.

#[path = "../support/mod.rs"]
mod support;

mod helper;
mod inspect;
mod mounts;
mod robust;
mod sources;

use std::path::Path;

use support::{MountGuard, OddImage, User, compare_tree, is_root};

/// Compares a mount of the odd image with what it must look like, as the mount's own user sees it.
fn compare_with_expected(mount: &MountGuard<'_>, odd: &OddImage, user: User) {
    // Nobody but the first root sees attributes of the `trusted.` namespace.
    let hidden: &[&str] = match user {
        User::Same if is_root() => &["--nlink"],
        _ => &["--nlink", "--ignore-xattr", "trusted."],
    };
    compare_tree(user, hidden, mount.path(), &odd.expected);
}

/// The argument `oci:DIR:TAG`.
fn layout(path: &Path, tag: &str) -> String {
    format!("oci:{}:{tag}", path.display())
}
