//! Patterns of names, as Go's path.Match reads them and so Docker's `reference` filter.

/// A pattern: `*` and `?` stand for anything but `/`, `[a-z]` and `[^a-z]` for one character, `\`
/// takes the next one as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Char(char),
    /// `?`
    One,
    /// `*`
    Any,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    /// Reads a pattern; `None` for one that is not well formed.
    pub fn parse(text: &str) -> Option<Pattern> {
        let mut parts = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => Part::Char(chars.next()?),
                '[' => {
                    let negated = chars.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    while ranges.is_empty() || chars.peek() != Some(&']') {
                        let low = member(&mut chars)?;
                        let high = match chars.next_if_eq(&'-') {
                            Some(_) => member(&mut chars)?,
                            None => low,
                        };
                        ranges.push((low, high));
                    }
                    chars.next();
                    Part::Class { negated, ranges }
                }
                c => Part::Char(c),
            });
        }
        Some(Pattern(parts))
    }

    /// Whether `text` has characters that mean more in a pattern than in a name.
    pub fn is_pattern(text: &str) -> bool {
        text.contains(['*', '?', '['])
    }

    /// Whether all of `text` is as the pattern says.
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut part, mut at) = (0, 0);
        // Where the last `*` stands, and how far what it takes reaches.
        let mut star: Option<(usize, usize)> = None;
        loop {
            let c = text.get(at).copied();
            match (self.0.get(part), c) {
                (None, None) => return true,
                (Some(Part::Any), _) => {
                    star = Some((part, at));
                    part += 1;
                    continue;
                }
                (Some(one), Some(c)) if one.takes(c) => {
                    part += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            // Let the last `*` take one more.
            match star {
                Some((any, taken)) if text.get(taken).is_some_and(|c| *c != '/') => {
                    star = Some((any, taken + 1));
                    part = any + 1;
                    at = taken + 1;
                }
                _ => return false,
            }
        }
    }
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Part::Char(own) => *own == c,
            Part::One => c != '/',
            Part::Any => false,
            Part::Class { negated, ranges } => {
                let within = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                within != *negated
            }
        }
    }
}

/// A character of a class.
fn member(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '\\' => chars.next(),
        '-' | ']' => None,
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_matches() {
        // From the table of Go's own test of path.Match.
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("*x", "xxx", true),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            assert_eq!(pattern.matches(text), expected, "{pattern:?} {text}");
        }
        for pattern in [
            "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[",
        ] {
            assert_eq!(Pattern::parse(pattern), None, "{pattern}");
        }
    }
}
