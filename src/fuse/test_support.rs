//! A union of directories for tests of this room.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::layer::directory::DirectoryLayer;
use crate::overlay::{Namespace, NodeNumber, Overlay, OverlayOptions, Union};
use crate::union::stack::{Stack, StackOptions};

/// The directories of a union, before it is opened.
pub(super) struct Directories {
    _directory: TempDir,
    pub(super) lower: PathBuf,
    pub(super) upper: PathBuf,
    work: PathBuf,
}

impl Directories {
    pub(super) fn new() -> Directories {
        let directory = tempfile::tempdir().unwrap();
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        });
        Directories {
            _directory: directory,
            lower,
            upper,
            work,
        }
    }

    pub(super) fn overlay(&self) -> Overlay {
        let layer = DirectoryLayer::open(&self.lower).unwrap();
        let base = Stack::new(vec![layer], vec![], StackOptions::default()).unwrap();
        let options = OverlayOptions {
            namespace: Some(Namespace::User),
            ..OverlayOptions::default()
        };
        Overlay::writable(Union::Stack(base), &self.upper, &self.work, options).unwrap()
    }
}

/// The node that `name` in the root of `overlay` stands for.
pub(super) fn node_of(overlay: &Overlay, name: &[u8]) -> NodeNumber {
    let found = overlay.lookup(NodeNumber::ROOT, name).unwrap();
    found.unwrap().node
}
