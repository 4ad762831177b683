//! Errors with their causes as one line of text.
//!
//! # Invariants
//! Nothing is said twice: some libraries repeat their cause in their own message.

use std::error::Error;

/// The message of an error, then those of its causes: `cannot pull alpine: cannot reach …: …`.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = plain(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = plain(&error.to_string());
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

/// A message without the numbers of errors that the standard library adds: `(os error 28)`.
#[must_use]
pub fn plain(message: &str) -> String {
    const BEGIN: &str = " (os error ";
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        text.push_str(before);
        match after.split_once(')') {
            Some((number, later)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                rest = later;
            }
            _ => {
                text.push_str(BEGIN);
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

/// Whether the cause is a full disk, or a quota that is used up.
#[must_use]
pub fn is_full_disk(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| matches!(error.kind(), FULL | QUOTA)) {
            return true;
        }
        cause = error.source();
    }
    false
}

const FULL: std::io::ErrorKind = std::io::ErrorKind::StorageFull;
const QUOTA: std::io::ErrorKind = std::io::ErrorKind::QuotaExceeded;

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Tried {
        text: String,
        source: io::Error,
    }

    fn tried(text: &str, errno: i32) -> Tried {
        let source = io::Error::from_raw_os_error(errno);
        Tried {
            text: text.to_owned(),
            source,
        }
    }

    #[test]
    fn regression_nothing_is_said_twice_and_no_number_is_shown() {
        for (text, expected) in [
            ("writing x", "writing x: No space left on device"),
            (
                "writing x: No space left on device (os error 28)",
                "writing x: No space left on device",
            ),
        ] {
            assert_eq!(chain(&tried(text, 28)), expected);
        }
        assert_eq!(
            plain("a (os error x) b (os error 2), c"),
            "a (os error x) b, c"
        );
    }

    #[test]
    fn a_full_disk_is_known_however_deep_it_lies() {
        assert!(is_full_disk(&tried("writing", 28)));
        let wrapped = io::Error::other(tried("writing", 28));
        assert!(!is_full_disk(&tried("writing", 13)));
        assert!(is_full_disk(&Tried {
            text: "trying".to_owned(),
            source: wrapped,
        }));
    }
}
