//! Digests: what content is called, and the hashing that gives it that name.
//!
//! # See
//!
//! image-spec `descriptor.md` (digests) and `config.md` (layer DiffID and ChainID)

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256, Sha512};

use super::{ParseError, quoted};

/// A hash algorithm that the image specification registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which practically all content uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of the hash in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The digest of some content, written `sha256:<hex>`.
///
/// The text form is canonical: lower-case hexadecimal of the full length, so it is safe as a file name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    // Bytes beyond the algorithm's size are zero, so the derived comparisons hold.
    hash: [u8; 64],
}

impl Digest {
    /// The SHA-256 digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self::with(Algorithm::Sha256, content)
    }

    /// The digest of `content` by `algorithm`.
    pub fn with(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// The digest with this SHA-256 hash.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        Self::from_hash(Algorithm::Sha256, &hash)
    }

    fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Self {
        let mut padded = [0; 64];
        padded[..hash.len()].copy_from_slice(hash);
        Self {
            algorithm,
            hash: padded,
        }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash itself, 32 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.hash[..self.algorithm.size()]
    }

    /// The hash in lower-case hexadecimal, without the algorithm: the name of a blob in a store.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = String::with_capacity(2 * self.algorithm.size());
        for byte in self.as_bytes() {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        hex
    }

    /// The first twelve hexadecimal digits, as Docker's tables show an image ID.
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = |why: String| ParseError::Digest {
            text: quoted(text),
            why,
        };
        let (algorithm, hex) = text
            .split_once(':')
            .ok_or_else(|| error("it has no colon after the algorithm".to_owned()))?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(error("only sha256 and sha512 are supported".to_owned())),
        };
        let digits = 2 * algorithm.size();
        if hex.len() != digits {
            return Err(error(format!(
                "{algorithm} has {digits} digits, not {}",
                hex.len()
            )));
        }
        let mut hash = [0; 64];
        for (at, pair) in hex.as_bytes().chunks_exact(2).enumerate() {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(error("only the digits 0-9 and a-f are allowed".to_owned()));
            };
            hash[at] = high << 4 | low;
        }
        Ok(Self { algorithm, hash })
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Hashes content that passes by.
#[derive(Debug, Clone)]
pub struct Hasher(State);

#[derive(Debug, Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(Sha512::new())),
        })
    }

    /// Takes in the next bytes of the content.
    pub fn update(&mut self, content: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(content),
            State::Sha512(state) => state.update(content),
        }
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::from_hash(Algorithm::Sha256, &state.finalize()),
            State::Sha512(state) => Digest::from_hash(Algorithm::Sha512, &state.finalize()),
        }
    }
}

impl Default for Hasher {
    /// A SHA-256 hasher.
    fn default() -> Self {
        Self::new(Algorithm::Sha256)
    }
}

/// The digest of a layer's uncompressed tar: names the layer whatever its compression was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DiffId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self)
    }
}

/// Names a stack of layers, lowest first: the result of applying them in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The name of the stack of these layers, lowest first; a stack of none has no name.
    pub fn of(layers: &[DiffId]) -> Option<Self> {
        let (lowest, rest) = layers.split_first()?;
        Some(
            rest.iter()
                .fold(Self(lowest.0), |below, layer| below.with(*layer)),
        )
    }

    /// The name of this stack with one more layer on top: `Digest(ChainID + " " + DiffID)`.
    pub fn with(self, layer: DiffId) -> Self {
        Self(Digest::of(format!("{self} {layer}").as_bytes()))
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ChainId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_hashes() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(
            Digest::of(b"abc").hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let long = Digest::with(Algorithm::Sha512, b"abc");
        assert!(
            long.to_string()
                .starts_with("sha512:ddaf35a193617abacc417349ae204131")
        );
        assert_eq!(long.hex().len(), 128);
        assert_eq!(long.to_string().parse::<Digest>().unwrap(), long);
    }

    #[test]
    fn hashing_in_pieces_is_hashing_at_once() {
        let mut hasher = Hasher::default();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), Digest::of(b"abc"));
    }

    #[test]
    fn what_is_refused() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        for (text, why) in [
            ("", "no colon"),
            ("sha256", "no colon"),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", "only sha256"),
            ("sha256:", "64 digits, not 0"),
            (&EMPTY[..70], "64 digits, not 63"),
            (&format!("{EMPTY}0"), "not 65"),
            (&upper, "0-9 and a-f"),
            (
                "sha256:../../../../../../../../../../../../../../../../../../../../etc/",
                "0-9 and a-f",
            ),
            (
                "sha256:é0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8550",
                "0-9",
            ),
        ] {
            let error = text.parse::<Digest>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn chain_of_layers() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|content| DiffId(Digest::of(content)));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&[a]), Some(ChainId(a.0)));
        let ab = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(ChainId::of(&[a, b]), Some(ChainId(ab)));
        let abc = Digest::of(format!("{ab} {c}").as_bytes());
        assert_eq!(ChainId::of(&[a, b, c]), Some(ChainId(abc)));
    }

    #[test]
    fn json_is_the_text() {
        let digest = Digest::of(b"");
        assert_eq!(
            serde_json::to_string(&digest).unwrap(),
            format!("{EMPTY:?}")
        );
        assert_eq!(
            serde_json::from_str::<Digest>(&format!("{EMPTY:?}")).unwrap(),
            digest
        );
        assert!(serde_json::from_str::<Digest>("\"sha256:00\"").is_err());
    }

    proptest! {
        #[test]
        fn text_round_trip(content: Vec<u8>, long: bool) {
            let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let digest = Digest::with(algorithm, &content);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }

        #[test]
        fn any_text_is_survived(text: String) {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
