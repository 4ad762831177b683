//! Whom we trust, and what we show, in TLS with each registry.
//!
//! # See
//!
//! `containers-certs.d(5)`; <https://docs.docker.com/engine/security/certificates/>

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::url::Url;
use super::{Error, Settings};

/// Where certificates for single registries lie: authorities in `*.crt`, and what we show them in
/// `*.cert` with its key in `*.key`.
#[derive(Debug, Clone, Default)]
pub struct CertificateFiles {
    /// A directory for every registry, instead of the others.
    pub given: Option<PathBuf>,
    /// Directories with a directory `HOST[:PORT]` for each registry; the first one that has it is taken.
    pub directories: Vec<PathBuf>,
}

impl CertificateFiles {
    /// The directory for the registry at this address.
    fn directory(&self, url: &Url) -> Option<PathBuf> {
        let authority = url.uri().authority()?.as_str();
        let own = self.directories.iter().map(|dir| dir.join(authority));
        self.given
            .clone()
            .or_else(|| own.into_iter().find(|dir| dir.is_dir()))
    }
}

/// How TLS is spoken with the server at an address.
///
/// # Errors
/// [`Error::Settings`] or [`Error::Io`] for certificates that cannot be used.
pub(super) fn tls(settings: &Settings, url: &Url, unverified: bool) -> Result<TlsConfig, Error> {
    let mut tls = TlsConfig::builder().disable_verification(unverified);
    if !url.is_https() {
        return Ok(tls.build());
    }
    let files = match settings.certificates.directory(url) {
        Some(directory) => {
            log::info!("{url}: certificates are in {}", directory.display());
            list(&directory)?
        }
        None => Vec::new(),
    };
    if !unverified {
        tls = tls.root_certs(roots(settings, &files)?);
    }
    let shown = files.iter().find(|file| has_extension(file, "cert"));
    let shown = match &settings.api.client_certificate {
        Some((certificate, key)) => Some(client(certificate, key.as_deref())?),
        None => shown.map(|shown| client(shown, None)).transpose()?,
    };
    if let Some(shown) = shown {
        tls = tls.client_cert(Some(shown));
    }
    Ok(tls.build())
}

/// The authorities to trust, those in `*.crt` among `files` with the others.
fn roots(settings: &Settings, files: &[PathBuf]) -> Result<RootCerts, Error> {
    let mut certificates = Vec::new();
    let needed = files.iter().filter(|file| has_extension(file, "crt"));
    let needed: Vec<&PathBuf> = settings.extra_ca_files.iter().chain(needed).collect();
    for path in settings.ca_files.iter().chain(needed.iter().copied()) {
        match std::fs::exists(path) {
            Ok(false) if !needed.contains(&path) => continue,
            _ => certificates.append(&mut read(path)?.0),
        }
    }
    Ok(match certificates.is_empty() {
        true => RootCerts::WebPki,
        false => RootCerts::Specific(Arc::new(certificates)),
    })
}

/// What is shown to a server that asks who we are; the key is in a file of its own, or beside the
/// certificate.
fn client(path: &Path, key: Option<&Path>) -> Result<ClientCert, Error> {
    let (chain, own_key) = read(path)?;
    let key = match (key, own_key) {
        (Some(key), _) => read(key)?.1,
        (None, Some(key)) => Some(key),
        (None, None) => read(&path.with_extension("key"))?.1,
    };
    match key {
        Some(key) => Ok(ClientCert::new_with_certs(&chain, key)),
        None => Err(wrong(path, "it has no private key beside it".to_owned())),
    }
}

/// The certificates in a file, and its first key.
fn read(path: &Path) -> Result<(Vec<Certificate<'static>>, Option<PrivateKey<'static>>), Error> {
    let pem = std::fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    let (mut certificates, mut key) = (Vec::new(), None);
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(PemItem::PrivateKey(found)) => {
                key.get_or_insert(found);
            }
            Ok(_) => {}
            Err(e) => return Err(wrong(path, e.to_string())),
        }
    }
    Ok((certificates, key))
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Io {
        path: directory.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        match entry {
            Ok(entry) => files.push(entry.path()),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
    }
    files.sort();
    Ok(files)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn wrong(path: &Path, why: String) -> Error {
    Error::Settings {
        what: format!("the certificates in {}", path.display()),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let missing = directory.path().join("missing.pem");
        let settings = |ca: &Path, extra: Option<&Path>| Settings {
            ca_files: vec![ca.to_owned()],
            extra_ca_files: extra.map(Into::into).into_iter().collect(),
            ..Settings::default()
        };
        assert!(matches!(
            roots(&settings(&missing, None), &[]).unwrap(),
            RootCerts::WebPki
        ));
        assert!(roots(&settings(&missing, Some(&missing)), &[]).is_err());
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, pem).unwrap();
        let own = directory.path().join("own.crt");
        std::fs::write(&own, pem).unwrap();
        let found = roots(&settings(&missing, Some(&path)), &[own, missing.clone()]).unwrap();
        let RootCerts::Specific(found) = found else {
            panic!("not read");
        };
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn each_registry_has_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        std::fs::create_dir_all(second.join("r.io:5000")).unwrap();
        let files = CertificateFiles {
            given: None,
            directories: vec![first, second.clone()],
        };
        let found = |files: &CertificateFiles, url| files.directory(&Url::parse(url).unwrap());
        let own = Some(second.join("r.io:5000"));
        assert_eq!(found(&files, "https://r.io:5000/v2/"), own);
        assert_eq!(found(&files, "https://r.io/v2/"), None);
        let given = CertificateFiles {
            given: Some("/x".into()),
            ..files
        };
        assert_eq!(found(&given, "https://r.io/v2/"), Some("/x".into()));

        let cert = directory.path().join("us.cert");
        std::fs::write(&cert, "").unwrap();
        assert!(client(&cert, None).is_err(), "it has no key");
    }
}
