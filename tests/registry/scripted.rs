//! Against servers that do what the real one does not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plyfs::oci::{Descriptor, Digest, MediaType};
use plyfs::registry::{Credentials, Error, ManifestName, Settings, Source};

use crate::lab::{Image, noise, read_all, repository, settings, user};
use crate::server::{Answer, Request, Server};

/// Serves one image at `app`.
fn serve(image: &Image, request: &Request) -> Answer {
    let path = request.path();
    if path.starts_with("/v2/app/manifests/") {
        Answer::new(200, image.manifest.clone())
            .header("content-type", "application/vnd.oci.image.manifest.v1+json")
    } else if path == format!("/v2/app/blobs/{}", image.descriptor.digest) {
        Answer::range(request, &image.layer)
    } else {
        Answer::new(404, "")
    }
}

fn blob(content: &[u8]) -> Descriptor {
    Descriptor::of(MediaType::OciLayer, content)
}

/// Reads a blob of `app` from `offset` on, through errors of the reader as well.
fn fetch(server: &Server, content: &[u8], offset: u64) -> Result<(u64, Vec<u8>), Error> {
    let reader = repository(&server.name("app"), settings()).blob(&blob(content), offset)?;
    match read_all(reader.reader) {
        Ok(bytes) => Ok((reader.start, bytes)),
        Err(e) => Err(e.downcast::<Error>().unwrap()),
    }
}

/// A registry that wants tokens, and their server; `grant` decides on requests for tokens.
fn with_tokens(
    image: Arc<Image>,
    grant: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> (Server, Server) {
    let tokens = Server::start(grant);
    let realm = tokens.url("/token?x=1");
    let registry = Server::start(move |request| {
        if request.header("authorization") == Some("Bearer good") {
            return serve(&image, request);
        }
        Answer::new(401, "")
            .header("www-authenticate", "Negotiate")
            .header(
                "www-authenticate",
                format!(r#"Bearer realm="{realm}",service="lab, inc",scope="repository:app:pull""#),
            )
    });
    (registry, tokens)
}

#[test]
fn tokens_without_credentials() {
    let image = Arc::new(Image::new(100));
    let (registry, tokens) = with_tokens(Arc::clone(&image), |_| {
        Answer::new(200, r#"{"token":"good","expires_in":300}"#)
    });
    let source = repository(&registry.name("app"), settings());
    assert_eq!(
        source.manifest(&ManifestName::Default).unwrap().bytes,
        image.manifest
    );
    let reader = source.blob(&image.descriptor, 0).unwrap().reader;
    assert_eq!(read_all(reader).unwrap(), image.layer);

    let asked = tokens.requests();
    assert_eq!(asked.len(), 1, "the token is used again");
    assert_eq!(
        asked[0].target,
        "/token?x=1&service=lab%2C%20inc&scope=repository%3Aapp%3Apull&client_id=plyfs"
    );
    assert_eq!(asked[0].header("authorization"), None);
    assert!(asked[0].header("user-agent").unwrap().starts_with("plyfs/"));
}

#[test]
fn tokens_for_a_password() {
    let image = Arc::new(Image::new(100));
    let (registry, tokens) = with_tokens(Arc::clone(&image), |request| {
        match request.header("authorization") {
            Some("Basic YWxpY2U6cHc=") => Answer::new(200, r#"{"access_token":"good"}"#),
            _ => Answer::new(401, ""),
        }
    });
    let pull = |credentials: Option<Credentials>| {
        repository(
            &registry.name("app"),
            Settings {
                credentials,
                ..settings()
            },
        )
        .manifest(&ManifestName::Default)
    };
    assert_eq!(pull(user("alice", "pw")).unwrap().bytes, image.manifest);
    assert!(tokens.requests()[0].target.ends_with("&account=alice"));
    for request in registry.requests() {
        assert!(
            !request
                .header("authorization")
                .is_some_and(|it| it.starts_with("Basic"))
        );
    }
    assert!(matches!(
        pull(user("alice", "no")),
        Err(Error::Unauthorized { .. })
    ));
    assert!(matches!(pull(None), Err(Error::Unauthorized { .. })));
}

#[test]
fn tokens_for_an_identity_token() {
    let image = Arc::new(Image::new(100));
    for knows_oauth in [true, false] {
        let (registry, tokens) = with_tokens(Arc::clone(&image), move |request| {
            match (request.method.as_str(), knows_oauth) {
                ("POST", false) => Answer::new(405, ""),
                ("POST", true) | ("GET", false) => Answer::new(200, r#"{"access_token":"good"}"#),
                _ => Answer::new(401, ""),
            }
        });
        let credentials = Some(Credentials::IdentityToken("id/1".into()));
        let source = repository(
            &registry.name("app"),
            Settings {
                credentials,
                ..settings()
            },
        );
        assert_eq!(
            source.manifest(&ManifestName::Default).unwrap().bytes,
            image.manifest
        );
        let first = &tokens.requests()[0];
        assert!(
            String::from_utf8_lossy(&first.body)
                .contains("grant_type=refresh_token&refresh_token=id%2F1&"),
            "{first:?}"
        );
    }
}

#[test]
fn a_token_that_ends_early_is_replaced() {
    let image = Arc::new(Image::new(100));
    let used = AtomicUsize::new(0);
    let served = Arc::clone(&image);
    let tokens = Server::start(|_| Answer::new(200, r#"{"token":"good"}"#));
    let realm = tokens.url("/token");
    let registry = Server::start(move |request| {
        // Every second use is refused.
        let refused = request.header("authorization").is_none()
            || used.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        if refused {
            return Answer::new(401, "")
                .header("www-authenticate", format!(r#"Bearer realm="{realm}""#));
        }
        serve(&served, request)
    });
    let source = repository(&registry.name("app"), settings());
    for _ in 0..3 {
        assert_eq!(
            source.manifest(&ManifestName::Default).unwrap().bytes,
            image.manifest
        );
    }
    assert!(
        tokens.requests()[0]
            .target
            .contains("scope=repository%3Aapp%3Apull")
    );
}

#[test]
fn a_token_that_does_not_help() {
    let (registry, tokens) = with_tokens(Arc::new(Image::new(1)), |_| {
        Answer::new(200, r#"{"token":"bad"}"#)
    });
    let source = repository(&registry.name("app"), settings());
    let error = source.manifest(&ManifestName::Default).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert_eq!(tokens.requests().len(), 1);
}

#[test]
fn token_servers_that_must_not_be_asked() {
    for realm in [
        "http://169.254.169.254/t",
        "http://10.0.0.1/t",
        "file:///etc/passwd",
        "t",
    ] {
        let registry = Server::start(move |_| {
            Answer::new(401, "").header("www-authenticate", format!(r#"Bearer realm="{realm}""#))
        });
        let source = repository(&registry.name("app"), settings());
        let error = source.manifest(&ManifestName::Default).unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{realm}: {error}");
    }
    // Neither by way of a redirect.
    let (registry, _tokens) = with_tokens(Arc::new(Image::new(1)), |_| {
        Answer::new(302, "").header("location", "http://169.254.169.254/latest/meta-data")
    });
    let source = repository(&registry.name("app"), settings());
    let error = source
        .manifest(&ManifestName::Default)
        .unwrap_err()
        .to_string();
    assert!(error.contains("private network"), "{error}");
}

/// Settings of somebody who has credentials.
fn logged_in() -> Settings {
    Settings {
        credentials: user("alice", "pw"),
        ..settings()
    }
}

#[test]
fn credentials_stay_with_their_host() {
    let image = Arc::new(Image::new(1000));
    let served = Arc::clone(&image);
    let storage = Server::start(move |request| Answer::range(request, &served.layer));
    let elsewhere = storage.url("/signed?key=secret");
    let registry = Server::start(move |request| match request.header("authorization") {
        None => Answer::new(401, "").header("www-authenticate", r#"Basic realm="x""#),
        Some(_) if request.path() == "/moved" => {
            Answer::new(307, "").header("location", elsewhere.clone())
        }
        Some(_) => Answer::new(302, "").header("location", "/moved"),
    });
    let source = repository(&registry.name("app"), logged_in());
    let reader = source.blob(&image.descriptor, 10).unwrap();
    assert_eq!(
        (reader.start, read_all(reader.reader).unwrap()),
        (10, image.layer[10..].to_vec())
    );
    let moved = registry
        .requests()
        .into_iter()
        .find(|request| request.path() == "/moved")
        .unwrap();
    assert!(
        moved.header("authorization").is_some(),
        "the same host still gets them"
    );
    let asked = storage.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].header("authorization"), asked[0].range()),
        (None, Some(10))
    );
}

#[test]
fn redirects_end() {
    let registry = Server::start(|_| Answer::new(302, "").header("location", "/again"));
    let error = fetch(&registry, b"x", 0).unwrap_err().to_string();
    assert!(error.contains("more than 10 times"), "{error}");
}

#[test]
fn manifests_that_are_not_what_they_should_be() {
    let image = Image::new(1);
    let other = Digest::of(b"other");
    let manifest = image.manifest.clone();
    let registry = Server::start(move |request| {
        let answer = Answer::new(200, manifest.clone());
        match request.path().rsplit('/').next().unwrap() {
            "mislabelled" => {
                answer.header("content-type", "application/vnd.oci.image.index.v1+json")
            }
            "corrupt" => answer.header("docker-content-digest", other.to_string()),
            "large" => Answer::new(200, vec![b' '; (4 << 20) + 1]),
            "schema1" => Answer::new(200, r#"{"schemaVersion":1}"#),
            "page" => Answer::new(200, "<html>").header("content-type", "text/html"),
            _ => answer,
        }
    });
    let source = repository(&registry.name("app"), settings());
    let error = |which: ManifestName| source.manifest(&which).unwrap_err();
    let by_tag = |tag: &str| error(ManifestName::Tag(tag.into()));
    assert!(matches!(by_tag("mislabelled"), Error::Document(_)));
    assert!(matches!(by_tag("corrupt"), Error::DigestMismatch { .. }));
    assert!(matches!(by_tag("large"), Error::TooLarge { .. }));
    assert!(by_tag("schema1").to_string().contains("schema 1"));
    assert!(matches!(by_tag("page"), Error::Document(_)));
    assert!(matches!(by_tag("../../x"), Error::Document(_)));
    let mismatch = error(ManifestName::Digest(other));
    assert!(matches!(mismatch, Error::DigestMismatch { expected, .. } if *expected == other));
    assert!(
        source
            .manifest(&ManifestName::Digest(image.digest()))
            .is_ok()
    );
}

#[test]
fn a_busy_server_is_given_time() {
    let image = Arc::new(Image::new(1));
    let (served, asked) = (Arc::clone(&image), AtomicUsize::new(0));
    let registry = Server::start(move |request| {
        match (
            request.target.as_str(),
            asked.fetch_add(1, Ordering::Relaxed),
        ) {
            ("/v2/", _) => Answer::new(200, ""),
            (_, 1) => Answer::new(429, "").header("retry-after", "1"),
            (_, 2) => Answer::new(503, ""),
            _ => serve(&served, request),
        }
    });
    let started = Instant::now();
    let source = repository(&registry.name("app"), settings());
    assert_eq!(
        source.manifest(&ManifestName::Default).unwrap().bytes,
        image.manifest
    );
    assert!(started.elapsed() >= Duration::from_secs(1));

    let registry = Server::start(|_| {
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"Log in for more."}]}"#;
        Answer::new(429, body)
            .header("ratelimit-limit", "100;w=21600")
            .header("ratelimit-remaining", "0;w=21600")
            .header("date", "Wed, 21 Oct 2015 07:28:00 GMT")
            .header("retry-after", "Wed, 21 Oct 2015 08:28:00 GMT")
    });
    let source = repository(&registry.name("app"), settings());
    let error = source.manifest(&ManifestName::Default).unwrap_err();
    let expected = "refuses further requests for now: Log in for more; it answers 100 requests in \
        6 h; it asks to wait for 3600 seconds";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert!(matches!(&error, Error::RateLimited(limit) if limit.anonymous));
    assert_eq!(registry.requests().len(), 1);

    let registry = Server::start(|_| {
        Answer::new(
            500,
            r#"{"errors":[{"code":"UNKNOWN","message":"disk full"}]}"#,
        )
    });
    let error = fetch(&registry, b"x", 0).unwrap_err().to_string();
    assert!(
        error.ends_with("answered with status 500: disk full"),
        "{error}"
    );
    assert_eq!(registry.requests().len(), 6);
}

#[test]
fn lost_connections_are_resumed() {
    let content = noise(100_000);
    let served = content.clone();
    let registry = Server::start(move |request| Answer::range(request, &served).cut(7_000));
    for offset in [0, 95_000] {
        let (start, bytes) = fetch(&registry, &content, offset).unwrap();
        assert_eq!((start, &bytes[..]), (offset, &content[offset as usize..]));
    }
    let ranges: Vec<_> = registry
        .requests()
        .iter()
        .filter_map(Request::range)
        .collect();
    assert_eq!(ranges[..3], [7_000, 14_000, 21_000]);
}

#[test]
fn connections_that_bring_nothing_end() {
    let content = noise(1000);
    let served = content.clone();
    let registry = Server::start(move |request| Answer::range(request, &served).cut(0));
    let error = fetch(&registry, &content, 0).unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "{error}");
    assert_eq!(registry.requests().len(), 6);
}

#[test]
fn servers_without_ranges() {
    let content = noise(50_000);
    let served = content.clone();
    let asked = AtomicUsize::new(0);
    let registry = Server::start(move |_| {
        let answer = Answer::new(200, served.clone());
        match asked.fetch_add(1, Ordering::Relaxed) {
            2 => answer.cut(20_000),
            _ => answer,
        }
    });
    // The probe, a blob from the middle, and one whose connection breaks.
    assert_eq!(
        fetch(&registry, &content, 30_000).unwrap(),
        (0, content.clone())
    );
    assert_eq!(fetch(&registry, &content, 0).unwrap(), (0, content));
}

#[test]
fn ranges_that_are_wrong() {
    let content = noise(1000);
    for (status, range) in [(206, "bytes 0-999/1000"), (206, "nonsense"), (204, "")] {
        let served = content.clone();
        let registry = Server::start(move |_| {
            Answer::new(status, served.clone()).header("content-range", range)
        });
        let error = fetch(&registry, &content, 500).unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{range}: {error}");
    }
    let registry = Server::start(|_| Answer::new(416, ""));
    let error = fetch(&registry, &content, 500).unwrap_err();
    assert!(
        matches!(error, Error::RangeNotSatisfiable { offset: 500, .. }),
        "{error}"
    );
}

#[test]
fn blobs_of_another_size() {
    for (sent, chunked) in [
        (&b"abc"[..], false),
        (b"a", false),
        (b"abc", true),
        (b"a", true),
    ] {
        let registry = Server::start(move |_| {
            if chunked {
                let mut body = format!("{:x}\r\n", sent.len()).into_bytes();
                body.extend_from_slice(sent);
                body.extend_from_slice(b"\r\n0\r\n\r\n");
                Answer::new(200, body).header("transfer-encoding", "chunked")
            } else {
                Answer::new(200, sent)
            }
        });
        let error = fetch(&registry, b"ab", 0).unwrap_err();
        let expected = matches!(error, Error::Protocol { .. } | Error::Network { .. });
        assert!(expected, "{sent:?} {chunked}: {error}");
    }
}

#[test]
fn foreign_layers() {
    let content = noise(1000);
    let served = content.clone();
    let vendor = Server::start(move |request| Answer::range(request, &served));
    let registry = Server::start(|request| match request.header("authorization") {
        None => Answer::new(401, "").header("www-authenticate", r#"Basic realm="x""#),
        Some(_) => Answer::new(404, ""),
    });
    let source = repository(&registry.name("app"), logged_in());
    let mut foreign = Descriptor::of(MediaType::DockerForeignLayerGzip, &content);
    foreign.urls = vec![
        "ftp://x/".into(),
        "http://169.254.169.254/x".into(),
        vendor.url("/layer"),
    ];
    let reader = source.blob(&foreign, 10).unwrap();
    assert_eq!(read_all(reader.reader).unwrap(), content[10..]);
    assert_eq!(vendor.requests()[0].header("authorization"), None);
    foreign.urls.truncate(2);
    assert!(source.blob(&foreign, 0).is_err());
    // The addresses of other layers are not followed.
    let other = Descriptor {
        media_type: MediaType::OciLayer,
        urls: vec![vendor.url("/x")],
        ..foreign
    };
    assert!(matches!(
        source.blob(&other, 0),
        Err(Error::NotFound { .. })
    ));
}

#[test]
fn tags_on_many_pages() {
    let registry = Server::start(|request| match request.target.as_str() {
        "/v2/app/tags/list?n=1000" => Answer::new(200, r#"{"name":"app","tags":["a","b"]}"#)
            .header("link", r#"</v2/app/tags/list?last=b&n=2>; rel="next""#),
        "/v2/app/tags/list?last=b&n=2" => Answer::new(200, r#"{"name":"app","tags":["c"]}"#),
        "/v2/none/tags/list?n=1000" => Answer::new(200, r#"{"name":"none","tags":null}"#),
        "/v2/away/tags/list?n=1000" => Answer::new(200, r#"{"tags":["a"]}"#)
            .header("link", r#"<http://127.0.0.1:1/steal>; rel="next""#),
        _ => Answer::new(404, ""),
    });
    assert_eq!(
        repository(&registry.name("app"), settings())
            .tags()
            .unwrap(),
        ["a", "b", "c"]
    );
    assert!(
        repository(&registry.name("none"), settings())
            .tags()
            .unwrap()
            .is_empty()
    );
    let error = repository(&registry.name("away"), settings())
        .tags()
        .unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

#[test]
fn a_server_that_falls_silent() {
    let content = noise(1000);
    let served = content.clone();
    // Silent for as long as the client waits, and longer.
    let silence = Arc::new(Mutex::new(()));
    let (silent, is_over) = (silence.lock().unwrap(), Arc::clone(&silence));
    let registry = Server::start(move |request| {
        if request.range().is_none() && request.target != "/v2/" {
            drop(is_over.lock());
        }
        Answer::range(request, &served)
    });
    let impatient = Settings {
        stall_timeout: Duration::from_millis(200),
        attempts: 2,
        ..settings()
    };
    let error = repository(&registry.name("app"), impatient)
        .blob(&blob(&content), 0)
        .unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "{error}");
    drop(silent);
}

#[test]
fn access_denied() {
    let registry = Server::start(|_| {
        Answer::new(
            403,
            r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#,
        )
    });
    let error = fetch(&registry, b"x", 0).unwrap_err();
    assert!(matches!(error, Error::Denied { .. }));
    assert!(
        error.to_string().ends_with("denies access: not for you"),
        "{error}"
    );
}
