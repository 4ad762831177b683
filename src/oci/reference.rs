//! Image references: what people type to name an image, normalised as Docker does.
//!
//! # See
//!
//! <https://github.com/distribution/reference>, distribution-spec "Pulling manifests"

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Digest, ParseError, RegistryName, quoted};

/// The registry of references that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of references that have neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";

/// Where Docker's own images live within its registry.
const OFFICIAL: &str = "library/";
/// The registry's old name, still found in scripts.
pub(super) const LEGACY_REGISTRY: &str = "index.docker.io";
/// The longest repository (Docker's limit) and the longest host name with port.
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;
/// No valid reference is longer, so nothing longer is looked at.
const LONGEST: usize = 1024;

/// A normalised image reference: `registry/repository[:tag][@digest]`.
///
/// There always is a tag or a digest, and there may be both: then the digest decides and the tag is a note for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host name, with port if one was given: `docker.io`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The registry.
    pub fn registry_name(&self) -> RegistryName {
        RegistryName::of_reference(&self.registry)
    }

    /// The repository within the registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index, if there is one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository without tag and digest, in full: `docker.io/library/alpine`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    ///
    /// [`ParseError::Reference`] if the tag is not a valid one.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseError> {
        check_tag(tag).map_err(|why| ParseError::Reference {
            text: quoted(tag),
            why,
        })?;
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository with this digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The short form that Docker shows: `alpine:latest`, `user/image@sha256:...`.
    ///
    /// It parses back to the same reference.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    /// The short form of [`Reference::name`]: `alpine`, `user/image`, `ghcr.io/a/b`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.strip_prefix(OFFICIAL) {
            Some(official) if !official.contains('/') && !looks_like_id(official) => {
                official.to_owned()
            }
            // A first part that reads as a host name must keep its registry in front.
            _ if self.repository.split('/').next().is_none_or(is_host) => self.name(),
            _ => self.repository.clone(),
        }
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.suffixed(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text).map_err(|why| ParseError::Reference {
            text: quoted(text),
            why,
        })
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(format!(
            "it must not start with a scheme ({scheme}://); try {}",
            quoted(rest)
        ));
    }
    if looks_like_id(text) {
        return Err("64 hexadecimal digits name an image ID, not a repository".to_owned());
    }
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (
            named,
            Some(digest.parse::<Digest>().map_err(|e| e.to_string())?),
        ),
        None => (text, None),
    };
    let (registry, rest) = match named.split_once('/') {
        Some((LEGACY_REGISTRY, rest)) => (DEFAULT_REGISTRY, rest),
        Some((host, rest)) if is_host(host) => (host, rest),
        // Without a slash there is no host: `localhost:5000` is a repository with a tag.
        _ => (DEFAULT_REGISTRY, named),
    };
    check_host(registry)?;
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        check_repository(repository)?;
        format!("{OFFICIAL}{repository}")
    } else {
        repository.to_owned()
    };
    check_repository(&repository)?;
    let tag = match (tag, digest) {
        (Some(tag), _) => {
            check_tag(tag)?;
            Some(tag.to_owned())
        }
        (None, Some(_)) => None,
        (None, None) => Some(DEFAULT_TAG.to_owned()),
    };
    Ok(Reference {
        registry: registry.to_owned(),
        repository,
        tag,
        digest,
    })
}

/// Whether Docker takes the first part of a name for a host rather than for a part of the repository.
pub(super) fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.chars().any(char::is_uppercase)
}

/// Whether this is how an image ID is written, which Docker does not accept as a name.
fn looks_like_id(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn check_host(host: &str) -> Result<(), String> {
    if host.len() > LONGEST_NAME {
        return Err(format!("the registry is longer than {LONGEST_NAME} bytes"));
    }
    let bad = |why: &str| Err(format!("the registry {} {why}", quoted(host)));
    let (name, port) = if let Some(inner) = host.strip_prefix('[') {
        let Some((address, port)) = inner.split_once(']') else {
            return bad("has no closing bracket");
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return bad("is not an IPv6 address");
        }
        match port.strip_prefix(':') {
            None if port.is_empty() => return Ok(()),
            None => return bad("has something other than a port after the bracket"),
            Some(port) => (None, Some(port)),
        }
    } else {
        match host.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return bad("has more than one colon; write an IPv6 address in brackets");
            }
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(host), None),
        }
    };
    if let Some(port) = port
        && (!port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return bad("has a port that is not a number up to 65535");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match name {
        Some(name) if !name.split('.').all(label) => bad("is not a host name"),
        _ => Ok(()),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/...)*`, said in sentences.
fn check_repository(repository: &str) -> Result<(), String> {
    if repository.is_empty() {
        return Err("the repository is missing".to_owned());
    }
    if repository.len() > LONGEST_NAME {
        return Err(format!(
            "the repository is longer than {LONGEST_NAME} bytes"
        ));
    }
    let lower = repository.to_lowercase();
    if lower != repository {
        return Err(format!(
            "the repository must be in lower case: {}",
            quoted(&lower)
        ));
    }
    for part in repository.split('/') {
        if part.is_empty() {
            return Err("the repository has an empty part".to_owned());
        }
        let alphanumeric = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
        if let Some(odd) = part
            .chars()
            .find(|c| !c.is_ascii() || !(alphanumeric(*c as u8) || "._-".contains(*c)))
        {
            return Err(format!("the repository must not contain {odd:?}"));
        }
        let separator =
            |run: &str| matches!(run, "" | "." | "_" | "__") || run.trim_matches('-').is_empty();
        let edges = part.bytes().next().is_some_and(alphanumeric)
            && part.bytes().next_back().is_some_and(alphanumeric);
        if !edges
            || !part
                .split(|c: char| c.is_ascii() && alphanumeric(c as u8))
                .all(separator)
        {
            return Err(format!(
                "the part {} must have letters and digits around each separator (., _, __ or -)",
                quoted(part)
            ));
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), String> {
    if tag.is_empty() {
        return Err("the tag is empty".to_owned());
    }
    if tag.len() > LONGEST_TAG {
        return Err(format!("the tag is longer than {LONGEST_TAG} bytes"));
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !tag.starts_with(word) || !tag.chars().all(|c| word(c) || c == '.' || c == '-') {
        return Err(format!(
            "the tag {} must consist of letters, digits, ., _ and -, and not start with . or -",
            quoted(tag)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn normalised_as_docker_does() {
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            (
                "alpine:3.20",
                "docker.io/library/alpine:3.20",
                "alpine:3.20",
            ),
            (
                "user/image",
                "docker.io/user/image:latest",
                "user/image:latest",
            ),
            (
                "docker.io/alpine",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            (
                "docker.io/library/alpine",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            (
                "index.docker.io/alpine",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            (
                "library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            (
                "localhost:5000/x:1",
                "localhost:5000/x:1",
                "localhost:5000/x:1",
            ),
            (
                "localhost:5000",
                "docker.io/library/localhost:5000",
                "localhost:5000",
            ),
            (
                "ghcr.io/a/b/c:T_1.x-2",
                "ghcr.io/a/b/c:T_1.x-2",
                "ghcr.io/a/b/c:T_1.x-2",
            ),
            ("Host/x", "Host/x:latest", "Host/x:latest"),
            ("host:80/x", "host:80/x:latest", "host:80/x:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            ("[fe80::1]/x/y:z", "[fe80::1]/x/y:z", "[fe80::1]/x/y:z"),
            (
                "a__b/c--d/e.f_g",
                "docker.io/a__b/c--d/e.f_g:latest",
                "a__b/c--d/e.f_g:latest",
            ),
            (
                "docker.io/localhost/x",
                "docker.io/localhost/x:latest",
                "docker.io/localhost/x:latest",
            ),
            (
                "docker.io/a.b/x",
                "docker.io/a.b/x:latest",
                "docker.io/a.b/x:latest",
            ),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(full.parse::<Reference>().unwrap(), reference);
            assert_eq!(familiar.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn digests_with_and_without_a_tag() {
        let both: Reference = format!("alpine:3.20@{DIGEST}").parse().unwrap();
        assert_eq!(both.tag(), Some("3.20"));
        assert_eq!(both.digest().unwrap().to_string(), DIGEST);
        assert_eq!(
            both.to_string(),
            format!("docker.io/library/alpine:3.20@{DIGEST}")
        );
        let only: Reference = format!("quay.io/a/b@{DIGEST}").parse().unwrap();
        assert_eq!(
            (only.tag(), only.familiar()),
            (None, format!("quay.io/a/b@{DIGEST}"))
        );
        assert_eq!(
            both.with_tag("edge").unwrap().to_string(),
            "docker.io/library/alpine:edge"
        );
        assert_eq!(both.with_digest(only.digest().unwrap()).tag(), None);
        assert!(both.with_tag("-x").is_err());
    }

    #[test]
    fn what_is_refused() {
        let id = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (text, why) in [
            ("", "empty"),
            ("Alpine", "lower case: \"alpine\""),
            ("user/Image", "lower case: \"user/image\""),
            ("ghcr.io/A/b", "lower case: \"a/b\""),
            ("alpine:", "tag is empty"),
            ("alpine:.x", "must consist of"),
            ("x/alpine:a/b", "must consist of"),
            ("alpine:a/b", "port"),
            ("alpine:ä", "must consist of"),
            (&format!("a:{}", "t".repeat(129)), "tag is longer than 128"),
            (&format!("a/{}", "t".repeat(255)), "longer than 255"),
            (&"x".repeat(2000), "longer than 1024"),
            ("a//b", "empty part"),
            ("/a", "empty part"),
            ("a/", "empty part"),
            ("a.b/", "repository is missing"),
            ("-a", "separator"),
            ("a-", "separator"),
            ("a..b", "separator"),
            ("a___b", "separator"),
            ("a._b", "separator"),
            ("a b", "must not contain ' '"),
            ("a\nb", "must not contain '\\n'"),
            ("é", "must not contain 'é'"),
            ("../etc/passwd", "host name"),
            ("a/../b", "separator"),
            ("host:port/x", "port"),
            ("host:99999/x", "port"),
            ("host:/x", "port"),
            ("::1/x", "brackets"),
            ("[::1/x", "closing bracket"),
            ("[xyz.]/x", "IPv6"),
            ("[::1]x/y", "after the bracket"),
            ("-host.io/x", "host name"),
            ("a..b/x", "host name"),
            ("user@host.io/x", "invalid digest"),
            ("a@sha256:12", "64 digits, not 2"),
            ("a@", "no colon"),
            (id, "image ID"),
            ("https://ghcr.io/a/b", "try \"ghcr.io/a/b\""),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(error.len() < 400, "{error}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(
            text in "(([a-z]{1,5}\\.[a-z]{2}|localhost|\\[::1\\])(:[1-9][0-9]{0,3})?/)?[a-z0-9]{1,4}(/[a-z0-9]{1,4}([._-][a-z0-9]{1,3}){0,2}){0,3}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,10})?"
        ) {
            let reference: Reference = text.parse().unwrap();
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
        }

        #[test]
        fn any_text_is_survived(text in "[a-zA-Z0-9:/@._ \\[\\]é-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
                prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
            }
        }
    }
}
