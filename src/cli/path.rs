//! `IMAGE[:PATH]` arguments, and the union that they lead into.

use super::failure::Failure;
use super::{Global, Result, environment};
use crate::image;
use crate::oci::Platform;
use crate::store::Store;
use crate::union::{Attributes, Union};

/// A path in an image.
pub struct ImagePath {
    /// The image as people call it.
    pub image: String,
    /// The path, with its leading slash.
    pub path: Vec<u8>,
}

impl ImagePath {
    /// Reads `IMAGE` or `IMAGE:/PATH`.
    pub fn parse(text: &std::ffi::OsStr) -> Result<ImagePath> {
        use std::os::unix::ffi::OsStrExt;
        let bytes = text.as_bytes();
        let colon = bytes.windows(2).position(|two| two == b":/");
        let (image, path) = match colon {
            Some(colon) => (&bytes[..colon], &bytes[colon + 1..]),
            None => (bytes, &b"/"[..]),
        };
        let image = str::from_utf8(image)
            .map_err(|_| Failure::usage("the name of an image is UTF-8"))?
            .to_owned();
        Ok(ImagePath {
            image,
            path: path.to_vec(),
        })
    }

    /// As people wrote it, more or less.
    pub fn display(&self) -> String {
        format!("{}:{}", self.image, self.path.escape_ascii())
    }

    /// What was meant by `debian/etc` or `debian:etc`, where `debian` is stored.
    fn meant(&self, store: &Store) -> Option<String> {
        if self.path != b"/" {
            return None;
        }
        let separators = self.image.match_indices(['/', ':']);
        separators
            .filter(|(at, _)| image::find_record(store, &self.image[..*at]).is_ok())
            .map(|(at, _)| format!("{}:/{}", &self.image[..at], &self.image[at + 1..]))
            .last()
    }

    /// Opens the image and finds the path in it.
    pub fn open(
        &self,
        global: &Global,
        platform: Option<&Platform>,
        verb: &str,
        follow: bool,
    ) -> Result<(Union, Attributes)> {
        let tried = if verb == "ls" { "list" } else { "print" };
        let store = environment::open_store(global)?;
        let find = || image::find(&store, &self.image, platform);
        let open = || {
            let mut found = find()?;
            loop {
                let opened = image::open(&store, &found);
                if opened.is_ok() {
                    return opened;
                }
                // Nobody keeps it: it may have been removed meanwhile, or another one been given its name.
                let now = find()?;
                if now.record.descriptor.digest == found.record.descriptor.digest {
                    return opened;
                }
                found = now;
            }
        };
        let union = open().map_err(|error| {
            let meant = self.meant(&store);
            let failure = Failure::of_image(verb, &self.image, error);
            match meant {
                Some(meant) => failure.with_hint(format!("plyfs {verb} {meant}")),
                None => failure,
            }
        })?;
        let cannot = || format!("cannot {tried} {}", self.display());
        match union.resolve(&self.path, follow) {
            Ok(attributes) => Ok((union, attributes)),
            Err(error) => Err(Failure::new(cannot(), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_paths_are_told_apart() {
        for (text, image, path) in [
            ("alpine", "alpine", "/"),
            ("alpine:3.20", "alpine:3.20", "/"),
            ("alpine:/etc", "alpine", "/etc"),
            (
                "localhost:5000/a/b:c:/d:/e",
                "localhost:5000/a/b:c",
                "/d:/e",
            ),
            ("a@sha256:12:/x", "a@sha256:12", "/x"),
        ] {
            let parsed = ImagePath::parse(text.as_ref()).unwrap();
            assert_eq!(
                (parsed.image.as_str(), parsed.path.as_slice()),
                (image, path.as_bytes())
            );
        }
    }
}
