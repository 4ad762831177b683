//! `push` to a real registry, and what other tools then find there.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plyfs::oci::Digest;
use serde_json::Value;

use super::made::{Layout, Made, store_image};
use super::reclaim::noise;
use super::saving::load;
use super::support::{Need, Registry, Setup, Store, require, skopeo_copy, succeed, wait_for};
use super::{import, layout};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("skopeo")];

fn made<'a>(layers: &'a [&'a str]) -> Made<'a> {
    Made {
        layers,
        ..Made::default()
    }
}

/// The blobs of an OCI layout that skopeo fills with an image of the registry.
fn fetched(store: &Store, from: &str, more: &[&str]) -> Vec<String> {
    let place = store.root().with_file_name("fetched");
    if place.exists() {
        fs::remove_dir_all(&place).unwrap();
    }
    let to = format!("oci:{}:x", place.display());
    let mut args = vec!["--src-tls-verify=false", "--preserve-digests"];
    args.extend(more);
    skopeo_copy(&args, &format!("docker://{from}"), &to);
    let blobs = fs::read_dir(place.join("blobs/sha256")).unwrap();
    let mut blobs: Vec<_> = blobs
        .map(|blob| blob.unwrap().file_name().into_string().unwrap())
        .collect();
    blobs.sort();
    blobs
}

fn closing_line(tag: &str, digest: &Digest) -> String {
    format!("{tag}: digest: {digest} size: ")
}

#[test]
fn what_is_pushed_is_bit_by_bit_what_was_stored() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let name = registry.reference("team/app:1");
    let digest = store_image(&store, &name, &made(&["base", "one"]));
    let told = store.stdout(["push", &name]);
    let repository = registry.reference("team/app");
    let first = format!("The push refers to repository [{repository}]\n");
    assert!(told.starts_with(&first), "{told}");
    assert_eq!(told.matches(": Pushed").count(), 2, "{told}");
    let last = told.lines().last().unwrap();
    assert!(last.starts_with(&closing_line("1", &digest)), "{told}");

    // skopeo finds manifest, configuration and layers with the digests that they have here.
    let mut stored = super::names(&store, "blobs/sha256");
    stored.sort();
    assert_eq!(
        fetched(&store, &format!("{repository}@{digest}"), &[]),
        stored
    );

    // Again: nothing is sent. As another repository of this registry: nothing either.
    let told = store.stdout(["image", "push", &name]);
    assert_eq!(told.matches(": Layer already exists").count(), 2, "{told}");
    let other = registry.reference("other/copy:2");
    store.run(["tag", &name, &other]);
    let told = store.stdout(["push", &other]);
    assert_eq!(told.matches(": Mounted from team/app").count(), 2, "{told}");
    assert_eq!(store.stdout(["push", "-q", &other]), format!("{other}\n"));

    // Another store pulls it by its digest, and it is the same image.
    let second = Store::new();
    second.run(["pull", "-q", &format!("{repository}@{digest}")]);
    let mut pulled = super::names(&second, "blobs/sha256");
    pulled.sort();
    assert_eq!(pulled, stored);
}

#[test]
fn podman_and_plyfs_hand_images_to_each_other() {
    if !require(NEEDS) || !require(&[Need::Program("podman"), Need::Root]) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let ours = registry.reference("ours:1");
    store_image(&store, &ours, &made(&["base", "one"]));
    store.run(["push", "-q", &ours]);
    let root = store.root().with_file_name("podman");
    let podman = |args: &[&str]| {
        let mut podman = Command::new("podman");
        podman.arg("--root").arg(root.join("root"));
        podman.arg("--runroot").arg(root.join("run"));
        podman.args(["--storage-driver", "vfs"]).args(args);
        String::from_utf8(succeed(&mut podman).stdout).unwrap()
    };
    podman(&["pull", "-q", "--tls-verify=false", &ours]);
    let id = podman(&["image", "inspect", "--format", "{{.Id}}", &ours]);
    let own = store.stdout(["inspect", "-f", "{{.Id}}", &ours]);
    assert_eq!(own.trim(), format!("sha256:{}", id.trim()));

    let theirs = registry.reference("theirs:1");
    podman(&["tag", &ours, &theirs]);
    podman(&["push", "-q", "--tls-verify=false", &theirs]);
    store.run(["pull", "-q", &theirs]);
    let again = registry.reference("again:1");
    store.run(["tag", &theirs, &again]);
    store.run(["push", "-q", &again]);
    assert_eq!(fetched(&store, &theirs, &[]), fetched(&store, &again, &[]));
}

#[test]
fn all_tags_and_several_names() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let app = registry.reference("app");
    for tag in ["1", "2"] {
        store_image(&store, &format!("{app}:{tag}"), &made(&["base", tag]));
    }
    store.run(["tag", &format!("{app}:2"), &registry.reference("else:3")]);
    let told = store.stdout(["push", "-a", "-q", &app]);
    assert_eq!(told, format!("{app}:1\n{app}:2\n"));
    // One that is missing does not keep the others.
    let missing = format!("{app}:none");
    let names = ["push", "-q", &missing, &registry.reference("else:3")];
    let said = store.fails(1, names);
    assert!(
        said.contains(&format!("cannot push {missing}: it is not in the store")),
        "{said}"
    );
    store.run(["pull", "-q", &registry.reference("else:3")]);
    let said = store.fails(1, ["push", "-a", &registry.reference("nothing")]);
    assert!(
        said.contains("the store has none") && said.contains("hint: plyfs tag"),
        "{said}"
    );
    let digest = format!("{app}@{}", Digest::of(b"x"));
    let said = store.fails(2, ["push", &digest]);
    assert!(said.contains("with a digest"), "{said}");
    let said = store.fails(2, ["push", "-a", &format!("{app}:1")]);
    assert!(said.contains("a tag does not go with --all-tags"), "{said}");
    let id = store.stdout(["images", "-q", &format!("{app}:1")]);
    for id in [id.trim(), &format!("sha256:{}", id.trim())] {
        let said = store.fails(2, ["push", id]);
        assert!(said.contains("it is no name to store it under"), "{said}");
        assert!(
            said.contains(&format!("hint: plyfs tag {id} NAME:TAG")),
            "{said}"
        );
    }
    let told = store.stdout(["push", "--json", &format!("{app}:1")]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["Name"], format!("{app}:1"));
    assert!(
        told["Digest"].as_str().unwrap().starts_with("sha256:"),
        "{told}"
    );
}

#[test]
fn indexes_whole_and_in_part() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let mut made = Layout::new(&store, "layout");
    let image = |platform, content| Made {
        layers: content,
        platform,
        ..Made::default()
    };
    let images = [
        image("linux/amd64", &["a"]),
        image("linux/arm64", &["b"]),
        image("linux/s390x", &["c"]),
    ];
    let digest = made.add_index("all", &images);
    let from = layout(&made.path, "all");
    let name = registry.reference("app:1");
    let pull = |platforms: &str| {
        store.run([
            "pull",
            "-q",
            "--platform",
            platforms,
            &from,
            "--name",
            &name,
        ])
    };
    let raw = |name: &str| {
        let mut skopeo = Command::new("skopeo");
        skopeo.args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{name}"),
        ]);
        succeed(&mut skopeo).stdout
    };

    // Of one platform: it alone is pushed, and that is told.
    pull("linux/arm64");
    let output = store.run(["push", &name]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("only linux/arm64 is stored, and was pushed alone"),
        "{said}"
    );
    let manifest: Value = serde_json::from_slice(&raw(&name)).unwrap();
    assert!(manifest["layers"].is_array(), "{manifest}");

    // Of two of three: an error, or an index of those.
    pull("linux/amd64");
    let said = store.fails(1, ["push", &name]);
    assert!(said.contains("not in the store: linux/s390x"), "{said}");
    assert!(said.contains("hint: plyfs pull --platform all"), "{said}");
    store.run(["push", "-q", "--platform", "all", &name]);
    let index: Value = serde_json::from_slice(&raw(&name)).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{index}");
    store.run(["push", "-q", "--platform", "linux/amd64", &name]);
    let alone = store.stdout(["push", "--platform", "linux/amd64", &name]);
    let first = entries[0]["digest"].as_str().unwrap();
    assert!(
        alone.contains(&format!("1: digest: {first} size: ")),
        "{alone}"
    );
    let said = store.fails(1, ["push", "--platform", "linux/s390x", &name]);
    assert!(said.contains("other platforms only"), "{said}");

    // Attestations are not pulled, and so not pushed.
    pull("linux/s390x");
    let output = store.run(["push", &name]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("without an attestation"), "{said}");
    let index: Value = serde_json::from_slice(&raw(&name)).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3, "{index}");

    // Once they are, the index stays what it was: pushed, saved, loaded and pushed again.
    pull("all");
    let told = store.stdout(["push", &name]);
    assert!(told.contains(&closing_line("1", &digest)), "{told}");
    assert_eq!(Digest::of(&raw(&name)), digest);
    let saved = store.root().with_file_name("saved.tar");
    store.run([
        "save".as_ref(),
        name.as_ref(),
        "-o".as_ref(),
        saved.as_os_str(),
    ]);
    let (loaded, again) = (Store::new(), registry.reference("again:1"));
    load(&loaded, &saved);
    loaded.run(["check"]);
    loaded.run(["tag", &name, &again]);
    loaded.run(["push", "-q", &again]);
    assert_eq!(Digest::of(&raw(&again)), digest);
    let all = ["--all", "--src-tls-verify=false"];
    let everything = fetched(&store, &again, &all);
    let mut stored = super::names(&loaded, "blobs/sha256");
    stored.sort();
    assert_eq!(everything, stored);
    // What is damaged of them is found, and fetched again.
    let statement = loaded
        .root()
        .join("blobs/sha256")
        .join(attestation_blob(&loaded, &name));
    fs::remove_file(&statement).unwrap();
    let found = loaded.fails(1, ["check"]);
    assert!(found.is_empty() || found.contains("plyfs: "), "{found}");
    loaded.run(["pull", "-q", "--platform", "all", &again]);
    loaded.run(["check"]);

    // Where the registry has the rest, the index is pushed as it is.
    let second = registry.reference("app:2");
    let all = ["--all", "--preserve-digests", "--dest-tls-verify=false"];
    skopeo_copy(&all, &from, &format!("docker://{second}"));
    store.run(["tag", &name, &second]);
    let told = store.stdout(["push", &second]);
    assert!(told.contains(&closing_line("2", &digest)), "{told}");
    assert_eq!(Digest::of(&raw(&second)), digest);
}

/// The name of the blob in which the first attestation of an image says what it says.
fn attestation_blob(store: &Store, name: &str) -> String {
    let format = "{{range .Manifests}}{{if eq .Kind \"attestation\"}}{{.Digest}}{{end}}{{end}}";
    let digest = store.stdout(["inspect", "-f", format, name]);
    let hex = digest.trim().strip_prefix("sha256:").unwrap();
    let manifest = fs::read(store.root().join("blobs/sha256").join(hex)).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let blob = manifest["layers"][0]["digest"].as_str().unwrap();
    blob.strip_prefix("sha256:").unwrap().to_owned()
}

#[test]
fn blobs_that_are_gone_or_damaged() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let from = registry.reference("app:1");
    store_image(&store, &from, &made(&["base", "one"]));
    let to = Registry::start();
    let name = to.reference("app:1");
    store.run(["tag", &from, &name]);
    let layers = store.stdout([
        "inspect",
        "-f",
        "{{range .Layers}}{{.Digest}} {{end}}",
        &name,
    ]);
    let layers: Vec<&str> = layers.split_whitespace().collect();
    let blob = |at: usize| {
        let hex = layers[at].strip_prefix("sha256:").unwrap();
        store.root().join("blobs/sha256").join(hex)
    };
    let kept = fs::read(blob(0)).unwrap();
    fs::remove_file(blob(0)).unwrap();
    let said = store.fails(1, ["push", &name]);
    assert!(
        said.contains(&format!("not in the store any more: {}", layers[0])),
        "{said}"
    );
    assert!(said.contains(&format!("hint: plyfs pull {from}")), "{said}");

    let mut damaged = kept.clone();
    damaged[600] ^= 1;
    fs::write(blob(0), damaged).unwrap();
    let said = store.fails(1, ["push", &name]);
    assert!(
        said.contains("is damaged") && said.contains("plyfs check"),
        "{said}"
    );
    fs::write(blob(0), &kept[..100]).unwrap();
    assert!(store.fails(1, ["push", &name]).contains("is damaged"));

    // Where the registry has it, nobody needs it here.
    fs::write(blob(0), kept).unwrap();
    store.run(["push", "-q", &name]);
    fs::remove_file(blob(0)).unwrap();
    store.run(["push", "-q", &name]);
}

#[test]
fn registries_that_want_a_password_or_take_nothing() {
    if !require(NEEDS) || !require(&[Need::Program("htpasswd")]) {
        return;
    }
    let store = Store::new();
    let private = Registry::with_password("me", "secret");
    let name = private.reference("app:1");
    store_image(&store, &name, &made(&["base"]));
    let said = store.fails(1, ["push", &name]);
    let hint = format!("hint: plyfs login {}", private.address());
    assert!(
        said.contains("no credentials for it were found") && said.contains(&hint),
        "{said}"
    );
    let auth = store.root().with_file_name("auth.json");
    let written = format!(
        r#"{{"auths":{{"{}":{{"username":"me","password":"secret"}}}}}}"#,
        private.address()
    );
    fs::write(&auth, written).unwrap();
    let auth = auth.to_str().unwrap();
    store.run(["push", "-q", "--authfile", auth, &name]);
    store.run(["pull", "-q", "--authfile", auth, &name]);

    let closed = Registry::set_up(&Setup {
        read_only: true,
        ..Setup::default()
    });
    let name = closed.reference("app:1");
    store.run(["tag", &private.reference("app:1"), &name]);
    let said = store.fails(1, ["push", &name]);
    assert!(said.contains("does not take it: it is read-only"), "{said}");
}

#[test]
fn a_private_authority() {
    if !require(NEEDS) || !require(&[Need::Program("openssl")]) {
        return;
    }
    let registry = Registry::set_up(&Setup {
        tls: true,
        ..Setup::default()
    });
    let store = Store::new();
    let name = registry.reference("app:1");
    store_image(&store, &name, &made(&["base"]));
    let said = store.fails(1, ["push", &name]);
    assert!(said.contains("certificate"), "{said}");
    store.run(["push", "-q", "--insecure", &name]);

    let authority = registry.data().join("ca.pem");
    let given = store.root().with_file_name("certs");
    fs::create_dir(&given).unwrap();
    fs::copy(&authority, given.join("ca.crt")).unwrap();
    store.run([
        "push".as_ref(),
        "-q".as_ref(),
        "--cert-dir".as_ref(),
        given.as_os_str(),
        name.as_ref(),
    ]);
    let given = given.to_str().unwrap();
    let look = ["inspect", "--remote", "--cert-dir", given, &name];
    assert!(store.stdout(look).contains("RepoDigests"));
    let said = store.fails(2, ["inspect", "--cert-dir", given, &name]);
    assert!(said.contains("--cert-dir go with --remote"), "{said}");

    let config = store.root().with_file_name("config");
    let own = config.join("containers/certs.d").join(registry.address());
    fs::create_dir_all(&own).unwrap();
    fs::copy(&authority, own.join("ca.crt")).unwrap();
    let mut push = store.command(["push", "-q", &name]);
    succeed(push.env("XDG_CONFIG_HOME", &config));
    let mut pull = store.command(["pull", "-q", &name]);
    succeed(pull.env("SSL_CERT_FILE", &authority));
}

/// A proxy that breaks a connection when so much has come through it from the client, so many times.
fn breaking(to: &str, after: usize, times: usize) -> String {
    let left = AtomicUsize::new(times);
    proxy(to, move |passed, _| {
        let one_less = |left: usize| left.checked_sub(1);
        let order = Ordering::Relaxed;
        passed > after && left.fetch_update(order, order, one_less).is_ok()
    })
}

/// A proxy that breaks a connection when `breaks` says so, which is told how much has come through it
/// from the client, and what comes next.
fn proxy(to: &str, breaks: impl Fn(usize, &[u8]) -> bool + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (to, breaks) = (to.to_owned(), Arc::new(breaks));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, breaks) = (client.unwrap(), Arc::clone(&breaks));
            let server = TcpStream::connect(&to).unwrap();
            let (answers, back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || forward(answers, back, &|_, _| false));
            std::thread::spawn(move || forward(client, server, &*breaks));
        }
    });
    address
}

fn forward(mut from: TcpStream, mut to: TcpStream, breaks: &dyn Fn(usize, &[u8]) -> bool) {
    let (mut buffer, mut passed) = (vec![0; 64 << 10], 0);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        passed += count;
        if breaks(passed, &buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    for side in [from, to] {
        side.shutdown(Shutdown::Both).ok();
    }
}

#[test]
fn a_line_that_breaks() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let line = breaking(registry.address(), 20 << 20, 2);
    let name = format!("{line}/app:1");
    let mut content = vec![0; 48 << 20];
    let mut random = fs::File::open("/dev/urandom").unwrap();
    random.read_exact(&mut content).unwrap();
    import(&store, &name, &content);
    let told = store.stdout(["push", &name]);
    assert!(told.contains("1: digest: sha256:"), "{told}");
    let found = registry.reference("app:1");
    let mut stored = super::names(&store, "blobs/sha256");
    stored.sort();
    assert_eq!(fetched(&store, &found, &[]), stored);
}

/// A push that is killed between two parts of a blob goes on there when it is begun again.
#[test]
fn a_push_that_was_killed() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let (parts, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, sent) = (Arc::clone(&parts), Arc::clone(&all));
    let line = proxy(registry.address(), move |_, next| {
        sent.fetch_add(next.len(), Ordering::Relaxed);
        // Nothing of the third part comes through until there is another process.
        next.starts_with(b"PATCH") && seen.fetch_add(1, Ordering::Relaxed) == 2
    });
    let name = format!("{line}/app:1");
    import(&store, &name, &noise(40 << 20));
    let mut push = store.command(["push", &name]).spawn().unwrap();
    wait_for("the third part", || parts.load(Ordering::Relaxed) >= 3);
    push.kill().unwrap();
    push.wait().unwrap();
    assert_eq!(super::names(&store, "uploads").len(), 1);
    all.store(0, Ordering::Relaxed);
    let told = store.stdout(["push", &name]);
    assert!(told.contains("1: digest: sha256:"), "{told}");
    assert_eq!(super::names(&store, "uploads"), [""; 0]);
    let again = all.load(Ordering::Relaxed);
    assert!(again < 16 << 20, "{again} bytes were sent again");
    let found = registry.reference("app:1");
    let mut stored = super::names(&store, "blobs/sha256");
    stored.sort();
    assert_eq!(fetched(&store, &found, &[]), stored);
}
