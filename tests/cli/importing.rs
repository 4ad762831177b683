//! What `import` takes, and what it refuses.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::support::{Need, Store, fail, require, succeed};
use super::{archive, import_from, names};

fn file(store: &Store, name: &str, content: &[u8]) -> PathBuf {
    let path = store.root().with_file_name(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn regression_an_archive_that_was_cut_is_refused() {
    let store = Store::new();
    let whole = archive(&[("a", b"first"), ("b", b"second")]);
    let cases: [(&str, &[u8], &str); 6] = [
        ("empty", b"", "the archive is empty"),
        ("cut", &whole[..1024], "ends without its end marker"),
        ("within", &whole[..700], "truncated"),
        (
            "text",
            &b"not an archive at all\n".repeat(100),
            "not a tar archive",
        ),
        ("short", b"text", "not a tar archive"),
        (
            "followed",
            &[&whole, &b"more"[..]].concat(),
            "follows the end",
        ),
    ];
    for (name, content, expected) in cases {
        let path = file(&store, name, content);
        let said = store.fails(1, ["import".as_ref(), path.as_os_str()]);
        assert!(said.contains(expected), "{name}: {said}");
    }
    assert!(names(&store, "layers/sha256").is_empty());
    let padded = [whole, vec![0; 10240]].concat();
    let path = file(&store, "padded", &padded);
    import_from(&store, &path, "padded:1");
    assert_eq!(store.stdout(["cat", "padded:1:/b"]), "second");
}

#[test]
fn regression_a_name_with_a_digest_is_no_name_for_an_import() {
    let store = Store::new();
    let path = file(&store, "a.tar", &archive(&[("a", b"")]));
    let name = format!("a@sha256:{}", "0".repeat(64));
    let said = store.fails(2, ["import".as_ref(), path.as_os_str(), name.as_ref()]);
    assert!(said.contains("has a digest"), "{said}");
}

#[test]
fn regression_saved_images_are_pulled_and_not_imported() {
    let store = Store::new();
    let docker: &[(&str, &[u8])] = &[
        ("manifest.json", b"[]"),
        ("0123/layer.tar", b""),
        ("repositories", b"{}"),
    ];
    let oci: &[(&str, &[u8])] = &[("oci-layout", b"{}"), ("index.json", b"{}")];
    for (files, kind) in [(docker, "docker-archive"), (oci, "oci-archive")] {
        let path = file(&store, kind, &archive(files));
        let said = store.fails(1, ["import".as_ref(), path.as_os_str()]);
        let hint = format!("hint: plyfs pull {kind}:{}", path.display());
        assert!(said.contains(&hint), "{said}");
    }
    // Such names in a root file system mean nothing.
    let path = file(
        &store,
        "root",
        &archive(&[
            ("etc/passwd", b""),
            ("oci-layout", b""),
            ("index.json", b""),
        ]),
    );
    store.run(["import".as_ref(), path.as_os_str()]);
}

#[test]
fn regression_import_from_pipes_and_devices() {
    if !require(&[Need::Program("mkfifo")]) {
        return;
    }
    let store = Store::new();
    for device in ["/dev/null", "/dev/zero"] {
        let said = store.fails(1, ["import", device]);
        assert!(said.contains("it is a device"), "{said}");
    }
    let said = fail(store.command(["import", "-"]).stdin(Stdio::null()), 1);
    assert!(said.contains("the archive is empty"), "{said}");
    let pipe = store.root().with_file_name("pipe");
    succeed(Command::new("mkfifo").arg(&pipe));
    let command = ["import".as_ref(), pipe.as_os_str(), "piped:1".as_ref()];
    let child = store.command(command).stdout(Stdio::null()).spawn();
    fs::write(&pipe, archive(&[("a", b"piped")])).unwrap();
    assert!(child.unwrap().wait().unwrap().success());
    assert_eq!(store.stdout(["cat", "piped:1:/a"]), "piped");
}

/// A large file with holes has them in the store, and shows them when it is mounted.
#[test]
fn regression_sparse_files_stay_sparse() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    if !require(&[Need::Fuse, Need::Program("tar")]) {
        return;
    }
    let (store, tree) = (Store::new(), super::support::temp_dir());
    let sparse = fs::File::create(tree.path().join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"middle", 32 << 20).unwrap();
    import_from(&store, tree.path(), "directory:1");
    // The archive has the holes as zeros, since other tools cannot write sparse files again.
    let entries = names(&store, "layers/sha256");
    let record = store
        .root()
        .join(format!("layers/sha256/{}/layer.json", entries[0]));
    let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    assert!(
        record["uncompressedBytes"].as_u64().unwrap() > 64 << 20,
        "{record}"
    );
    for flag in ["-S", "-p"] {
        let path = store.root().with_file_name(format!("archive{flag}"));
        let mut tar = Command::new("tar");
        succeed(
            tar.arg(flag)
                .arg("-cf")
                .arg(&path)
                .arg("-C")
                .arg(tree.path())
                .arg("."),
        );
        let name = format!("archive:{}", &flag[1..].to_lowercase());
        import_from(&store, &path, &name);
    }
    for image in ["directory:1", "archive:s", "archive:p"] {
        let mount = store.mount(image, &[]);
        let path = mount.path().join("sparse");
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.len(), 64 << 20, "{image}");
        assert!(found.blocks() < 1024, "{image}: {} blocks", found.blocks());
        let file = fs::File::open(&path).unwrap();
        let hole = nix::unistd::lseek(&file, 32 << 20, nix::unistd::Whence::SeekHole).unwrap();
        assert!(hole < 40 << 20, "{image}: a hole at {hole}");
        let mut middle = [0; 6];
        file.read_exact_at(&mut middle, 32 << 20).unwrap();
        assert_eq!(&middle, b"middle");
        drop(file);
        mount.unmount();
    }
}

#[test]
fn regression_an_import_says_how_it_is_run() {
    let store = Store::new();
    let path = file(&store, "root.tar", &archive(&[("a", b"first")]));
    let import = |change: &str| {
        store.command([
            "import",
            "-c",
            change,
            "-c",
            "ENV A=1",
            path.to_str().unwrap(),
            "app:1",
        ])
    };
    succeed(&mut import(r#"CMD ["sh", "-l"]"#));
    let format = "{{json .Config.Cmd}} {{json .Config.Env}}";
    let said = store.stdout(["inspect", "--format", format, "app:1"]);
    assert_eq!(said.trim_end(), r#"["sh","-l"] ["A=1"]"#);
    let said = fail(&mut import("RUN make"), 2);
    assert!(said.contains("none of CMD"), "{said}");
}
