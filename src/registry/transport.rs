//! HTTP as registries need it: patient, and careful where credentials go.
//!
//! # Invariants
//!
//! * An `Authorization` header is sent to one origin only. A redirect to another drops it for good.
//! * What is protected by TLS stays so: no redirect leads out of it, unless the user allowed that.
//! * Every wait is bounded: for a connection, for the next byte, between attempts.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::Body;
use ureq::http::{Request as HttpRequest, Response as HttpResponse};

use super::agent::Agents;
use super::exact::read_limited;
use super::url::Url;
use super::{Error, Settings};

const MOST_REDIRECTS: usize = 10;
/// The longest pause between two attempts that no server asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often a registry is tried that has never answered: it may just not exist.
const FIRST_CONTACT_ATTEMPTS: u32 = 2;
/// How much of an error's body is read.
const LARGEST_DETAIL: u64 = 64 << 10;

/// A GET request, or a POST of a form.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(&'static str, String)],
    /// The `Authorization` header.
    pub(super) authorization: Option<&'a str>,
    /// The form to post.
    pub(super) form: Option<&'a str>,
    /// The registry that named this address, if it is not the registry's own: all addresses on the way
    /// must then be fit for that.
    pub(super) named_by: Option<&'a Url>,
}

impl<'a> Request<'a> {
    /// A plain GET.
    pub(super) fn get(url: &'a Url, headers: &'a [(&'static str, String)]) -> Self {
        Self {
            url,
            headers,
            authorization: None,
            form: None,
            named_by: None,
        }
    }
}

/// The answer to a request, after redirects.
#[derive(Debug)]
pub(super) struct Response {
    /// Who answered in the end.
    pub(super) url: Url,
    /// Whether the request ended at another origin than it started from.
    pub(super) elsewhere: bool,
    inner: HttpResponse<Body>,
}

impl Response {
    pub(super) fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// The first header of this name, if it is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// All headers of this name that are text.
    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.inner
            .headers()
            .get_all(name)
            .iter()
            .flat_map(|value| value.to_str())
    }

    pub(super) fn into_body(self) -> Box<dyn Read + Send> {
        Box::new(self.inner.into_body().into_reader())
    }

    /// What the server says about its error, in one bounded line.
    pub(super) fn into_detail(self) -> String {
        match read_limited(self.into_body(), LARGEST_DETAIL) {
            Ok(Some(bytes)) => detail(&bytes),
            Ok(None) => String::new(),
            Err(e) => {
                log::debug!("cannot read what the server says about its error: {e}");
                String::new()
            }
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        // The other form of this header, a date, would need the server's idea of the time.
        match self.header("retry-after")?.trim().parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => None,
        }
    }
}

/// The messages in a body of the distribution specification's form; anything else says nothing.
fn detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<OneError>,
    }
    #[derive(serde::Deserialize)]
    struct OneError {
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    let Ok(Errors { errors }) = serde_json::from_slice(body) else {
        return String::new();
    };
    let texts: Vec<String> = errors
        .into_iter()
        .take(3)
        .filter_map(|error| error.message.filter(|text| !text.is_empty()).or(error.code))
        .collect();
    texts
        .join(", ")
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect()
}

/// Why one attempt failed.
enum Failure {
    /// The connection; another attempt may succeed.
    Transient(Error),
    /// Anything that would fail again.
    Final(Error),
}

/// Sends requests.
#[derive(Debug)]
pub(super) struct Transport {
    settings: Settings,
    agents: Agents,
    /// Whether any server has ever answered.
    reached: AtomicBool,
}

impl Transport {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            agents: Agents::default(),
            reached: AtomicBool::new(false),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends a request until there is an answer that another attempt would not change.
    ///
    /// # Errors
    ///
    /// [`Error::Network`] when all attempts have failed, [`Error::RateLimited`], [`Error::Protocol`] for
    /// redirects that must not be followed. An error status otherwise is not an error here.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Response, Error> {
        let mut failures = 0;
        loop {
            let outcome = self.attempt(request);
            failures += 1;
            match outcome {
                Ok(response) if !is_transient(response.status()) => return Ok(response),
                Ok(response) => {
                    let asked = response.retry_after();
                    if failures >= self.settings.attempts
                        || asked.is_some_and(|wait| wait > self.settings.longest_wait)
                    {
                        return if response.status() == 429 {
                            let registry = response.url.host();
                            Err(Error::RateLimited {
                                registry,
                                retry_after: asked,
                            })
                        } else {
                            Ok(response)
                        };
                    }
                    let (host, status) = (response.url.host(), response.status());
                    match asked {
                        Some(wait) if status == 429 => log::warn!(
                            "{host} has answered too many requests; waiting {} seconds, as it asks",
                            wait.as_secs()
                        ),
                        _ => log::debug!("{} answered with status {status}", response.url),
                    }
                    drop(response);
                    self.pause(failures, asked);
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Transient(error)) => {
                    let known = self.reached.load(Ordering::Relaxed);
                    let attempts = if known {
                        u32::MAX
                    } else {
                        FIRST_CONTACT_ATTEMPTS
                    };
                    if failures >= self.settings.attempts.min(attempts) {
                        return Err(error);
                    }
                    log::debug!("attempt {failures}: {}", crate::cause::chain(&error));
                    self.pause(failures, None);
                }
            }
        }
    }

    /// Whether a server answers at this address at all, with anything but a complaint about the protocol.
    ///
    /// # Errors
    ///
    /// As [`Transport::send`], but nothing is repeated.
    pub(super) fn probe(&self, url: &Url) -> Result<bool, Error> {
        match self.attempt(&Request::get(url, &[])) {
            // What servers say to plain HTTP where they expect TLS.
            Ok(response) => Ok(url.is_https() || response.status() != 400),
            Err(Failure::Transient(error) | Failure::Final(error)) => Err(error),
        }
    }

    /// Waits before the next attempt, longer after each failure, as long as the server asks if it does.
    pub(super) fn pause(&self, failures: u32, asked: Option<Duration>) {
        let doubled = self
            .settings
            .back_off
            .saturating_mul(1 << failures.saturating_sub(1).min(16));
        let pause = doubled.min(LONGEST_PAUSE);
        // Many clients that lost one server must not come back all at once.
        let pause = pause / 2 + pause.mul_f64(random_fraction() / 2.0);
        std::thread::sleep(asked.map_or(pause, |asked| {
            asked.max(pause).min(self.settings.longest_wait)
        }));
    }

    /// One attempt, following redirects.
    fn attempt(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let mut url = request.url.clone();
        let mut authorization = request.authorization;
        let mut elsewhere = false;
        for _ in 0..=MOST_REDIRECTS {
            if let Some(registry) = request.named_by {
                url.check_named_by(registry, self.settings.insecure)
                    .map_err(Failure::Final)?;
            }
            let inner = self.exchange(&url, request, authorization)?;
            let location = match inner.status().as_u16() {
                301 | 302 | 303 | 307 | 308 if request.form.is_none() => {
                    inner.headers().get("location")
                }
                _ => None,
            };
            let Some(location) = location else {
                return Ok(Response {
                    url,
                    elsewhere,
                    inner,
                });
            };
            let wrong = |why: String| {
                Failure::Final(Error::Protocol {
                    url: url.to_string(),
                    why,
                })
            };
            let location = location
                .to_str()
                .map_err(|e| wrong(format!("bad redirect: {e}")))?;
            let next = url
                .join(location)
                .map_err(|why| wrong(format!("redirects to {why}")))?;
            if url.is_https() && !next.is_https() && !self.settings.insecure {
                return Err(wrong(format!(
                    "redirects to {next}, which is not protected by TLS"
                )));
            }
            if !next.same_origin(&url) {
                authorization = None;
            }
            elsewhere = !next.same_origin(request.url);
            url = next;
        }
        Err(Failure::Final(Error::Protocol {
            url: request.url.to_string(),
            why: format!("redirects more than {MOST_REDIRECTS} times"),
        }))
    }

    fn exchange(
        &self,
        url: &Url,
        request: &Request<'_>,
        authorization: Option<&str>,
    ) -> Result<HttpResponse<Body>, Failure> {
        let agent = self
            .agents
            .get(&self.settings, url)
            .map_err(Failure::Final)?;
        let mut builder = HttpRequest::builder().uri(url.uri().clone());
        for (name, value) in request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(authorization) = authorization {
            builder = builder.header("authorization", authorization);
        }
        log::debug!(
            "{} {url}",
            if request.form.is_some() {
                "post"
            } else {
                "get"
            }
        );
        let result = match request.form {
            Some(form) => builder
                .method("POST")
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form)
                .map_err(ureq::Error::from)
                .and_then(|request| agent.run(request)),
            None => builder
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|request| agent.run(request)),
        };
        match result {
            Ok(response) => {
                self.reached.store(true, Ordering::Relaxed);
                Ok(response)
            }
            Err(error) => {
                let transient = may_pass(&error);
                let error = Error::Network {
                    url: url.to_string(),
                    source: Box::new(error),
                };
                Err(if transient {
                    Failure::Transient(error)
                } else {
                    Failure::Final(error)
                })
            }
        }
    }
}

/// Whether another attempt may get a better answer than this status.
fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Whether another attempt may get through where this one did not.
fn may_pass(error: &ureq::Error) -> bool {
    match error {
        // Certificates that are not accepted come as invalid data.
        ureq::Error::Io(e) => !matches!(
            e.kind(),
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput
        ),
        ureq::Error::Timeout(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::HostNotFound
        | ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

/// Between 0 and 1; good enough to spread clients out.
fn random_fraction() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    f64::from(RandomState::new().hash_one(()) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_of_errors() {
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"no\u001b[2J way"}]}"#,
                "no[2J way",
            ),
            (
                r#"{"errors":[{"code":"DENIED"},{"message":"x"}]}"#,
                "DENIED, x",
            ),
            ("<html>", ""),
        ] {
            assert_eq!(detail(body.as_bytes()), expected);
        }
    }
}
