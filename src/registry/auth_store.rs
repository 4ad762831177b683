//! Credentials written into the files that they are read from, and taken out again.
//!
//! # Invariants
//!
//! * A file is replaced as a whole, readable by its owner only; what it says besides stays.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::auth::{AuthFiles, host_of, keys, read_bytes};
use super::helper::Helper;
use super::{Credentials, Error};
use crate::oci::RegistryName;

/// Where credentials are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeper {
    /// A file, in which anybody can read them who can read it.
    File(PathBuf),
    /// A helper, by its program.
    Helper(String),
}

/// A file with credentials while it is changed.
struct Document {
    path: PathBuf,
    value: Map<String, Value>,
}

impl AuthFiles {
    /// Keeps credentials for a registry: in the file that is read first of those that have some for
    /// it, or else in the one for new ones; there in the helper that it names.
    ///
    /// # Errors
    /// [`Error::Credentials`] if a file or helper cannot be used.
    pub fn store(
        &self,
        registry: &RegistryName,
        credentials: &Credentials,
    ) -> Result<Keeper, Error> {
        let wrong = |why: String| Error::Credentials {
            doing: "keep",
            registry: registry.to_string(),
            why,
        };
        let path = match self.place(registry)? {
            Some(path) => path,
            None => self.new_ones.clone().ok_or_else(|| {
                wrong("it is not known where to keep them: HOME is not set".to_owned())
            })?,
        };
        let mut document = Document::read(&path).map_err(wrong)?;
        let keeper = self
            .keep(&mut document, registry, credentials)
            .map_err(wrong)?;
        document.write().map_err(wrong)?;
        Ok(keeper)
    }

    fn keep(
        &self,
        document: &mut Document,
        registry: &RegistryName,
        credentials: &Credentials,
    ) -> Result<Keeper, String> {
        let helper = document.helper(registry, self)?;
        let key = registry.credential_key();
        document.remove(registry);
        let (entry, keeper) = match helper {
            Some((helper, key)) => {
                helper.store(&key, credentials)?;
                (json!({}), Keeper::Helper(helper.program().to_owned()))
            }
            None => (entry(credentials), Keeper::File(document.path.clone())),
        };
        document.auths()?.insert(key.to_owned(), entry);
        Ok(keeper)
    }

    /// Forgets the credentials for a registry, in every file and helper that is asked for them; who
    /// kept them.
    ///
    /// # Errors
    /// As [`AuthFiles::store`].
    pub fn erase(&self, registry: &RegistryName) -> Result<Vec<Keeper>, Error> {
        let wrong = |why: String| Error::Credentials {
            doing: "forget",
            registry: registry.to_string(),
            why,
        };
        let mut keepers = Vec::new();
        for path in &self.paths {
            let mut document = Document::read(path).map_err(wrong)?;
            if let Some((helper, key)) = document.helper(registry, self).map_err(wrong)?
                && helper.erase(&key).map_err(wrong)?
            {
                keepers.push(Keeper::Helper(helper.program().to_owned()));
            }
            if document.remove(registry) {
                document.write().map_err(wrong)?;
                keepers.push(Keeper::File(path.clone()));
            }
        }
        keepers.dedup();
        Ok(keepers)
    }

    /// The registries that the files have credentials for, each once.
    ///
    /// # Errors
    /// As [`AuthFiles::store`].
    pub fn registries(&self) -> Result<Vec<RegistryName>, Error> {
        let mut found: Vec<RegistryName> = Vec::new();
        for path in &self.paths {
            let wrong = |why: String| Error::Credentials {
                doing: "get",
                registry: "any registry".to_owned(),
                why,
            };
            let document = Document::read(path).map_err(wrong)?;
            for section in ["auths", "credHelpers"] {
                let Some(entries) = document.value.get(section).and_then(Value::as_object) else {
                    continue;
                };
                for key in entries.keys() {
                    let host = host_of(key).unwrap_or(key);
                    let host = host.split('/').next().unwrap_or(host);
                    match host.parse() {
                        Ok(name) if found.contains(&name) => {}
                        Ok(name) => found.push(name),
                        Err(error) => log::debug!("{}: {error}", path.display()),
                    }
                }
            }
        }
        Ok(found)
    }

    /// The first file that has something for a registry.
    fn place(&self, registry: &RegistryName) -> Result<Option<PathBuf>, Error> {
        for path in &self.paths {
            let alone = AuthFiles {
                paths: vec![path.clone()],
                ..self.clone()
            };
            if alone.find(registry, registry.as_str())?.is_some() {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }
}

impl Document {
    fn read(path: &Path) -> Result<Document, String> {
        // A link to it stays one.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let value = match read_bytes(&path)? {
            None => Map::new(),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| format!("{} is not a valid configuration: {e}", path.display()))?,
        };
        Ok(Document { path, value })
    }

    /// The helper for a registry, and what the registry is called to it.
    fn helper<'a>(
        &self,
        registry: &RegistryName,
        files: &'a AuthFiles,
    ) -> Result<Option<(Helper<'a>, String)>, String> {
        let of = |name: &str| Helper::new(name, files.helper_path.as_deref());
        let own = self.value.get("credHelpers").and_then(Value::as_object);
        for key in keys(registry, registry.as_str()) {
            if let Some(name) = own.and_then(|own| own.get(&key)).and_then(Value::as_str) {
                return Ok(Some((of(name)?, key)));
            }
        }
        match self.value.get("credsStore").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => {
                Ok(Some((of(name)?, registry.credential_key().to_owned())))
            }
            _ => Ok(None),
        }
    }

    fn auths(&mut self) -> Result<&mut Map<String, Value>, String> {
        let auths = self.value.entry("auths").or_insert_with(|| json!({}));
        if auths.is_null() {
            *auths = json!({});
        }
        let wrong = || format!("{}: auths is not an object", self.path.display());
        auths.as_object_mut().ok_or_else(wrong)
    }

    /// Removes what the file has for a registry, and tells whether there was something.
    fn remove(&mut self, registry: &RegistryName) -> bool {
        let keys = keys(registry, registry.as_str());
        let Some(auths) = self.value.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let before = auths.len();
        auths.retain(|key, _| {
            !keys.contains(key) && !keys.iter().any(|name| host_of(key) == Some(name))
        });
        auths.len() < before
    }

    fn write(&self) -> Result<(), String> {
        let failed = |e: io::Error| format!("cannot write {}: {e}", self.path.display());
        let mut bytes = serde_json::to_vec_pretty(&self.value).map_err(|e| e.to_string())?;
        bytes.push(b'\n');
        replace(&self.path, &bytes).map_err(failed)
    }
}

/// What a file says about credentials that it keeps itself.
fn entry(credentials: &Credentials) -> Value {
    match credentials {
        Credentials::Basic { username, password } => {
            json!({"auth": BASE64_STANDARD.encode(format!("{username}:{password}"))})
        }
        Credentials::IdentityToken(token) => json!({"identitytoken": token}),
    }
}

/// Replaces a file, which only its owner can read from the first moment on.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_private(directory)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let replaced = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if replaced.is_err() {
        fs::remove_file(&temporary)?;
    }
    replaced
}

fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn basic(name: &str) -> Credentials {
        Credentials::Basic {
            username: name.into(),
            password: "pw".into(),
        }
    }

    fn files(paths: &[PathBuf]) -> AuthFiles {
        AuthFiles {
            paths: paths.to_vec(),
            new_ones: paths.last().cloned(),
            helper_path: None,
        }
    }

    #[test]
    fn what_a_file_says_besides_stays() {
        let directory = tempfile::tempdir().unwrap();
        let [first, last] =
            ["run/auth.json", "docker/config.json"].map(|p| directory.path().join(p));
        let files = files(&[first.clone(), last.clone()]);
        let registry: RegistryName = "r.io".parse().unwrap();
        let hub = RegistryName::default();

        assert_eq!(
            files.store(&registry, &basic("a")).unwrap(),
            Keeper::File(last.clone())
        );
        let mode = fs::metadata(&last).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = r#"{"psFormat": "x", "auths": {"https://r.io/v1/": {"auth": "YTpi"}, "other.io": {"auth": "YTpi", "more": 1}}}"#;
        fs::write(&last, text).unwrap();
        fs::set_permissions(&last, PermissionsExt::from_mode(0o644)).unwrap();
        files.store(&registry, &basic("b")).unwrap();
        files
            .store(&hub, &Credentials::IdentityToken("tok".into()))
            .unwrap();
        let value: Value = serde_json::from_slice(&fs::read(&last).unwrap()).unwrap();
        assert_eq!(
            value,
            json!({"psFormat": "x", "auths": {
                "other.io": {"auth": "YTpi", "more": 1},
                "r.io": {"auth": BASE64_STANDARD.encode("b:pw")},
                "https://index.docker.io/v1/": {"identitytoken": "tok"}}})
        );
        let mode = fs::metadata(&last).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(files.registries().unwrap().len(), 3);

        // What is read first is what must change.
        fs::create_dir_all(first.parent().unwrap()).unwrap();
        fs::write(&first, r#"{"auths": {"r.io": {"auth": "YTpi"}}}"#).unwrap();
        assert_eq!(
            files.store(&registry, &basic("c")).unwrap(),
            Keeper::File(first.clone())
        );
        assert_eq!(files.find(&registry, "r.io/x").unwrap(), Some(basic("c")));
        let both = [Keeper::File(first), Keeper::File(last)];
        assert_eq!(files.erase(&registry).unwrap(), both);
        assert_eq!(files.erase(&registry).unwrap(), []);
        assert_eq!(files.find(&registry, "r.io/x").unwrap(), None);
    }

    #[test]
    fn regression_credentials_that_cannot_be_kept_say_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("no/config.json");
        let mut files = files(&[path]);
        files.new_ones = Some(directory.path().join("file/config.json"));
        fs::write(directory.path().join("file"), "").unwrap();
        let kept = files.store(&RegistryName::default(), &basic("a"));
        let said = kept.unwrap_err().to_string();
        assert!(said.starts_with("cannot keep credentials"), "{said}");
    }

    #[test]
    fn a_link_to_a_file_stays_one() {
        let directory = tempfile::tempdir().unwrap();
        let [link, real] = ["config.json", "real.json"].map(|p| directory.path().join(p));
        fs::write(&real, "{}").unwrap();
        std::os::unix::fs::symlink("real.json", &link).unwrap();
        files(std::slice::from_ref(&link))
            .store(&RegistryName::default(), &basic("a"))
            .unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(
            fs::read_to_string(&real)
                .unwrap()
                .contains("index.docker.io")
        );
        fs::write(&real, "[]").unwrap();
        assert!(
            files(&[link])
                .store(&RegistryName::default(), &basic("a"))
                .is_err()
        );
    }
}
