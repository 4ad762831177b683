//! HTTP as registries need it: patient, and careful where credentials go.
//!
//! # Invariants
//!
//! * An `Authorization` header, and those that the settings have, are sent to one origin only. A
//!   redirect to another drops them for good.
//! * What is protected by TLS stays so: no redirect leads out of it, unless the user allowed that.
//! * Every wait is bounded: for a connection, for the next byte, between attempts.

use std::fmt;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::http::{Request as HttpRequest, Response as HttpResponse};
use ureq::{AsSendBody, Body, SendBody, Timeout};

use super::agent::Agents;
use super::allowance::Allowance;
use super::message::{Content, Method, Request, Response};
use super::url::Url;
use super::{Error, RateLimit, Settings};
use crate::cause::chain;

const MOST_REDIRECTS: usize = 10;
/// The longest pause between two attempts that no server asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often a registry is tried that has never answered: it may just not exist.
const FIRST_CONTACT_ATTEMPTS: u32 = 2;
/// A first failure that came sooner than this, and may well be the last one, is not worth a word.
const QUICK: Duration = Duration::from_secs(2);
/// Several layers that lose one server tell of it once in this time.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(1);
/// Content of this size is sent only when the server has agreed to take it.
const WORTH_ASKING: u64 = 1 << 20;

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
    /// When a failure that is not the last word was last told of.
    warned: Mutex<Option<Instant>>,
}

/// A server that is connected to and says nothing.
#[derive(Debug, thiserror::Error)]
#[error("no answer for {} seconds", .0.as_secs())]
struct Stalled(Duration);

impl Transport {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            agents: Agents::default(),
            reached: AtomicBool::new(false),
            warned: Mutex::new(None),
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
            let begun = Instant::now();
            let outcome = self.attempt(request);
            failures += 1;
            match outcome {
                Ok(response) if !is_transient(response.status()) => {
                    if let Some(allowance) = Allowance::of(&response) {
                        allowance.tell(&response.url.host());
                    }
                    return Ok(response);
                }
                Ok(response) if request.once && response.status() != 429 => return Ok(response),
                Ok(response) => {
                    let asked = response.retry_after();
                    let allowance = Allowance::of(&response);
                    if failures >= self.settings.attempts
                        || asked.is_some_and(|wait| wait > self.settings.longest_wait)
                    {
                        return if response.status() == 429 {
                            Err(Error::RateLimited(Box::new(RateLimit {
                                registry: response.url.host(),
                                detail: response.into_detail(),
                                allowance: allowance.map(|it| it.to_string()),
                                retry_after: asked,
                                anonymous: false,
                            })))
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
                        _ => {
                            let what = format!("{} answered with status {status}", response.url);
                            self.tell_failure(what, failures, begun);
                        }
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
                    let attempts = self.settings.attempts.min(attempts);
                    if failures >= attempts || request.once {
                        return Err(error);
                    }
                    self.tell_again(chain(&error), failures, attempts, begun);
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

    /// The error of a body that ends too early, in words for people.
    pub(super) fn explained(&self, error: std::io::Error) -> std::io::Error {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(ureq::Error::Timeout(_)) => {
                let stalled = Stalled(self.settings.stall_timeout);
                std::io::Error::new(ErrorKind::TimedOut, stalled)
            }
            _ => error,
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

    /// Says that something has failed that was begun then, and is tried again.
    pub(super) fn tell_failure(&self, what: impl fmt::Display, failures: u32, begun: Instant) {
        self.tell_again(what, failures, self.settings.attempts, begun);
    }

    /// As [`Transport::tell_failure`], where so many attempts are made.
    pub(super) fn tell_again(
        &self,
        what: impl fmt::Display,
        failures: u32,
        attempts: u32,
        begun: Instant,
    ) {
        let next = failures + 1;
        let text = format!("{what}; trying again (attempt {next} of {attempts})");
        let mut warned = self.warned.lock();
        if failures == 1 && begun.elapsed() < QUICK
            || warned.is_some_and(|last| last.elapsed() < BETWEEN_WARNINGS)
        {
            log::debug!("{text}");
            return;
        }
        *warned = Some(Instant::now());
        log::warn!("{text}");
    }

    /// One attempt, following redirects.
    fn attempt(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let mut url = request.url.clone();
        let mut authorization = request.authorization;
        let mut headers = match request.named_by {
            None => self.settings.api.headers.as_slice(),
            Some(_) => &[],
        };
        let mut elsewhere = false;
        for _ in 0..=MOST_REDIRECTS {
            if let Some(registry) = request.named_by {
                url.check_named_by(registry, self.settings.insecure)
                    .map_err(Failure::Final)?;
            }
            let inner = self.exchange(&url, request, headers, authorization)?;
            let location = match inner.status().as_u16() {
                301..=303 if matches!(request.method, Method::Get | Method::Head) => {
                    inner.headers().get("location")
                }
                // These two want the same request elsewhere. A form holds secrets.
                307 | 308 if !matches!(request.content, Content::Form(_)) => {
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
                (authorization, headers) = (None, &[]);
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
        headers: &[(String, String)],
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
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        if let Some(authorization) = authorization {
            builder = builder.header("authorization", authorization);
        }
        let method = request.method.as_str();
        log::info!("{method} {url}");
        let mut builder = builder.method(method);
        let (mut nothing, mut bytes, mut stream): ((), &[u8], _);
        let body = match request.content {
            Content::Nothing if matches!(request.method, Method::Get | Method::Head) => {
                nothing = ();
                nothing.as_body()
            }
            Content::Part(part) => {
                builder = builder.header("content-length", part.length);
                if part.length >= WORTH_ASKING {
                    builder = builder.header("expect", "100-continue");
                }
                stream = part.reader();
                SendBody::from_reader(&mut stream)
            }
            content => {
                bytes = match content {
                    Content::Form(form) => {
                        let kind = "application/x-www-form-urlencoded";
                        builder = builder.header("content-type", kind);
                        form.as_bytes()
                    }
                    Content::Bytes(bytes) => bytes,
                    _ => &[],
                };
                bytes.as_body()
            }
        };
        let result = builder
            .body(body)
            .map_err(ureq::Error::from)
            .and_then(|request| agent.run(request));
        match result {
            Ok(response) => {
                self.reached.store(true, Ordering::Relaxed);
                Ok(response)
            }
            Err(error) => {
                let transient = may_pass(&error);
                let source: Box<dyn std::error::Error + Send + Sync> = match error {
                    ureq::Error::Timeout(Timeout::PerRead | Timeout::PerWrite) => {
                        Box::new(Stalled(self.settings.stall_timeout))
                    }
                    // Its own words say `io:` before the cause.
                    ureq::Error::Io(error) => Box::new(error),
                    error => Box::new(error),
                };
                let url = url.to_string();
                let error = Error::Network { url, source };
                Err(match transient {
                    true => Failure::Transient(error),
                    false => Failure::Final(error),
                })
            }
        }
    }
}

/// Whether a server was reached and said nothing.
pub(super) fn is_stall(error: &Error) -> bool {
    matches!(error, Error::Network { source, .. } if source.is::<Stalled>())
}

/// Whether another attempt may have a better end than this one.
pub(super) fn may_pass_away(error: &Error) -> bool {
    match error {
        Error::Network { source, .. } => match source.downcast_ref() {
            Some(error) => may_pass_here(error),
            None => source.downcast_ref().is_none_or(may_pass),
        },
        Error::Server { status, .. } => is_transient(*status),
        _ => false,
    }
}

/// Whether another attempt may get a better answer than this status.
fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Whether another attempt may get through where this one did not.
fn may_pass(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => may_pass_here(error),
        ureq::Error::Timeout(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::HostNotFound
        | ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

fn may_pass_here(error: &std::io::Error) -> bool {
    // Certificates that are not accepted come as invalid data.
    !matches!(
        error.kind(),
        ErrorKind::InvalidData | ErrorKind::InvalidInput
    )
}

/// Between 0 and 1; good enough to spread clients out.
fn random_fraction() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    f64::from(RandomState::new().hash_one(()) as u32) / f64::from(u32::MAX)
}
