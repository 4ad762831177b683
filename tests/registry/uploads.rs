//! Pushing, to servers that do what the real one does not.

use std::fs::File;
use std::sync::{Arc, Mutex};

use plyfs::oci::{Descriptor, Digest, MediaType};
use plyfs::registry::{
    BlobSource, Credentials, Error, KeptUpload, ManifestName, Registry, Repository, Settings,
    Upload, Uploads,
};

use crate::lab::{noise, settings, user};
use crate::server::{Answer, Request, Server};

const CHUNK: usize = 16 << 20;

/// A registry that keeps one blob of `app`, or what has come of it.
#[derive(Default)]
struct Kept {
    received: Vec<u8>,
    finished: Vec<Vec<u8>>,
}

type Shared = Arc<Mutex<Kept>>;

/// What the real one would do.
fn keep(kept: &Shared, request: &Request) -> Answer {
    let mut kept = kept.lock().unwrap();
    let accepted = |kept: &Kept, status| {
        let last = kept.received.len().saturating_sub(1);
        Answer::new(status, "")
            .header("location", "/v2/app/blobs/uploads/1?state=x")
            .header("range", format!("0-{last}"))
    };
    match (request.method.as_str(), request.path()) {
        ("HEAD", _) => {
            let wanted = |blob: &Vec<u8>| request.path().ends_with(&Digest::of(blob).hex());
            Answer::new(
                if kept.finished.iter().any(wanted) {
                    200
                } else {
                    404
                },
                "",
            )
        }
        ("POST", "/v2/app/blobs/uploads/") => {
            kept.received.clear();
            accepted(&kept, 202)
        }
        ("PATCH", _) => {
            let range = request.header("content-range").unwrap();
            let start: usize = range.split('-').next().unwrap().parse().unwrap();
            assert_eq!(start, kept.received.len(), "a part in the wrong place");
            kept.received.extend_from_slice(&request.body);
            accepted(&kept, 202)
        }
        ("GET", "/v2/app/blobs/uploads/1") => accepted(&kept, 204),
        ("PUT", "/v2/app/blobs/uploads/1") => {
            kept.received.extend_from_slice(&request.body);
            let blob = std::mem::take(&mut kept.received);
            let answer = Answer::new(201, "");
            let answer = answer.header("docker-content-digest", Digest::of(&blob).to_string());
            kept.finished.push(blob);
            answer
        }
        _ => Answer::new(200, ""),
    }
}

fn writable(server: &Server, settings: Settings) -> Repository {
    Registry::new(settings).writable(&server.name("app").parse().unwrap())
}

fn push_with(
    server: &Server,
    content: &[u8],
    settings: Settings,
    elsewhere: &[String],
) -> Result<Upload, Error> {
    push_keeping(server, content, settings, elsewhere, &())
}

fn push_keeping(
    server: &Server,
    content: &[u8],
    settings: Settings,
    elsewhere: &[String],
    uploads: &dyn Uploads,
) -> Result<Upload, Error> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    std::fs::write(&path, content).unwrap();
    writable(server, settings).push_blob(&BlobSource {
        descriptor: &Descriptor::of(MediaType::OciLayer, content),
        file: Some(&File::open(path).unwrap()),
        elsewhere,
        sent: &|_| {},
        uploads,
    })
}

fn push(server: &Server, content: &[u8]) -> Result<Upload, Error> {
    push_with(server, content, settings(), &[])
}

/// The requests with the methods given, as `METHOD range`.
fn asked(server: &Server, methods: &[&str]) -> Vec<String> {
    let requests = server.requests().into_iter();
    let asked = requests.filter(|request| methods.contains(&request.method.as_str()));
    asked
        .map(|request| {
            let range = request.header("content-range").unwrap_or_default();
            format!("{} {range}", request.method).trim().to_owned()
        })
        .collect()
}

#[test]
fn small_blobs_go_at_once_and_large_ones_in_parts() {
    let kept = Shared::default();
    let shared = Arc::clone(&kept);
    let server = Server::start(move |request| keep(&shared, request));
    assert_eq!(push(&server, b"small").unwrap(), Upload::Sent);
    assert_eq!(push(&server, b"small").unwrap(), Upload::Exists);
    assert_eq!(push(&server, b"").unwrap(), Upload::Sent);
    let large = noise(CHUNK + 10);
    assert_eq!(push(&server, &large).unwrap(), Upload::Sent);
    let finished = &kept.lock().unwrap().finished;
    assert_eq!(finished[..], [b"small".to_vec(), Vec::new(), large]);
    let first = format!("PATCH 0-{}", CHUNK - 1);
    let second = format!("PATCH {CHUNK}-{}", CHUNK + 9);
    let methods = ["POST", "PATCH", "PUT"];
    assert_eq!(
        asked(&server, &methods),
        [
            "POST",
            "PUT",
            "POST",
            "PUT",
            "POST",
            first.as_str(),
            second.as_str(),
            "PUT"
        ]
    );
}

#[test]
fn a_registry_may_want_larger_parts() {
    let kept = Shared::default();
    let shared = Arc::clone(&kept);
    let least = CHUNK + 1000;
    let server = Server::start(move |request| {
        keep(&shared, request).header("oci-chunk-min-length", least.to_string())
    });
    let large = noise(CHUNK + 2000);
    push(&server, &large).unwrap();
    assert_eq!(
        asked(&server, &["PATCH"])[0],
        format!("PATCH 0-{}", least - 1)
    );
    assert_eq!(kept.lock().unwrap().finished, [large]);
}

#[test]
fn a_broken_upload_goes_on_where_the_registry_is() {
    let kept = Shared::default();
    let (shared, broken) = (Arc::clone(&kept), Mutex::new(false));
    let server = Server::start(move |request| {
        let mut broken = broken.lock().unwrap();
        if request.method == "PATCH" && !shared.lock().unwrap().received.is_empty() && !*broken {
            *broken = true;
            let half = &request.body[..request.body.len() / 2];
            shared.lock().unwrap().received.extend_from_slice(half);
            return Answer::lost();
        }
        keep(&shared, request)
    });
    let large = noise(CHUNK + 1000);
    assert_eq!(push(&server, &large).unwrap(), Upload::Sent);
    assert_eq!(kept.lock().unwrap().finished, [large]);
    let first = format!("PATCH 0-{}", CHUNK - 1);
    let lost = format!("PATCH {CHUNK}-{}", CHUNK + 999);
    let rest = format!("PATCH {}-{}", CHUNK + 500, CHUNK + 999);
    assert_eq!(
        asked(&server, &["POST", "PATCH", "PUT"]),
        ["POST", &first, &lost, &rest, "PUT"]
    );
}

/// Keeps one upload, as the store does.
#[derive(Default)]
struct OneUpload(Mutex<Option<KeptUpload>>);

impl Uploads for OneUpload {
    fn recall(&self, repository: &str, _blob: &Digest) -> Option<KeptUpload> {
        assert!(repository.ends_with("/app"), "{repository}");
        self.0.lock().unwrap().clone()
    }

    fn keep(&self, _repository: &str, _blob: &Digest, upload: Option<&KeptUpload>) {
        *self.0.lock().unwrap() = upload.cloned();
    }
}

#[test]
fn an_upload_goes_on_in_a_later_push() {
    for remembered in [true, false] {
        let kept = Shared::default();
        let (shared, gone) = (Arc::clone(&kept), Arc::new(Mutex::new(true)));
        let is_gone = Arc::clone(&gone);
        let server = Server::start(move |request| match request.method.as_str() {
            "PATCH"
                if shared.lock().unwrap().received.len() == CHUNK && *is_gone.lock().unwrap() =>
            {
                Answer::new(401, "")
            }
            "GET" if !remembered && request.target.contains("uploads") => Answer::new(404, ""),
            _ => keep(&shared, request),
        });
        let (large, uploads) = (noise(CHUNK + 1000), OneUpload::default());
        let push = || push_keeping(&server, &large, settings(), &[], &uploads);
        push().unwrap_err();
        let address = uploads.0.lock().unwrap().as_ref().unwrap().address.clone();
        assert_eq!(address, server.url("/v2/app/blobs/uploads/1?state=x"));
        *gone.lock().unwrap() = false;
        assert_eq!(push().unwrap(), Upload::Sent);
        assert_eq!(kept.lock().unwrap().finished, [large]);
        assert_eq!(*uploads.0.lock().unwrap(), None);
        // What the registry has still is not sent again; what it has given up begins anew.
        let opened = if remembered { 1 } else { 2 };
        assert_eq!(asked(&server, &["POST"]).len(), opened);
    }
}

#[test]
fn a_lost_answer_makes_nothing_happen_twice() {
    let kept = Shared::default();
    let shared = Arc::clone(&kept);
    let server = Server::start(move |request| {
        let answer = keep(&shared, request);
        match request.method.as_str() {
            "PUT" => Answer::lost(),
            _ => answer,
        }
    });
    assert_eq!(push(&server, b"small").unwrap(), Upload::Sent);
    assert_eq!(kept.lock().unwrap().finished.len(), 1);
    assert_eq!(asked(&server, &["POST", "PUT"]), ["POST", "PUT"]);
}

#[test]
fn an_upload_that_the_registry_forgets_begins_anew() {
    let kept = Shared::default();
    let (shared, broken) = (Arc::clone(&kept), Mutex::new(false));
    let server = Server::start(move |request| {
        let mut broken = broken.lock().unwrap();
        match (request.method.as_str(), *broken) {
            ("PATCH", false) => {
                *broken = true;
                Answer::lost()
            }
            ("GET", _) if request.target.contains("uploads") => Answer::new(404, ""),
            _ => keep(&shared, request),
        }
    });
    let large = noise(CHUNK + 1);
    assert_eq!(push(&server, &large).unwrap(), Upload::Sent);
    assert_eq!(kept.lock().unwrap().finished, [large]);
    assert_eq!(asked(&server, &["POST"]).len(), 2);
}

#[test]
fn regression_a_blob_that_begins_anew_is_not_given_up() {
    let kept = Shared::default();
    let (shared, broken) = (Arc::clone(&kept), Mutex::new(false));
    let server = Server::start(move |request| {
        let mut broken = broken.lock().unwrap();
        let received = shared.lock().unwrap().received.len();
        match request.method.as_str() {
            "PATCH" if received == 2 * CHUNK && !*broken => {
                *broken = true;
                Answer::lost()
            }
            "GET" if request.target.contains("uploads") => Answer::new(404, ""),
            _ => keep(&shared, request),
        }
    });
    let large = noise(2 * CHUNK + 1);
    // What was sent before, and is sent again, is no failure.
    let few = Settings {
        attempts: 3,
        ..settings()
    };
    assert_eq!(push_with(&server, &large, few, &[]).unwrap(), Upload::Sent);
    assert_eq!(kept.lock().unwrap().finished, [large]);
}

#[test]
fn registries_that_take_no_parts_get_the_whole() {
    let kept = Shared::default();
    let shared = Arc::clone(&kept);
    let server = Server::start(move |request| match request.method.as_str() {
        "PATCH" => Answer::new(405, ""),
        _ => keep(&shared, request),
    });
    let large = noise(CHUNK + 1);
    assert_eq!(push(&server, &large).unwrap(), Upload::Sent);
    assert_eq!(kept.lock().unwrap().finished, [large]);
}

#[test]
fn what_registries_refuse() {
    for (status, body, expected) in [
        (405, "", "does not take it: it is read-only"),
        (413, "", "too large, or more than the quota allows"),
        (
            403,
            r#"{"errors":[{"message":"not for you"}]}"#,
            "denies access: not for you",
        ),
        (
            400,
            r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#,
            "status 400: DIGEST_INVALID",
        ),
        (404, "", "there is no repository"),
    ] {
        let server = Server::start(move |request| match request.method.as_str() {
            "GET" => Answer::new(200, ""),
            "HEAD" => Answer::new(404, ""),
            _ => Answer::new(status, body),
        });
        let error = push(&server, b"x").unwrap_err().to_string();
        assert!(error.contains(expected), "{status}: {error}");
        assert_eq!(asked(&server, &["POST"]).len(), 1, "{status}");
    }
    // One that stays busy is asked as often as patience goes, and not once more.
    let server = Server::start(|request| match request.method.as_str() {
        "GET" => Answer::new(200, ""),
        "HEAD" => Answer::new(404, ""),
        _ => Answer::new(503, ""),
    });
    let error = push(&server, b"x").unwrap_err().to_string();
    assert!(error.contains("status 503"), "{error}");
    assert_eq!(
        asked(&server, &["POST"]).len(),
        settings().attempts as usize
    );
}

#[test]
fn what_arrives_must_be_what_was_sent() {
    let kept = Shared::default();
    let other = Digest::of(b"other").to_string();
    let server = Server::start(move |request| match request.method.as_str() {
        "PUT" => Answer::new(201, "").header("docker-content-digest", other.clone()),
        _ => keep(&kept, request),
    });
    let error = push(&server, b"x").unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    let repository = writable(&server, settings());
    let tag = ManifestName::Tag("1".into());
    let error = repository.push_manifest(&tag, &MediaType::OciManifest, b"{}");
    assert!(matches!(error, Err(Error::DigestMismatch { .. })));
}

#[test]
fn mounts_ask_for_both_repositories() {
    let tokens = Server::start(|_| Answer::new(200, r#"{"token":"good"}"#));
    let realm = tokens.url("/token");
    let server = Server::start(move |request| {
        if request.header("authorization").is_none() {
            let challenge =
                format!(r#"Bearer realm="{realm}",scope="repository:app:pull",service="s""#);
            return Answer::new(401, "").header("www-authenticate", challenge);
        }
        match request.method.as_str() {
            "HEAD" => Answer::new(404, ""),
            _ => Answer::new(201, ""),
        }
    });
    let credentials: Option<Credentials> = user("me", "pw");
    let settings = Settings {
        credentials,
        ..settings()
    };
    let pushed = push_with(&server, b"x", settings, &["team/other".to_owned()]);
    assert_eq!(pushed.unwrap(), Upload::Mounted("team/other".into()));
    let mount = server.requests().pop().unwrap();
    assert!(mount.target.ends_with("&from=team%2Fother"), "{mount:?}");
    let scopes: Vec<_> = tokens.requests().into_iter().map(|it| it.target).collect();
    let own = "scope=repository%3Aapp%3Apull%2Cpush";
    let other = "scope=repository%3Ateam%2Fother%3Apull";
    assert!(
        scopes[0].contains(own) && !scopes[0].contains(other),
        "{scopes:?}"
    );
    assert!(
        scopes[1].contains(own) && scopes[1].contains(other),
        "{scopes:?}"
    );
}

#[test]
fn credentials_do_not_follow_an_upload_elsewhere() {
    let kept = Shared::default();
    let shared = Arc::clone(&kept);
    let storage = Server::start(move |request| keep(&shared, request));
    let place = storage.url("/v2/app/blobs/uploads/1");
    let server = Server::start(move |request| match request.header("authorization") {
        None => Answer::new(401, "").header("www-authenticate", r#"Basic realm="x""#),
        Some(_) if request.method == "HEAD" => Answer::new(404, ""),
        Some(_) => Answer::new(202, "").header("location", place.clone()),
    });
    let settings = Settings {
        credentials: user("me", "pw"),
        ..settings()
    };
    push_with(&server, b"x", settings, &[]).unwrap();
    assert_eq!(kept.lock().unwrap().finished, [b"x".to_vec()]);
    for request in storage.requests() {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
}
