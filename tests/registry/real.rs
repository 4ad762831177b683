//! Against Debian's `docker-registry`, with images that skopeo has put there.

use std::io::Read;
use std::time::{Duration, Instant};

use base64::Engine;
use plyfs::oci::{Descriptor, Digest, Document, MediaType};
use plyfs::registry::{AuthFiles, Error, Location, ManifestName, Settings, Source};

use crate::lab::{Image, read_all, repository, settings, user};
use crate::support::{Need, Registry, require};

const TOOLS: &[Need] = &[Need::Program("docker-registry"), Need::Program("skopeo")];

#[test]
fn manifests_and_blobs() {
    if !require(TOOLS) {
        return;
    }
    let registry = Registry::start();
    let image = Image::new(100_000);
    image.push(&registry, "team/app:v1.0");
    let Ok(Location::Registry(reference)) = Location::parse(registry.reference("team/app:v1.0"))
    else {
        panic!("not a reference");
    };
    let source = Location::Registry(reference.clone())
        .open(&settings())
        .unwrap();

    let by_tag = source.manifest(&ManifestName::Tag("v1.0".into())).unwrap();
    assert_eq!(
        (by_tag.digest, &by_tag.bytes),
        (image.digest(), &image.manifest)
    );
    assert_eq!(by_tag.media_type, MediaType::OciManifest);
    assert_eq!(source.manifest(&ManifestName::Default).unwrap(), by_tag);
    assert_eq!(
        source
            .manifest(&ManifestName::Digest(by_tag.digest))
            .unwrap(),
        by_tag
    );

    let Document::Manifest(manifest) = by_tag.document().unwrap() else {
        panic!("an index")
    };
    let config = source.blob(&manifest.config, 0).unwrap();
    assert_eq!(read_all(config.reader).unwrap(), image.config);
    for offset in [0, 1, 60_000, image.layer.len() - 1, image.layer.len()] {
        let blob = source.blob(&manifest.layers[0], offset as u64).unwrap();
        assert_eq!(blob.start, offset as u64);
        assert_eq!(read_all(blob.reader).unwrap(), image.layer[offset..]);
    }
    let beyond = source
        .blob(&manifest.layers[0], manifest.layers[0].size + 1)
        .unwrap_err();
    assert!(
        matches!(beyond, Error::RangeNotSatisfiable { .. }),
        "{beyond}"
    );

    let missing = Descriptor::of(MediaType::OciLayer, b"missing");
    let error = source.blob(&missing, 0).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let missing = ManifestName::Digest(Digest::of(b"missing"));
    assert!(matches!(
        source.manifest(&missing),
        Err(Error::NotFound { .. })
    ));
}

#[test]
fn a_missing_tag_has_suggestions() {
    if !require(TOOLS) {
        return;
    }
    let registry = Registry::start();
    let image = Image::new(10);
    for tag in ["v1.0", "v1.1", "latest"] {
        image.push(&registry, &format!("app:{tag}"));
    }
    let source = repository(&registry.reference("app"), settings());
    let mut tags = source.tags().unwrap();
    tags.sort();
    assert_eq!(tags, ["latest", "v1.0", "v1.1"]);
    let error = source
        .manifest(&ManifestName::Tag("v1.2".into()))
        .unwrap_err()
        .to_string();
    let expected = format!(
        "there is no {}:v1.2; the closest tags are v1.0, v1.1",
        registry.reference("app")
    );
    assert_eq!(error, expected);
    let error = repository(&registry.reference("other"), settings())
        .tags()
        .unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[test]
fn basic_authentication() {
    if !require(TOOLS) || !require(&[Need::Program("htpasswd")]) {
        return;
    }
    let registry = Registry::with_password("alice", "s3cret:x");
    let image = Image::new(10);
    image.push(&registry, "private/app:1");
    let name = registry.reference("private/app:1");
    let pull = |settings: Settings| repository(&name, settings).manifest(&ManifestName::Default);

    let error = pull(settings()).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("no credentials"), "{error}");

    let wrong = Settings {
        credentials: user("alice", "guess"),
        ..settings()
    };
    let error = pull(wrong).unwrap_err().to_string();
    assert!(error.contains("\"alice\" were refused"), "{error}");

    let explicit = Settings {
        credentials: user("alice", "s3cret:x"),
        ..settings()
    };
    assert_eq!(pull(explicit).unwrap().bytes, image.manifest);

    let file = registry.data().join("auth.json");
    let auth = base64::prelude::BASE64_STANDARD.encode("alice:s3cret:x");
    let key = registry.reference("private");
    std::fs::write(
        &file,
        format!(r#"{{"auths":{{"{key}":{{"auth":"{auth}"}}}}}}"#),
    )
    .unwrap();
    let auth = AuthFiles {
        paths: vec![file],
        ..AuthFiles::default()
    };
    let source = repository(&name, Settings { auth, ..settings() });
    assert_eq!(
        source.manifest(&ManifestName::Default).unwrap().bytes,
        image.manifest
    );
    let blob = source.blob(&image.descriptor, 5).unwrap();
    assert_eq!(read_all(blob.reader).unwrap(), image.layer[5..]);
}

#[test]
fn a_restart_in_the_middle_of_a_blob_is_survived() {
    if !require(TOOLS) {
        return;
    }
    let mut registry = Registry::start();
    // More than the buffers of two sockets can hold.
    let image = Image::new(20 << 20);
    image.push(&registry, "big:1");
    let patient = Settings {
        attempts: 10,
        back_off: Duration::from_millis(100),
        ..settings()
    };
    let source = repository(&registry.reference("big:1"), patient);
    let mut blob = source.blob(&image.descriptor, 0).unwrap();
    let mut read = vec![0; 1 << 20];
    blob.reader.read_exact(&mut read).unwrap();
    registry.stop();
    let restart = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(600));
        registry.go_on();
        registry
    });
    blob.reader.read_to_end(&mut read).unwrap();
    assert_eq!(Digest::of(&read), image.descriptor.digest);
    drop(restart.join().unwrap());
}

#[test]
fn a_registry_on_this_machine_may_use_tls() {
    if !require(TOOLS) || !require(&[Need::Program("openssl")]) {
        return;
    }
    let mut registry = Registry::start();
    let image = Image::new(10);
    image.push(&registry, "app:1");
    registry.use_tls();
    let source = repository(&registry.reference("app:1"), settings());
    assert_eq!(
        source.manifest(&ManifestName::Default).unwrap().bytes,
        image.manifest
    );
}

#[test]
fn a_registry_that_is_not_there() {
    // Of a server that refuses connections nothing is waited for.
    let patient = Settings {
        connect_timeout: Duration::from_secs(600),
        stall_timeout: Duration::from_secs(600),
        ..settings()
    };
    let started = Instant::now();
    let error = repository("127.0.0.1:1/x", patient)
        .manifest(&ManifestName::Default)
        .unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60));
}
