//! Names of registries, and what Docker's own is called where.

use std::fmt;
use std::str::FromStr;

use super::reference::{DEFAULT_REGISTRY, LEGACY_REGISTRY, check_host, is_host};
use super::{ParseError, quoted};

/// The host that serves the API of Docker's registry.
const DEFAULT_API_HOST: &str = "registry-1.docker.io";

/// A registry as references name it: `docker.io`, `ghcr.io`, `[::1]:5000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryName(String);

impl RegistryName {
    /// The name of the registry in a reference, which has been checked.
    pub(super) fn of_reference(registry: &str) -> Self {
        Self(registry.to_owned())
    }

    /// The registry before the first slash of a text, where Docker takes that for one, and what is behind it.
    pub fn leading(text: &str) -> Option<(Self, &str)> {
        let (host, rest) = text.split_once('/').filter(|(host, _)| is_host(host))?;
        Some((host.parse().ok()?, rest))
    }

    /// As it stands in references.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is Docker's, which goes without saying in references.
    pub fn is_default(&self) -> bool {
        self.0 == DEFAULT_REGISTRY
    }

    /// The host that serves the registry's API, which for Docker's is another one.
    pub fn api_host(&self) -> &str {
        match self.is_default() {
            true => DEFAULT_API_HOST,
            false => &self.0,
        }
    }

    /// What the registry is called in Docker's configuration file and to credential helpers.
    pub fn credential_key(&self) -> &str {
        match self.is_default() {
            true => "https://index.docker.io/v1/",
            false => &self.0,
        }
    }
}

impl Default for RegistryName {
    fn default() -> Self {
        Self(DEFAULT_REGISTRY.to_owned())
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for RegistryName {
    type Err = ParseError;

    /// Reads `HOST[:PORT]`, or its address as old versions of Docker had it: `https://HOST/v1/`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = |why: String| ParseError::Reference {
            text: quoted(text),
            why,
        };
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or(text);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(path.trim_end_matches('/'), "" | "v1" | "v2") {
            return Err(wrong(format!(
                "it names more than a registry; try {}",
                quoted(host)
            )));
        }
        if [DEFAULT_REGISTRY, LEGACY_REGISTRY, DEFAULT_API_HOST].contains(&host) {
            return Ok(Self::default());
        }
        check_host(host).map_err(wrong)?;
        if !is_host(host) {
            let why = "without a dot or a port it is no registry to references";
            return Err(wrong(why.to_owned()));
        }
        Ok(Self(host.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, name, host, key) in [
            (
                "docker.io",
                "docker.io",
                "registry-1.docker.io",
                "https://index.docker.io/v1/",
            ),
            (
                "https://index.docker.io/v1/",
                "docker.io",
                "registry-1.docker.io",
                "https://index.docker.io/v1/",
            ),
            ("ghcr.io", "ghcr.io", "ghcr.io", "ghcr.io"),
            ("https://ghcr.io/", "ghcr.io", "ghcr.io", "ghcr.io"),
            ("[::1]:5000", "[::1]:5000", "[::1]:5000", "[::1]:5000"),
            ("localhost", "localhost", "localhost", "localhost"),
        ] {
            let found: RegistryName = text.parse().unwrap();
            let all = (found.as_str(), found.api_host(), found.credential_key());
            assert_eq!(all, (name, host, key), "{text}");
        }
        for text in ["", "alpine", "quay.io/team", "a b.io", "ftp://x.io"] {
            assert!(text.parse::<RegistryName>().is_err(), "{text}");
        }
    }
}
