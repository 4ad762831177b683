//! The command lines of mount helpers: from arguments to a request. Pure.
//!
//! Three callers, one program:
//!
//! * mount(8) for `-t plyfs` and `-t fuse.plyfs`: `PROGRAM SPEC DIR [-sfnv] [-o LIST] [-t TYPE]`
//! * mount.fuse3, and containerd through it: `PROGRAM SPEC DIR -o LIST`
//! * podman, buildah, CRI-O (`mount_program`): `PROGRAM -o LIST DIR`
//!
//! `-f` means two things: to mount(8), which names a SPEC, that nothing is to be done in earnest;
//! to the others, who do not, that the program stays in the foreground. `--foreground` is clear.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// What to mount: an image, or nothing when the options name directories.
    pub spec: Option<OsString>,
    /// Where.
    pub directory: PathBuf,
    /// The lists of options, in order.
    pub options: Vec<OsString>,
    /// Stay in the foreground.
    pub foreground: bool,
    /// Only pretend.
    pub fake: bool,
    /// Say more.
    pub verbose: bool,
}

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To mount.
    Mount(Mount),
    /// `--version`
    Version,
    /// `--help`
    Help,
}

/// Arguments that make no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageError {
    /// An option that is not known.
    Unknown(OsString),
    /// An option without its value.
    Value(OsString),
    /// Too few or too many words.
    Words,
}

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UsageError::Unknown(option) => write!(f, "unknown option '{}'", option.display()),
            UsageError::Value(option) => write!(f, "option '{}' needs a value", option.display()),
            UsageError::Words => f.write_str("a directory to mount on is needed"),
        }
    }
}

/// Reads the arguments that follow the program's name.
///
/// # Errors
/// [`UsageError`].
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, UsageError> {
    let mut arguments = arguments.into_iter();
    let mut mount = Mount::default();
    let mut words = Vec::new();
    let mut short_f = false;
    while let Some(argument) = arguments.next() {
        match argument.as_bytes() {
            b"--version" | b"-V" => return Ok(Request::Version),
            b"--help" | b"-h" => return Ok(Request::Help),
            b"--foreground" => mount.foreground = true,
            b"--fake" => mount.fake = true,
            b"--verbose" | b"--debug" | b"-d" => mount.verbose = true,
            b"--" => words.extend(arguments.by_ref()),
            b"-" => words.push(argument),
            [b'-', b'-', ..] => return Err(UsageError::Unknown(argument)),
            [b'-', b'o', ..] => mount.options.push(value(&argument, &mut arguments)?),
            // The type is in our name, and the namespace is entered before we are started.
            [b'-', b't' | b'N', ..] => drop(value(&argument, &mut arguments)?),
            [b'-', letters @ ..] => {
                for letter in letters {
                    match letter {
                        b'f' => short_f = true,
                        b'v' => mount.verbose = true,
                        b's' | b'n' => {}
                        _ => return Err(UsageError::Unknown(argument)),
                    }
                }
            }
            _ => words.push(argument),
        }
    }
    let mut words = words.into_iter();
    match (words.next(), words.next(), words.next()) {
        (Some(directory), None, None) => mount.directory = directory.into(),
        (Some(spec), Some(directory), None) => {
            mount.spec = Some(spec).filter(|spec| !matches!(spec.as_bytes(), b"" | b"none"));
            mount.directory = directory.into();
            (mount.fake, short_f) = (mount.fake || short_f, false);
        }
        _ => return Err(UsageError::Words),
    }
    mount.foreground |= short_f;
    Ok(Request::Mount(mount))
}

/// The value of a one-letter option: the rest of the word, or the next one.
fn value(
    option: &OsStr,
    arguments: &mut impl Iterator<Item = OsString>,
) -> Result<OsString, UsageError> {
    match option.as_bytes().get(2..) {
        Some(rest) if !rest.is_empty() => Ok(OsString::from_vec(rest.to_vec())),
        _ => arguments
            .next()
            .ok_or_else(|| UsageError::Value(option.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Request, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn mount(spec: Option<&str>, directory: &str, options: &[&str]) -> Mount {
        Mount {
            spec: spec.map(OsString::from),
            directory: directory.into(),
            options: options.iter().map(OsString::from).collect(),
            ..Mount::default()
        }
    }

    #[test]
    fn each_caller_is_understood() {
        let cases = [
            ("alpine /mnt", mount(Some("alpine"), "/mnt", &[])),
            (
                "alpine /mnt -o ro,nodev -t plyfs",
                mount(Some("alpine"), "/mnt", &["ro,nodev"]),
            ),
            (
                "alpine /mnt -sn -oro -tfuse.plyfs",
                mount(Some("alpine"), "/mnt", &["ro"]),
            ),
            (
                "alpine /mnt -o a,dev,suid -o b",
                mount(Some("alpine"), "/mnt", &["a,dev,suid", "b"]),
            ),
            (
                "-o lowerdir=/a:/b /m",
                mount(None, "/m", &["lowerdir=/a:/b"]),
            ),
            (
                "overlay /dev/fd/5 -o x",
                mount(Some("overlay"), "/dev/fd/5", &["x"]),
            ),
            (
                "none /m -o lowerdir=/a",
                mount(None, "/m", &["lowerdir=/a"]),
            ),
            ("-o x -- -odd", mount(None, "-odd", &["x"])),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line), Ok(Request::Mount(expected)), "{line}");
        }
    }

    #[test]
    fn f_is_fake_to_mount_and_foreground_to_others() {
        let fake = Mount {
            fake: true,
            verbose: true,
            ..mount(Some("x"), "/m", &[])
        };
        assert_eq!(read("x /m -fv"), Ok(Request::Mount(fake)));
        let foreground = Mount {
            foreground: true,
            ..mount(None, "/m", &["a"])
        };
        assert_eq!(read("-f -o a /m"), Ok(Request::Mount(foreground.clone())));
        assert_eq!(read("--foreground -o a /m"), Ok(Request::Mount(foreground)));
    }

    #[test]
    fn version_and_help_need_nothing_else() {
        assert_eq!(read("--version"), Ok(Request::Version));
        assert_eq!(read("x -h"), Ok(Request::Help));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(read(""), Err(UsageError::Words));
        assert_eq!(read("a b c"), Err(UsageError::Words));
        assert_eq!(read("a b -o"), Err(UsageError::Value("-o".into())));
        assert_eq!(read("a b -q"), Err(UsageError::Unknown("-q".into())));
        assert_eq!(
            read("a b --quick"),
            Err(UsageError::Unknown("--quick".into()))
        );
    }
}
