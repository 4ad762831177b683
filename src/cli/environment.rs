//! What the environment says: where the store is, who we are, where credentials lie.

use std::env;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::failure::Failure;
use super::{Global, Result};
use crate::cause;
use crate::registry::{AuthFiles, CertificateFiles, MirrorFiles, Proxies, Settings};
use crate::store::{self, Store};

/// The directory of the store.
pub fn store_root(global: &Global) -> Result<PathBuf> {
    if let Some(root) = &global.root {
        if root.as_os_str().is_empty() {
            return Err(Failure::usage("--root names no directory"));
        }
        return Ok(root.clone());
    }
    if let Some(root) = env::var_os("PLYFS_ROOT").filter(|root| !root.is_empty()) {
        return Ok(PathBuf::from(root));
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/plyfs"));
    }
    directory("XDG_DATA_HOME", ".local/share")
        .map(|data| data.join("plyfs"))
        .ok_or_else(|| {
            Failure::usage("neither HOME nor XDG_DATA_HOME is set").or_hint("--root DIR")
        })
}

/// Whether the store is where nobody said that it should be.
fn is_default_root(global: &Global) -> bool {
    global.root.is_none() && env::var_os("PLYFS_ROOT").is_none_or(|root| root.is_empty())
}

/// The store, which must exist.
pub fn open_store(global: &Global) -> Result<Store> {
    let root = store_root(global)?;
    Store::open(&root).map_err(|error| Failure::new("cannot open the store", error))
}

/// The store, if there is one: none is what a first look finds.
pub fn existing_store(global: &Global) -> Result<Option<Store>> {
    let root = store_root(global)?;
    let expected = || {
        let parent = root
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let may_be_made = Store::may_be_made(&root);
        may_be_made && (is_default_root(global) || parent.is_none_or(Path::is_dir))
    };
    match Store::open(&root) {
        Ok(store) => Ok(Some(store)),
        Err(store::Error::NoStore(_)) if expected() => Ok(None),
        Err(error) => Err(Failure::new("cannot open the store", error)),
    }
}

/// The store, made if there is none.
pub fn create_store(global: &Global) -> Result<Store> {
    let root = store_root(global)?;
    Store::create(&root).map_err(|error| Failure::new("cannot open the store", error))
}

/// The store, made if there is none, without what ended processes left in it.
pub fn create_tidy_store(global: &Global) -> Result<Store> {
    let store = create_store(global)?;
    tidy(&store);
    Ok(store)
}

/// Removes what ended processes left in the store. What is damaged or full is told by what follows, if
/// it needs that.
pub fn tidy(store: &Store) {
    if let Err(error) = store.tidy(SystemTime::now()) {
        log::info!("cannot tidy up the store: {}", cause::chain(&error));
    }
}

/// A directory that the XDG specification names, by its variable or its place below home.
fn directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    named.or_else(|| home().map(|home| home.join(below_home)))
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// How registries are reached.
pub fn registry_settings(insecure: bool) -> Settings {
    let mut settings = Settings {
        insecure,
        auth: auth_files(),
        mirrors: mirror_files(),
        certificates: certificate_files(),
        proxy: Proxies {
            http: proxy("http_proxy"),
            https: proxy("https_proxy"),
            no_proxy: proxy("no_proxy"),
        },
        ..Settings::default()
    };
    if let Some(file) = env::var_os("SSL_CERT_FILE") {
        settings.extra_ca_files.push(PathBuf::from(file));
    }
    settings
}

/// Files with credentials, those of podman before those of Docker, as podman does. New ones go to
/// Docker's, which everybody reads and which outlives a reboot.
fn auth_files() -> AuthFiles {
    let named = env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from);
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let config = directory("XDG_CONFIG_HOME", ".config");
    let docker = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let docker = docker.or_else(|| home().map(|home| home.join(".docker")));
    let docker = docker.map(|dir| dir.join("config.json"));
    let podman = [runtime, config].into_iter().flatten();
    let podman = podman.map(|dir| dir.join("containers/auth.json"));
    AuthFiles {
        new_ones: named.clone().or_else(|| docker.clone()),
        paths: named.into_iter().chain(podman).chain(docker).collect(),
        helper_path: None,
    }
}

/// Directories with certificates for registries: one's own, then those of podman, Docker and containerd.
fn certificate_files() -> CertificateFiles {
    let own = directory("XDG_CONFIG_HOME", ".config");
    let own = own.map(|config| config.join("containers/certs.d"));
    let system = ["containers", "docker", "containerd"];
    let system = system.map(|tool| PathBuf::from(format!("/etc/{tool}/certs.d")));
    CertificateFiles {
        given: None,
        directories: own.into_iter().chain(system).collect(),
    }
}

/// Files about mirrors: one's own before the machine's, as podman, nerdctl and containerd have them.
fn mirror_files() -> MirrorFiles {
    let named = env::var_os("CONTAINERS_REGISTRIES_CONF").map(PathBuf::from);
    let config = directory("XDG_CONFIG_HOME", ".config");
    let own = |path: &str| config.as_ref().map(|config| config.join(path));
    let registries_conf = match named {
        Some(named) => vec![named],
        None => own("containers/registries.conf")
            .into_iter()
            .chain([PathBuf::from("/etc/containers/registries.conf")])
            .collect(),
    };
    let hosts = own("containerd/certs.d").into_iter();
    MirrorFiles {
        registries_conf,
        hosts: hosts
            .chain([PathBuf::from("/etc/containerd/certs.d")])
            .collect(),
    }
}

/// Where a program is found.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut places = env::split_paths(&path).map(|place| place.join(name));
    places.find(|place| place.is_file())
}

/// A proxy variable, in lower or upper case.
fn proxy(name: &str) -> Option<String> {
    let value = env::var(name).or_else(|_| env::var(name.to_uppercase()));
    value.ok().filter(|value| !value.is_empty())
}
