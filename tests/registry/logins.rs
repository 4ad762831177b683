//! Logins, with token servers of all kinds.

use plyfs::oci::RegistryName;
use plyfs::registry::{Credentials, Error, Registry, Settings};

use crate::lab::{settings, user};
use crate::server::{Answer, Server};

fn log_in(server: &Server, credentials: Option<Credentials>) -> Result<Credentials, Error> {
    let name: RegistryName = server.name("").trim_end_matches('/').parse().unwrap();
    let settings = Settings {
        credentials,
        ..settings()
    };
    Registry::new(settings).log_in(&name)
}

/// A registry whose token server gives this answer to who knows the password.
fn with_tokens(answer: &'static str) -> (Server, Server) {
    let tokens = Server::start(move |request| match request.header("authorization") {
        Some("Basic bWU6c2VjcmV0") => Answer::new(200, answer),
        _ => Answer::new(401, ""),
    });
    let realm = tokens.url("/token");
    let registry = Server::start(move |request| match request.header("authorization") {
        Some("Bearer good") => Answer::new(200, "{}"),
        _ => Answer::new(401, "").header(
            "www-authenticate",
            format!(r#"Bearer realm="{realm}",service="s""#),
        ),
    });
    (registry, tokens)
}

#[test]
fn token_servers() {
    let (registry, tokens) = with_tokens(r#"{"token":"good"}"#);
    let me = user("me", "secret");
    assert_eq!(log_in(&registry, me.clone()).unwrap(), me.clone().unwrap());
    let asked = &tokens.requests()[0].target;
    assert_eq!(
        asked,
        "/token?service=s&client_id=plyfs&account=me&offline_token=true"
    );
    let error = log_in(&registry, user("me", "wrong")).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert!(matches!(
        log_in(&registry, None),
        Err(Error::Unauthorized { .. })
    ));

    // One that gives something better than a password to be kept.
    let (registry, _tokens) = with_tokens(r#"{"token":"good","refresh_token":"for later"}"#);
    let kept = log_in(&registry, me.clone()).unwrap();
    assert_eq!(kept, Credentials::IdentityToken("for later".into()));

    // One whose tokens the registry does not know.
    let (registry, _tokens) = with_tokens(r#"{"token":"bad"}"#);
    let error = log_in(&registry, me).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
}

#[test]
fn passwords_and_registries_without() {
    let registry = Server::start(|request| match request.header("authorization") {
        Some("Basic bWU6c2VjcmV0") => Answer::new(200, "{}"),
        _ => Answer::new(401, "").header("www-authenticate", r#"Basic realm="x""#),
    });
    assert!(log_in(&registry, user("me", "secret")).is_ok());
    let error = log_in(&registry, user("me", "wrong")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("credentials of \"me\" were refused"),
        "{error}"
    );

    let open = Server::start(|_| Answer::new(200, "{}"));
    assert!(log_in(&open, user("me", "any")).is_ok());
    let none = Server::start(|_| Answer::new(404, ""));
    let error = log_in(&none, user("me", "any")).unwrap_err().to_string();
    assert!(
        error.contains("there is no registry at http://127.0.0.1"),
        "{error}"
    );
}
