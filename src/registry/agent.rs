//! HTTP clients made from the settings: proxies, certificates and time limits.

use std::sync::Arc;

use parking_lot::Mutex;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};

use super::url::Url;
use super::{Error, Settings};

/// Clients for HTTP and for HTTPS, each with and without its proxy.
///
/// They are made when first needed, as reading certificates takes time.
#[derive(Debug, Default)]
pub(super) struct Agents(Mutex<[Option<Agent>; 4]>);

impl Agents {
    /// The client for this address.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] or [`Error::Io`] for a proxy or certificates that cannot be used.
    pub(super) fn get(&self, settings: &Settings, url: &Url) -> Result<Agent, Error> {
        // Nobody's proxy can reach this machine's own services.
        let direct = url.is_loopback();
        let slot = usize::from(url.is_https()) * 2 + usize::from(direct);
        let mut agents = self.0.lock();
        if let Some(agent) = &agents[slot] {
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
        let mut tls = TlsConfig::builder().disable_verification(unverified);
        if url.is_https() && !unverified {
            tls = tls.root_certs(roots(settings)?);
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("plyfs/", env!("CARGO_PKG_VERSION")))
            .accept("*/*")
            // A blob's digest is that of its bytes as they are stored.
            .accept_encoding("identity")
            .proxy(proxy)
            .tls_config(tls.build())
            .timeout_connect(Some(settings.connect_timeout))
            .timeout_per_read(Some(settings.stall_timeout))
            .timeout_per_write(Some(settings.stall_timeout))
            .build()
            .new_agent();
        agents[slot] = Some(agent.clone());
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

fn roots(settings: &Settings) -> Result<RootCerts, Error> {
    let mut certificates = Vec::new();
    let extra = settings.extra_ca_file.as_ref();
    for path in settings.ca_files.iter().chain(extra) {
        let pem = match std::fs::read(path) {
            Ok(pem) => pem,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && Some(path) != extra => continue,
            Err(source) => {
                return Err(Error::Io {
                    path: path.clone(),
                    source,
                });
            }
        };
        for item in parse_pem(&pem) {
            match item {
                Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
                Ok(_) => {}
                Err(e) => {
                    let what = format!("the certificates in {}", path.display());
                    return Err(Error::Settings {
                        what,
                        why: e.to_string(),
                    });
                }
            }
        }
    }
    if certificates.is_empty() {
        return Ok(RootCerts::WebPki);
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_proxies() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let missing = directory.path().join("missing.pem");
        let settings = |ca: &std::path::Path, extra: Option<&std::path::Path>| Settings {
            ca_files: vec![ca.to_owned()],
            extra_ca_file: extra.map(Into::into),
            ..Settings::default()
        };
        assert!(matches!(
            roots(&settings(&missing, None)).unwrap(),
            RootCerts::WebPki
        ));
        assert!(roots(&settings(&missing, Some(&missing))).is_err());
        std::fs::write(
            &path,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        let RootCerts::Specific(found) = roots(&settings(&missing, Some(&path))).unwrap() else {
            panic!("not read");
        };
        assert_eq!(found.len(), 1);

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
