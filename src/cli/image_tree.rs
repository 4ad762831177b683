//! `plyfs image ls --tree`: what each image consists of.

use super::failure::Failure;
use super::{Result, image_ls, output};
use crate::cause;
use crate::image::{self, EntryKind, Group, IndexEntry, LayerDetails, Row, Summary};
use crate::oci::Digest;
use crate::store::Store;

/// Prints each image once, with its names, platforms, attestations and layers.
pub fn print(store: &Store, rows: &[(&Group, &Row)], no_trunc: bool) -> Result<()> {
    let mut tree = Tree {
        lines: Vec::new(),
        no_trunc,
    };
    for (at, (group, row)) in rows.iter().enumerate() {
        if rows
            .iter()
            .take(at)
            .any(|(seen, _)| seen.digest == group.digest)
        {
            continue;
        }
        let names = rows
            .iter()
            .filter(|(other, _)| other.digest == group.digest);
        let names: Vec<String> = names.map(|(_, row)| image_ls::title(row)).collect();
        tree.image(store, &names.join(", "), row)?;
    }
    output::table(
        &["IMAGE", "DIGEST", "SIZE", "COMPRESSED SIZE", "STATUS"],
        &tree.lines,
    )
}

struct Tree {
    lines: Vec<Vec<String>>,
    no_trunc: bool,
}

impl Tree {
    fn image(&mut self, store: &Store, names: &str, row: &Row) -> Result<()> {
        let descriptor = &row.record.descriptor;
        let variants = match &row.variants {
            Ok(variants) => variants,
            Err(damage) => {
                let cells = [String::new(), String::new(), format!("damaged: {damage}")];
                self.line(names, &descriptor.digest, cells);
                return Ok(());
            }
        };
        let failed = |error| Failure::new(format!("cannot list what {names} consists of"), error);
        let entries = match image::index_entries(store, descriptor) {
            Ok(entries) => entries,
            Err(error) => match store.lists(&descriptor.digest) {
                // It was removed meanwhile.
                Ok(false) => return Ok(()),
                _ => return Err(failed(error)),
            },
        };
        let sizes = [output::size(row.size), output::size(row.compressed_size)];
        let [size, compressed] = sizes;
        self.line(names, &descriptor.digest, [size, compressed, String::new()]);
        if entries.is_empty() {
            // An image of one platform is its manifest.
            let layers = variants.iter().flat_map(|variant| &variant.layers);
            self.layers("", &layers.collect::<Vec<_>>());
            return Ok(());
        }
        for (at, entry) in entries.iter().enumerate() {
            self.entry(entry, variants, at + 1 == entries.len());
        }
        Ok(())
    }

    fn entry(&mut self, entry: &IndexEntry, variants: &[Summary], is_last: bool) {
        let digest = &entry.descriptor.digest;
        let platform = entry.descriptor.platform.as_ref();
        let platform = platform.map_or_else(|| "no platform".to_owned(), ToString::to_string);
        let what = match entry.kind {
            EntryKind::Image => cause::plain(&platform),
            EntryKind::Attestation { of: Some(of) } => format!("attestation of {}", of.short()),
            EntryKind::Attestation { of: None } => "attestation".to_owned(),
            EntryKind::Other => entry.descriptor.media_type.to_string(),
        };
        let (branch, below) = branch("", is_last);
        let label = format!("{branch}{what}");
        let stored = variants.iter().find(|v| v.manifest.digest == *digest);
        let Some(variant) = stored else {
            let status = if entry.is_stored { "" } else { "not stored" };
            self.line(
                &label,
                digest,
                [String::new(), String::new(), status.to_owned()],
            );
            return;
        };
        let sizes = [variant.size, variant.compressed_size].map(output::size);
        let [size, compressed] = sizes;
        self.line(&label, digest, [size, compressed, String::new()]);
        self.layers(&below, &variant.layers.iter().collect::<Vec<_>>());
    }

    fn layers(&mut self, indent: &str, layers: &[&LayerDetails]) {
        for (at, layer) in layers.iter().enumerate() {
            let (branch, _) = branch(indent, at + 1 == layers.len());
            let size = layer.record.as_ref().map(|record| record.content_bytes);
            let cells = [
                size.map_or_else(String::new, output::size),
                output::size(layer.descriptor.size),
                if size.is_some() { "" } else { "not stored" }.to_owned(),
            ];
            let label = format!("{branch}layer {}", at + 1);
            self.line(&label, &layer.descriptor.digest, cells);
        }
    }

    fn line(&mut self, label: &str, digest: &Digest, cells: [String; 3]) {
        let digest = match self.no_trunc {
            true => digest.to_string(),
            false => digest.short(),
        };
        let line = [label.to_owned(), digest].into_iter().chain(cells);
        self.lines.push(line.collect());
    }
}

/// What stands before an entry, and before those below it.
fn branch(indent: &str, is_last: bool) -> (String, String) {
    match is_last {
        true => (format!("{indent}└─ "), format!("{indent}   ")),
        false => (format!("{indent}├─ "), format!("{indent}│  ")),
    }
}
