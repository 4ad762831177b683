//! `plyfs mounts`

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::{Global, Result, environment, output};
use crate::mount;
use crate::store::{self, LeaseKind, LeaseRecord, Store};

/// List live mounts
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
    options: String,
}

impl Mounts {
    pub fn run(self, global: &Global) -> Result<()> {
        let live =
            mount::mounts().map_err(|error| Failure::new("cannot list the mounts", error))?;
        // Without a store there are still mounts of plain directories.
        let leases = match Store::open(&environment::store_root(global)?) {
            Ok(store) => store
                .leases()
                .map_err(|e| Failure::new("cannot list the mounts", e))?,
            Err(store::Error::NoStore(_)) => Vec::new(),
            Err(error) => return Err(Failure::new("cannot list the mounts", error)),
        };
        let rows: Vec<Row> = live
            .into_iter()
            .map(|entry| {
                let mount_point = entry.point.display().to_string();
                let lease = leases.iter().find(|lease| is_of(lease, &mount_point));
                Row {
                    source: entry.source.to_string_lossy().into_owned(),
                    image: lease.map(|lease| lease.image.clone()),
                    pid: lease.map(|lease| lease.pid),
                    options: entry.options.to_string_lossy().into_owned(),
                    mount_point,
                }
            })
            .collect();
        if self.json {
            return output::json(&rows);
        }
        let cells: Vec<Vec<String>> = rows
            .into_iter()
            .map(|row| {
                let pid = row
                    .pid
                    .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
                vec![row.mount_point, row.source, pid]
            })
            .collect();
        output::table(&["MOUNT POINT", "SOURCE", "PID"], &cells)
    }
}

fn is_of(lease: &LeaseRecord, mount_point: &str) -> bool {
    lease.kind == LeaseKind::Mount && lease.mount_point.as_deref() == Some(mount_point)
}
