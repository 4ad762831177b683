//! `plyfs image ls`

use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::failure::Failure;
use super::filter::{self, Filter};
use super::listing::Listing;
use super::{Global, Result, complete, environment, image_tree, moment, output};
use crate::image::{self, Group, Row};
use crate::oci::Reference;

/// List the images of the store
///
/// Names may be patterns: 'debian', 'debian:12*', 'ghcr.io/*/app'. The fields for --format are
/// .Repository .Tag .Digest .ID .CreatedSince .CreatedAt .Size .UniqueSize .SharedSize
/// .CompressedSize .Containers .Platform.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs image ls
  plyfs image ls --digests debian
  plyfs image ls --filter dangling=true -q
  plyfs image ls --filter since=debian:12 --filter label=maintainer
  plyfs image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}'
  plyfs image ls --sort size --sizes
  plyfs image ls --tree
  plyfs image ls --format json | jq -r .ID")]
pub struct ImageLs {
    /// Only images of this repository, or with this name
    #[arg(value_name = "REPOSITORY[:TAG]", add = complete::images())]
    names: Vec<String>,
    /// All images, as without it: there are no hidden ones
    #[arg(short, long)]
    all: bool,
    /// Only the IDs
    #[arg(short, long)]
    quiet: bool,
    /// The digests of manifests too
    #[arg(long)]
    digests: bool,
    /// IDs in full
    #[arg(long)]
    no_trunc: bool,
    /// Only images for which this holds: dangling=true, label=KEY[=VALUE], label!=KEY[=VALUE],
    /// before=IMAGE, since=IMAGE, until=TIME, reference=PATTERN
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// table, json (an object for each image), or a Go template, 'table TEMPLATE' with headings
    #[arg(long)]
    format: Option<String>,
    /// As JSON: the same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Sort by this: names from the first letter on, times and sizes from the newest and largest
    #[arg(
        long,
        value_name = "KEY",
        default_value = "created",
        hide_default_value = true
    )]
    sort: Key,
    /// The other way round
    #[arg(long)]
    reverse: bool,
    /// Also what only this image takes, what it shares with others, and what is fetched for it
    #[arg(long)]
    sizes: bool,
    /// Platforms, attestations and layers of each image
    #[arg(long, conflicts_with_all = ["quiet", "format", "json"])]
    tree: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Key {
    Created,
    Repository,
    Tag,
    Id,
    Size,
    Unique,
    Shared,
}

const FIELDS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("VirtualSize", "SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("CompressedSize", "COMPRESSED SIZE"),
    ("Containers", "CONTAINERS"),
    ("Platform", "PLATFORM"),
];

const NONE: &str = "<none>";

impl ImageLs {
    pub fn run(self, global: &Global) -> Result<()> {
        let store = environment::existing_store(global)?;
        let mut filter = Filter::parse(&self.filters, filter::OF_LIST, store.as_ref())?;
        for name in &self.names {
            filter.add_reference(name)?;
        }
        let failed = |error| Failure::new("cannot list the images", error);
        let groups = match &store {
            // Mounts are not listed, and so nobody is waited for.
            Some(store) => image::groups(store, &[]).map_err(failed)?,
            None => Vec::new(),
        };
        let mut rows: Vec<(&Group, &Row)> = Vec::new();
        for group in &groups {
            let dangling = group.is_dangling();
            let taken = group.rows.iter().filter(|row| filter.takes(row, dangling));
            rows.extend(taken.map(|row| (group, row)));
        }
        self.sort(&mut rows);
        for (_, row) in &rows {
            if let Err(damage) = row.summary() {
                log::warn!("image {} is damaged: {damage}", title(row));
            }
        }
        if self.tree {
            return match &store {
                Some(store) => image_tree::print(store, &rows, self.no_trunc),
                None => Ok(()),
            };
        }
        let now = SystemTime::now();
        let values: Vec<Value> = rows
            .iter()
            .map(|(group, row)| self.describe(group, row, now))
            .collect();
        let format = if self.json {
            Some("json")
        } else {
            self.format.as_deref()
        };
        self.listing().print(format, &values)
    }

    fn listing(&self) -> Listing<'static> {
        if self.quiet {
            return Listing::bare(FIELDS, "{{.ID}}");
        }
        let mut table = "{{.Repository}}\t{{.Tag}}\t".to_owned();
        if self.digests {
            table.push_str("{{.Digest}}\t");
        }
        table.push_str("{{.ID}}\t{{.CreatedSince}}\t{{.Size}}");
        if self.sizes {
            table.push_str("\t{{.UniqueSize}}\t{{.SharedSize}}\t{{.CompressedSize}}");
        }
        Listing::new(FIELDS, table)
    }

    fn sort(&self, rows: &mut [(&Group, &Row)]) {
        let created = |row: &Row| {
            let summary = row.summary().ok();
            summary.and_then(|summary| moment::of_image(summary.config.created.as_deref()))
        };
        let text = |row: &Row| (repository(row), tag(row));
        // Newest first within what is equal otherwise.
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(created(row)));
        match self.sort {
            Key::Created => {}
            Key::Repository => rows.sort_by_key(|(_, row)| text(row)),
            Key::Tag => rows.sort_by_key(|(_, row)| tag(row)),
            Key::Id => rows.sort_by_key(|(group, _)| group.id()),
            Key::Size => rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.size)),
            Key::Unique => {
                rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.size - row.shared_size));
            }
            Key::Shared => rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.shared_size)),
        }
        if self.reverse {
            rows.reverse();
        }
    }

    fn describe(&self, group: &Group, row: &Row, now: SystemTime) -> Value {
        let id = group.id();
        let summary = row.summary();
        let known = summary.is_ok();
        let size = |bytes: u64| match known {
            true => output::size(bytes),
            false => "?".to_owned(),
        };
        let created = summary
            .ok()
            .and_then(|summary| summary.config.created.as_deref());
        let platforms: Vec<String> = row
            .variants
            .iter()
            .flatten()
            .map(|variant| variant.platform.to_string())
            .collect();
        let containers = group.users.iter();
        let containers = containers.filter(|user| matches!(user, image::User::Container(_)));
        let mut value = json!({
            "Repository": repository(row),
            "Tag": tag(row),
            "Digest": row.record.descriptor.digest,
            "ID": if self.no_trunc { id.to_string() } else { id.short() },
            "CreatedSince": created.map_or_else(|| "N/A".to_owned(), |t| output::ago(t, now)),
            "CreatedAt": created.map_or_else(|| "N/A".to_owned(), output::created_at),
            "Size": size(row.size),
            "VirtualSize": size(row.size),
            "UniqueSize": size(row.size - row.shared_size),
            "SharedSize": size(row.shared_size),
            "CompressedSize": size(row.compressed_size),
            "Containers": containers.count().to_string(),
            "Platform": if known { platforms.join(", ") } else { "?".to_owned() },
        });
        if let (Err(damage), Some(fields)) = (summary, value.as_object_mut()) {
            fields.insert("Damaged".to_owned(), Value::from(damage));
        }
        value
    }
}

/// The repository of an image, or `<none>`.
fn repository(row: &Row) -> String {
    let record = &row.record;
    match (&record.reference, &record.repository) {
        (Some(reference), _) => reference.familiar_name(),
        (None, Some(repository)) => repository.parse::<Reference>().map_or_else(
            |_| repository.clone(),
            |reference| reference.familiar_name(),
        ),
        (None, None) => NONE.to_owned(),
    }
}

/// The tag of an image, or `<none>`.
fn tag(row: &Row) -> String {
    let reference = row.record.reference.as_ref();
    let tag = reference.and_then(Reference::tag);
    tag.unwrap_or(NONE).to_owned()
}

/// `REPOSITORY:TAG`.
pub fn title(row: &Row) -> String {
    format!("{}:{}", repository(row), tag(row))
}
