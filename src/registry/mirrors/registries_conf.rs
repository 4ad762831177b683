//! `registries.conf`, version 2: the longest prefix of an image's name decides.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Answers, Endpoint, Error, read, wrong};
use crate::oci::Reference;

#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Entry>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Entry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

impl Entry {
    /// The prefix that it is for.
    fn prefix(&self) -> &str {
        match self.prefix.as_str() {
            "" => &self.location,
            prefix => prefix,
        }
    }
}

/// The registries to ask, that of the image last, by the first of these files that exists.
pub(super) fn endpoints(files: &[PathBuf], image: &Reference) -> Result<Vec<Endpoint>, Error> {
    let unchanged = |insecure| Endpoint {
        insecure,
        ..Endpoint::new(image.clone())
    };
    let Some(path) = files.iter().find(|path| path.exists()) else {
        return Ok(vec![unchanged(false)]);
    };
    let Some((entry, path)) = chosen(path, image)? else {
        return Ok(vec![unchanged(false)]);
    };
    if entry.blocked {
        let registry = image.registry();
        return Err(wrong(
            &path,
            format!("it blocks {registry} ({})", entry.prefix()),
        ));
    }
    let mut found = Vec::new();
    for mirror in &entry.mirror {
        let answers = match mirror.pull_from_mirror.as_str() {
            "digest-only" => Answers::Digests,
            "tag-only" => Answers::Tags,
            "" | "all" if entry.mirror_by_digest_only => Answers::Digests,
            "" | "all" => Answers::Everything,
            other => {
                return Err(wrong(
                    &path,
                    format!("pull-from-mirror cannot be {other:?}"),
                ));
            }
        };
        found.push(Endpoint {
            insecure: mirror.insecure,
            answers,
            ..Endpoint::new(moved(&path, image, entry.prefix(), &mirror.location)?)
        });
    }
    found.push(match entry.location.as_str() {
        "" => unchanged(entry.insecure),
        location => Endpoint {
            reference: moved(&path, image, entry.prefix(), location)?,
            ..unchanged(entry.insecure)
        },
    });
    Ok(found)
}

/// The entry with the longest prefix of the image's name, and the file it is in. A file of the
/// directory replaces what the main one has for the same prefix.
fn chosen(main: &Path, image: &Reference) -> Result<Option<(Entry, PathBuf)>, Error> {
    let mut files = vec![main.to_owned()];
    let directory = main.with_file_name("registries.conf.d");
    match std::fs::read_dir(&directory) {
        Ok(entries) => {
            let mut more: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            more.retain(|path| path.extension() == Some(OsStr::new("conf")));
            more.sort();
            files.extend(more);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => {
            let path = directory;
            return Err(Error::Io { path, source });
        }
    }
    let mut best: Option<(Entry, PathBuf)> = None;
    for path in files {
        let Some(File { registry }) = read(&path)? else {
            continue;
        };
        for entry in registry {
            if matched(&image.name(), entry.prefix()).is_none() {
                continue;
            }
            let longest = best.as_ref().map_or(0, |(best, _)| best.prefix().len());
            if entry.prefix().len() >= longest {
                best = Some((entry, path.clone()));
            }
        }
    }
    Ok(best)
}

/// What follows the part of `name` that a prefix matches.
fn matched<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = match prefix.strip_prefix('*') {
        // `*.example.com`: any host of that domain.
        Some(domain) if domain.starts_with('.') => {
            let host = name.split('/').next().unwrap_or_default();
            let host_only = host.split(':').next().unwrap_or_default();
            let fits = host.ends_with(domain) || host_only.ends_with(domain);
            return fits.then(|| name.get(host.len()..)).flatten();
        }
        _ if prefix.is_empty() => return None,
        _ => name.strip_prefix(prefix)?,
    };
    (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(rest)
}

/// The image with the prefix of its name replaced.
fn moved(path: &Path, image: &Reference, prefix: &str, to: &str) -> Result<Reference, Error> {
    if to.is_empty() {
        return Err(wrong(path, format!("a mirror of {prefix} has no location")));
    }
    let rest = matched(&image.name(), prefix)
        .unwrap_or_default()
        .to_owned();
    renamed(image, &format!("{to}{rest}"))
        .map_err(|error| wrong(path, format!("the location {to}: {error}")))
}

/// The image under another name, with its own tag and digest.
pub(super) fn renamed(image: &Reference, name: &str) -> Result<Reference, crate::oci::ParseError> {
    let mut text = name.to_owned();
    if let Some(tag) = image.tag() {
        text.push(':');
        text.push_str(tag);
    }
    if let Some(digest) = image.digest() {
        text.push('@');
        text.push_str(&digest.to_string());
    }
    text.parse()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CONFIG: &str = r#"
unqualified-search-registries = ["docker.io"]
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.local:5000"
insecure = true
[[registry.mirror]]
location = "second.local/hub"
pull-from-mirror = "digest-only"

[[registry]]
prefix = "docker.io/own"
location = "git.local/own"

[[registry]]
prefix = "*.example.com"
[[registry.mirror]]
location = "inner.local/example"

[[registry]]
prefix = "bad.local"
blocked = true
"#;

    fn found(image: &str) -> Result<Vec<(String, bool, Answers)>, Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registries.conf");
        fs::write(&path, CONFIG).unwrap();
        fs::create_dir(directory.path().join("registries.conf.d")).unwrap();
        let more = directory.path().join("registries.conf.d/1.conf");
        fs::write(
            more,
            "[[registry]]\nlocation = \"plain.local:80\"\ninsecure = true\n",
        )
        .unwrap();
        let endpoints = endpoints(
            &[directory.path().join("no"), path],
            &image.parse().unwrap(),
        )?;
        let shown = |e: Endpoint| (e.reference.to_string(), e.insecure, e.answers);
        Ok(endpoints.into_iter().map(shown).collect())
    }

    #[test]
    fn the_longest_prefix_decides() {
        use Answers::{Digests, Everything};
        for (image, expected) in [
            (
                "debian:12",
                &[
                    ("mirror.local:5000/library/debian:12", true, Everything),
                    ("second.local/hub/library/debian:12", false, Digests),
                    ("docker.io/library/debian:12", false, Everything),
                ][..],
            ),
            ("own/app:1", &[("git.local/own/app:1", false, Everything)]),
            (
                "owner/app:1",
                &[
                    ("mirror.local:5000/owner/app:1", true, Everything),
                    ("second.local/hub/owner/app:1", false, Digests),
                    ("docker.io/owner/app:1", false, Everything),
                ],
            ),
            (
                "a.b.example.com:8080/x:1",
                &[
                    ("inner.local/example/x:1", false, Everything),
                    ("a.b.example.com:8080/x:1", false, Everything),
                ],
            ),
            (
                "plain.local:80/x:1",
                &[("plain.local:80/x:1", true, Everything)],
            ),
            ("other.local/x:1", &[("other.local/x:1", false, Everything)]),
        ] {
            let expected: Vec<_> = expected
                .iter()
                .map(|(n, i, a)| ((*n).to_owned(), *i, *a))
                .collect();
            assert_eq!(found(image).unwrap(), expected, "{image}");
        }
        let error = found("bad.local/x:1").unwrap_err().to_string();
        assert!(error.contains("it blocks bad.local"), "{error}");
    }
}
