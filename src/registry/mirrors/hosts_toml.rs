//! `hosts.toml`: the mirrors of a registry in a directory named after its host.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::registries_conf::renamed;
use super::{Answers, Endpoint, Error, read, wrong};
use crate::oci::Reference;

#[derive(Debug, Default, Deserialize)]
struct File {
    /// In the order of the file.
    #[serde(default, deserialize_with = "in_order")]
    host: Vec<(String, Host)>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Paths,
    skip_verify: bool,
    override_path: bool,
}

/// One path or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Paths {
    One(PathBuf),
    Several(Vec<PathBuf>),
}

impl Default for Paths {
    fn default() -> Paths {
        Paths::Several(Vec::new())
    }
}

/// A table as a list, because the first mirror is asked first.
fn in_order<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(String, Host)>, D::Error> {
    struct Ordered;
    impl<'de> serde::de::Visitor<'de> for Ordered {
        type Value = Vec<(String, Host)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a table of hosts")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut hosts = Vec::new();
            while let Some(entry) = map.next_entry()? {
                hosts.push(entry);
            }
            Ok(hosts)
        }
    }
    deserializer.deserialize_map(Ordered)
}

/// The mirrors of an image's registry.
pub(super) fn mirrors(directories: &[PathBuf], image: &Reference) -> Result<Vec<Endpoint>, Error> {
    let Some((path, file)) = find(directories, image.registry())? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for (url, host) in file.host {
        match endpoint(&path, image, &url, &host)? {
            // The registry itself is asked last anyway.
            Some(endpoint) if endpoint.reference.name() == image.name() => {}
            Some(endpoint) => found.push(endpoint),
            None => {}
        }
    }
    Ok(found)
}

/// The file for a host: `HOST`, with `_PORT_` for a port, or `_default`.
fn find(directories: &[PathBuf], host: &str) -> Result<Option<(PathBuf, File)>, Error> {
    let escaped = host
        .split_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    for directory in directories {
        for name in escaped.iter().map(String::as_str).chain([host, "_default"]) {
            let path = directory.join(name).join("hosts.toml");
            if let Some(file) = read(&path)? {
                return Ok(Some((path, file)));
            }
        }
    }
    Ok(None)
}

/// The mirror at `url`; `None` for one that is not for pulling, or that cannot be asked by us.
fn endpoint(
    path: &Path,
    image: &Reference,
    url: &str,
    host: &Host,
) -> Result<Option<Endpoint>, Error> {
    let can = |what: &str| match &host.capabilities {
        None => true,
        Some(capabilities) => capabilities.iter().any(|own| own == what),
    };
    let answers = match (can("pull"), can("resolve")) {
        (true, true) => Answers::Everything,
        (true, false) => Answers::Digests,
        (false, _) => return Ok(None),
    };
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let (authority, own_path) = rest.split_once('/').unwrap_or((rest, ""));
    let own_path = own_path.trim_end_matches('/');
    // With `override_path` the API is where the path says; only below its usual place is a part of
    // it the same as a longer repository.
    let below = match (host.override_path, own_path) {
        (false, "") | (true, "v2") => "",
        (true, path) if path.starts_with("v2/") => path.trim_start_matches("v2/"),
        _ => {
            log::warn!(
                "{}: the mirror {url} is passed over: its API is not below /v2",
                path.display()
            );
            return Ok(None);
        }
    };
    let repository = image.repository();
    let name = match below {
        "" => format!("{authority}/{repository}"),
        below => format!("{authority}/{below}/{repository}"),
    };
    let reference =
        renamed(image, &name).map_err(|error| wrong(path, format!("the mirror {url}: {error}")))?;
    let beside = |ca: &PathBuf| match path.parent() {
        Some(directory) => directory.join(ca),
        None => ca.clone(),
    };
    Ok(Some(Endpoint {
        reference,
        insecure: host.skip_verify || scheme == "http",
        ca_files: match &host.ca {
            Paths::One(ca) => vec![beside(ca)],
            Paths::Several(several) => several.iter().map(beside).collect(),
        },
        answers,
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CONFIG: &str = r#"
server = "https://registry-1.docker.io"
[host."http://z.local:5000"]
  capabilities = ["pull", "resolve"]
[host."https://a.local"]
  capabilities = ["pull"]
  skip_verify = true
  ca = "own.pem"
[host."https://harbor.local/v2/proxy"]
  override_path = true
  ca = ["/etc/one.pem", "two.pem"]
[host."https://push.local"]
  capabilities = ["push"]
[host."https://odd.local/elsewhere"]
"#;

    #[test]
    fn mirrors_in_the_order_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let hosts = [directory.path().join("none"), directory.path().to_owned()];
        for name in ["docker.io", "own.local_5000_", "_default"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("docker.io/hosts.toml"), CONFIG).unwrap();
        let default = "[host.\"fallback.local\"]\n";
        fs::write(directory.path().join("_default/hosts.toml"), default).unwrap();
        let own = "[host.\"port.local\"]\n";
        fs::write(directory.path().join("own.local_5000_/hosts.toml"), own).unwrap();
        let found = |image: &str| mirrors(&hosts, &image.parse().unwrap()).unwrap();
        let shown = |e: &Endpoint| (e.reference.to_string(), e.insecure, e.answers);

        let of_hub = found("debian:12");
        let expected = [
            ("z.local:5000/library/debian:12", true, Answers::Everything),
            ("a.local/library/debian:12", true, Answers::Digests),
            (
                "harbor.local/proxy/library/debian:12",
                false,
                Answers::Everything,
            ),
        ];
        let expected =
            expected.map(|(name, insecure, answers)| (name.to_owned(), insecure, answers));
        assert_eq!(of_hub.iter().map(shown).collect::<Vec<_>>(), expected);
        assert_eq!(
            of_hub[1].ca_files,
            [directory.path().join("docker.io/own.pem")]
        );
        assert_eq!(of_hub[2].ca_files[0], Path::new("/etc/one.pem"));
        assert_eq!(shown(&found("own.local:5000/x:1")[0]).0, "port.local/x:1");
        assert_eq!(shown(&found("other.local/x:1")[0]).0, "fallback.local/x:1");

        fs::write(directory.path().join("_default/hosts.toml"), "[host\n").unwrap();
        let error = mirrors(&hosts, &"other.local/x:1".parse().unwrap()).unwrap_err();
        assert!(
            error.to_string().contains("hosts.toml: line 1: "),
            "{error}"
        );
    }
}
