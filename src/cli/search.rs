//! `plyfs search`

use clap::Args;
use serde_json::{Value, json};

use super::access::Access;
use super::failure::Failure;
use super::listing::Listing;
use super::{Result, output};
use crate::oci::RegistryName;
use crate::registry::{Hit, Mirrored};

const FIELDS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];
const TABLE: &str = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
/// How many repositories Docker's registry gives at most.
const MOST: usize = 100;
/// Characters of a description that are shown.
const LONGEST: usize = 45;

/// Search a registry for repositories
///
/// Docker's registry is searched as docker search does. Of another one, named before the term or with
/// --registry, the search is used if it has one, and else its catalog, which has names only.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs search alpine
  plyfs search --filter is-official=true --filter stars=100 --limit 5 python
  plyfs search --format '{{.Name}}: {{.StarCount}}' nginx
  plyfs search registry.example:5000/app
  plyfs search --registry registry.example:5000 app")]
pub struct Search {
    /// A word in names or descriptions, and the registry before it if it is not docker.io
    #[arg(value_name = "[HOST[:PORT]/]TERM")]
    term: String,
    /// The registry to search; all of TERM is then the word
    #[arg(long, value_name = "HOST[:PORT]")]
    registry: Option<RegistryName>,
    /// Show at most so many, up to 100
    #[arg(long, default_value_t = 25, value_name = "N")]
    limit: usize,
    /// Show only some: is-official=true|false, is-automated=true|false, stars=N (at least)
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// Print with a Go template; or json, or table TEMPLATE
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// As JSON: the same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Do not shorten descriptions
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    access: Access,
}

/// Conditions on repositories.
#[derive(Default)]
struct Filter {
    official: Option<bool>,
    automated: Option<bool>,
    stars: u64,
}

impl Search {
    pub fn run(self) -> Result<()> {
        if !(1..=MOST).contains(&self.limit) {
            let limit = self.limit;
            return Err(Failure::usage(format!(
                "the limit {limit} is not between 1 and {MOST}"
            )));
        }
        let filter = Filter::parse(&self.filters)?;
        // What is filtered out must not use the limit up.
        let asked = match self.filters.is_empty() {
            true => self.limit,
            false => MOST,
        };
        let (registry, term) = match (&self.registry, RegistryName::leading(&self.term)) {
            (None, Some(named)) => named,
            (given, _) => (given.clone().unwrap_or_default(), self.term.as_str()),
        };
        let hits = Mirrored::registry(&self.access.settings(), &registry)
            .and_then(|it| it.search(&registry, term, asked))
            .map_err(|error| Failure::new(format!("cannot search {registry} for {term}"), error))?;
        let mut hits: Vec<Hit> = hits.into_iter().filter(|hit| filter.takes(hit)).collect();
        hits.sort_by_key(|hit| std::cmp::Reverse(hit.stars));
        hits.truncate(self.limit);
        let rows: Vec<Value> = hits.iter().map(|hit| self.row(hit)).collect();
        let format = match self.json {
            true => Some("json"),
            false => self.format.as_deref(),
        };
        Listing::new(FIELDS, TABLE).print(format, &rows)
    }

    fn row(&self, hit: &Hit) -> Value {
        let described = hit.description.replace(['\n', '\r'], " ");
        let shown = match (self.no_trunc, described.char_indices().nth(LONGEST - 1)) {
            (false, Some((end, _))) if described.chars().count() > LONGEST => {
                format!("{}\u{2026}", &described[..end])
            }
            _ => described,
        };
        let mark = |is: bool| if is { "[OK]" } else { "" };
        json!({
            "Name": output::plain(&hit.name),
            "Description": output::plain(&shown),
            "StarCount": hit.stars,
            "IsOfficial": mark(hit.is_official),
            "IsAutomated": mark(hit.is_automated),
        })
    }
}

impl Filter {
    fn parse(texts: &[String]) -> Result<Filter> {
        let mut filter = Filter::default();
        for text in texts {
            let wrong = |why: &str| Failure::usage(format!("cannot filter by {text}: {why}"));
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| wrong("it is not KEY=VALUE"))?;
            let is = || match value {
                "true" | "1" => Ok(Some(true)),
                "false" | "0" => Ok(Some(false)),
                _ => Err(wrong("it is neither true nor false")),
            };
            match key {
                "is-official" => filter.official = is()?,
                "is-automated" => filter.automated = is()?,
                "stars" => filter.stars = value.parse().map_err(|_| wrong("it is no number"))?,
                _ => {
                    return Err(wrong("known are is-official, is-automated and stars"));
                }
            }
        }
        Ok(filter)
    }

    fn takes(&self, hit: &Hit) -> bool {
        self.official.is_none_or(|is| is == hit.is_official)
            && self.automated.is_none_or(|is| is == hit.is_automated)
            && hit.stars >= self.stars
    }
}
