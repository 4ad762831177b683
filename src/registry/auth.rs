//! Credentials: found in the configuration files of Docker and of podman, or in their helpers.
//!
//! # See
//!
//! `containers-auth.json(5)`; Docker's `config.json` and credential helper protocol
//! (<https://github.com/docker/docker-credential-helpers>)

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use serde::Deserialize;

use super::Error;
use super::exact::read_limited;
use super::helper::Helper;
use crate::oci::RegistryName;

/// The largest file with credentials that is read, in bytes.
const LARGEST_FILE: u64 = 4 << 20;
/// The user name that marks a secret as an identity token.
const TOKEN_USER: &str = "<token>";

/// Files with credentials, and how to run the helpers that they name.
#[derive(Debug, Clone, Default)]
pub struct AuthFiles {
    /// `auth.json` and `config.json` files; the first that has something for a registry decides.
    ///
    /// Files that do not exist are passed over.
    pub paths: Vec<PathBuf>,
    /// The one of them that credentials are written to for a registry that none has any for.
    pub new_ones: Option<PathBuf>,
    /// The search path for `docker-credential-*` helpers; `None` for that of this process.
    pub helper_path: Option<OsString>,
}

/// What proves to a registry who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password.
    Basic {
        /// The name.
        username: String,
        /// The password, or an access token that serves as one.
        password: String,
    },
    /// A refresh token that the registry's token server gave at login.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    /// Without the secret, which must not come into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, ...)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(...)"),
        }
    }
}

/// The part of `config.json` and `auth.json` that concerns us.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    /// `user:password` in Base64.
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
}

impl AuthFiles {
    /// The credentials for a place in a registry, `HOST` or `HOST/REPOSITORY`; `None` if no file
    /// has any.
    ///
    /// In each file a helper for the registry comes first, then what the file holds itself, then its store of
    /// credentials.
    ///
    /// # Errors
    ///
    /// [`Error::Credentials`] if a file or helper cannot be read or says something odd.
    pub fn find(&self, registry: &RegistryName, place: &str) -> Result<Option<Credentials>, Error> {
        let wrong = |why: String| Error::Credentials {
            doing: "get",
            registry: registry.to_string(),
            why,
        };
        for path in &self.paths {
            let Some(config) = read(path).map_err(wrong)? else {
                continue;
            };
            if let Some(found) = self
                .find_in(&config, registry, place)
                .map_err(|why| wrong(format!("{why} (configured in {})", path.display())))?
            {
                log::info!("{place}: credentials are in {}", path.display());
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn find_in(
        &self,
        config: &Config,
        registry: &RegistryName,
        place: &str,
    ) -> Result<Option<Credentials>, String> {
        let keys = keys(registry, place);
        if let Some(helpers) = &config.cred_helpers
            && let Some((key, helper)) = keys.iter().find_map(|key| helpers.get_key_value(key))
            && let Some(found) = self.ask(helper, key)?
        {
            return Ok(Some(found));
        }
        if let Some(auths) = &config.auths {
            let exact = keys.iter().find_map(|key| auths.get(key));
            // Docker used to write URLs, of which only the host counts.
            let by_host = || {
                let named = |key: &str| keys.iter().any(|it| host_of(key) == Some(it));
                auths
                    .iter()
                    .find(|(key, _)| named(key))
                    .map(|(_, entry)| entry)
            };
            if let Some(found) = exact
                .or_else(by_host)
                .map(Entry::credentials)
                .transpose()?
                .flatten()
            {
                return Ok(Some(found));
            }
        }
        match config.creds_store.as_deref() {
            Some(store) if !store.is_empty() => self.ask(store, registry.credential_key()),
            _ => Ok(None),
        }
    }

    /// Asks a helper for the credentials of a server.
    fn ask(&self, helper: &str, server: &str) -> Result<Option<Credentials>, String> {
        Helper::new(helper, self.helper_path.as_deref())?.get(server)
    }
}

impl Credentials {
    /// What a pair of name and secret stands for; `None` for an empty one.
    pub(super) fn new(username: String, secret: String) -> Option<Self> {
        match (username.as_str(), secret.as_str()) {
            ("", "") => None,
            (TOKEN_USER, _) => Some(Self::IdentityToken(secret)),
            _ => Some(Self::Basic {
                username,
                password: secret,
            }),
        }
    }

    /// Who shows them, as the beginning of a message about what they do.
    #[cfg(feature = "registry")]
    pub(super) fn subject(&self) -> String {
        match self {
            Self::Basic { username, .. } => {
                format!("the credentials of {} do", crate::oci::quoted(username))
            }
            Self::IdentityToken(_) => "the identity token does".to_owned(),
        }
    }

    /// The pair of name and secret that stands for them.
    pub(super) fn pair(&self) -> (&str, &str) {
        match self {
            Self::Basic { username, password } => (username, password),
            Self::IdentityToken(token) => (TOKEN_USER, token),
        }
    }
}

impl Entry {
    /// Docker leaves an empty entry behind where a store has the credentials: that is `None`.
    fn credentials(&self) -> Result<Option<Credentials>, String> {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        if let Some(token) = self
            .identitytoken
            .as_ref()
            .filter(|token| !token.is_empty())
        {
            return Ok(Some(Credentials::IdentityToken(token.clone())));
        }
        let encoded = text(&self.auth);
        if encoded.trim().is_empty() {
            return Ok(Credentials::new(text(&self.username), text(&self.password)));
        }
        let invalid = || "an auth entry is not user:password in Base64".to_owned();
        let encoded = encoded.trim().trim_end_matches('=');
        let bytes = BASE64_STANDARD_NO_PAD
            .decode(encoded)
            .map_err(|_| invalid())?;
        let decoded = String::from_utf8(bytes).map_err(|_| invalid())?;
        let (username, password) = decoded.split_once(':').ok_or_else(invalid)?;
        // Old versions of Docker padded the password.
        let password = password.trim_end_matches('\0');
        Ok(Credentials::new(username.to_owned(), password.to_owned()))
    }
}

/// Under which keys credentials for a place may stand, the most specific first.
pub(super) fn keys(registry: &RegistryName, place: &str) -> Vec<String> {
    let mut keys: Vec<String> = std::iter::successors(Some(place), |place| {
        place.rsplit_once('/').map(|(shorter, _)| shorter)
    })
    .map(str::to_owned)
    .collect();
    if registry.is_default() {
        keys.push(registry.credential_key().to_owned());
        keys.push("index.docker.io".to_owned());
        keys.push(registry.api_host().to_owned());
    }
    keys
}

/// The host of a key that is a URL.
pub(super) fn host_of(key: &str) -> Option<&str> {
    let rest = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))?;
    rest.split('/').next()
}

fn read(path: &Path) -> Result<Option<Config>, String> {
    let Some(bytes) = read_bytes(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| format!("{} is not a valid configuration: {e}", path.display()))
}

/// Reads a file with credentials; `None` if there is none, or nothing in it.
pub(super) fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let unreadable = |e: io::Error| format!("cannot read {}: {e}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(unreadable(e)),
    };
    let bytes = read_limited(file, LARGEST_FILE)
        .map_err(unreadable)?
        .ok_or_else(|| format!("{} is larger than {LARGEST_FILE} bytes", path.display()))?;
    // Podman makes an empty file before it writes the first credentials.
    Ok((!bytes.iter().all(u8::is_ascii_whitespace)).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use base64::prelude::BASE64_STANDARD;

    use super::*;

    fn find(
        text: &str,
        reference: &str,
        path: Option<&Path>,
    ) -> Result<Option<Credentials>, Error> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        std::fs::write(&file, text).unwrap();
        let paths = vec![directory.path().join("missing.json"), file];
        let helper_path = path.map(|path| path.as_os_str().to_owned());
        let reference: crate::oci::Reference = reference.parse().unwrap();
        let files = AuthFiles {
            paths,
            helper_path,
            ..AuthFiles::default()
        };
        files.find(&reference.registry_name(), &reference.name())
    }

    fn user(name: &str) -> Option<Credentials> {
        Some(Credentials::Basic {
            username: name.into(),
            password: "pw:x".into(),
        })
    }

    #[test]
    fn entries_of_files() {
        let auth = |name: &str| BASE64_STANDARD.encode(format!("{name}:pw:x\0"));
        let text = format!(
            r#"{{"auths": {{
                "https://index.docker.io/v1/": {{"auth": "{}"}},
                "ghcr.io/team": {{"auth": "{}"}},
                "ghcr.io/team/app": {{"auth": "{}"}},
                "https://old.example/v2/": {{"username": "old", "password": "pw:x"}},
                "token.example": {{"auth": "{}", "identitytoken": "tok"}},
                "empty.example": {{}}, "odd.example": {{"auth": "%%"}}
            }}}}"#,
            auth("hub"),
            auth("team"),
            auth("app"),
            auth("<token>")
        );
        for (reference, expected) in [
            ("alpine", user("hub")),
            ("ghcr.io/team/app", user("app")),
            ("ghcr.io/team/other/deep", user("team")),
            ("ghcr.io/else/app", None),
            ("old.example/x", user("old")),
            (
                "token.example/x",
                Some(Credentials::IdentityToken("tok".into())),
            ),
            ("empty.example/x", None),
            ("unknown.example/x", None),
        ] {
            assert_eq!(
                find(&text, reference, None).unwrap(),
                expected,
                "{reference}"
            );
        }
        let error = find(&text, "odd.example/x", None).unwrap_err().to_string();
        assert!(error.contains("Base64"), "{error}");
        assert_eq!(find("", "alpine", None).unwrap(), None);
        assert!(
            find("[", "alpine", None)
                .unwrap_err()
                .to_string()
                .contains("not a valid")
        );
    }

    #[test]
    fn helpers() {
        let bin = tempfile::tempdir().unwrap();
        for (name, script) in [
            (
                "good",
                r#"read -r s; printf '{"ServerURL":"%s","Username":"u%s","Secret":"pw:x"}' "$s" "$s""#,
            ),
            (
                "token",
                r#"printf '{"ServerURL":"","Username":"<token>","Secret":"tok"}'"#,
            ),
            (
                "none",
                "echo credentials not found in native keychain; exit 1",
            ),
            ("broken", "echo no keychain >&2; exit 1"),
            ("odd", "echo hello"),
        ] {
            let file = bin.path().join(format!("docker-credential-{name}"));
            std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let text = r#"{"credHelpers": {"good.io": "good", "token.io": "token", "none.io": "none",
            "broken.io": "broken", "odd.io": "odd", "missing.io": "missing", "bad.io": "../x"},
            "auths": {"none.io": {"username": "file", "password": "pw:x"}, "stored.io": {}},
            "credsStore": "good"}"#;
        let ask = |reference: &str| find(text, reference, Some(bin.path()));
        assert_eq!(ask("good.io/x").unwrap(), user("ugood.io"));
        assert_eq!(
            ask("token.io/x").unwrap(),
            Some(Credentials::IdentityToken("tok".into()))
        );
        assert_eq!(ask("none.io/x").unwrap(), user("file"));
        assert_eq!(ask("stored.io/x").unwrap(), user("ustored.io"));
        assert_eq!(ask("alpine").unwrap(), user("uhttps://index.docker.io/v1/"));
        for (reference, why) in [
            (
                "broken.io/x",
                "docker-credential-broken failed: \"no keychain\"",
            ),
            ("odd.io/x", "invalid answer"),
            ("missing.io/x", "docker-credential-missing is not installed"),
            ("bad.io/x", "cannot be the name"),
        ] {
            let error = ask(reference).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = format!(
            "{:?} {:?}",
            user("me"),
            Credentials::IdentityToken("tok".into())
        );
        assert!(
            text.contains("me") && !text.contains("pw") && !text.contains("tok)"),
            "{text}"
        );
    }
}
