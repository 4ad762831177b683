//! A registry of one's own, on a free port of the loopback interface.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{skopeo_copy, succeed, temp_dir, text, wait_for};

/// A running `docker-registry`; it ends with the value.
#[derive(Debug)]
pub struct Registry {
    address: String,
    credentials: Option<(String, String)>,
    data: TempDir,
    process: Child,
}

/// What is particular about a registry.
#[derive(Debug, Default)]
pub struct Setup<'a> {
    /// A name and password that it wants.
    pub credentials: Option<(&'a str, &'a str)>,
    /// It takes nothing.
    pub read_only: bool,
    /// It speaks TLS; its authority is in `ca.pem` in its data. It is called `0.0.0.0` then, which
    /// is this machine too, but is not trusted for that.
    pub tls: bool,
    /// More of its configuration.
    pub more: &'a str,
}

impl Registry {
    /// Starts one that lets everybody in.
    pub fn start() -> Registry {
        Registry::set_up(&Setup::default())
    }

    /// Starts one that wants this name and password.
    pub fn with_password(name: &str, password: &str) -> Registry {
        Registry::set_up(&Setup {
            credentials: Some((name, password)),
            ..Setup::default()
        })
    }

    /// Starts one.
    pub fn set_up(setup: &Setup<'_>) -> Registry {
        let data = temp_dir();
        let root = data.path().display();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let (address, read_only) = (format!("127.0.0.1:{port}"), setup.read_only);
        let mut config = format!(
            "version: 0.1\n\
             log: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {root}/data}}\n  delete: {{enabled: true}}\n  \
             maintenance: {{readonly: {{enabled: {read_only}}}}}\n\
             http:\n  addr: \"{address}\"\n  secret: test\n"
        );
        let mut called = address.clone();
        if setup.tls {
            certificates(data.path());
            config += &format!("  tls: {{certificate: {root}/cert.pem, key: {root}/key.pem}}\n");
            called = format!("0.0.0.0:{port}");
        }
        if let Some((name, password)) = &setup.credentials {
            let line = succeed(Command::new("htpasswd").args(["-Bbn", name, password]));
            fs::write(data.path().join("htpasswd"), line.stdout).unwrap();
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {root}/htpasswd}}\n");
        }
        config += setup.more;
        let file = data.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(data.path().join("log")).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        wait_for("the registry", || TcpStream::connect(&address).is_ok());
        let credentials = setup.credentials;
        Registry {
            address: called,
            credentials: credentials.map(|(name, word)| (name.to_owned(), word.to_owned())),
            data,
            process,
        }
    }

    /// The reference of an image in this registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where the registry keeps the blobs, for tests that damage them.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// What is stored under a path of its interface: `repositories/NAME/…`, `blobs/sha256/…`.
    pub fn storage(&self, path: &str) -> PathBuf {
        self.data().join("data/docker/registry/v2").join(path)
    }

    /// Loses a blob, of which the repositories know still.
    pub fn lose_blob(&self, digest: &plyfs::oci::Digest) {
        let hex = digest.hex();
        let blob = self.storage(&format!("blobs/sha256/{}/{hex}", &hex[..2]));
        fs::remove_dir_all(blob).unwrap();
    }

    /// Puts the image `tag` of an OCI layout there as `name`, untouched.
    pub fn push(&self, layout: &Path, tag: &str, name: &str) {
        let mut args = vec!["--dest-tls-verify=false", "--preserve-digests"];
        let credentials = self
            .credentials
            .as_ref()
            .map(|(name, word)| format!("{name}:{word}"));
        if let Some(credentials) = &credentials {
            args.extend(["--dest-creds", credentials]);
        }
        let from = format!("oci:{}:{tag}", layout.display());
        skopeo_copy(&args, &from, &format!("docker://{}", self.reference(name)));
    }

    /// What the registry has complained about.
    pub fn log(&self) -> String {
        let read = Command::new("cat")
            .arg(self.data.path().join("log"))
            .output()
            .unwrap();
        text(&read)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = ended {
            eprintln!("the registry does not end: {error}");
        }
    }
}

/// Makes an authority, `ca.pem`, and a server's certificate of it, `cert.pem` with `key.pem`.
fn certificates(directory: &Path) {
    let make = |args: &str| {
        let mut openssl = Command::new("openssl");
        succeed(openssl.args(args.split(' ')).current_dir(directory))
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let names = "subjectAltName=IP:0.0.0.0";
    fs::write(directory.join("names"), names).unwrap();
    make(&format!(
        "req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"
    ));
    make(&format!(
        "req {key} -subj /CN=server -keyout key.pem -out request.pem"
    ));
    make(
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem",
    );
}
