//! HTTP clients made from the settings: proxies, certificates and time limits.

use std::collections::HashMap;

use parking_lot::Mutex;
use ureq::{Agent, Proxy};

use super::url::Url;
use super::{Error, Settings, certificates};

/// A client for each server, by its origin.
///
/// They are made when first needed, as reading certificates takes time.
#[derive(Debug, Default)]
pub(super) struct Agents(Mutex<HashMap<String, Agent>>);

impl Agents {
    /// The client for this address.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] or [`Error::Io`] for a proxy or certificates that cannot be used.
    pub(super) fn get(&self, settings: &Settings, url: &Url) -> Result<Agent, Error> {
        // Nobody's proxy can reach this machine's own services.
        let direct = url.is_loopback();
        let origin = url.origin();
        let mut agents = self.0.lock();
        if let Some(agent) = agents.get(&origin) {
            return Ok(agent.clone());
        }
        let proxy = match (direct, url.is_https()) {
            (true, _) => None,
            (false, true) => settings.proxy.https.as_deref(),
            (false, false) => settings.proxy.http.as_deref(),
        };
        let proxy = match proxy {
            Some(text) if !text.is_empty() => Some(proxy_of(
                text,
                settings.proxy.no_proxy.as_deref().unwrap_or_default(),
            )?),
            _ => None,
        };
        // Docker trusts any certificate of a loopback registry too: who can answer there owns the machine.
        let unverified = settings.insecure || direct;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("plyfs/", env!("CARGO_PKG_VERSION")))
            .accept("*/*")
            // A blob's digest is that of its bytes as they are stored.
            .accept_encoding("identity")
            .proxy(proxy)
            .tls_config(certificates::tls(settings, url, unverified)?)
            .timeout_connect(Some(settings.connect_timeout))
            .timeout_per_read(Some(settings.stall_timeout))
            .timeout_per_write(Some(settings.stall_timeout))
            .build()
            .new_agent();
        agents.insert(origin, agent.clone());
        Ok(agent)
    }
}

fn proxy_of(text: &str, no_proxy: &str) -> Result<Proxy, Error> {
    // The text itself may contain a password.
    let wrong = |e: ureq::Error| Error::Settings {
        what: "the proxy".into(),
        why: e.to_string(),
    };
    let plain = Proxy::new(text).map_err(wrong)?;
    let mut builder = Proxy::builder(plain.protocol())
        .host(plain.host())
        .port(plain.port());
    if let Some(username) = plain.username() {
        builder = builder.username(username);
    }
    if let Some(password) = plain.password() {
        builder = builder.password(password);
    }
    for entry in no_proxy
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
    {
        builder = builder.no_proxy(entry);
        // As in curl and Go, a domain means the hosts within it too.
        if !entry.starts_with(['.', '*']) {
            builder = builder.no_proxy(&format!(".{entry}"));
        }
    }
    builder.build().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies() {
        let proxy = proxy_of("http://u:p@proxy:3128", "example.com, .b.io,*.c.io").unwrap();
        assert_eq!(
            (proxy.host(), proxy.port(), proxy.username()),
            ("proxy", 3128, Some("u"))
        );
        for (url, direct) in [
            ("https://example.com/", true),
            ("https://sub.example.com/", true),
            ("https://notexample.com/", false),
            ("https://a.b.io/", true),
        ] {
            assert_eq!(proxy.is_no_proxy(&url.parse().unwrap()), direct, "{url}");
        }
    }
}
