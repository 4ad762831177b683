//! `plyfs image history`

use std::time::SystemTime;

use clap::Args;
use serde_json::{Value, json};

use super::failure::Failure;
use super::listing::Listing;
use super::{Global, Result, complete, environment, output};
use crate::image::{self, Step, Summary};
use crate::oci::Platform;
use crate::store::Store;

/// Tell how an image came to be, the last step first
///
/// The fields for --format are .ID .CreatedSince .CreatedAt .CreatedBy .Size .Comment and, of the
/// layer that a step made, .Layer (digest as distributed) .DiffID .ChainID .CompressedSize .Files
/// .Directories .Others.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs image history debian
  plyfs image history --layers --no-trunc debian
  plyfs image history --format '{{.Size}}\\t{{.CreatedBy}}' debian
  plyfs image history --human=false -q debian")]
pub struct ImageHistory {
    /// A name, digest or ID
    #[arg(value_name = "IMAGE", add = complete::images())]
    image: String,
    /// Only the IDs
    #[arg(short, long)]
    quiet: bool,
    /// Everything in full
    #[arg(long)]
    no_trunc: bool,
    /// Sizes and times for people; =false for bytes and RFC 3339
    #[arg(
        short = 'H',
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "true",
        action = clap::ArgAction::Set,
        hide_possible_values = true,
        value_name = "BOOL"
    )]
    human: bool,
    /// The digests of layers too, and what they hold
    #[arg(long)]
    layers: bool,
    /// table, json (an object for each step), or a Go template, 'table TEMPLATE' with headings
    #[arg(long)]
    format: Option<String>,
    /// As JSON: the same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// The platform, of an image that is stored for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

const FIELDS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
    ("Layer", "LAYER"),
    ("DiffID", "DIFF ID"),
    ("ChainID", "CHAIN ID"),
    ("CompressedSize", "COMPRESSED SIZE"),
    ("Files", "FILES"),
    ("Directories", "DIRECTORIES"),
    ("Others", "OTHERS"),
];

/// As much of a command as Docker shows.
const SHOWN: usize = 45;
const MISSING: &str = "<missing>";

impl ImageHistory {
    pub fn run(self, global: &Global) -> Result<()> {
        let store = environment::open_store(global)?;
        let failed = |error| Failure::of_image("image history", &self.image, error);
        let found = image::find(&store, &self.image, self.platform.as_ref()).map_err(failed)?;
        let summary = image::summary(&store, &found).map_err(failed)?;
        let now = SystemTime::now();
        let mut rows = Vec::new();
        for (at, step) in image::history(&summary).iter().enumerate() {
            let row = self.describe(&store, &summary, step, at == 0, now);
            rows.push(row.map_err(failed)?);
        }
        let format = if self.json {
            Some("json")
        } else {
            self.format.as_deref()
        };
        self.listing().print(format, &rows)
    }

    fn listing(&self) -> Listing<'static> {
        if self.quiet {
            return Listing::bare(FIELDS, "{{.ID}}");
        }
        let created = if self.human {
            "CreatedSince"
        } else {
            "CreatedAt"
        };
        let mut table = format!("{{{{.ID}}}}\t{{{{.{created}}}}}\t{{{{.CreatedBy}}}}\t");
        table.push_str("{{.Size}}\t{{.Comment}}");
        if self.layers {
            table.push_str("\t{{.Layer}}\t{{.CompressedSize}}\t{{.Files}}");
        }
        Listing::new(FIELDS, table)
    }

    fn describe(
        &self,
        store: &Store,
        image: &Summary,
        step: &Step,
        is_last: bool,
        now: SystemTime,
    ) -> image::Result<Value> {
        let digest = |digest: &crate::oci::Digest| match self.no_trunc {
            true => digest.to_string(),
            false => digest.short(),
        };
        let size = |bytes: u64| match self.human {
            true => output::size(bytes),
            false => bytes.to_string(),
        };
        let created = step.history.created.as_deref();
        let by = step.history.created_by.as_deref().unwrap_or_default();
        let by = by.replace(['\t', '\n', '\r'], " ");
        let (mut bytes, mut compressed) = (0, String::new());
        let (mut layer_digest, mut diff_id, mut chain_id) = Default::default();
        let mut counts = Default::default();
        if let Some(layer) = &step.layer {
            layer_digest = digest(&layer.descriptor.digest);
            diff_id = digest(&layer.diff_id.0);
            chain_id = layer.chain_id.map_or_else(String::new, |id| digest(&id.0));
            compressed = size(layer.descriptor.size);
            if let Some(record) = &layer.record {
                bytes = record.content_bytes;
                let found = image::layer_counts(store, &layer.diff_id)?;
                counts = [found.files, found.directories, found.others].map(|n| n.to_string());
            }
        }
        let [files, directories, others]: [String; 3] = counts;
        let no_time = || "N/A".to_owned();
        Ok(json!({
            "ID": if is_last { digest(&image.id) } else { MISSING.to_owned() },
            "CreatedSince": created.map_or_else(no_time, |time| output::ago(time, now)),
            "CreatedAt": created.unwrap_or_default(),
            "CreatedBy": if self.no_trunc { by } else { shortened(&by) },
            "Size": size(bytes),
            "Comment": step.history.comment.as_deref().unwrap_or_default(),
            "Layer": layer_digest,
            "DiffID": diff_id,
            "ChainID": chain_id,
            "CompressedSize": compressed,
            "Files": files,
            "Directories": directories,
            "Others": others,
        }))
    }
}

/// The beginning of a text, with an ellipsis if it is not all.
fn shortened(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN - 1).chain(['…']).collect()
}
