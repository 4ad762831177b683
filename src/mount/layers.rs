//! Directory layers: from `lowerdir=` to a stack. (To be written.)

use super::{Error, Serving, Target};
use crate::options::MountOptions;

/// To be written.
pub fn serving(_target: Target, _options: MountOptions) -> Result<Serving, Error> {
    Err(Error::system("directory layers")(std::io::Error::other(
        "not yet",
    )))
}
