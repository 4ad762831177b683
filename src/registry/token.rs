//! Authorization at registries: what they ask for, and the tokens that answer it.
//!
//! # See
//!
//! <https://distribution.github.io/distribution/spec/auth/token/> and `oauth/`; RFC 7235

use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::exact::read_limited;
use super::message::{Content, Method, Request, Response};
use super::transport::Transport;
use super::url::{Url, form};
use super::{Credentials, Error};
use crate::oci::quoted;

const CLIENT_ID: &str = "plyfs";
const LARGEST_ANSWER: u64 = 1 << 20;
/// How long a token lasts whose server does not say, by the specification.
const DEFAULT_LIFETIME: u64 = 60;
/// No token is used in its last seconds, in which it would expire on its way.
const MARGIN: u64 = 5;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from the server at `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best of what `WWW-Authenticate` headers offer.
    pub(super) fn from_headers<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for header in headers {
            // A challenge that cannot be read must not hide the ones before it.
            for challenge in http_auth::ChallengeParser::new(header) {
                let challenge = match challenge {
                    Ok(challenge) => challenge,
                    Err(e) => {
                        log::debug!("cannot understand what the registry asks for: {e}");
                        continue;
                    }
                };
                let parameter = |name: &str| {
                    let found = challenge
                        .params
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                } else if challenge.scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = parameter("realm")
                {
                    let (service, scope) = (parameter("service"), parameter("scope"));
                    return Some(Self::Bearer {
                        realm,
                        service,
                        scope,
                    });
                }
            }
        }
        basic
    }
}

/// What goes into the `Authorization` header, and for how long.
#[derive(Clone)]
pub(super) struct Authorization {
    pub(super) header: String,
    /// What serves in the place of name and password from now on, if the token server has given that.
    pub(super) identity: Option<String>,
    expires: Option<Instant>,
}

impl fmt::Debug for Authorization {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Authorization {
    /// Name and password.
    pub(super) fn basic(username: &str, password: &str) -> Self {
        let pair = BASE64_STANDARD.encode(format!("{username}:{password}"));
        Self {
            header: format!("Basic {pair}"),
            identity: None,
            expires: None,
        }
    }

    /// Whether it is too old to be used.
    pub(super) fn has_expired(&self) -> bool {
        self.expires
            .is_some_and(|expires| Instant::now() >= expires)
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    refresh_token: Option<String>,
}

/// Gets a token from the server that a challenge names.
pub(super) struct TokenRequest<'a> {
    pub(super) transport: &'a Transport,
    /// The registry's address.
    pub(super) registry: &'a Url,
    pub(super) realm: &'a str,
    pub(super) service: Option<&'a str>,
    /// One or several, separated by spaces.
    pub(super) scope: &'a str,
    /// Whether a token is wanted that can be kept.
    pub(super) is_login: bool,
    pub(super) credentials: Option<&'a Credentials>,
}

impl TokenRequest<'_> {
    /// Gets the token.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] if the server does not accept the credentials, or wants some;
    /// [`Error::Protocol`] if it is not a server that may be asked, or its answer makes no sense.
    pub(super) fn send(&self) -> Result<Authorization, Error> {
        let wrong = |why: String| Error::Protocol {
            url: self.registry.to_string(),
            why,
        };
        let realm =
            Url::parse(self.realm).map_err(|why| wrong(format!("the token server {why}")))?;
        let response = match self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                let response = self.post(&realm, token)?;
                // Servers that do not know this protocol take the token for a password.
                if matches!(response.status(), 401 | 404 | 405) {
                    self.get(&realm, Some(("<token>", token)))?
                } else {
                    response
                }
            }
            Some(Credentials::Basic { username, password }) => {
                self.get(&realm, Some((username, password)))?
            }
            None => self.get(&realm, None)?,
        };
        self.read(response)
    }

    fn get(&self, realm: &Url, user: Option<(&str, &str)>) -> Result<Response, Error> {
        let mut pairs = Vec::new();
        pairs.extend(self.service.map(|service| ("service", service)));
        pairs.extend(self.scope.split_whitespace().map(|scope| ("scope", scope)));
        pairs.push(("client_id", CLIENT_ID));
        pairs.extend(user.map(|(username, _)| ("account", username)));
        pairs.extend(self.is_login.then_some(("offline_token", "true")));
        let url = realm
            .with_query(&form(&pairs))
            .map_err(|why| Error::Protocol {
                url: realm.to_string(),
                why,
            })?;
        let authorization =
            user.map(|(username, password)| Authorization::basic(username, password));
        self.transport.send(&Request {
            authorization: authorization.as_ref().map(|it| it.header.as_str()),
            named_by: Some(self.registry),
            ..Request::get(&url, &[])
        })
    }

    fn post(&self, realm: &Url, token: &str) -> Result<Response, Error> {
        let form = form(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", token),
            ("service", self.service.unwrap_or_default()),
            ("scope", self.scope),
            ("client_id", CLIENT_ID),
        ]);
        self.transport.send(&Request {
            content: Content::Form(&form),
            named_by: Some(self.registry),
            ..Request::new(Method::Post, realm, &[])
        })
    }

    fn read(&self, response: Response) -> Result<Authorization, Error> {
        let url = response.url.to_string();
        let status = response.status();
        match status {
            200..=299 => {}
            400 | 401 | 403 => {
                log::debug!("{url} refuses a token: {}", response.into_detail());
                return Err(unauthorized(&self.registry.host(), self.credentials));
            }
            _ => {
                return Err(Error::Server {
                    url,
                    status,
                    detail: response.into_detail(),
                });
            }
        }
        let wrong = |why: &str| Error::Protocol {
            url: url.clone(),
            why: why.to_owned(),
        };
        let bytes = read_limited(response.into_body(), LARGEST_ANSWER)
            .map_err(|e| Error::Network {
                url: url.clone(),
                source: Box::new(e),
            })?
            .ok_or_else(|| wrong("the answer with the token is too large"))?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|_| wrong("the answer does not contain a token"))?;
        let token = [answer.token, answer.access_token]
            .into_iter()
            .flatten()
            .find(|it| !it.is_empty());
        let token = token.ok_or_else(|| wrong("the answer does not contain a token"))?;
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("the token contains characters that no token has"));
        }
        // Some servers say 0 and mean that they do not know.
        let lifetime = answer
            .expires_in
            .unwrap_or_default()
            .clamp(DEFAULT_LIFETIME, 86_400);
        Ok(Authorization {
            header: format!("Bearer {token}"),
            identity: answer
                .refresh_token
                .filter(|token| self.is_login && !token.is_empty()),
            expires: Some(Instant::now() + Duration::from_secs(lifetime - MARGIN)),
        })
    }
}

/// The error for a registry that does not accept what it got.
pub(super) fn unauthorized(registry: &str, credentials: Option<&Credentials>) -> Error {
    let hint = match credentials {
        None => {
            "no credentials for it were found; the repository is private or does not exist".into()
        }
        Some(Credentials::Basic { username, .. }) => {
            format!("the credentials of {} were refused", quoted(username))
        }
        Some(Credentials::IdentityToken(_)) => {
            "the identity token was refused; log in again".into()
        }
    };
    Error::Unauthorized {
        registry: registry.to_owned(),
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: "https://a/t".into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        for (headers, expected) in [
            (&[r#"Basic realm="x""#][..], Some(Challenge::Basic)),
            (
                &[r#"Bearer realm="https://a/t",service="s,t",scope="repository:a:pull,push""#],
                bearer(Some("s,t"), Some("repository:a:pull,push")),
            ),
            (
                &[r#"Basic realm="x", bearer Realm="https://a/t""#],
                bearer(None, None),
            ),
            (
                &[r#"Basic realm="x""#, r#"Bearer realm="https://a/t""#],
                bearer(None, None),
            ),
            (&["Negotiate", r#"Bearer service="s""#], None),
            (&[r#"Basic realm="x""#, "=="], Some(Challenge::Basic)),
            (&[], None),
        ] {
            assert_eq!(
                Challenge::from_headers(headers.iter().copied()),
                expected,
                "{headers:?}"
            );
        }
    }
}
