//! `plyfs tags`

use std::cmp::Ordering;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::access::Access;
use super::failure::Failure;
use super::glob::Pattern;
use super::listing::Listing;
use super::{Result, output};
use crate::oci::Reference;
use crate::registry::{Error, ManifestName, Mirrored};

const FIELDS: &[(&str, &str)] = &[("Tag", "TAG"), ("Digest", "DIGEST")];
/// What follows a version that is not out yet.
const UNRELEASED: &[&str] = &["alpha", "beta", "dev", "pre", "preview", "rc", "snapshot"];

/// List the tags of a repository
///
/// They are read from its registry or a mirror of it, which need not be Docker's.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs tags alpine
  plyfs tags --filter '3.*' --sort version --reverse --limit 5 alpine
  plyfs tags --digest registry.example/app")]
pub struct Tags {
    /// The repository
    #[arg(value_name = "REPOSITORY")]
    repository: Reference,
    /// Only tags like this pattern
    #[arg(short, long = "filter", value_name = "PATTERN")]
    filters: Vec<String>,
    /// The order: letter by letter, or with 1.10 after 1.9 and after 1.10-rc1
    #[arg(long, value_name = "KEY", default_value = "name")]
    sort: Order,
    /// The other way round
    #[arg(short, long)]
    reverse: bool,
    /// Show at most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Ask for the digest that each stands for
    #[arg(long)]
    digest: bool,
    /// Print an object for each tag
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Print with a Go template; or json, or table TEMPLATE
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    #[command(flatten)]
    access: Access,
}

/// How tags are sorted.
#[derive(Clone, Copy, ValueEnum)]
enum Order {
    Name,
    Version,
}

impl Tags {
    pub fn run(self) -> Result<()> {
        let name = self.repository.familiar_name();
        let failed = |error: Error| Failure::new(format!("cannot list the tags of {name}"), error);
        let patterns = self.patterns()?;
        let settings = self.access.settings();
        let source = Mirrored::open(&settings, &self.repository).map_err(failed)?;
        let mut tags = source.tags().map_err(failed)?;
        tags.retain(|tag| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(tag))
        });
        match self.sort {
            Order::Name => tags.sort(),
            Order::Version => tags.sort_by(|a, b| by_version(a, b)),
        }
        if self.reverse {
            tags.reverse();
        }
        tags.truncate(self.limit.unwrap_or(usize::MAX));
        let mut rows = Vec::new();
        for tag in tags {
            rows.push(self.row(&source, &tag).map_err(failed)?);
        }
        let listing = match self.digest {
            true => Listing::new(FIELDS, "{{.Tag}}\t{{.Digest}}"),
            false => Listing::bare(&FIELDS[..1], "{{.Tag}}"),
        };
        let format = match self.json {
            true => Some("json"),
            false => self.format.as_deref(),
        };
        listing.print(format, &rows)
    }

    fn patterns(&self) -> Result<Vec<Pattern>> {
        let parse = |text: &String| {
            let wrong = || Failure::usage(format!("cannot filter by {text}: it is no pattern"));
            Pattern::parse(text).ok_or_else(wrong)
        };
        self.filters.iter().map(parse).collect()
    }

    fn row(&self, source: &Mirrored, tag: &str) -> std::result::Result<Value, Error> {
        let shown = output::plain(tag);
        if !self.digest {
            return Ok(json!({ "Tag": shown }));
        }
        // A tag may have gone since the list was made.
        let digest = source.digest_of(&ManifestName::Tag(tag.to_owned()))?;
        let digest = digest.map_or_else(|| "<none>".to_owned(), |digest| digest.to_string());
        Ok(json!({ "Tag": shown, "Digest": digest }))
    }
}

/// Tags that are no versions first, by name; then versions, the lowest first.
fn by_version(a: &str, b: &str) -> Ordering {
    let version = |tag| parts(str::strip_prefix(tag, 'v').unwrap_or(tag));
    let is_version = |tag: &str| {
        tag.trim_start_matches('v')
            .starts_with(|c: char| c.is_ascii_digit())
    };
    let by_kind = is_version(a).cmp(&is_version(b));
    by_kind
        .then_with(|| version(a).cmp(&version(b)))
        .then_with(|| a.cmp(b))
}

/// A part of a version. What comes after a version that is not out yet is lower than nothing more.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part<'a> {
    Unreleased(&'a str),
    End,
    Word(&'a str),
    /// Its digits without zeros in front; more of them are more.
    Number(usize, &'a str),
}

fn parts(tag: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = tag.trim_start_matches(['.', '-', '_', '+']);
    while let Some(first) = rest.chars().next() {
        let is_number = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != is_number || ".-_+".contains(c));
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        parts.push(match is_number {
            true => {
                let digits = part.trim_start_matches('0');
                Part::Number(digits.len(), digits)
            }
            false if UNRELEASED.contains(&part) => Part::Unreleased(part),
            false => Part::Word(part),
        });
        rest = after.trim_start_matches(['.', '-', '_', '+']);
    }
    parts.push(Part::End);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_order() {
        let sorted = [
            "edge",
            "latest",
            "0.9",
            "v1.2.0-alpha",
            "1.2.0-beta2",
            "1.2.0-rc1",
            "1.2.0-rc10",
            "1.2.0",
            "1.2.0-alpine",
            "1.2.1",
            "1.10",
            "v2",
            "3.20",
            "3.20-slim",
            "20240101",
            "99999999999999999999999999",
        ];
        let mut tags = sorted;
        tags.reverse();
        tags.sort_by(|a, b| by_version(a, b));
        assert_eq!(tags, sorted);
    }
}
