//! Which names someone may have meant who asked for one that is not there.

/// How many suggestions fit into an error message.
const SHOWN: usize = 5;
/// Beyond this many names, the search would take longer than anybody waits for a hint.
const SEARCHED: usize = 20_000;

/// The names most like `wanted`, best first; those that are not like it at all are left out.
pub fn closest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut ranked: Vec<(usize, &str)> = names
        .into_iter()
        .take(SEARCHED)
        .filter(|name| name.len() <= 256 && !name.chars().any(char::is_control))
        .filter_map(|name| Some((distance(wanted, name)?, name)))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked
        .into_iter()
        .take(SHOWN)
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// 0 for what differs in letter case only; names that one is the start of are near; then edit distance.
fn distance(wanted: &str, name: &str) -> Option<usize> {
    let (wanted, name) = (wanted.to_lowercase(), name.to_lowercase());
    if wanted == name {
        return Some(0);
    }
    let edits = edit_distance(wanted.as_bytes(), name.as_bytes());
    if name.starts_with(&wanted) || wanted.starts_with(&name) {
        return Some(1 + edits.min(8) / 4);
    }
    (edits <= wanted.len().max(3) / 2).then_some(1 + edits)
}

/// Levenshtein's distance in bytes.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(byte != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions() {
        let tags = [
            "3.19", "3.20", "3.20.1", "3.21", "edge", "latest", "20240101",
        ];
        for (wanted, expected) in [
            ("3.2", &["3.20", "3.20.1", "3.21"][..]),
            ("latset", &["latest"]),
            ("Edge", &["edge"]),
            ("nothing-like-it", &[]),
        ] {
            assert_eq!(closest(wanted, tags), expected, "{wanted}");
        }
        assert_eq!(closest("x", ["x\x1b[2J"]), Vec::<String>::new());
        assert_eq!(edit_distance(b"kitten", b"sitting"), 3);
    }
}
