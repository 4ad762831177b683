//! `hosts.toml`: how a registry is reached, and its mirrors, in a directory named after its host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::registries_conf::renamed;
use super::{Answers, Api, Endpoint, Error, read, wrong};
use crate::oci::Reference;

#[derive(Debug, Default, Deserialize)]
struct File {
    /// The registry itself, where it is not where its name says.
    server: Option<String>,
    /// Its mirrors, in the order of the file.
    #[serde(default, deserialize_with = "in_order")]
    host: Vec<(String, Host)>,
}

/// What is said of the registry itself, or of a mirror.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<Several<PathBuf>>,
    client: Option<Client>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, Several<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Several<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Several<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Several::One(one) => std::slice::from_ref(one),
            Several::Many(many) => many,
        }
    }
}

/// Certificates that are shown: files with certificate and key in one, or with either.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Client {
    Together(Several<PathBuf>),
    Apart(Vec<(PathBuf, PathBuf)>),
}

impl Client {
    /// The first of them: one is all that can be shown.
    fn first(&self) -> Option<(&Path, Option<&Path>)> {
        let key = |key: &PathBuf| !key.as_os_str().is_empty();
        match self {
            Client::Together(files) => files.as_slice().first().map(|file| (file.as_path(), None)),
            Client::Apart(pairs) => pairs.first().map(|pair| {
                let key = Some(&pair.1).filter(|path| key(path));
                (pair.0.as_path(), key.map(PathBuf::as_path))
            }),
        }
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

/// The registries to ask in place of `own`, which is the image's: its mirrors, and last itself as the
/// file says that it is reached.
pub(super) fn endpoints(directories: &[PathBuf], own: Endpoint) -> Result<Vec<Endpoint>, Error> {
    let image = own.reference.clone();
    let Some((path, file, top)) = find(directories, image.registry())? else {
        return Ok(vec![own]);
    };
    let mut last = match &file.server {
        Some(server) => endpoint(&path, &image, server, &top)?,
        None => with_host(&path, own.clone(), &top),
    };
    let mut found = Vec::new();
    for (url, host) in &file.host {
        let endpoint = endpoint(&path, &image, url, host)?;
        // The registry itself is asked last, as what is said of it as a host wants it.
        match endpoint.reference == last.reference {
            true => last = endpoint,
            false if endpoint.answers == Answers::Nothing => {}
            false => found.push(endpoint),
        }
    }
    last.insecure |= own.insecure;
    found.push(last);
    Ok(found)
}

/// The file for a host: `HOST`, with `_PORT_` for a port, or `_default`; and what it says of the
/// registry itself.
fn find(directories: &[PathBuf], host: &str) -> Result<Option<(PathBuf, File, Host)>, Error> {
    let escaped = host
        .split_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    for directory in directories {
        for name in escaped.iter().map(String::as_str).chain([host, "_default"]) {
            let path = directory.join(name).join("hosts.toml");
            if let (Some(file), Some(top)) = (read(&path)?, read(&path)?) {
                return Ok(Some((path, file, top)));
            }
        }
    }
    Ok(None)
}

/// The registry at `url`.
fn endpoint(path: &Path, image: &Reference, url: &str, host: &Host) -> Result<Endpoint, Error> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let (authority, below) = rest.split_once('/').unwrap_or((rest, ""));
    let below = below.trim_matches('/');
    let api = match (host.override_path, below) {
        (true, "") => "/".to_owned(),
        (true, below) => format!("/{below}/"),
        (false, "" | "v2") => "/v2/".to_owned(),
        (false, below) if below.ends_with("/v2") => format!("/{below}/"),
        (false, below) => format!("/{below}/v2/"),
    };
    // What serves Docker's registry goes by its name, as in files with credentials.
    let reference = match authority == image.registry_name().api_host() {
        true => image.clone(),
        false => renamed(image, &format!("{authority}/{}", image.repository()))
            .map_err(|error| wrong(path, format!("the registry {url}: {error}")))?,
    };
    let mut endpoint = with_host(path, Endpoint::new(reference), host);
    endpoint.insecure |= scheme == "http";
    endpoint.api.path = (api != "/v2/").then_some(api);
    if endpoint.reference.registry() != image.registry() {
        endpoint.api.mirror_of = Some(image.registry().to_owned());
    }
    Ok(endpoint)
}

/// The endpoint reached as the file says of it.
fn with_host(path: &Path, endpoint: Endpoint, host: &Host) -> Endpoint {
    let can = |what: &str| match &host.capabilities {
        None => true,
        Some(capabilities) => capabilities.iter().any(|own| own == what),
    };
    let beside = |file: &Path| match path.parent() {
        Some(directory) => directory.join(file),
        None => file.to_owned(),
    };
    let headers = host.header.iter().flat_map(|(name, values)| {
        let values = values.as_slice().iter();
        values.map(|value| (name.clone(), value.clone()))
    });
    let client = host.client.as_ref().and_then(Client::first);
    let ca_files = host.ca.iter().flat_map(|ca| ca.as_slice());
    Endpoint {
        insecure: endpoint.insecure || host.skip_verify,
        ca_files: ca_files.map(|ca| beside(ca)).collect(),
        answers: match (can("pull"), can("resolve")) {
            (true, true) => Answers::Everything,
            (true, false) => Answers::Digests,
            (false, _) => Answers::Nothing,
        },
        api: Api {
            headers: headers.collect(),
            client_certificate: client.map(|(file, key)| (beside(file), key.map(beside))),
            ..endpoint.api
        },
        ..endpoint
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CONFIG: &str = r#"
server = "https://registry-1.docker.io"
[host."http://z.local:5000"]
  capabilities = ["pull", "resolve"]
  [host."http://z.local:5000".header]
    x-one = "1"
    x-two = ["2", "3"]
[host."https://a.local"]
  capabilities = ["pull"]
  skip_verify = true
  ca = "own.pem"
  client = "both.pem"
[host."https://harbor.local/v2/proxy"]
  override_path = true
  ca = ["/etc/one.pem", "two.pem"]
  client = [["us.cert", "us.key"], ["more.pem", ""]]
[host."https://push.local"]
  capabilities = ["push"]
[host."https://odd.local/elsewhere"]
"#;

    fn shown(endpoint: &Endpoint) -> (String, bool, Answers, Option<&str>) {
        let api = endpoint.api.path.as_deref();
        let name = endpoint.reference.to_string();
        (name, endpoint.insecure, endpoint.answers, api)
    }

    #[test]
    fn mirrors_in_the_order_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let hosts = [directory.path().join("none"), directory.path().to_owned()];
        let write = |name: &str, text: &str| {
            fs::create_dir_all(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("hosts.toml"), text).unwrap();
        };
        write("docker.io", CONFIG);
        write("_default", "[host.\"fallback.local\"]\n");
        write("own.local_5000_", "[host.\"port.local\"]\n");
        let found = |image: &str| endpoints(&hosts, Endpoint::new(image.parse().unwrap())).unwrap();

        let of_hub = found("debian:12");
        let all: Vec<_> = of_hub.iter().map(shown).collect();
        let expected = [
            (
                "z.local:5000/library/debian:12",
                true,
                Answers::Everything,
                None,
            ),
            ("a.local/library/debian:12", true, Answers::Digests, None),
            (
                "harbor.local/library/debian:12",
                false,
                Answers::Everything,
                Some("/v2/proxy/"),
            ),
            (
                "odd.local/library/debian:12",
                false,
                Answers::Everything,
                Some("/elsewhere/v2/"),
            ),
            (
                "docker.io/library/debian:12",
                false,
                Answers::Everything,
                None,
            ),
        ];
        let expected = expected
            .map(|(name, insecure, answers, api)| (name.to_owned(), insecure, answers, api));
        assert_eq!(all, expected);
        let place = directory.path().join("docker.io");
        assert_eq!(of_hub[1].ca_files, [place.join("own.pem")]);
        assert_eq!(of_hub[2].ca_files[0], Path::new("/etc/one.pem"));
        let headers = [("x-one", "1"), ("x-two", "2"), ("x-two", "3")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(of_hub[0].api.headers, headers);
        assert_eq!(of_hub[0].api.mirror_of.as_deref(), Some("docker.io"));
        let shown_to = |at: usize| of_hub[at].api.client_certificate.clone();
        assert_eq!(shown_to(1), Some((place.join("both.pem"), None)));
        let apart = (place.join("us.cert"), Some(place.join("us.key")));
        assert_eq!(shown_to(2), Some(apart));
        assert_eq!(shown(&found("own.local:5000/x:1")[0]).0, "port.local/x:1");
        assert_eq!(shown(&found("other.local/x:1")[0]).0, "fallback.local/x:1");
        assert_eq!(shown(&found("other.local/x:1")[1]).0, "other.local/x:1");

        write("_default", "[host\n");
        let broken = Endpoint::new("other.local/x:1".parse().unwrap());
        let error = endpoints(&hosts, broken).unwrap_err().to_string();
        assert!(error.contains("hosts.toml: line 1: "), "{error}");
    }

    #[test]
    fn what_is_said_of_the_registry_itself() {
        let directory = tempfile::tempdir().unwrap();
        let hosts = [directory.path().to_owned()];
        let place = directory.path().join("own.local");
        fs::create_dir(&place).unwrap();
        let found = |text: &str| {
            fs::write(place.join("hosts.toml"), text).unwrap();
            let mut found =
                endpoints(&hosts, Endpoint::new("own.local/x:1".parse().unwrap())).unwrap();
            assert_eq!(found.len(), 1);
            found.remove(0)
        };
        let elsewhere = found("server = \"http://real.local:5000/deep\"\nca = \"a.pem\"\n");
        let expected = (
            "real.local:5000/x:1".to_owned(),
            true,
            Answers::Everything,
            Some("/deep/v2/"),
        );
        assert_eq!(shown(&elsewhere), expected);
        assert_eq!(elsewhere.ca_files, [place.join("a.pem")]);
        let top = found("skip_verify = true\n[header]\nauthorization = \"secret\"\n");
        assert_eq!(
            shown(&top),
            ("own.local/x:1".to_owned(), true, Answers::Everything, None)
        );
        assert_eq!(top.api.headers.len(), 1);
        assert!(!format!("{top:?}").contains("secret"));
        let as_host = found("[host.\"https://own.local\"]\nca = \"b.pem\"\n");
        assert_eq!(as_host.reference.to_string(), "own.local/x:1");
        assert_eq!(as_host.ca_files, [place.join("b.pem")]);
        assert_eq!(as_host.api.mirror_of, None);
    }
}
