//! What a verb ends with when it fails, and how people see it.

use std::fmt::Display;
use std::process::ExitCode;

use crate::{image, registry, store};

/// A failure: what was tried, why it failed, what could help.
#[derive(Debug)]
pub struct Failure {
    error: anyhow::Error,
    hint: Option<String>,
    code: u8,
    /// The reader of our output went away, which is no failure.
    broken_pipe: bool,
}

impl Failure {
    /// A failure with its cause; `tried` says what was being done: `cannot pull alpine`.
    pub fn new(tried: impl Display, cause: impl Into<anyhow::Error>) -> Failure {
        let cause = cause.into();
        let hint = hint(&cause);
        let error = cause.context(tried.to_string());
        Failure {
            error,
            hint,
            code: 1,
            broken_pipe: false,
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

    /// The same with a hint, unless it has one.
    #[must_use]
    pub fn or_hint(mut self, hint: impl Display) -> Failure {
        self.hint.get_or_insert_with(|| hint.to_string());
        self
    }

    /// The failure of something with an image that people call `name`.
    pub fn of_image(tried: &str, name: &str, cause: image::Error) -> Failure {
        let hint = match &cause {
            image::Error::NotStored | image::Error::NotStoredFor { .. } => {
                Some(format!("plyfs pull {name}"))
            }
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
        if self.broken_pipe {
            return ExitCode::SUCCESS;
        }
        let mut parts: Vec<String> = Vec::new();
        for cause in self.error.chain() {
            let text = cause.to_string();
            // Some libraries repeat their cause in their own message.
            if !parts.last().is_some_and(|last| last.ends_with(&text)) {
                parts.push(text);
            }
        }
        eprintln!("plyfs: {}", parts.join(": "));
        if let Some(hint) = self.hint {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(self.code)
    }
}

/// What could help against errors whose cure does not depend on the verb.
fn hint(error: &anyhow::Error) -> Option<String> {
    for cause in error.chain() {
        if let Some(store::Error::Io { source, path, .. }) = cause.downcast_ref() {
            match source.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    return Some("choose a store of your own with --root DIR".to_owned());
                }
                std::io::ErrorKind::StorageFull => {
                    return Some(format!("free some space where {} lies", path.display()));
                }
                _ => {}
            }
        }
        if let Some(store::Error::NoStore(_)) = cause.downcast_ref() {
            return Some("plyfs pull IMAGE makes one; --root DIR names another".to_owned());
        }
        if let Some(store::Error::Damaged { .. } | store::Error::Missing { .. }) =
            cause.downcast_ref()
        {
            return Some("plyfs check tells what is damaged; pull the image again".to_owned());
        }
        if let Some(registry::Error::Unauthorized { registry, .. }) = cause.downcast_ref() {
            return Some(format!(
                "docker login {registry} or podman login {registry}"
            ));
        }
    }
    None
}
