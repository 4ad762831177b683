//! `--platform` of verbs that take several, or all.

use std::str::FromStr;

use crate::image::Platforms;
use crate::oci::{ParseError, Platform};

/// A platform, or all of them: one value of the flag.
#[derive(Clone)]
pub enum Wanted {
    One(Platform),
    All,
}

impl FromStr for Wanted {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Wanted, ParseError> {
        match text {
            "all" => Ok(Wanted::All),
            text => text.parse().map(Wanted::One),
        }
    }
}

/// All values of the flag together.
pub enum Asked {
    /// None for that of this machine.
    Each(Vec<Platform>),
    All,
}

impl Asked {
    /// What the values of the flag ask for.
    pub fn of(values: &[Wanted]) -> Asked {
        let mut platforms = Vec::new();
        for wanted in values {
            match wanted {
                Wanted::All => return Asked::All,
                Wanted::One(platform) => platforms.push(platform.clone()),
            }
        }
        Asked::Each(platforms)
    }

    pub fn as_ref(&self) -> Platforms<'_> {
        match self {
            Asked::All => Platforms::All,
            Asked::Each(platforms) => match platforms.as_slice() {
                [] => Platforms::One(None),
                [one] => Platforms::One(Some(one)),
                several => Platforms::Each(several),
            },
        }
    }

    /// Whether there can be more than one.
    pub fn is_several(&self) -> bool {
        !matches!(self.as_ref(), Platforms::One(_))
    }
}
