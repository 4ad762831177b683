//! containerd's filter language: which snapshots a listing shows.
//!
//! ```text
//! filter    := selector ("," selector)*          all must match
//! selector  := path [operator value]             without an operator: the field is there
//! path      := field ("." field)*
//! field     := quoted | [A-Za-z0-9_-]+
//! operator  := "==" | "!=" | "~=" | "@="         equal, not equal, matches, contains
//! value     := quoted | [^\s,]+
//! ```
//!
//! Of several filters any must match; no filter, or an empty one, matches everything.

mod scan;

use regex::Regex;

use super::{Error, Info, Result};
use scan::{Scanner, Token};

/// Which snapshots are wanted.
#[derive(Debug)]
pub(super) struct Filter(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    condition: Condition,
}

#[derive(Debug)]
enum Condition {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
    Contains(String),
}

impl Filter {
    /// Reads filters.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] says what cannot be read, and where.
    pub(super) fn parse(filters: &[String]) -> Result<Filter> {
        let read = |text: &String| {
            selectors(text)
                .map_err(|reason| Error::InvalidArgument(format!("filter {text:?}: {reason}")))
        };
        filters.iter().map(read).collect::<Result<_>>().map(Filter)
    }

    /// Whether a snapshot is wanted.
    pub(super) fn matches(&self, info: &Info) -> bool {
        let all = |selectors: &Vec<Selector>| selectors.iter().all(|one| one.matches(info));
        self.0.is_empty() || self.0.iter().any(all)
    }
}

impl Selector {
    fn matches(&self, info: &Info) -> bool {
        let field = field(info, &self.path);
        // What is not there compares like an empty text, except that it equals nothing.
        let value = field.unwrap_or_default();
        match &self.condition {
            Condition::Present => field.is_some(),
            Condition::Equal(wanted) => field.is_some() && value == wanted,
            Condition::NotEqual(unwanted) => value != unwanted,
            Condition::Matches(pattern) => pattern.is_match(value),
            Condition::Contains(part) => value.contains(part),
        }
    }
}

/// The field of a snapshot that a path names, if the snapshot has it.
fn field<'a>(info: &'a Info, path: &[String]) -> Option<&'a str> {
    match path.split_first()? {
        (name, _) if name == "kind" => Some(info.kind.as_str()),
        (name, _) if name == "name" => Some(info.name.as_str()),
        // There for every snapshot, if only empty: `parent==""` finds those without one.
        (name, _) if name == "parent" => Some(info.parent.as_str()),
        (name, label) if name == "labels" => info.labels.get(&label.join(".")).map(String::as_str),
        _ => None,
    }
}

fn selectors(text: &str) -> std::result::Result<Vec<Selector>, String> {
    let mut selectors = Vec::new();
    let mut scanner = Scanner::new(text);
    if text.is_empty() {
        return Ok(selectors);
    }
    loop {
        let (selector, next) = selector(&mut scanner)?;
        selectors.push(selector);
        match next {
            Token::End => return Ok(selectors),
            Token::Separator(',') => {}
            _ => return Err(scanner.expected("a comma")),
        }
    }
}

/// A selector, and the token after it.
fn selector(scanner: &mut Scanner<'_>) -> std::result::Result<(Selector, Token), String> {
    let mut path = Vec::new();
    let after = loop {
        match scanner.scan()? {
            Token::Field(field) | Token::Quoted(field) => path.push(field),
            _ => return Err(scanner.expected("a field")),
        }
        match scanner.scan()? {
            Token::Separator('.') => {}
            after => break after,
        }
    };
    let operator = match after {
        Token::Operator(operator) => operator,
        after => {
            let condition = Condition::Present;
            return Ok((Selector { path, condition }, after));
        }
    };
    let value = match scanner.scan()? {
        Token::Value(value) | Token::Quoted(value) => value,
        _ => return Err(scanner.expected("a value")),
    };
    let condition = match operator.as_str() {
        "==" => Condition::Equal(value),
        "!=" => Condition::NotEqual(value),
        "@=" => Condition::Contains(value),
        "~=" => Condition::Matches(Regex::new(&value).map_err(|error| error.to_string())?),
        _ => return Err(scanner.expected("one of ==, !=, ~=, @=")),
    };
    Ok((Selector { path, condition }, scanner.scan()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshotter::{Kind, Labels};
    use std::time::SystemTime;

    fn info() -> Info {
        let labels = [("plain", "1"), ("dotted.key/x", "a b"), ("empty", "")];
        Info {
            name: "ns/1/web".to_owned(),
            parent: String::new(),
            kind: Kind::Active,
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into_iter()
                .collect::<Labels>(),
        }
    }

    fn matches(filters: &[&str]) -> bool {
        let filters: Vec<String> = filters.iter().map(|&text| text.to_owned()).collect();
        Filter::parse(&filters).unwrap().matches(&info())
    }

    #[test]
    fn each_operator_does_what_containerd_says() {
        for (filter, expected) in [
            ("", true),
            ("kind==active", true),
            ("kind==view", false),
            ("kind!=view", true),
            ("name~=^ns/", true),
            ("name~=/web$/", true),
            ("name~=|^ns/1|", true),
            ("name@=1/w", true),
            ("parent", true),
            ("parent!=x", true),
            ("parent==\"\"", true),
            ("labels.plain", true),
            ("labels.plain==1", true),
            ("labels.\"dotted.key/x\"==\"a b\"", true),
            ("labels.dotted.\"key/x\"", true),
            ("labels.absent", false),
            ("kind==active, labels.plain==1", true),
            ("kind==active,labels.plain==2", false),
            ("name==\"ns\\x2f1/web\"", true),
            ("unknown", false),
        ] {
            assert_eq!(matches(&[filter]), expected, "{filter}");
        }
    }

    /// How containerd looks for a snapshot that stands for the lowest layer of an image.
    #[test]
    fn regression_what_has_no_parent_is_found_by_that() {
        assert!(matches(&["labels.\"dotted.key/x\"==\"a b\",parent==\"\""]));
    }

    #[test]
    fn any_of_several_filters_is_enough() {
        assert!(matches(&[]));
        assert!(matches(&["kind==view", "kind==active"]));
        assert!(!matches(&["kind==view", "kind==committed"]));
    }

    #[test]
    fn nonsense_is_refused() {
        for filter in [
            "==x",
            "name=",
            "name=x",
            "name==",
            "name==a b",
            "name,",
            "name=====x",
            "labels.",
            "name==\"open",
            "name~=(",
            "name==\"\\q\"",
        ] {
            let refused = Filter::parse(&[filter.to_owned()]);
            assert!(
                matches!(refused, Err(Error::InvalidArgument(_))),
                "{filter}"
            );
        }
    }
}
