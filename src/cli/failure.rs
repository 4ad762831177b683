//! What a verb ends with when it fails, and how people see it.

use std::error::Error;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;

use super::{Result, output};
use crate::oci::ParseError;
use crate::{cause, image, mount, registry, store};

/// A failure: what was tried, why it failed, what could help.
#[derive(Debug)]
pub struct Failure {
    error: anyhow::Error,
    hint: Option<String>,
    code: u8,
    /// The reader of our output went away, which is no failure.
    broken_pipe: bool,
    /// It was printed already.
    told: bool,
}

impl Failure {
    /// A failure with its cause; `tried` says what was being done: `cannot pull alpine`.
    pub fn new(tried: impl Display, cause: impl Into<anyhow::Error>) -> Failure {
        let cause = cause.into();
        let hint = hint(&cause);
        let code = if is_usage(&cause) { 2 } else { 1 };
        let error = cause.context(tried.to_string());
        Failure {
            error,
            hint,
            code,
            broken_pipe: false,
            told: false,
        }
    }

    /// A failure without a cause below it.
    pub fn plain(what: impl Display) -> Failure {
        let error = anyhow::Error::msg(what.to_string());
        Failure {
            error,
            hint: None,
            code: 1,
            broken_pipe: false,
            told: false,
        }
    }

    /// Wrong arguments, which clap could not see.
    pub fn usage(what: impl Display) -> Failure {
        Failure {
            code: 2,
            ..Failure::plain(what)
        }
    }

    /// Nobody reads what we write.
    pub fn broken_pipe() -> Failure {
        Failure {
            broken_pipe: true,
            ..Failure::plain("broken pipe")
        }
    }

    /// One of which a process of ours has told already.
    pub fn told() -> Failure {
        Failure {
            told: true,
            ..Failure::plain("another process failed")
        }
    }

    /// The same with this exit code, unless the arguments were wrong.
    #[must_use]
    pub fn or_code(mut self, code: u8) -> Failure {
        if self.code == 1 {
            self.code = code;
        }
        self
    }

    /// The same with a hint, unless it has one.
    #[must_use]
    pub fn or_hint(mut self, hint: impl Display) -> Failure {
        self.hint.get_or_insert_with(|| hint.to_string());
        self
    }

    /// The same with this hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Display) -> Failure {
        self.hint = Some(hint.to_string());
        self
    }

    /// The failure of something with an image that people call `name`.
    pub fn of_image(verb: &str, name: &str, cause: image::Error) -> Failure {
        let tried = match verb {
            "ls" => "list",
            "cat" => "print",
            "image inspect" => "inspect",
            "image history" => "tell the history of",
            verb => verb,
        };
        let hint = match &cause {
            image::Error::NotStored | image::Error::Misspelt { .. } if verb == "push" => {
                Some(format!("plyfs tag IMAGE {name}"))
            }
            image::Error::NotStored if may_be_id(name) => {
                Some("plyfs image ls lists what is there".to_owned())
            }
            image::Error::NotStored => Some(format!("plyfs pull {name}")),
            image::Error::NotStoredFor { wanted, .. } => {
                Some(format!("plyfs pull --platform {wanted} {name}"))
            }
            image::Error::PlatformsMissing { .. } => Some(format!(
                "plyfs pull --platform all {name}, or plyfs push --platform all {name} for an index of those that are"
            )),
            image::Error::BlobsMissing { from, .. } => {
                let from = from.as_deref().unwrap_or("the image from where it came");
                Some(format!("plyfs pull {from} fetches it again"))
            }
            image::Error::Misspelt { closest } => closest.first().map(|closest| {
                format!("plyfs {verb} {closest}, if that was meant, or else plyfs pull {name}")
            }),
            _ => None,
        };
        let failure = Failure::new(format!("cannot {tried} {name}"), cause);
        match hint {
            Some(hint) => failure.or_hint(hint),
            None => failure,
        }
    }

    /// Prints the failure and gives the exit code.
    pub fn report(self) -> ExitCode {
        self.print();
        ExitCode::from(self.code)
    }

    fn print(&self) {
        if self.told || self.broken_pipe {
            return;
        }
        let mut text = format!("plyfs: {}\n", cause::chain(self.error.as_ref()));
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        output::tell(&text);
    }
}

/// Whether a name is written as an ID or a digest may be, which cannot be pulled.
fn may_be_id(name: &str) -> bool {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    hex.len() >= 4 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Does `act` for each of several arguments, also after one that failed.
///
/// # Errors
/// The failure of the only argument; of several, one that was printed already. When nobody reads
/// the output any more, that ends it.
pub fn each<T>(items: &[T], mut act: impl FnMut(&T) -> Result<()>) -> Result<()> {
    if let [item] = items {
        return act(item);
    }
    let mut failed: Option<Failure> = None;
    for item in items {
        match act(item) {
            Ok(()) => {}
            Err(failure) if failure.broken_pipe => return Err(failure),
            Err(mut failure) => {
                failure.print();
                failure.told = true;
                failed.get_or_insert(failure);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The error that others stand for, which say nothing themselves and so are not in its chain.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    if let Some(boxed) = error.downcast_ref::<Box<image::Error>>() {
        return innermost(boxed.as_ref());
    }
    let inner: &'a (dyn Error + 'static) = match (
        error.downcast_ref(),
        error.downcast_ref(),
        error.downcast_ref(),
    ) {
        (Some(mount::Error::Image(inner)), _, _) => inner.as_ref(),
        (_, Some(image::Error::Store(inner)), _) => inner,
        (_, Some(image::Error::Source(inner)), _) => inner,
        (_, Some(image::Error::Document(inner)), _)
        | (_, _, Some(registry::Error::Document(inner))) => inner,
        _ => return error,
    };
    innermost(inner)
}

/// Whether an argument was wrong: the name of an image that cannot be one.
fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            innermost(cause).downcast_ref(),
            Some(ParseError::Reference { .. })
        )
    })
}

const FULL_DISK: &str = "plyfs image rm IMAGE frees space, and plyfs check --repair what \
    interrupted pulls hold; a pull goes on where it stopped";

const IN_USE: &str = "plyfs umount it first; what plyfs mounts does not list was unmounted lazily, \
    and its process ends with the last open file";

/// How a file of the store comes back that is damaged or missing.
fn remaking(path: &Path) -> Option<&'static str> {
    match path.file_name()?.to_str()? {
        "index.json" => Some("plyfs check --repair makes it again from the images that are stored"),
        "store.json" => Some("plyfs check --repair makes it again"),
        "layer.json" => Some("plyfs check --repair makes the layer again from its blob"),
        _ => None,
    }
}

/// What can be done about a container whose record is damaged.
pub fn giving_up(error: &store::Error) -> Option<String> {
    let store::Error::Json { path, .. } = error else {
        return None;
    };
    let directory = path.parent().filter(|_| path.ends_with("container.json"))?;
    let name = directory.file_name()?.to_str()?;
    Some(format!(
        "plyfs container rm {name} removes it with its changes, which are in {}",
        directory.join("upper").display()
    ))
}

/// What could help against errors whose cure does not depend on the verb.
fn hint(error: &anyhow::Error) -> Option<String> {
    if cause::is_full_disk(error.as_ref()) {
        return Some(FULL_DISK.to_owned());
    }
    for cause in error.chain().map(innermost) {
        if let Some(store::Error::Io {
            source,
            path,
            doing,
        }) = cause.downcast_ref()
        {
            match source.kind() {
                std::io::ErrorKind::PermissionDenied if *doing == "removing" => {
                    return Some(store::SUBORDINATE.to_owned());
                }
                std::io::ErrorKind::PermissionDenied => {
                    return Some("choose a store of your own with --root DIR".to_owned());
                }
                std::io::ErrorKind::NotFound if *doing == "reading" => {
                    if let Some(hint) = remaking(path) {
                        return Some(hint.to_owned());
                    }
                }
                _ => {}
            }
        }
        if let Some(error @ store::Error::Json { path, .. }) = cause.downcast_ref() {
            let hint = remaking(path).map(str::to_owned);
            if let Some(hint) = hint.or_else(|| giving_up(error)) {
                return Some(hint);
            }
        }
        if let Some(store::Error::ContainerInUse { .. }) = cause.downcast_ref() {
            return Some(IN_USE.to_owned());
        }
        if let Some(mount::Error::Upper { source, .. }) = cause.downcast_ref()
            && source.errno == Errno::EBUSY
        {
            return Some(IN_USE.to_owned());
        }
        if let Some(store::Error::NoStore(_)) = cause.downcast_ref() {
            return Some("plyfs pull IMAGE makes one; --root DIR names another".to_owned());
        }
        if let Some(store::Error::NotEmpty(_)) = cause.downcast_ref() {
            return Some("--root DIR names another place, which may not be there yet".to_owned());
        }
        if let Some(store::Error::Damaged { .. } | store::Error::Missing { .. }) =
            cause.downcast_ref()
        {
            return Some(
                "plyfs check --repair, then pull, load or import the image again".to_owned(),
            );
        }
        if let Some(registry::Error::SeveralImages { .. }) = cause.downcast_ref() {
            return Some("choose one with :NAME or @DIGEST behind the path".to_owned());
        }
        if let Some(registry::Error::Unauthorized { registry, .. }) = cause.downcast_ref() {
            return Some(format!("plyfs login {registry}"));
        }
        if let Some(registry::Error::RateLimited(limit)) = cause.downcast_ref()
            && limit.anonymous
        {
            let registry = &limit.registry;
            return Some(format!(
                "plyfs login {registry}, if more is allowed to those who are known"
            ));
        }
    }
    None
}
