//! `plyfs container`: what is in containers, and their end. `plyfs mount --name` makes them.

use std::collections::HashMap;
use std::io::Write;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::commit::Commit;
use super::export::Export;
use super::failure::Failure;
use super::{Global, Result, complete, environment, output};
use crate::cause;
use crate::image;
use crate::mount;
use crate::oci::Reference;
use crate::overlay::{self, Change};
use crate::store::{ContainerRecord, Error, Record, Store, Usage};

#[derive(Subcommand)]
pub enum Container {
    #[command(alias = "list")]
    Ls(ContainerLs),
    #[command(alias = "remove")]
    Rm(ContainerRm),
    Diff(ContainerDiff),
    #[command(hide = true)]
    Commit(Commit),
    #[command(hide = true)]
    Export(Export),
}

/// List containers
#[derive(Args)]
#[command(after_help = "\
Example:
  plyfs container ls --json | jq -r '.[].name'")]
pub struct ContainerLs {
    /// Also what was changed in each takes of the disk, as far as it has reached it
    #[arg(short, long)]
    size: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Remove containers, with all that was changed in them
#[derive(Args)]
#[command(after_help = "\
Example:
  plyfs container rm web")]
pub struct ContainerRm {
    /// Their names
    #[arg(required = true, value_name = "CONTAINER", add = complete::containers())]
    names: Vec<String>,
}

/// Tell what was changed in a container
///
/// A is before what is new, C before what is changed (a directory in which something is, too), D
/// before what is gone.
#[derive(Args)]
#[command(after_help = "\
Example:
  plyfs container diff web | grep '^A /etc/'")]
pub struct ContainerDiff {
    /// Its name
    #[arg(value_name = "CONTAINER", add = complete::containers())]
    name: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    image: String,
    created: String,
    in_use: bool,
    /// As far as it is mounted where this process can see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mount_point: Option<String>,
    /// Bytes that its own directory takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

#[derive(Serialize)]
struct Changed {
    kind: &'static str,
    path: String,
}

impl Container {
    pub fn run(self, global: &Global) -> Result<()> {
        if let Container::Ls(verb) = &self
            && environment::existing_store(global)?.is_none()
        {
            return verb.print(Vec::new(), Vec::new());
        }
        let store = environment::open_store(global)?;
        let swept = store.remove_abandoned_containers();
        swept.map_err(|error| Failure::new("cannot remove an abandoned container", error))?;
        match self {
            Container::Commit(verb) => verb.run(global),
            Container::Export(verb) => verb.run(global),
            Container::Ls(verb) => verb.run(&store),
            Container::Rm(verb) => verb.run(&store),
            Container::Diff(verb) => verb.run(&store),
        }
    }
}

impl ContainerLs {
    fn run(self, store: &Store) -> Result<()> {
        let failed = |error| Failure::new("cannot list the containers", error);
        let images = store.images().map_err(failed)?;
        let points = mount_points()?;
        let (mut rows, mut shown) = (Vec::new(), Vec::new());
        for (name, record) in store.recorded_containers().map_err(failed)? {
            let record = match record {
                Ok(record) => record,
                Err(damage) => {
                    log::warn!("container {name}: {}", cause::chain(&damage));
                    continue;
                }
            };
            let in_use = store.is_container_in_use(&name).map_err(failed)?;
            shown.push(called(store, &images, &record));
            let upper = store.container_upper(&name);
            let size = self
                .size
                .then(|| Usage::of_tree_if_there(&upper))
                .transpose();
            rows.push(Row {
                mount_point: points.get(&mount::path_text(&upper)).cloned(),
                size: size.map_err(failed)?.map(|usage| usage.bytes),
                name,
                image: record.image,
                created: record.created,
                in_use,
            });
        }
        self.print(rows, shown)
    }

    /// Prints the containers, whose images are called as `shown` says.
    fn print(&self, rows: Vec<Row>, shown: Vec<String>) -> Result<()> {
        if self.json {
            return output::json(&rows);
        }
        let now = SystemTime::now();
        let cells: Vec<Vec<String>> = rows
            .into_iter()
            .zip(shown)
            .map(|(row, image)| {
                let used = match (row.in_use, row.mount_point) {
                    (_, Some(point)) => point,
                    (true, None) => "in use".to_owned(),
                    (false, None) => "-".to_owned(),
                };
                let created = output::ago(&row.created, now);
                let size = row.size.map(output::size);
                let cells = [row.name, image, created, used].into_iter();
                cells.chain(size).collect()
            })
            .collect();
        let headings = ["NAME", "IMAGE", "CREATED", "MOUNTED ON", "SIZE"];
        let shown = headings.len() - usize::from(!self.size);
        output::table(headings.get(..shown).unwrap_or_default(), &cells)
    }
}

/// Where directories that take changes are mounted.
fn mount_points() -> Result<HashMap<String, String>> {
    let failed = |error| Failure::new("cannot list the mounts", error);
    let live = mount::mounts().map_err(failed)?;
    let servers = match live.is_empty() {
        true => Vec::new(),
        false => mount::servers().map_err(failed)?,
    };
    let found = live.iter().filter_map(|entry| {
        let server = servers.iter().find(|server| server.serves(entry))?;
        Some((
            server.record.upper.clone()?,
            entry.point.display().to_string(),
        ))
    });
    Ok(found.collect())
}

/// What people call the image of a container: the name that it was made by, or where that stands for
/// another image by now, the ID.
fn called(store: &Store, images: &[Record], container: &ContainerRecord) -> String {
    let name = container.image.parse::<Reference>().ok();
    let is_it = |record: &&Record| {
        record.reference.is_some()
            && record.reference == name
            && record.descriptor.digest == container.image_digest
    };
    match (
        images.iter().find(is_it),
        image::find_recorded(store, container),
    ) {
        (None, Ok(found)) => found.id().short(),
        (_, _) => name.map_or_else(|| container.image.clone(), |name| name.familiar()),
    }
}

impl ContainerRm {
    fn run(self, store: &Store) -> Result<()> {
        let mut removed = false;
        let result = self.names.iter().try_for_each(|name| {
            remove(store, name)?;
            removed = true;
            output::line(&format!("Deleted: {name}"))
        });
        if removed && let Err(error) = store.sweep(SystemTime::now()) {
            let why = cause::chain(&error);
            log::warn!("nothing could be collected: {why} (plyfs check tells more)");
        }
        result
    }
}

fn remove(store: &Store, name: &str) -> Result<()> {
    let failed = |error| Failure::new(format!("cannot remove container {name}"), error);
    let removed = match store.container(name) {
        Ok(Some(container)) => store.remove_container(container).map(|()| true),
        Ok(None) => Ok(false),
        Err(Error::Json { .. }) => store.remove_unreadable_container(name),
        Err(error) => Err(error),
    };
    match removed.map_err(failed)? {
        true => Ok(()),
        false => Err(missing("remove", name)),
    }
}

impl ContainerDiff {
    fn run(self, store: &Store) -> Result<()> {
        let name = &self.name;
        let tried = format!("cannot compare container {name}");
        let record = store.container_record(name);
        let Some(record) = record.map_err(|e| Failure::new(&tried, e))? else {
            return Err(missing("compare", name));
        };
        let image = image::find_recorded(store, &record).map_err(|e| Failure::new(&tried, e))?;
        let base = image::open(store, &image).map_err(|e| Failure::new(&tried, e))?;
        let but = store
            .mount_points(name)
            .map_err(|e| Failure::new(&tried, e))?;
        let upper = store.container_upper(name);
        let found = overlay::changes(&base, &upper, mount::container_marks(), &but)
            .map_err(|error| Failure::new(&tried, error))?;
        let rows = found
            .into_iter()
            .map(|(change, path)| (letter(change), [b"/", path.as_slice()].concat()));
        if self.json {
            let row = |(kind, path): (&'static str, Vec<u8>)| Changed {
                kind,
                path: match String::from_utf8(path) {
                    Ok(path) => path,
                    Err(error) => error.as_bytes().escape_ascii().to_string(),
                },
            };
            return output::json(&rows.map(row).collect::<Vec<_>>());
        }
        let mut text = Vec::new();
        for (kind, path) in rows {
            text.extend_from_slice(kind.as_bytes());
            text.push(b' ');
            text.extend_from_slice(&output::name(&path));
            text.push(b'\n');
        }
        std::io::stdout().write_all(&text).map_err(output::failed)
    }
}

fn letter(change: Change) -> &'static str {
    match change {
        Change::Added => "A",
        Change::Changed => "C",
        Change::Deleted => "D",
    }
}

fn missing(tried: &str, name: &str) -> Failure {
    Failure::plain(format!(
        "cannot {tried} container {name}: there is none of that name"
    ))
    .or_hint("plyfs container ls lists what is there")
}
