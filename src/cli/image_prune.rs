//! `plyfs image prune`

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::time::SystemTime;

use clap::Args;
use serde_json::{Value, json};

use super::failure::Failure;
use super::filter::{self, Filter};
use super::{Global, Result, environment, moment, output};
use crate::cause;
use crate::image::{self, Group, User};
use crate::oci::Reference;
use crate::store::{ObjectKind, Record, Store};

/// Remove images that nothing uses
///
/// Without -a these are dangling images: those that no tag stands for. An image that a container or
/// a mount uses stays.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs image prune
  plyfs image prune -a --dry-run
  plyfs image prune -a -f --keep-last 3 --filter until=240h
  plyfs image prune -a --filter 'label!=keep' --filter 'reference=ghcr.io/own/*'")]
pub struct ImagePrune {
    /// All images that no container and no mount uses, and what interrupted pulls left
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only images for which this holds: until=TIME (made before it), label=KEY[=VALUE],
    /// label!=KEY[=VALUE], reference=PATTERN, dangling=false (the same as -a)
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// Keep this many images of each repository, the newest
    #[arg(long, value_name = "N")]
    keep_last: Option<usize>,
    /// Only tell what would be removed and why, and the bytes that this would free
    #[arg(long)]
    dry_run: bool,
    /// Tell of each image why it goes or stays
    #[arg(long)]
    why: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What becomes of an image.
struct Verdict<'a> {
    group: &'a Group,
    goes: bool,
    why: String,
}

impl ImagePrune {
    pub fn run(self, global: &Global) -> Result<()> {
        let store = environment::open_store(global)?;
        let filter = Filter::parse(&self.filters, filter::OF_PRUNE, Some(&store))?;
        let all = self.all || filter.dangling() == Some(false);
        if !self.force && !self.dry_run && !confirmed(all)? {
            return output::line("Total reclaimed space: 0B");
        }
        let failed = |error| Failure::new("cannot prune the images", error);
        let leases = store.leases().map_err(|error| failed(error.into()))?;
        let groups = image::groups(&store, &leases).map_err(failed)?;
        let verdicts = self.judge(&groups, &filter, all);
        let chosen: Vec<Record> = verdicts
            .iter()
            .filter(|verdict| verdict.goes)
            .flat_map(|verdict| verdict.group.rows.iter().map(|row| row.record.clone()))
            .collect();
        if self.dry_run {
            let garbage = store
                .garbage_without(&chosen)
                .map_err(|error| failed(error.into()))?;
            return self.report(&verdicts, &chosen, &[], garbage.bytes);
        }
        let pruned = image::prune(&store, &chosen, SystemTime::now()).map_err(failed)?;
        let (mut bytes, mut layers) = (0, Vec::new());
        match pruned.swept {
            Ok(swept) => {
                bytes += swept.bytes;
                let of_layers = swept.objects.iter();
                let of_layers = of_layers.filter(|object| object.kind == ObjectKind::Layer);
                layers.extend(of_layers.map(|object| object.digest.to_string()));
            }
            Err(error) => {
                let why = cause::chain(&error);
                log::warn!("nothing could be collected: {why} (plyfs check tells more)");
            }
        }
        if all {
            bytes += tidy(&store)?;
        }
        self.report(&verdicts, &pruned.removed, &layers, bytes)
    }

    /// What becomes of each image.
    fn judge<'a>(&self, groups: &'a [Group], filter: &Filter, all: bool) -> Vec<Verdict<'a>> {
        let kept = self.keep_last.map(|count| newest(groups, count));
        let judge = |group: &'a Group| {
            let dangling = group.is_dangling();
            let (goes, why) = if let Some(user) = group.users.first() {
                (false, used_by(user))
            } else if !dangling && !all {
                (false, "a tag stands for it (-a takes it, too)".to_owned())
            } else if !group.rows.iter().all(|row| filter.takes(row, dangling)) {
                (false, "the filters leave it out".to_owned())
            } else if let Some(kept) = &kept
                && let Some(repository) = kept.get(&group.digest)
            {
                (false, format!("it is among the newest of {repository}"))
            } else if dangling {
                (true, "no tag stands for it".to_owned())
            } else {
                (true, "no container and no mount uses it".to_owned())
            };
            Verdict { group, goes, why }
        };
        groups.iter().map(judge).collect()
    }

    fn report(
        &self,
        verdicts: &[Verdict<'_>],
        removed: &[Record],
        layers: &[String],
        bytes: u64,
    ) -> Result<()> {
        if self.json {
            return self.report_json(verdicts, removed, bytes);
        }
        if self.why || self.dry_run {
            for verdict in verdicts {
                let what = if verdict.goes { "goes" } else { "stays" };
                let (name, why) = (title(verdict.group), &verdict.why);
                output::line(&format!("{name} {what}: {why}"))?;
            }
        }
        if self.dry_run {
            let bytes = output::size(bytes);
            return output::line(&format!("Would reclaim: {bytes} (nothing was removed)"));
        }
        if !removed.is_empty() {
            output::line("Deleted Images:")?;
            for name in removed
                .iter()
                .filter_map(|record| record.reference.as_ref())
            {
                output::line(&format!("untagged: {}", name.familiar()))?;
            }
            for verdict in verdicts.iter().filter(|verdict| is_gone(verdict, removed)) {
                output::line(&format!("deleted: {}", verdict.group.id()))?;
            }
            for layer in layers {
                output::line(&format!("deleted: {layer}"))?;
            }
            output::line("")?;
        }
        output::line(&format!("Total reclaimed space: {}", output::size(bytes)))
    }

    fn report_json(&self, verdicts: &[Verdict<'_>], removed: &[Record], bytes: u64) -> Result<()> {
        let images: Vec<Value> = verdicts
            .iter()
            .map(|verdict| {
                let names: Vec<String> = verdict.group.names().map(Reference::familiar).collect();
                json!({
                    "ID": verdict.group.id(),
                    "Names": names,
                    "Removed": !self.dry_run && is_gone(verdict, removed),
                    "Goes": verdict.goes,
                    "Why": verdict.why,
                })
            })
            .collect();
        output::json(&json!({
            "Images": images,
            "DryRun": self.dry_run,
            "ReclaimedBytes": bytes,
        }))
    }
}

fn is_gone(verdict: &Verdict<'_>, removed: &[Record]) -> bool {
    let gone = |record: &Record| record.descriptor.digest == verdict.group.digest;
    removed.iter().any(gone)
}

/// Asks whether images are to be removed; no answer is a no.
fn confirmed(all: bool) -> Result<bool> {
    let what = match all {
        true => "all images that no container and no mount uses",
        false => "all dangling images",
    };
    eprintln!("WARNING! This will remove {what}.");
    eprint!("Are you sure you want to continue? [y/N] ");
    let mut answer = String::new();
    std::io::stderr()
        .flush()
        .and_then(|()| std::io::stdin().lock().read_line(&mut answer))
        .map_err(|error| Failure::new("cannot ask", error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Removes what interrupted pulls left.
fn tidy(store: &Store) -> Result<u64> {
    let dropped = store.drop_interrupted();
    dropped.map_err(|error| Failure::new("cannot remove what interrupted pulls left", error))
}

/// The newest images of each repository, with the repository that keeps them.
fn newest(groups: &[Group], count: usize) -> HashMap<crate::oci::Digest, String> {
    let mut by_repository: HashMap<String, Vec<&Group>> = HashMap::new();
    for group in groups {
        for repository in group
            .rows
            .iter()
            .filter_map(|row| row.record.repository.clone())
        {
            let known = by_repository.entry(repository).or_default();
            if !known.iter().any(|other| other.digest == group.digest) {
                known.push(group);
            }
        }
    }
    let created = |group: &&Group| {
        let summary = group.rows.first().and_then(|row| row.summary().ok());
        summary.and_then(|summary| moment::of_image(summary.config.created.as_deref()))
    };
    let mut kept = HashMap::new();
    for (repository, mut images) in by_repository {
        images.sort_by_key(|group| std::cmp::Reverse(created(group)));
        for group in images.into_iter().take(count) {
            kept.insert(group.digest, familiar(&repository));
        }
    }
    kept
}

fn familiar(repository: &str) -> String {
    let parsed = repository.parse::<Reference>();
    parsed.map_or_else(|_| repository.to_owned(), |name| name.familiar_name())
}

fn used_by(user: &User) -> String {
    match user {
        User::Container(name) => format!("container {name} uses it"),
        User::Mount { mount_point, pid } => {
            format!("it is mounted on {mount_point} (by process {pid})")
        }
    }
}

/// The names of an image, or its ID.
fn title(group: &Group) -> String {
    let names: Vec<String> = group.names().map(Reference::familiar).collect();
    match names.is_empty() {
        true => format!("<none> {}", group.id().short()),
        false => names.join(", "),
    }
}
