//! The value of `writable=`.

use std::str::FromStr;

/// What a container writes through. Both keep what is written in the same directory, in the same format, so
/// a container that is not mounted can be taken from the one to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WritableLayer {
    /// A mount of ours for each container, with a server of its own.
    #[default]
    Fuse,
    /// The kernel's overlay over the image, which all its containers share with one server and one page
    /// cache.
    Kernel,
    /// The kernel's where it can be had, since it is faster.
    Auto,
}

impl WritableLayer {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WritableLayer::Fuse => "fuse",
            WritableLayer::Kernel => "kernel",
            WritableLayer::Auto => "auto",
        }
    }
}

impl FromStr for WritableLayer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<WritableLayer, &'static str> {
        match text {
            "fuse" => Ok(WritableLayer::Fuse),
            "kernel" => Ok(WritableLayer::Kernel),
            "auto" => Ok(WritableLayer::Auto),
            _ => Err("must be fuse, kernel or auto"),
        }
    }
}
