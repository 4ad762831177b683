//! A registry of Debian's `docker-registry`, and small images to put there.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plyfs::oci::{Descriptor, Digest, Index, Manifest, MediaType};
use plyfs::registry::{Credentials, Registry, Repository, Settings};

/// Whether these programs are installed. Without them a test is skipped, but never in CI.
pub fn require(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed =
        |program: &&&str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !installed(program))
        .collect();
    if missing.is_empty() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{missing:?} must be installed in CI"
    );
    println!("SKIP: {missing:?} not installed");
    false
}

/// Settings that do not wait long.
pub fn settings() -> Settings {
    Settings {
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_secs(5),
        attempts: 6,
        back_off: Duration::from_millis(50),
        longest_wait: Duration::from_secs(3),
        ..Settings::default()
    }
}

pub fn repository(reference: &str, settings: Settings) -> Repository {
    Registry::new(settings).repository(&reference.parse().unwrap())
}

pub fn user(name: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::Basic {
        username: name.into(),
        password: password.into(),
    })
}

/// Bytes that do not compress, the same for the same length.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An image with one layer.
pub struct Image {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layer: Vec<u8>,
    pub descriptor: Descriptor,
}

impl Image {
    /// An image whose layer has about this many bytes of noise, in gzip without compression.
    pub fn new(size: usize) -> Self {
        let content = noise(size);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        gzip.write_all(&content).unwrap();
        let layer = gzip.finish().unwrap();
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::of(&content)
        )
        .into_bytes();
        let descriptor = Descriptor::of(MediaType::OciLayerGzip, &layer);
        let manifest = Manifest::new(
            Descriptor::of(MediaType::OciConfig, &config),
            vec![descriptor.clone()],
        );
        let manifest = serde_json::to_vec(&manifest).unwrap();
        Self {
            manifest,
            config,
            layer,
            descriptor,
        }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Writes it as an OCI layout with the tag `image`.
    pub fn write(&self, directory: &Path) {
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for blob in [&self.manifest, &self.config, &self.layer] {
            std::fs::write(blobs.join(Digest::of(blob).hex()), blob).unwrap();
        }
        let mut entry = Descriptor::of(MediaType::OciManifest, &self.manifest);
        entry
            .annotations
            .insert("org.opencontainers.image.ref.name".into(), "image".into());
        let index = Index {
            manifests: vec![entry],
            ..Index::default()
        };
        std::fs::write(
            directory.join("index.json"),
            serde_json::to_vec(&index).unwrap(),
        )
        .unwrap();
        std::fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
    }
}

/// A running registry.
pub struct Lab {
    pub port: u16,
    directory: tempfile::TempDir,
    server: Option<Child>,
    login: Option<&'static str>,
}

impl Lab {
    /// Starts a registry; `login` is `user:password` if it shall ask for that.
    pub fn start(login: Option<&'static str>) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {root}/data}}\n\
             http:\n  addr: 127.0.0.1:{port}\n  secret: only-on-loopback\n"
        );
        if let Some((user, password)) = login.and_then(|login| login.split_once(':')) {
            let output = Command::new("htpasswd")
                .args(["-Bbn", user, password])
                .output()
                .unwrap();
            std::fs::write(directory.path().join("htpasswd"), output.stdout).unwrap();
            config += &format!("auth:\n  htpasswd: {{realm: lab, path: {root}/htpasswd}}\n");
        }
        std::fs::write(directory.path().join("config.yml"), config).unwrap();
        let mut lab = Self {
            port,
            directory,
            server: None,
            login,
        };
        lab.restart();
        lab
    }

    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    pub fn restart(&mut self) {
        self.kill();
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(self.directory.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.server = Some(server);
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(
                Instant::now() < deadline,
                "docker-registry does not come up"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it again with a certificate that nobody has signed.
    pub fn use_tls(&mut self) {
        let root = self.directory.path().display().to_string();
        let output = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ])
            .args(["-nodes", "-days", "1", "-subj", "/CN=lab"])
            .args([
                "-keyout",
                &format!("{root}/key.pem"),
                "-out",
                &format!("{root}/cert.pem"),
            ])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let config = self.path("config.yml");
        let text = std::fs::read_to_string(&config).unwrap();
        let tls = format!("  tls: {{certificate: {root}/cert.pem, key: {root}/key.pem}}\n");
        std::fs::write(config, text + &tls).unwrap();
        self.restart();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Copies an image there with skopeo.
    pub fn push(&self, image: &Image, name: &str) {
        let layout = self.path("layout");
        image.write(&layout);
        let mut skopeo = Command::new("skopeo");
        skopeo.args([
            "copy",
            "--quiet",
            "--preserve-digests",
            "--dest-tls-verify=false",
        ]);
        match self.login {
            Some(login) => skopeo.args(["--dest-creds", login]),
            None => skopeo.arg("--dest-no-creds"),
        };
        skopeo.arg(format!("oci:{}:image", layout.display()));
        skopeo.arg(format!("docker://{}", self.name(name)));
        let output = skopeo.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    pub fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads all there is.
pub fn read_all(mut reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}
