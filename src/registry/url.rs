//! Addresses of registries, token servers and blobs, and which of them may be followed.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ureq::http::Uri;

use super::Error;
use crate::oci::quoted;

/// An absolute `http` or `https` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url(Uri);

impl Url {
    /// Reads an absolute address; the reason if it is not one.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.split('#').next().unwrap_or_default();
        let wrong = |why: &str| format!("{} {why}", quoted(text));
        let uri: Uri = text.parse().map_err(|_| wrong("is not a valid address"))?;
        let Some(authority) = uri.authority() else {
            return Err(wrong("is not an absolute address"));
        };
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong("is neither http nor https"));
        }
        if authority.as_str().contains('@') {
            return Err(wrong("contains credentials"));
        }
        if authority.host().is_empty() {
            return Err(wrong("has no host"));
        }
        Ok(Self(uri))
    }

    /// Resolves what a `Location` or `Link` header says, relative to this address.
    pub(super) fn join(&self, reference: &str) -> Result<Self, String> {
        let lower = reference.get(..8).unwrap_or(reference).to_ascii_lowercase();
        let scheme = if self.is_https() { "https" } else { "http" };
        let origin = self.origin();
        let path = self.0.path();
        if lower.starts_with("http://") || lower.starts_with("https://") {
            Self::parse(reference)
        } else if reference.starts_with("//") {
            Self::parse(&format!("{scheme}:{reference}"))
        } else if reference.starts_with('/') {
            Self::parse(&format!("{origin}{reference}"))
        } else if reference.starts_with('?') {
            Self::parse(&format!("{origin}{path}{reference}"))
        } else {
            let directory = path.rfind('/').map_or("/", |end| &path[..=end]);
            Self::parse(&format!("{origin}{directory}{reference}"))
        }
    }

    /// The same address with this query after any that it has.
    pub(super) fn with_query(&self, query: &str) -> Result<Self, String> {
        let separator = if self.0.query().is_some() { '&' } else { '?' };
        Self::parse(&format!("{}{separator}{query}", self.0))
    }

    /// `scheme://host[:port]`.
    pub(super) fn origin(&self) -> String {
        let scheme = if self.is_https() { "https" } else { "http" };
        let authority = self
            .0
            .authority()
            .map_or("", |authority| authority.as_str());
        format!("{scheme}://{authority}")
    }

    /// What the HTTP client takes.
    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether it is protected by TLS.
    pub(super) fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The host without port and brackets, in lower case.
    pub(super) fn host(&self) -> String {
        let host = self.0.host().unwrap_or_default().to_ascii_lowercase();
        host.trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned()
    }

    /// Whether credentials for one address may be sent to the other.
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        let port = |url: &Self| {
            url.0
                .port_u16()
                .unwrap_or(if url.is_https() { 443 } else { 80 })
        };
        self.is_https() == other.is_https()
            && self.host() == other.host()
            && port(self) == port(other)
    }

    /// Whether it is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.host())
    }

    /// Whether an address that a registry names, and that gets a request from us, is fit for that.
    ///
    /// A hostile registry could make us send credentials in the clear or talk to services within the
    /// user's own network, such as the metadata services of clouds.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] that says why not.
    pub(super) fn check_named_by(&self, registry: &Self, insecure: bool) -> Result<(), Error> {
        let refuse = |why: &str| {
            Err(Error::Protocol {
                url: registry.to_string(),
                why: format!("refers to {self}, {why}"),
            })
        };
        if !self.is_https() && registry.is_https() && !insecure {
            return refuse("which is not protected by TLS");
        }
        let (here, there) = (registry.host(), self.host());
        if is_private(&there) && here != there && !(is_loopback(&here) && is_loopback(&there)) {
            return refuse("which is an address within a private network");
        }
        Ok(())
    }
}

impl fmt::Display for Url {
    /// Without the query, which may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.0.path())
    }
}

fn address(host: &str) -> Option<IpAddr> {
    match host.parse() {
        Ok(IpAddr::V6(v6)) => Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)),
        Ok(v4) => Some(v4),
        Err(_) => None,
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || address(host).is_some_and(|address| address.is_loopback())
}

/// Whether a host is written as an address that means something else on every network.
fn is_private(host: &str) -> bool {
    if is_loopback(host) {
        return true;
    }
    // Resolvers also take `2130706433` and `0x7f.1` for addresses, which no honest server uses.
    let numeric = host.rsplit('.').next().is_some_and(|last| {
        !last.is_empty() && (last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x"))
    });
    match address(host) {
        None => numeric,
        Some(IpAddr::V4(v4)) => {
            let [a, b, ..] = v4.octets();
            v4.is_private()
                || v4.is_link_local()
                || v4.is_broadcast()
                || a == 0
                || (a == 100 && b & 0xc0 == 64)
        }
        Some(IpAddr::V6(v6)) => {
            v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local() || nat64(v6)
        }
    }
}

/// `64:ff9b::/96`, behind which any IPv4 address can hide.
fn nat64(address: Ipv6Addr) -> bool {
    address.segments()[..2] == [0x64, 0xff9b]
}

/// Encodes `key=value` pairs for a query or form.
pub(super) fn form(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect()
    };
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
        .collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn joined() {
        let base = url("https://h:5/v2/x/tags/list?n=1");
        for (reference, expected) in [
            ("http://o/p?q", "http://o/p?q"),
            ("//o/p", "https://o/p"),
            ("/p?a=b", "https://h:5/p?a=b"),
            ("?last=z", "https://h:5/v2/x/tags/list?last=z"),
            ("more", "https://h:5/v2/x/tags/more"),
            ("HTTPS://o/p#f", "https://o/p"),
        ] {
            assert_eq!(base.join(reference).unwrap(), url(expected), "{reference}");
        }
        for bad in [
            "https://",
            "ftp://x/",
            "https://a@b/",
            "https://x/ y",
            "http:",
            "é",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(url("https://h/p?secret=1").to_string(), "https://h/p");
        assert_eq!(
            url("https://h/p?a=1").with_query("b=2").unwrap(),
            url("https://h/p?a=1&b=2")
        );
    }

    #[test]
    fn origins() {
        for (a, b, same) in [
            ("https://h/a", "https://h:443/b", true),
            ("https://h/a", "https://H/b", true),
            ("https://h/a", "http://h/a", false),
            ("https://h/a", "https://h:444/a", false),
            ("https://h/a", "https://h.evil/a", false),
        ] {
            assert_eq!(url(a).same_origin(&url(b)), same, "{a} {b}");
        }
    }

    #[test]
    fn what_registries_may_name() {
        for (registry, named, allowed) in [
            ("https://r.io/", "https://auth.r.io/token", true),
            ("https://r.io/", "http://auth.r.io/token", false),
            ("http://10.0.0.1:5000/", "http://10.0.0.1:5001/token", true),
            ("http://10.0.0.1:5000/", "http://10.0.0.2/token", false),
            ("https://r.io/", "https://169.254.169.254/", false),
            ("https://r.io/", "https://192.168.1.1/", false),
            ("https://r.io/", "https://100.64.0.1/", false),
            ("https://r.io/", "https://0.0.0.0/", false),
            ("https://r.io/", "https://127.0.0.1/", false),
            ("https://r.io/", "https://localhost/", false),
            ("https://r.io/", "https://[::1]/", false),
            ("https://r.io/", "https://[fe80::1]/", false),
            ("https://r.io/", "https://[fd00::1]/", false),
            ("https://r.io/", "https://[::ffff:10.0.0.1]/", false),
            ("https://r.io/", "https://[64:ff9b::a00:1]/", false),
            ("https://r.io/", "https://2130706433/", false),
            ("https://r.io/", "https://0x7f.0x1/", false),
            ("https://r.io/", "https://8.8.8.8/", true),
            ("http://localhost:5000/", "http://127.0.0.1:5001/", true),
        ] {
            let checked = url(named).check_named_by(&url(registry), false);
            assert_eq!(checked.is_ok(), allowed, "{registry} {named} {checked:?}");
        }
        let plain = url("http://auth.r.io/");
        assert!(plain.check_named_by(&url("https://r.io/"), true).is_ok());
    }

    #[test]
    fn forms() {
        assert_eq!(
            form(&[("scope", "repository:a/b:pull"), ("é", "&")]),
            "scope=repository%3Aa%2Fb%3Apull&%C3%A9=%26"
        );
    }
}
