//! Where an image is said to come from: the argument of `pull` and `load`.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{DockerArchive, Error, Layout, ManifestName, Settings, Source};
use crate::oci::{Digest, ParseError, Reference};

/// A place that an image can come from.
///
/// The forms are those of skopeo and podman: a reference, also after `docker://`, or one of
/// `oci:DIR`, `oci-archive:FILE`, `docker-archive:FILE`, followed by `:TAG` or `@DIGEST` to choose
/// one of several images. The path ends at the first colon; names of images may contain more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A repository of a registry.
    Registry(Reference),
    /// An OCI image layout in a directory.
    Layout(PathBuf, ManifestName),
    /// An OCI image layout in a tar archive.
    OciArchive(PathBuf, ManifestName),
    /// What `docker save` wrote.
    DockerArchive(PathBuf, ManifestName),
}

impl Location {
    /// Reads a location.
    ///
    /// # Errors
    ///
    /// [`Error::Document`] with [`ParseError::Reference`] that says what is wrong.
    pub fn parse(text: impl AsRef<OsStr>) -> Result<Self, Error> {
        let text = text.as_ref().as_bytes();
        for (prefix, kind) in [
            ("oci:", Self::Layout as fn(PathBuf, ManifestName) -> Self),
            ("oci-archive:", Self::OciArchive),
            ("docker-archive:", Self::DockerArchive),
        ] {
            if let Some(rest) = text.strip_prefix(prefix.as_bytes()) {
                let (path, name) = path_and_name(rest)?;
                return Ok(kind(path, name));
            }
        }
        let text = utf8(text.strip_prefix(b"docker://").unwrap_or(text))?;
        Ok(Self::Registry(text.parse()?))
    }

    /// Opens it as a source. Registries are not asked yet; archives and layouts are opened.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Archive`] if an archive or layout cannot be read;
    /// [`Error::NotBuilt`] for a registry if this program was built without.
    #[cfg_attr(not(feature = "registry"), allow(unused_variables))]
    pub fn open(&self, settings: &Settings) -> Result<Box<dyn Source>, Error> {
        match self {
            #[cfg(feature = "registry")]
            Self::Registry(reference) => Ok(Box::new(super::Mirrored::open(settings, reference)?)),
            #[cfg(not(feature = "registry"))]
            Self::Registry(_) => Err(Error::NotBuilt),
            Self::Layout(path, _) => Ok(Box::new(Layout::open(path)?)),
            Self::OciArchive(path, _) => Ok(Box::new(Layout::open_archive(path)?)),
            Self::DockerArchive(path, _) => Ok(Box::new(DockerArchive::open(path)?)),
        }
    }

    /// Which manifest or index is meant there.
    pub fn manifest_name(&self) -> ManifestName {
        match self {
            Self::Registry(reference) => reference.into(),
            Self::Layout(_, name) | Self::OciArchive(_, name) | Self::DockerArchive(_, name) => {
                name.clone()
            }
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, name) = match self {
            Self::Registry(reference) => return reference.fmt(f),
            Self::Layout(path, name) => ("oci", path, name),
            Self::OciArchive(path, name) => ("oci-archive", path, name),
            Self::DockerArchive(path, name) => ("docker-archive", path, name),
        };
        write!(f, "{kind}:{}", path.display())?;
        match name {
            ManifestName::Tag(tag) => write!(f, ":{tag}"),
            ManifestName::Digest(digest) => write!(f, "@{digest}"),
            ManifestName::Default => Ok(()),
        }
    }
}

fn path_and_name(text: &[u8]) -> Result<(PathBuf, ManifestName), Error> {
    let position = |wanted: u8| text.iter().position(|byte| *byte == wanted);
    // A path may contain `@` as well: only a digest after it makes it a separator.
    let digest = text.iter().rposition(|byte| *byte == b'@').and_then(|at| {
        match str::from_utf8(&text[at + 1..]).map(str::parse::<Digest>) {
            Ok(Ok(digest)) => Some((at, ManifestName::Digest(digest))),
            _ => None,
        }
    });
    let (end, name) = match (digest, position(b':')) {
        (Some(found), _) => found,
        (None, Some(colon)) if colon + 1 < text.len() => (
            colon,
            ManifestName::Tag(utf8(&text[colon + 1..])?.to_owned()),
        ),
        (None, Some(colon)) => (colon, ManifestName::Default),
        (None, None) => (text.len(), ManifestName::Default),
    };
    if end == 0 {
        return Err(wrong(text, "the path is missing"));
    }
    Ok((PathBuf::from(OsStr::from_bytes(&text[..end])), name))
}

fn utf8(text: &[u8]) -> Result<&str, Error> {
    str::from_utf8(text).map_err(|_| wrong(text, "names of images must be UTF-8"))
}

fn wrong(text: &[u8], why: &str) -> Error {
    let text = crate::oci::quoted(&String::from_utf8_lossy(text));
    ParseError::Reference {
        text,
        why: why.to_owned(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_forms() {
        let tag = |tag: &str| ManifestName::Tag(tag.to_owned());
        let digest = ManifestName::Digest(DIGEST.parse().unwrap());
        for (text, expected) in [
            ("alpine", Location::Registry("alpine".parse().unwrap())),
            (
                "docker://ghcr.io/a/b:c",
                Location::Registry("ghcr.io/a/b:c".parse().unwrap()),
            ),
            (
                "oci:/a/b",
                Location::Layout("/a/b".into(), ManifestName::Default),
            ),
            (
                "oci:/a/b:",
                Location::Layout("/a/b".into(), ManifestName::Default),
            ),
            ("oci:a:v1", Location::Layout("a".into(), tag("v1"))),
            (
                &format!("oci:a@b@{DIGEST}"),
                Location::Layout("a@b".into(), digest.clone()),
            ),
            (
                &format!("oci:a@{DIGEST}"),
                Location::Layout("a".into(), digest),
            ),
            (
                "oci-archive:a.tar",
                Location::OciArchive("a.tar".into(), ManifestName::Default),
            ),
            (
                "docker-archive:a.tar:docker.io/library/x:1",
                Location::DockerArchive("a.tar".into(), tag("docker.io/library/x:1")),
            ),
        ] {
            assert_eq!(Location::parse(text).unwrap(), expected, "{text}");
            assert_eq!(
                Location::parse(expected.to_string()).unwrap(),
                expected,
                "{text}"
            );
        }
        let bytes = Location::parse(OsStr::from_bytes(b"oci:/\xff:t")).unwrap();
        assert_eq!(
            bytes,
            Location::Layout(OsStr::from_bytes(b"/\xff").into(), tag("t"))
        );
    }

    #[test]
    fn what_is_refused() {
        for text in [
            &b"oci:"[..],
            b"oci::tag",
            b"alp\xff",
            b"oci:a:\xff",
            b"",
            b"docker://",
        ] {
            assert!(
                Location::parse(OsStr::from_bytes(text)).is_err(),
                "{text:?}"
            );
        }
    }
}
