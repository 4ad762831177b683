//! A registry of one's own, on a free port of the loopback interface.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::{skopeo_copy, succeed, temp_dir, wait_for};

/// A running `docker-registry`; it ends with the value.
#[derive(Debug)]
pub struct Registry {
    address: String,
    port: u16,
    credentials: Option<(String, String)>,
    data: TempDir,
    process: Option<Child>,
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
        let port = free_port();
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
            config += &tls(data.path());
            called = format!("0.0.0.0:{port}");
        }
        if let Some((name, password)) = &setup.credentials {
            let line = succeed(Command::new("htpasswd").args(["-Bbn", name, password]));
            fs::write(data.path().join("htpasswd"), line.stdout).unwrap();
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {root}/htpasswd}}\n");
        }
        config += setup.more;
        fs::write(data.path().join("config.yml"), config).unwrap();
        let credentials = setup.credentials;
        let mut registry = Registry {
            address: called,
            port,
            credentials: credentials.map(|(name, word)| (name.to_owned(), word.to_owned())),
            data,
            process: None,
        };
        registry.go_on();
        registry
    }

    /// Starts it again after [`Registry::stop`].
    pub fn go_on(&mut self) {
        let log = fs::File::create(self.data().join("log")).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(self.data().join("config.yml"));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap());
        let process = self.process.insert(command.stderr(log).spawn().unwrap());
        let (address, at) = (("127.0.0.1", self.port), self.data.path());
        wait_for("the registry", || {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", log_of(at));
            TcpStream::connect(address).is_ok()
        });
    }

    /// Ends it, in the middle of whatever it does.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let ended = process.kill().and_then(|()| process.wait());
            if let Err(error) = ended {
                eprintln!("the registry does not end: {error}");
            }
        }
    }

    /// From now on one that was started without TLS speaks it, with a certificate that nobody trusts.
    pub fn use_tls(&mut self) {
        self.stop();
        certificates(self.data());
        let config = self.data().join("config.yml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(config, text + &tls(self.data())).unwrap();
        self.go_on();
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
        log_of(self.data())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

fn log_of(data: &Path) -> String {
    String::from_utf8_lossy(&fs::read(data.join("log")).unwrap()).into_owned()
}

/// A port of the loopback interface on which nobody listens, nor will for some time: the kernel gives away
/// others to who asks for any (`ip_local_port_range` begins at 32768).
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(97);
    loop {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + begin.wrapping_add(given) % COUNT;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The part of its configuration that makes it speak TLS.
fn tls(directory: &Path) -> String {
    let at = directory.display();
    format!("  tls: {{certificate: {at}/cert.pem, key: {at}/key.pem}}\n")
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
