//! Access to one registry: where it is, what it asks for, who we are to it.

use parking_lot::Mutex;

use super::client::Registry;
use super::message::{Request, Response};
use super::token::{Authorization, Challenge, TokenRequest, unauthorized};
use super::transport::{Transport, is_stall};
use super::url::{Url, form};
use super::{Credentials, Error, RateLimit};
use crate::cause::chain;
use crate::oci::RegistryName;

/// Where the API of a registry is.
const API: &str = "/v2/";

/// A registry, or the part of it that credentials are for.
pub(super) struct Access {
    registry: Registry,
    name: RegistryName,
    /// What is accessed, for which there may be credentials of its own: `HOST/REPOSITORY`.
    place: String,
    /// What the auth files have; `None` until that was needed.
    credentials: Mutex<Option<Option<Credentials>>>,
}

/// What a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope<'a> {
    /// What the registry says that it takes, or else this.
    Usual(&'a str),
    /// This, which is more than the registry asks for now.
    Exactly(&'a str),
    /// Nothing but to be known, now and later.
    Login,
}

impl Access {
    pub(super) fn new(registry: &Registry, name: RegistryName, place: String) -> Access {
        Access {
            registry: registry.clone(),
            name,
            place,
            credentials: Mutex::new(None),
        }
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.registry.0.transport
    }

    /// The registry's name, for messages.
    pub(super) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The address of the registry, `scheme://host/`.
    pub(super) fn base(&self) -> Result<Url, Error> {
        let shared = &self.registry.0;
        let host = self.name.api_host();
        if let Some(base) = shared.bases.lock().get(host) {
            return Ok(base.clone());
        }
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/")).map_err(|why| Error::Protocol {
                url: host.to_owned(),
                why: format!("the registry {why}"),
            })
        };
        let (plain, tls) = (parse("http")?, parse("https")?);
        let candidates = match (tls.is_loopback(), shared.transport.settings().insecure) {
            (true, _) => [plain, tls],
            (false, true) => [tls, plain],
            (false, false) => return Ok(tls),
        };
        let base = self.first_that_answers(candidates)?;
        shared.bases.lock().insert(host.to_owned(), base.clone());
        Ok(base)
    }

    /// The address of something below the API's own: `_catalog`, or nothing.
    pub(super) fn address(&self, what: &str) -> Result<Url, Error> {
        let api = &self.transport().settings().api;
        let base = self.base()?;
        let path = api.path.as_deref().unwrap_or(API);
        let url = base.join(&format!("{path}{what}"));
        let url = url.and_then(|url| match &api.mirror_of {
            Some(name) => url.with_query(&form(&[("ns", name)])),
            None => Ok(url),
        });
        url.map_err(|why| Error::Protocol {
            url: base.to_string(),
            why,
        })
    }

    fn first_that_answers(&self, candidates: [Url; 2]) -> Result<Url, Error> {
        const ATTEMPTS: u32 = 2;
        let mut attempts = 0;
        let path = self.transport().settings().api.path.as_deref();
        let path = path.unwrap_or(API);
        loop {
            let begun = std::time::Instant::now();
            let mut first_error = None;
            for base in &candidates {
                let api = base.join(path).map_err(|why| Error::Protocol {
                    url: base.to_string(),
                    why,
                })?;
                match self.transport().probe(&api) {
                    Ok(true) => return Ok(base.clone()),
                    Ok(false) => {}
                    Err(e) => {
                        log::debug!("{}", chain(&e));
                        let stalls = is_stall(&e);
                        first_error.get_or_insert(e);
                        // The other protocol would be no answer to that.
                        if stalls {
                            break;
                        }
                    }
                }
            }
            attempts += 1;
            let error = first_error.unwrap_or_else(|| Error::Protocol {
                url: candidates[0].to_string(),
                why: "answers neither HTTP nor HTTPS".to_owned(),
            });
            if attempts >= ATTEMPTS {
                return Err(error);
            }
            let transport = self.transport();
            transport.tell_again(chain(&error), attempts, ATTEMPTS, begun);
            transport.pause(attempts, None);
        }
    }

    /// What is known of us here.
    pub(super) fn credentials(&self) -> Result<Option<Credentials>, Error> {
        let mut known = self.credentials.lock();
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let settings = self.transport().settings();
        let found = match &settings.credentials {
            Some(explicit) => Some(explicit.clone()),
            None => settings.auth.find(&self.name, &self.place)?,
        };
        *known = Some(found.clone());
        Ok(found)
    }

    /// Sends a request to the registry, with the authorization that it asks for.
    pub(super) fn send(&self, request: &Request<'_>, scope: Scope<'_>) -> Result<Response, Error> {
        let key = format!("{} {scope:?}", self.place);
        let authorizations = &self.registry.0.authorizations;
        let mut fresh = false;
        loop {
            let known = authorizations.lock().get(&key).cloned();
            let known = known.filter(|it| !it.has_expired());
            let authorization = known.as_ref().map(|it| it.header.as_str());
            let response = self.transport().send(&Request {
                authorization,
                ..*request
            });
            let response = response.map_err(|error| self.limited(error))?;
            if response.status() != 401 || response.elsewhere {
                return Ok(response);
            }
            // A known token may have been revoked; a new one will not get better by asking again.
            if fresh {
                authorizations.lock().remove(&key);
                return Err(self.not_let_in(&response, scope)?);
            }
            let authorization = self.authorize(request.url, &response, scope)?;
            authorizations.lock().insert(key.clone(), authorization);
            fresh = true;
        }
    }

    /// The error of a registry that does not want what it has asked for.
    fn not_let_in(&self, response: &Response, scope: Scope<'_>) -> Result<Error, Error> {
        let credentials = self.credentials()?;
        let challenge = Challenge::from_headers(response.headers("www-authenticate"));
        Ok(match (&credentials, challenge, scope) {
            // Its token server knows who asks, and allows something else.
            (Some(known), Some(Challenge::Bearer { .. }), Scope::Exactly(asked)) => Error::Denied {
                registry: self.name().to_owned(),
                detail: format!("{} not allow {asked}", known.subject()),
            },
            _ => unauthorized(self.name(), credentials.as_ref()),
        })
    }

    /// Completes the error of a registry that has answered too many requests.
    fn limited(&self, error: Error) -> Error {
        match error {
            Error::RateLimited(limit) => Error::RateLimited(Box::new(RateLimit {
                registry: self.name().to_owned(),
                anonymous: matches!(self.credentials(), Ok(None)),
                ..*limit
            })),
            error => error,
        }
    }

    /// Gets what a registry asks for that answered with status 401.
    pub(super) fn authorize(
        &self,
        url: &Url,
        response: &Response,
        scope: Scope<'_>,
    ) -> Result<Authorization, Error> {
        let credentials = self.credentials()?;
        match &credentials {
            Some(credentials) => log::info!("{}: authenticating as {credentials:?}", self.place),
            None => log::info!("{}: there are no credentials for it", self.place),
        }
        match Challenge::from_headers(response.headers("www-authenticate")) {
            Some(Challenge::Bearer {
                realm,
                service,
                scope: offered,
            }) => {
                let asked = match scope {
                    Scope::Usual(usual) => offered.as_deref().unwrap_or(usual),
                    Scope::Exactly(scope) => scope,
                    Scope::Login => "",
                };
                let token = TokenRequest {
                    transport: self.transport(),
                    registry: url,
                    realm: &realm,
                    service: service.as_deref(),
                    scope: asked,
                    is_login: scope == Scope::Login,
                    credentials: credentials.as_ref(),
                };
                token.send()
            }
            Some(Challenge::Basic) => match &credentials {
                Some(Credentials::Basic { username, password }) => {
                    Ok(Authorization::basic(username, password))
                }
                other => Err(unauthorized(self.name(), other.as_ref())),
            },
            None => Err(Error::Protocol {
                url: url.to_string(),
                why: "asks for an authentication that is not supported".to_owned(),
            }),
        }
    }

    /// Turns an error status into an error about `what`.
    pub(super) fn check(&self, response: Response, what: &str) -> Result<Response, Error> {
        let url = response.url.to_string();
        match response.status() {
            200..=299 => Ok(response),
            403 if !response.elsewhere => Err(Error::Denied {
                registry: self.name().to_owned(),
                detail: response.into_detail(),
            }),
            404 => Err(Error::NotFound {
                reference: what.to_owned(),
                closest: Vec::new(),
            }),
            status => Err(Error::Server {
                url,
                status,
                detail: response.into_detail(),
            }),
        }
    }
}
