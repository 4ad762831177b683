//! Images on their way through plyfs and the tools of others, in both directions: they stay what they were,
//! bit by bit.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use plyfs::oci::Digest;
use serde_json::Value;

use super::made::{Made, store_image};
use super::saving::{Podman, load};
use super::support::{Need, Registry, Store, require, skopeo_copy, succeed, temp_dir};
use super::{import_from, layout};

/// The digest of what a reference stands for in a registry, as skopeo finds it.
fn digest_in_registry(reference: &str) -> Digest {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--raw", "--tls-verify=false"]);
    Digest::of(&succeed(skopeo.arg(format!("docker://{reference}"))).stdout)
}

/// The digest of the image that an OCI layout has under a tag.
fn digest_in_layout(path: &Path, tag: &str) -> String {
    let index = fs::read(path.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let entries = index["manifests"].as_array().unwrap().iter();
    let name = "org.opencontainers.image.ref.name";
    let mut entries = entries.filter(|entry| entry["annotations"][name] == tag);
    entries.next().unwrap()["digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The digest that an image has in the store.
fn digest_in_store(store: &Store, name: &str) -> String {
    let digest = store.stdout(["inspect", "-f", "{{.Descriptor.digest}}", name]);
    digest.trim().to_owned()
}

/// Its ID, which does not depend on how layers are compressed.
fn id_in_store(store: &Store, name: &str) -> String {
    store.stdout(["images", "-q", "--no-trunc", name])
}

fn unpack(archive: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    succeed(
        Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(to),
    );
}

fn save(store: &Store, name: &str, to: &Path) {
    store.run([
        "save".as_ref(),
        name.as_ref(),
        "-o".as_ref(),
        to.as_os_str(),
    ]);
}

#[test]
fn what_umoci_makes_and_changes() {
    if !require(&["umoci", "tar"].map(Need::Program)) {
        return;
    }
    let (store, place) = (Store::new(), temp_dir());
    let at = |name: &str| place.path().join(name);
    let umoci = |args: &[&OsStr]| succeed(Command::new("umoci").args(args));
    let theirs = at("theirs");
    let image = format!("{}:1", theirs.display());
    fs::write(at("file"), "theirs").unwrap();
    umoci(&["init".as_ref(), "--layout".as_ref(), theirs.as_os_str()]);
    umoci(&["new".as_ref(), "--image".as_ref(), image.as_ref()]);
    let insert: &[&OsStr] = &["insert".as_ref(), "--rootless".as_ref(), "--image".as_ref()];
    let file = at("file");
    umoci(
        &[
            insert,
            &[image.as_ref(), file.as_os_str(), "/file".as_ref()],
        ]
        .concat(),
    );
    let made = digest_in_layout(&theirs, "1");

    // Theirs, through our store and an archive of ours, is theirs.
    store.run(["pull", "-q", &layout(&theirs, "1"), "--name", "theirs:1"]);
    assert_eq!(digest_in_store(&store, "theirs:1"), made);
    save(&store, "theirs:1", &at("theirs.tar"));
    unpack(&at("theirs.tar"), &at("again"));
    assert_eq!(digest_in_layout(&at("again"), "1"), made);
    let stat = umoci(&[
        "stat".as_ref(),
        "--image".as_ref(),
        format!("{}:1", at("again").display()).as_ref(),
    ]);
    assert!(!stat.stdout.is_empty());

    // Ours, with a layer of theirs on top: what was below stays.
    store_image(
        &store,
        "ours:1",
        &Made {
            layers: &["base", "one"],
            ..Made::default()
        },
    );
    save(&store, "ours:1", &at("ours.tar"));
    unpack(&at("ours.tar"), &at("ours"));
    let image = format!("{}:1", at("ours").display());
    umoci(
        &[
            insert,
            &[image.as_ref(), file.as_os_str(), "/more".as_ref()],
        ]
        .concat(),
    );
    store.run(["pull", "-q", &layout(&at("ours"), "1"), "--name", "ours:2"]);
    let layers = |name: &str| {
        store.stdout([
            "inspect",
            "-f",
            "{{range .Layers}}{{.Digest}} {{end}}",
            name,
        ])
    };
    assert!(layers("ours:2").starts_with(layers("ours:1").trim()));
    assert_eq!(
        store.stdout(["cat", "ours:2:/file", "ours:2:/more"]),
        "onetheirs"
    );
}

#[test]
fn what_buildah_builds_and_hands_on() {
    let needs = ["docker-registry", "skopeo", "buildah", "podman"].map(Need::Program);
    if !require(&needs) || !require(&[Need::Root]) {
        return;
    }
    let (registry, store, place) = (Registry::start(), Store::new(), temp_dir());
    let tool = Podman::new();
    let file = place.path().join("file");
    fs::write(&file, "built").unwrap();
    let theirs = registry.reference("theirs:1");
    let container = tool.buildah(["from", "scratch"]);
    let container = container.trim();
    tool.buildah([
        "copy".as_ref(),
        "-q".as_ref(),
        container.as_ref(),
        file.as_os_str(),
        "/file".as_ref(),
    ]);
    tool.buildah([
        "config",
        "--cmd",
        "/file",
        "--label",
        "by=buildah",
        container,
    ]);
    tool.buildah(["commit", "-q", container, &theirs]);
    tool.buildah(["push", "-q", "--tls-verify=false", &theirs]);

    // Theirs comes from the registry and goes there again, and into an archive, as it was.
    let digest = digest_in_registry(&theirs);
    store.run(["pull", "-q", &theirs]);
    assert_eq!(store.stdout(["cat", &format!("{theirs}:/file")]), "built");
    let again = registry.reference("again:1");
    store.run(["tag", &theirs, &again]);
    store.run(["push", "-q", &again]);
    assert_eq!(digest_in_registry(&again), digest);
    let archive = place.path().join("theirs.tar");
    save(&store, &theirs, &archive);
    let copy = registry.reference("copy:1");
    let from = format!("oci-archive:{}", archive.display());
    skopeo_copy(
        &["--preserve-digests", "--dest-tls-verify=false"],
        &from,
        &format!("docker://{copy}"),
    );
    assert_eq!(digest_in_registry(&copy), digest);

    // Ours is what they build on, and comes back.
    let ours = registry.reference("ours:1");
    store_image(
        &store,
        &ours,
        &Made {
            layers: &["base", "one"],
            ..Made::default()
        },
    );
    store.run(["push", "-q", &ours]);
    tool.buildah(["pull", "-q", "--tls-verify=false", &ours]);
    let archive = place.path().join("ours.tar");
    let to = format!("oci-archive:{}:{ours}", archive.display());
    tool.buildah(["push", "-q", "-D", &ours, &to]);
    let other = Store::new();
    load(&other, &archive);
    // Its storage keeps no blobs, and compresses them anew: the image is the same.
    assert_eq!(id_in_store(&other, &ours), id_in_store(&store, &ours));
    let container = tool.buildah(["from", "--pull-never", &ours]);
    let more = registry.reference("more:1");
    tool.buildah(["commit", "-q", container.trim(), &more]);
    tool.buildah(["push", "-q", "--tls-verify=false", &more]);
    store.run(["pull", "-q", &more]);
    let digest = digest_in_registry(&more);
    assert_eq!(digest_in_store(&store, &more), digest.to_string());
}

/// Layers with holes: podman cannot save such as tar has them, so ours have none.
#[test]
fn podman_saves_what_had_holes() {
    if !require(&[Need::Root, Need::Program("podman")]) {
        return;
    }
    let (store, tree) = (Store::new(), temp_dir());
    let sparse = fs::File::create(tree.path().join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 4 << 20).unwrap();
    import_from(&store, tree.path(), "docker.io/library/holes:1");
    let archive = store.root().with_file_name("holes.tar");
    save(&store, "holes:1", &archive);
    let podman = Podman::new();
    podman.load(&archive);
    let back = store.root().with_file_name("back.tar");
    let save: [&OsStr; 7] = [
        "save".as_ref(),
        "-q".as_ref(),
        "--format=oci-archive".as_ref(),
        "--uncompressed".as_ref(),
        "-o".as_ref(),
        back.as_os_str(),
        "holes:1".as_ref(),
    ];
    podman.run(save);
    let other = Store::new();
    load(&other, &back);
    assert_eq!(
        id_in_store(&other, "holes:1"),
        id_in_store(&store, "holes:1")
    );
}
