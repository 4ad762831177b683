//! Platforms: what an image runs on, and which image of an index runs here.
//!
//! # See
//!
//! image-spec `image-index.md`; the order of fallbacks is that of containerd's `platforms.Only`

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Descriptor, Digest, Index, ParseError, null_as_default, quoted};

/// An operating system and architecture, in Go's words: `linux/arm/v7`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system: `linux`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub os: String,
    /// The architecture: `amd64`, `arm64`, `arm`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub architecture: String,
    /// The variant of the architecture: `v7` of `arm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The version of the operating system; in practice of Windows.
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// Features that the operating system must have; in practice of Windows.
    #[serde(
        default,
        rename = "os.features",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub os_features: Vec<String>,
}

const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];
const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "wasm",
];

impl Platform {
    /// The platform this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "loongarch64" => "loong64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "x86" => "386",
            other => other,
        };
        Self::new(std::env::consts::OS, architecture, None)
    }

    /// The platform of these names, with aliases such as `x86_64` resolved.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        let (architecture, variant) = normalise(
            &architecture.to_ascii_lowercase(),
            &variant.unwrap_or_default().to_ascii_lowercase(),
        );
        Self {
            os,
            architecture,
            variant,
            ..Self::default()
        }
    }

    /// The same platform with aliases resolved and default variants dropped, to compare it with others.
    fn normalised(&self) -> Self {
        Self {
            os_version: self.os_version.clone(),
            ..Self::new(&self.os, &self.architecture, self.variant.as_deref())
        }
    }

    /// What runs on this platform, best first.
    fn runnable(&self) -> Vec<Self> {
        let this = self.normalised();
        let mut best_first = Vec::new();
        let like = |architecture: &str, variant: Option<String>| Self {
            architecture: architecture.to_owned(),
            variant,
            ..this.clone()
        };
        let number = |variant: &Option<String>| match variant.as_deref()?.strip_prefix('v')?.parse()
        {
            Ok(number @ 0..100) => Some(number),
            _ => None,
        };
        let versions = |architecture: &'static str, from: u32, to: u32| {
            (to..from).rev().map(move |version| (architecture, version))
        };
        best_first.push(this.clone());
        let mut lower: Vec<(&str, u32)> = Vec::new();
        match this.architecture.as_str() {
            "amd64" => {
                lower.extend(versions("amd64", number(&this.variant).unwrap_or(1), 1));
                lower.push(("386", 0));
            }
            "arm" => lower.extend(versions("arm", number(&this.variant).unwrap_or(7), 5)),
            "arm64" => {
                // `v8` is written as no variant at all.
                lower.extend(versions("arm64", number(&this.variant).unwrap_or(8), 8));
                lower.extend(versions("arm", 9, 5));
            }
            _ => {}
        }
        for (architecture, version) in lower {
            let variant = (version > 0).then(|| format!("v{version}"));
            best_first.push(like(architecture, variant).normalised());
        }
        best_first
    }

    /// Whether system and architecture are the same; configurations often lack the variant.
    pub fn is_same_but_for_variant(&self, other: &Self) -> bool {
        let (one, other) = (self.normalised(), other.normalised());
        one.os == other.os && one.architecture == other.architecture
    }

    /// How well an image for `image` runs here: 0 is best, `None` not at all.
    pub fn rank(&self, image: &Self) -> Option<usize> {
        let image = image.normalised();
        self.runnable().iter().position(|wanted| {
            wanted.os == image.os
                && wanted.architecture == image.architecture
                && wanted.variant == image.variant
                && (wanted.os_version.is_none() || wanted.os_version == image.os_version)
        })
    }
}

/// Resolves aliases as containerd does, so that equal platforms compare equal.
fn normalise(architecture: &str, variant: &str) -> (String, Option<String>) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "" | "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (
        architecture.to_owned(),
        (!variant.is_empty()).then(|| variant.to_owned()),
    )
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}/{}", self.os, self.architecture);
        if let Some(variant) = &self.variant {
            text.push('/');
            text.push_str(variant);
        }
        f.pad(&text)
    }
}

impl FromStr for Platform {
    type Err = ParseError;

    /// Reads `os/architecture[/variant]`; an operating system or architecture alone is completed from the host.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = |why: &str| ParseError::Platform {
            text: quoted(text),
            why: why.to_owned(),
        };
        let valid = |part: &&str| {
            !part.is_empty()
                && part.len() <= 64
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        if !parts.iter().all(valid) {
            return Err(error(
                "each part must consist of letters, digits, _, . and -",
            ));
        }
        match parts.as_slice() {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            [one] => {
                let host = Self::host();
                let os = Self::new(one, "", None).os;
                if SYSTEMS.contains(&os.as_str()) {
                    return Ok(Self { os, ..host });
                }
                let platform = Self::new(&host.os, one, None);
                if ARCHITECTURES.contains(&platform.architecture.as_str()) {
                    return Ok(platform);
                }
                Err(error(
                    "neither an operating system nor an architecture has this name",
                ))
            }
            _ => Err(error(
                "it must be os/architecture or os/architecture/variant",
            )),
        }
    }
}

/// An index has no image that runs on the wanted platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no image for {wanted}; there is {}", list(.available))]
pub struct NoMatchingPlatform {
    /// What was asked for.
    pub wanted: Box<Platform>,
    /// What the index has instead, in its order and without repetitions.
    pub available: Vec<Platform>,
}

fn list(available: &[Platform]) -> String {
    const SHOWN: usize = 10;
    if available.is_empty() {
        return "none for any platform".to_owned();
    }
    let shown: Vec<String> = available
        .iter()
        .take(SHOWN)
        .map(|platform| printable(&platform.to_string()))
        .collect();
    let mut text = shown.join(", ");
    if available.len() > SHOWN {
        text.push_str(&format!(" and {} more", available.len() - SHOWN));
    }
    text
}

/// Names in an index come from outside; a terminal must not see their control characters.
fn printable(text: &str) -> String {
    text.chars()
        .take(64)
        .map(|c| if c.is_ascii_graphic() { c } else { '?' })
        .collect()
}

impl Index {
    /// The entries that are images: not attestations, not artifacts.
    pub fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|entry| {
            (entry.media_type.is_manifest() || entry.media_type.is_index())
                && !is_attestation(entry)
        })
    }

    /// The entry that runs best on `wanted`; of equally good ones the first.
    ///
    /// Entries without a platform are considered only if no entry has one: then the first is taken.
    ///
    /// # Errors
    ///
    /// [`NoMatchingPlatform`], which says what there is.
    pub fn choose(&self, wanted: &Platform) -> Result<&Descriptor, NoMatchingPlatform> {
        let best = self
            .images()
            .filter_map(|entry| Some((wanted.rank(entry.platform.as_ref()?)?, entry)))
            .min_by_key(|(rank, _)| *rank);
        if let Some((_, entry)) = best {
            return Ok(entry);
        }
        let mut available: Vec<Platform> = Vec::new();
        for platform in self.images().filter_map(|entry| entry.platform.as_ref()) {
            if !available.contains(platform) {
                available.push(platform.clone());
            }
        }
        match self.images().next() {
            Some(first) if available.is_empty() => Ok(first),
            _ => Err(NoMatchingPlatform {
                wanted: Box::new(wanted.clone()),
                available,
            }),
        }
    }
}

/// BuildKit stores provenance beside the images, as manifests for a platform that cannot be.
/// The image that an entry of an index says something about, such as how it was built.
///
/// `None` for what is no attestation, `Some(None)` for one that does not tell.
pub fn attested(entry: &Descriptor) -> Option<Option<Digest>> {
    is_attestation(entry).then(|| {
        let subject = entry.annotations.get("vnd.docker.reference.digest");
        subject.and_then(|digest| digest.parse().ok())
    })
}

fn is_attestation(entry: &Descriptor) -> bool {
    let unknown =
        |platform: &Platform| platform.os == "unknown" && platform.architecture == "unknown";
    entry.platform.as_ref().is_some_and(unknown)
        || entry
            .annotations
            .get("vnd.docker.reference.type")
            .is_some_and(|kind| kind == "attestation-manifest")
}

#[cfg(test)]
mod tests {
    use super::super::MediaType;
    use super::*;

    #[test]
    fn parsed_and_printed() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("LINUX/AArch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/i686", "linux/386"),
            ("linux/s390x", "linux/s390x"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/madeup", "linux/madeup"),
        ] {
            assert_eq!(
                text.parse::<Platform>().unwrap().to_string(),
                expected,
                "{text}"
            );
        }
        let host = Platform::host();
        assert_eq!("arm64".parse::<Platform>().unwrap().os, host.os);
        assert_eq!(
            "linux".parse::<Platform>().unwrap().architecture,
            host.architecture
        );
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("", "each part"),
            ("linux/", "each part"),
            ("linux/a/b/c", "os/architecture/variant"),
            ("linux/a/b/c/d", "each part"),
            ("linux/a b", "each part"),
            ("madeup", "neither"),
        ] {
            let error = text.parse::<Platform>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    fn index(platforms: &[&str]) -> Index {
        let manifests = platforms.iter().map(|text| Descriptor {
            platform: (!text.is_empty()).then(|| {
                let mut parts = text.split('/').map(str::to_owned);
                Platform {
                    os: parts.next().unwrap(),
                    architecture: parts.next().unwrap(),
                    variant: parts.next(),
                    ..Platform::default()
                }
            }),
            ..Descriptor::new(MediaType::OciManifest, Digest::of(text.as_bytes()), 1)
        });
        Index {
            manifests: manifests.collect(),
            ..Index::default()
        }
    }

    #[test]
    fn chosen_as_containerd_does() {
        for (wanted, available, chosen) in [
            (
                "linux/amd64",
                &["linux/arm64", "linux/amd64"][..],
                Some("linux/amd64"),
            ),
            ("linux/amd64", &["linux/386"], Some("linux/386")),
            ("linux/amd64", &["linux/amd64/v2"], None),
            (
                "linux/amd64/v3",
                &["linux/amd64", "linux/amd64/v2"],
                Some("linux/amd64/v2"),
            ),
            ("linux/arm64", &["linux/arm64/v8"], Some("linux/arm64/v8")),
            ("linux/arm64/v8", &["linux/arm64"], Some("linux/arm64")),
            (
                "linux/arm64",
                &["linux/arm/v7", "linux/arm/v6"],
                Some("linux/arm/v7"),
            ),
            ("linux/arm64/v9", &["linux/arm64"], Some("linux/arm64")),
            (
                "linux/arm/v7",
                &["linux/arm/v5", "linux/arm/v6"],
                Some("linux/arm/v6"),
            ),
            (
                "linux/arm/v6",
                &["linux/arm/v7", "linux/arm/v5"],
                Some("linux/arm/v5"),
            ),
            ("linux/arm/v7", &["linux/arm"], Some("linux/arm")),
            ("linux/arm/v7", &["linux/arm64"], None),
            ("linux/s390x", &["linux/amd64"], None),
            ("windows/amd64", &["linux/amd64"], None),
            (
                "linux/amd64",
                &["unknown/unknown", "linux/amd64"],
                Some("linux/amd64"),
            ),
            ("unknown/unknown", &["unknown/unknown"], None),
            ("linux/amd64", &[""], Some("")),
            ("linux/amd64", &["", "linux/arm64"], None),
            ("linux/amd64", &[], None),
        ] {
            let index = index(available);
            let found = index
                .choose(&wanted.parse().unwrap())
                .ok()
                .map(|entry| entry.digest);
            assert_eq!(
                found,
                chosen.map(|text| Digest::of(text.as_bytes())),
                "{wanted} {available:?}"
            );
        }
    }

    #[test]
    fn attestations_are_no_images() {
        let mut index = index(&["linux/amd64", "linux/amd64"]);
        index.manifests[0].annotations.insert(
            "vnd.docker.reference.type".into(),
            "attestation-manifest".into(),
        );
        index.manifests[1].digest = Digest::of(b"image");
        let chosen = index.choose(&"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(chosen.digest, Digest::of(b"image"));
    }

    #[test]
    fn the_error_says_what_there_is() {
        let wanted: Platform = "linux/riscv64".parse().unwrap();
        let error = index(&["linux/amd64", "linux/arm64", "linux/amd64"])
            .choose(&wanted)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no image for linux/riscv64; there is linux/amd64, linux/arm64"
        );
        let many: Vec<String> = (0..30).map(|n| format!("linux/a\x1b{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = index(&many).choose(&wanted).unwrap_err().to_string();
        assert!(error.ends_with("linux/a?9 and 20 more"), "{error}");
    }
}
