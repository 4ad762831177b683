//! How an image came to be: its history joined with its layers.

use crate::layer::index::NodeKind;
use crate::oci::{DiffId, History};
use crate::store::Store;

use super::{LayerDetails, Result, Summary, open};

/// A step of the making of an image.
#[derive(Clone, Debug)]
pub struct Step {
    /// What the configuration says of it; empty for a layer that it says nothing of.
    pub history: History,
    /// The layer that the step made, if it made one.
    pub layer: Option<LayerDetails>,
}

/// What a layer consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerCounts {
    /// Regular files, links to one counted once.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symlinks, links to files of lower layers, devices, pipes and sockets.
    pub others: u64,
}

/// The steps, the last one first, as Docker shows them.
#[must_use]
pub fn history(image: &Summary) -> Vec<Step> {
    let mut layers = image.layers.iter().cloned();
    let mut steps: Vec<Step> = image
        .config
        .history
        .iter()
        .map(|history| Step {
            history: history.clone(),
            layer: match history.empty_layer {
                true => None,
                false => layers.next(),
            },
        })
        .collect();
    steps.extend(layers.map(|layer| Step {
        history: History::default(),
        layer: Some(layer),
    }));
    steps.reverse();
    steps
}

/// Counts what a layer of the store consists of.
///
/// # Errors
/// What opening its index reports.
pub fn layer_counts(store: &Store, layer: &DiffId) -> Result<LayerCounts> {
    let index = open::layer_index(store, layer)?;
    let mut counts = LayerCounts::default();
    for node in (0..index.node_count()).filter_map(|row| index.node(row)) {
        match node.kind() {
            NodeKind::Regular(_) => counts.files += 1,
            NodeKind::Directory { .. } => counts.directories += 1,
            _ => counts.others += 1,
        }
    }
    // The root is in every layer.
    counts.directories = counts.directories.saturating_sub(1);
    Ok(counts)
}
