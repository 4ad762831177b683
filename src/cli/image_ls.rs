//! `plyfs image ls`

use std::path::Path;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::failure::Failure;
use super::{Global, Result, environment, output};
use crate::image::{self, Row};
use crate::oci::Reference;
use crate::store::{self, Store};

/// List the images of the store
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs image ls
  plyfs image ls --digests debian
  plyfs image ls --format json | jq -r .ID")]
pub struct ImageLs {
    /// Only images of this repository, or with this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
    /// Only the IDs
    #[arg(short, long)]
    quiet: bool,
    /// The digests of manifests too
    #[arg(long)]
    digests: bool,
    /// IDs in full
    #[arg(long)]
    no_trunc: bool,
    /// A table, or a JSON object for each image
    #[arg(long, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// The names of the fields are Docker's.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    repository: String,
    tag: String,
    digest: String,
    #[serde(rename = "ID")]
    id: String,
    created_since: String,
    created_at: String,
    size: String,
    platform: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
}

const NONE: &str = "<none>";

impl ImageLs {
    pub fn run(self, global: &Global) -> Result<()> {
        // An ordinary first look: no store holds no image.
        let root = environment::store_root(global)?;
        let expected = || {
            let parent = root
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            environment::is_default_root(global) || parent.is_none_or(Path::is_dir)
        };
        let rows = match Store::open(&root) {
            Err(store::Error::NoStore(_)) if expected() => Vec::new(),
            Err(error) => return Err(Failure::new("cannot list the images", error)),
            Ok(store) => image::list(&store)
                .map_err(|error| Failure::new("cannot list the images", error))?,
        };
        let wanted = self.name.as_deref().map(Wanted::parse).transpose()?;
        let rows = rows
            .iter()
            .filter(|row| wanted.as_ref().is_none_or(|w| w.matches(row)));
        let lines: Vec<Line> = rows.map(|row| self.describe(row)).collect();
        for line in &lines {
            if let Some(damage) = &line.damaged {
                log::warn!(
                    "image {}:{} is damaged: {damage}",
                    line.repository,
                    line.tag
                );
            }
        }
        if self.quiet {
            return lines.iter().try_for_each(|line| output::line(&line.id));
        }
        match self.format {
            Format::Json => lines.iter().try_for_each(output::json_line),
            Format::Table => self.table(lines),
        }
    }

    fn table(&self, lines: Vec<Line>) -> Result<()> {
        let mut header = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
        if self.digests {
            header.insert(2, "DIGEST");
        }
        let cells: Vec<Vec<String>> = lines
            .into_iter()
            .map(|line| {
                let mut row = vec![
                    line.repository,
                    line.tag,
                    line.id,
                    line.created_since,
                    line.size,
                ];
                if self.digests {
                    row.insert(2, line.digest);
                }
                row
            })
            .collect();
        output::table(&header, &cells)
    }

    fn describe(&self, row: &Row) -> Line {
        let record = &row.record;
        let repository = match (&record.reference, &record.repository) {
            (Some(reference), _) => reference.familiar_name(),
            (None, Some(repository)) => repository.parse::<Reference>().map_or_else(
                |_| repository.clone(),
                |reference| reference.familiar_name(),
            ),
            (None, None) => NONE.to_owned(),
        };
        let tag = record
            .reference
            .as_ref()
            .and_then(Reference::tag)
            .unwrap_or(NONE)
            .to_owned();
        let digest = record.descriptor.digest.to_string();
        let (id, created, size, platform, damaged) = match &row.summary {
            Ok(summary) => (
                summary.id,
                summary.config.created.clone(),
                output::size(summary.size),
                summary.platform.to_string(),
                None,
            ),
            Err(error) => {
                let id = record.descriptor.digest;
                (
                    id,
                    None,
                    "?".to_owned(),
                    "?".to_owned(),
                    Some(error.clone()),
                )
            }
        };
        let now = SystemTime::now();
        Line {
            repository,
            tag,
            digest,
            id: if self.no_trunc {
                id.to_string()
            } else {
                id.short()
            },
            created_since: created
                .as_deref()
                .map_or_else(|| "N/A".to_owned(), |t| output::ago(t, now)),
            created_at: created.unwrap_or_else(|| "N/A".to_owned()),
            size,
            platform,
            damaged,
        }
    }
}

/// Which images the argument means: all of a repository, or the one with a tag.
struct Wanted {
    reference: Reference,
    with_tag: bool,
}

impl Wanted {
    fn parse(text: &str) -> Result<Wanted> {
        let reference: Reference = text
            .parse()
            .map_err(|error: crate::oci::ParseError| Failure::usage(error))?;
        let last = text.rsplit('/').next().unwrap_or(text);
        Ok(Wanted {
            reference,
            with_tag: last.contains([':', '@']),
        })
    }

    fn matches(&self, row: &Row) -> bool {
        if self.with_tag {
            return row.record.reference.as_ref() == Some(&self.reference);
        }
        row.record.repository.as_deref() == Some(self.reference.name().as_str())
    }
}
