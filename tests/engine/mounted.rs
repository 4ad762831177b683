//! Random operations on real mounts, ours and the kernel's overlayfs, and the same on a plain directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::kernel::in_private_mounts;
use super::model::random_layers;
use super::reference::{Op, Random, add_links, age, compare, materialize, op, theirs};
use super::support::{Lab, Need, Rows, require};
use super::writable::{by_kernel, plain};

/// How a union is mounted.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By plyfs, with these options.
    Ours(&'static str),
    /// By the kernel's overlayfs.
    Kernel,
}

const WAYS: [Way; 6] = [
    Way::Ours("data=passthrough,metacopy=on,redirect_dir=on"),
    Way::Ours("data=passthrough"),
    Way::Ours("data=cached,metacopy=on,redirect_dir=on"),
    Way::Ours("data=cached"),
    Way::Ours("data=cached,xattr_permissions=2"),
    // Without an index it would not know names of one file any more once one of them was changed.
    Way::Kernel,
];

struct Mounted<'a> {
    way: Way,
    layers: &'a [PathBuf],
    root: PathBuf,
}

impl Mounted<'_> {
    fn mount(&self) -> PathBuf {
        let part = |name: &str| self.root.join(name);
        let at = part("mnt");
        for directory in [&at, &part("upper"), &part("work")] {
            std::fs::create_dir_all(directory).expect("a directory");
        }
        let layers: Vec<&str> = (self.layers.iter())
            .map(|layer| layer.to_str().expect("text"))
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            layers.join(":"),
            part("upper").display(),
            part("work").display()
        );
        match self.way {
            Way::Ours(more) => {
                let mut plyfs = Command::new(env!("CARGO_BIN_EXE_plyfs"));
                plyfs.arg("--root").arg(part("store")).arg("mount");
                let said = plyfs.arg("-o").arg(format!("{options},{more}")).arg(&at);
                let said = said.output().expect("plyfs");
                assert!(said.status.success(), "{said:?}");
            }
            Way::Kernel => {
                let options = format!("{options},metacopy=on,redirect_dir=on,index=on");
                let options = Some(options.as_str());
                mount(Some("o"), &at, Some("overlay"), MsFlags::empty(), options).expect("a mount");
            }
        }
        at
    }

    fn tree(&self) -> Rows {
        let at = self.root.join("mnt");
        match self.way {
            Way::Ours(_) => plain(&at),
            Way::Kernel => by_kernel(&at),
        }
    }

    fn unmount(&self) {
        umount2(&self.root.join("mnt"), MntFlags::empty()).expect("it is not in use");
    }
}

fn run(seed: u64, way: Way) {
    let mut lab = Lab::new();
    let layers = random_layers(&mut lab, seed as u8);
    add_links(&layers);
    for layer in &layers {
        age(layer);
    }
    let before: Vec<Rows> = layers.iter().map(|layer| plain(layer)).collect();
    let (root, model) = (lab.empty(), lab.empty());
    let union = Mounted {
        way,
        layers: &layers,
        root,
    };
    let at = union.mount();
    let at: &Path = &at;
    let is_kernel = matches!(way, Way::Kernel);
    let mut known = BTreeMap::new();
    materialize(&union.tree(), &model);
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut history = Vec::new();
    for _ in 0..40 {
        let op = op(&mut random);
        history.push(op.clone());
        let context = format!("seed {seed}, {way:?}: {history:?}");
        if matches!(op, Op::Remount) {
            union.unmount();
            union.mount();
        } else {
            assert_eq!(theirs(at, &op), theirs(&model, &op), "{context}");
        }
        if is_kernel {
            // Its numbers change when something is copied up into another directory.
            known.clear();
        }
        compare(&union.tree(), &plain(&model), &mut known, &context);
    }
    union.unmount();
    union.mount();
    if is_kernel {
        known.clear();
    }
    compare(&union.tree(), &plain(&model), &mut known, "after the end");
    union.unmount();
    let after: Vec<Rows> = layers.iter().map(|layer| plain(layer)).collect();
    assert_eq!(before, after, "layers have changed");
}

#[test]
fn random_operations_on_mounts() {
    if !require(Need::Root) || !require(Need::Fuse) {
        return;
    }
    in_private_mounts(|| {
        for seed in 400..408 {
            for way in WAYS {
                run(seed, way);
            }
        }
    });
}
