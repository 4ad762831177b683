//! The kernel's overlayfs and ours over one upper, one after the other.

use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::kernel::{assert_same, change, in_private_mounts, mounted};
use super::model::random_layers;
use super::reference::{Random, age, op, ours};
use super::support::{Lab, Need, Rows, require, unmount};
use super::writable::{Writable, tree};

fn mount_kernel(writable: &Writable, work: &Path, at: &Path) {
    let lower: Vec<&str> = writable
        .layers
        .iter()
        .map(|l| l.to_str().expect("text"))
        .collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},metacopy=on,redirect_dir=on,index=off",
        lower.join(":"),
        writable.upper.display(),
        work.display()
    );
    std::fs::create_dir_all(at).expect("a mount point");
    let flags = MsFlags::empty();
    mount(
        Some("o"),
        at,
        Some("overlay"),
        flags,
        Some(options.as_str()),
    )
    .expect("a mount");
}

/// Without what the two count in different ways.
fn comparable(rows: Rows) -> Rows {
    let mut rows = rows;
    for row in rows.values_mut() {
        if row.kind == plyfs::layer::FileKind::Directory {
            (row.size, row.nlink) = (0, 1);
        }
    }
    rows
}

#[test]
fn the_kernel_shows_what_we_wrote() {
    if !require(Need::Root) {
        return;
    }
    in_private_mounts(|| {
        for seed in 0..60u64 {
            let mut lab = Lab::new();
            let layers = random_layers(&mut lab, seed as u8);
            for layer in &layers {
                age(layer);
            }
            let mut writable = Writable::over(lab, layers);
            writable.options.metacopy_redirect = seed % 4 != 0;
            let mut random = Random(seed.wrapping_mul(77) + 5);
            let expected = {
                let overlay = writable.open();
                for _ in 0..60 {
                    // Most of what is tried at random is impossible; what is possible counts.
                    let _tried = ours(&overlay, &op(&mut random));
                }
                tree(&overlay)
            };
            let (work, at) = (writable.lab.empty(), writable.lab.path().join("mnt"));
            mount_kernel(&writable, &work, &at);
            assert_same(comparable(expected), &comparable(mounted(&at)));
            unmount(&at);
        }
    });
}

#[test]
fn we_show_what_the_kernel_wrote() {
    if !require(Need::Root) {
        return;
    }
    in_private_mounts(|| {
        for seed in 0..40u64 {
            let mut lab = Lab::new();
            let mut layers = random_layers(&mut lab, 100 + seed as u8);
            layers.push(lab.layer(&["f k/l/m 1", "f k/n 2", "d k/o/p", "l k/q k"]));
            for layer in &layers {
                age(layer);
            }
            let writable = Writable::over(lab, layers);
            let mut lab = Lab::new();
            let at = lab.path().join("mnt");
            // The work directory must be on the file system of the upper.
            let work = lab.empty();
            mount_kernel(&writable, &work, &at);
            let mut random = Random(seed.wrapping_mul(31) + 9);
            change(&at, |below| random.next(below));
            let expected = comparable(mounted(&at));
            unmount(&at);
            assert_same(comparable(tree(&writable.open())), &expected);
            // And it goes on from there.
            let overlay = writable.open();
            for _ in 0..30 {
                // As above.
                let _tried = ours(&overlay, &op(&mut random));
            }
            let expected = comparable(tree(&overlay));
            drop(overlay);
            mount_kernel(&writable, &work, &at);
            assert_same(expected, &comparable(mounted(&at)));
            unmount(&at);
        }
    });
}
