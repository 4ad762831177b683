//! Paths of archives, made relative to the root of the layer.

use super::{Limits, Problem};
use crate::whiteout::PREFIX;

/// Writes the normalised form of `raw` to `clean`: no leading slash, no empty components, no `.`
/// and no `..`; the root is empty.
///
/// `..` takes back the component before it and stops at the root, whatever that component is on
/// disk: what Go's `filepath.Clean("/" + name)` does, and so every container engine.
pub(super) fn normalise(
    raw: &[u8],
    what: &'static str,
    limits: &Limits,
    clean: &mut Vec<u8>,
) -> Result<(), Problem> {
    clean.clear();
    if raw.len() > limits.path {
        let what = "bytes of path";
        return Err(Problem::TooLarge {
            what,
            limit: limits.path as u64,
        });
    }
    if raw.contains(&0) {
        return Err(Problem::Nul(what));
    }
    let mut depth = 0;
    for component in raw.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                let parent = clean.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                clean.truncate(parent);
                depth = usize::saturating_sub(depth, 1);
            }
            name if name.len() > longest(name) => return Err(Problem::NameTooLong),
            name => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(name);
                depth += 1;
                if depth > limits.depth {
                    let what = "components of path";
                    return Err(Problem::TooLarge {
                        what,
                        limit: limits.depth as u64,
                    });
                }
            }
        }
    }
    Ok(())
}

/// How long a component may be: a whiteout hides a name that may itself have 255 bytes.
fn longest(component: &[u8]) -> usize {
    if component.starts_with(PREFIX) {
        255 + PREFIX.len()
    } else {
        255
    }
}

/// The parent and the last component of a normalised path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => {
            let (parent, name) = path.split_at(slash);
            (parent, name.get(1..).unwrap_or_default())
        }
        None => (b"", path),
    }
}
