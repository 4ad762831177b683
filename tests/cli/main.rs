//! The program as people use it: images from every source, mounted and compared with what they must look like.

#[path = "../support/mod.rs"]
mod support;

mod committing;
mod completion;
mod damage;
mod helper;
mod importing;
mod inspect;
mod interchange;
mod introductions;
mod listing;
mod logins;
mod made;
mod messages;
mod mirrors;
mod mounts;
mod pulling;
mod pushing;
mod races;
mod reclaim;
mod removing;
mod robust;
mod saving;
mod searching;
mod sources;
mod tokens;

use std::path::Path;

use plyfs::layer::Metadata;
use plyfs::pack::{TarEntry, TarKind, TarWriter};
use support::{MountGuard, OddImage, Store, User, compare_tree, is_root, odd_image};

/// Compares a mount of the odd image with what it must look like, as the mount's own user sees it.
fn compare_with_expected(mount: &MountGuard<'_>, odd: &OddImage, user: User) {
    // Nobody but the first root sees attributes of the `trusted.` namespace.
    let hidden: &[&str] = match user {
        User::Same if is_root() => &["--nlink"],
        _ => &["--nlink", "--ignore-xattr", "trusted."],
    };
    compare_tree(user, hidden, mount.path(), &odd.expected);
}

/// A tar archive with these files.
fn archive<P: AsRef<[u8]>>(files: &[(P, &[u8])]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (path, content) in files {
        let entry = TarEntry {
            path: path.as_ref(),
            metadata: Metadata {
                permissions: 0o644,
                ..Metadata::default()
            },
            kind: TarKind::Regular(content.len() as u64),
            xattrs: &[],
        };
        writer.append(&entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

/// Imports an image of one file into a store.
fn import(store: &Store, name: &str, content: &[u8]) {
    let file = store.root().with_file_name("import.tar");
    std::fs::write(&file, archive(&[("file", content)])).unwrap();
    import_from(store, &file, name);
}

/// Imports a directory or an archive into a store.
fn import_from(store: &Store, from: &Path, name: &str) {
    store.run(["import".as_ref(), from.as_os_str(), name.as_ref()]);
}

/// A store that has the odd image.
fn odd_store() -> Store {
    let store = Store::new();
    let from = layout(&odd_image().layout, "odd");
    store.run(["pull", "-q", &from, "--name", "odd"]);
    store
}

/// The names of all images.
fn listed(store: &Store) -> Vec<String> {
    let format = "{{.Repository}}:{{.Tag}}";
    let names = store.stdout(["images", "--sort", "repository", "--format", format]);
    names.lines().map(str::to_owned).collect()
}

/// The names in a directory of the store.
fn names(store: &Store, directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(store.root().join(directory)).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect()
}

/// The argument `oci:DIR:TAG`.
fn layout(path: &Path, tag: &str) -> String {
    format!("oci:{}:{tag}", path.display())
}
