//! `plyfs mounts`

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::{Result, output};
use crate::mount::{self, MountEntry, Server};

/// List live mounts
///
/// In the columns LAYERS and PID, "-" is what nobody knows any more: the process is gone, and the mount
/// answers no more. "?" is what only root and the owner of the mount are told.
#[derive(Args)]
#[command(after_help = "\
Example:
  plyfs mounts --json | jq -r '.[].mountPoint'")]
pub struct Mounts {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    mount_point: String,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upper: Option<String>,
    /// Topmost first; unknown of mounts whose process may not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<String>>,
    options: String,
    /// What to show for what is unknown.
    #[serde(skip)]
    unknown: &'static str,
}

impl Mounts {
    pub fn run(self) -> Result<()> {
        let failed = |error| Failure::new("cannot list the mounts", error);
        let live = mount::mounts().map_err(failed)?;
        let servers = if live.is_empty() {
            Vec::new()
        } else {
            mount::servers().map_err(failed)?
        };
        let rows: Vec<Row> = live.iter().map(|entry| row(entry, &servers)).collect();
        if self.json {
            return output::json(&rows);
        }
        let cells: Vec<Vec<String>> = rows
            .into_iter()
            .map(|row| {
                let count = row.layers.map(|layers| layers.len().to_string());
                let pid = row.pid.map(|pid| pid.to_string());
                let known = |known: Option<String>| known.unwrap_or_else(|| row.unknown.to_owned());
                vec![row.mount_point, row.source, known(count), known(pid)]
            })
            .collect();
        output::table(&["MOUNT POINT", "SOURCE", "LAYERS", "PID"], &cells)
    }
}

fn row(entry: &MountEntry, servers: &[Server]) -> Row {
    let server = servers.iter().find(|server| server.serves(entry));
    let record = server.map(|server| server.record.clone());
    let own = nix::unistd::geteuid();
    let is_told = own.is_root() || mount::owner(entry) == Some(own.as_raw());
    let (image, upper, layers) = match record {
        Some(record) => (record.image, record.upper, Some(record.layers)),
        None => (None, None, None),
    };
    Row {
        mount_point: entry.point.display().to_string(),
        source: entry.source.to_string_lossy().into_owned(),
        image,
        pid: server.map(|server| server.pid),
        upper,
        layers,
        options: without_repetition(&entry.options.to_string_lossy()),
        unknown: if is_told { "-" } else { "?" },
    }
}

/// The mount and its super block both say `ro`.
fn without_repetition(options: &str) -> String {
    let mut seen = Vec::new();
    for option in options.split(',') {
        if !seen.contains(&option) {
            seen.push(option);
        }
    }
    seen.join(",")
}
