//! Mirrors that do what real ones do on bad days, and registries that are not where they usually are.

use std::fs;
use std::sync::Arc;

use plyfs::registry::{ManifestName, MirrorFiles, Mirrored, Settings, Source};

use crate::lab::{Image, read_all, settings};
use crate::server::{Answer, Request, Server};

/// What a registry of this image answers, whatever it is called there.
fn serve(image: &Image, request: &Request) -> Answer {
    match request.path() {
        path if path.ends_with("/v2/") => Answer::new(200, ""),
        path if path.contains("/manifests/") => Answer::new(200, image.manifest.as_slice())
            .header("content-type", "application/vnd.oci.image.manifest.v1+json"),
        path if path.contains(&image.descriptor.digest.hex()) => {
            Answer::range(request, &image.layer)
        }
        _ => Answer::new(404, ""),
    }
}

/// Settings with this text as `registries.conf`, or as `docker.io/hosts.toml`.
fn with_file(directory: &tempfile::TempDir, name: &str, text: &str) -> Settings {
    let path = directory.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    let mirrors = match name {
        "registries.conf" => MirrorFiles {
            registries_conf: vec![path],
            hosts: Vec::new(),
        },
        _ => MirrorFiles {
            registries_conf: Vec::new(),
            hosts: vec![directory.path().to_owned()],
        },
    };
    Settings {
        mirrors,
        attempts: 2,
        ..settings()
    }
}

/// An image of Docker Hub, which has these two mirrors.
fn mirrored(first: &Server, second: &Server) -> Mirrored {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[[registry]]\nlocation = \"docker.io\"\n\
         [[registry.mirror]]\nlocation = \"127.0.0.1:{}\"\n\
         [[registry.mirror]]\nlocation = \"127.0.0.1:{}\"\n",
        first.port, second.port
    );
    let settings = with_file(&directory, "registries.conf", &text);
    Mirrored::open(&settings, &"app:1".parse().unwrap()).unwrap()
}

#[test]
fn a_mirror_that_ends_in_the_middle_of_a_blob() {
    for ranges in [true, false] {
        let image = Arc::new(Image::new(300_000));
        let (broken, whole) = (Arc::clone(&image), Arc::clone(&image));
        let first = Server::start(move |request| match request.range() {
            // It gives the beginning, and then no more.
            Some(_) => Answer::lost(),
            None => serve(&broken, request).cut(100_000),
        });
        let second = Server::start(move |request| {
            let without = Request {
                headers: Vec::new(),
                ..request.clone()
            };
            serve(&whole, if ranges { request } else { &without })
        });
        let source = mirrored(&first, &second);
        source.manifest(&ManifestName::Default).unwrap();
        let blob = source.blob(&image.descriptor, 0).unwrap();
        assert_eq!(read_all(blob.reader).unwrap(), image.layer);
        let asked: Vec<_> = second.requests().iter().map(Request::range).collect();
        assert_eq!(asked, [Some(100_000)]);
    }
}

#[test]
fn a_registry_that_is_elsewhere_and_wants_headers() {
    let image = Arc::new(Image::new(10));
    let served = Arc::clone(&image);
    let other = Server::start(|_| Answer::new(404, ""));
    let elsewhere = other.url("/blob");
    let server = Server::start(move |request| match request.path() {
        path if path.contains("/blobs/") => Answer::new(307, "").header("location", &elsewhere),
        _ => serve(&served, request),
    });
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[host.\"http://127.0.0.1:{}/deep\"]\n[host.\"http://127.0.0.1:{}/deep\".header]\n\
         x-key = [\"secret\"]\n",
        server.port, server.port
    );
    let settings = with_file(&directory, "docker.io/hosts.toml", &text);
    let source = Mirrored::open(&settings, &"app:1".parse().unwrap()).unwrap();
    source.manifest(&ManifestName::Default).unwrap();
    let asked = server.requests();
    let manifest = asked.last().unwrap();
    assert_eq!(
        manifest.target,
        "/deep/v2/library/app/manifests/1?ns=docker.io"
    );
    assert_eq!(manifest.header("x-key"), Some("secret"));
    // Where that one sends us, its headers do not go.
    let repository = Settings {
        api: plyfs::registry::Api {
            headers: vec![("x-key".to_owned(), "secret".to_owned())],
            ..Default::default()
        },
        ..crate::lab::settings()
    };
    let repository = crate::lab::repository(&server.name("app"), repository);
    repository.blob(&image.descriptor, 0).unwrap_err();
    assert_eq!(other.requests().len(), 1);
    assert_eq!(other.requests()[0].header("x-key"), None);
}

#[test]
fn regression_a_tag_that_the_first_mirror_lacks_has_a_digest() {
    let first = Server::start(|request| match request.path() {
        "/v2/" => Answer::new(200, ""),
        _ => Answer::new(404, ""),
    });
    let image = Image::new(10);
    let digest = image.digest();
    let second = Server::start(move |_| {
        Answer::new(200, "").header("docker-content-digest", digest.to_string())
    });
    let source = mirrored(&first, &second);
    let found = source.digest_of(&ManifestName::Default).unwrap();
    assert_eq!(found, Some(digest));
}
