//! A registry of one's own, on a free port of the loopback interface.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
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

impl Registry {
    /// Starts one that lets everybody in.
    pub fn start() -> Registry {
        Registry::start_with(None)
    }

    /// Starts one that wants this name and password.
    pub fn with_password(name: &str, password: &str) -> Registry {
        Registry::start_with(Some((name.to_owned(), password.to_owned())))
    }

    fn start_with(credentials: Option<(String, String)>) -> Registry {
        let data = temp_dir();
        let root = data.path().display();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\n\
             log: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {root}/data}}\n  delete: {{enabled: true}}\n\
             http: {{addr: \"{address}\", secret: test}}\n"
        );
        if let Some((name, password)) = &credentials {
            let line = succeed(Command::new("htpasswd").args(["-Bbn", name, password]));
            fs::write(data.path().join("htpasswd"), line.stdout).unwrap();
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {root}/htpasswd}}\n");
        }
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
        Registry {
            address,
            credentials,
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
