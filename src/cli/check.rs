//! `plyfs check`

use std::cell::Cell;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use serde_json::json;

use super::access::Access;
use super::check_fetch::Fetchable;
use super::failure::{self, Failure};
use super::{Global, Result, environment, output};
use crate::store::{self, ObjectKind, Rebuilt, Store};
use crate::{cause, image};

/// Verify everything in the store against its digests
///
/// The exit status is 1 when something is damaged, after --repair when that is not made again.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs check
  plyfs check --repair
  plyfs check --repair --no-fetch")]
pub struct Check {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Make what is damaged again from what is stored, or remove it and fetch just that again; leave
    /// what a mount uses. Remove what no image needs; make a damaged list of images, and the files that
    /// mark the store, again
    #[arg(long)]
    repair: bool,
    /// With --repair: ask no registry
    #[arg(long, requires = "repair")]
    no_fetch: bool,
    #[command(flatten)]
    access: Access,
}

impl Check {
    pub fn run(self, global: &Global) -> Result<ExitCode> {
        if self.access.is_given() && (!self.repair || self.no_fetch) {
            let why =
                "--insecure, --authfile and --cert-dir go with --repair, which asks registries";
            return Err(Failure::usage(why));
        }
        self.marks(global)?;
        let store = environment::open_store(global)?;
        if self.repair
            && let Some(rebuilt) = store
                .rebuild_index()
                .map_err(|error| Failure::new("cannot make the list of images again", error))?
        {
            tell(&rebuilt);
        }
        let count = Cell::new(0_u64);
        let damages = image::check(&store, &|_| count.set(count.get() + 1))
            .map_err(|error| Failure::new("cannot check the store", error))?;
        let containers = store.recorded_containers();
        let broken: Vec<(String, store::Error)> = containers
            .map_err(|error| Failure::new("cannot check the store", error))?
            .into_iter()
            .filter_map(|(name, record)| Some((name, record.err()?)))
            .collect();
        let mut outcomes = Vec::new();
        let mut cleaned = Ok(());
        // Which images were imported is not known any more when their documents are gone.
        let imported: BTreeSet<String> = needing(damages.iter())
            .into_iter()
            .filter(|image| image::is_import(&store, image) == Some(true))
            .map(str::to_owned)
            .collect();
        if self.repair {
            let needing = needing(damages.iter());
            let fetchable = Fetchable::of(&store, &needing, &imported)?;
            outcomes = image::repair(&store, &damages)
                .map_err(|error| Failure::new("cannot put right what is damaged", error))?;
            if !self.no_fetch {
                fetchable.fetch(&store, &self.access, self.json, &damages, &mut outcomes)?;
            }
            let is_lost = |(damage, outcome): (&image::Damage, &image::Outcome)| {
                *outcome == image::Outcome::Removed && !damage.images.is_empty()
            };
            // What was damaged is told first. What an image lacks might have told what else it needs.
            cleaned = match damages.iter().zip(&outcomes).any(is_lost) {
                true => Ok(()),
                false => store
                    .drop_interrupted()
                    .and_then(|_| store.sweep(SystemTime::now()).map(drop)),
            };
        } else if let Err(error) = store.tidy(SystemTime::now()) {
            log::info!("cannot tidy up the store: {}", cause::chain(&error));
        }
        let count_of = |wanted| outcomes.iter().filter(|it| **it == wanted).count();
        let rebuilt = count_of(image::Outcome::Rebuilt);
        let fetched = count_of(image::Outcome::Fetched);
        let damaged = damages.len() + broken.len();
        let left = damaged - rebuilt - fetched;
        let interrupted = store
            .interrupted_bytes()
            .map_err(|error| Failure::new("cannot check the store", error))?;
        if self.json {
            let containers: Vec<_> = broken
                .iter()
                .map(|(name, damage)| json!({"name": name, "problem": cause::chain(damage)}))
                .collect();
            let damaged: Vec<_> = damages
                .iter()
                .enumerate()
                .map(|(at, damage)| {
                    json!({
                        "kind": kind(damage.object.kind),
                        "digest": damage.object.digest,
                        "problem": damage.what,
                        "images": damage.images,
                        "repair": outcomes.get(at).map(outcome),
                    })
                })
                .collect();
            output::json(&json!({
                "checked": count.get(),
                "damaged": damaged,
                "damagedContainers": containers,
                "interruptedBytes": interrupted,
            }))?;
        } else {
            for (at, damage) in damages.iter().enumerate() {
                let needed = if damage.images.is_empty() {
                    "no image needs it".to_owned()
                } else {
                    format!("needed by {}", damage.images.join(", "))
                };
                let (kind, digest) = (kind(damage.object.kind), damage.object.digest);
                let done = outcomes.get(at).filter(|it| match it {
                    image::Outcome::Removed => damage.what != image::MISSING,
                    _ => true,
                });
                let done = done
                    .map(outcome)
                    .map_or_else(String::new, |done| format!("; {done}"));
                output::line(&format!(
                    "{kind} {digest}: {} ({needed}){done}",
                    damage.what
                ))?;
            }
            let lost = damages.iter().zip(&outcomes);
            let lost = lost.filter(|(_, outcome)| **outcome == image::Outcome::Removed);
            for image in needing(lost.map(|(damage, _)| damage)) {
                let verb = match imported.contains(image) {
                    true => "import",
                    false => "pull",
                };
                output::line(&format!("{verb} it again: {image}"))?;
            }
            for (name, damage) in &broken {
                let why = cause::chain(damage);
                let then = failure::giving_up(damage);
                let then = then.map_or_else(String::new, |then| format!(" ({then})"));
                output::line(&format!("container {name}: {why}{then}"))?;
            }
            let checked = count.get();
            let mut healed = match self.repair && damaged > 0 {
                true => format!(", {rebuilt} made again"),
                false => String::new(),
            };
            if fetched > 0 {
                healed += &format!(", {fetched} fetched again");
            }
            output::line(&format!(
                "{checked} objects checked, {damaged} damaged{healed}"
            ))?;
            if interrupted > 0 && !self.repair {
                output::line(&format!(
                    "{} held for interrupted pulls to go on with (--repair removes it)",
                    output::size(interrupted)
                ))?;
            }
        }
        match cleaned {
            // Told above; what it needs is not known without it.
            Err(error @ (store::Error::Missing { .. } | store::Error::Json { .. })) => {
                log::warn!("nothing is removed as long as {error}");
            }
            cleaned => {
                cleaned.map_err(|error| Failure::new("cannot remove what nothing needs", error))?
            }
        }
        Ok(if left == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

impl Check {
    /// Looks after the files without which nothing can be opened.
    fn marks(&self, global: &Global) -> Result<()> {
        let root = environment::store_root(global)?;
        let failed = |error| Failure::new("cannot check the store", error);
        if self.repair {
            for path in Store::remake_marks(&root).map_err(failed)? {
                log::warn!("{} was made again", path.display());
            }
        } else if let Some(path) = Store::broken_marks(&root).map_err(failed)?.first() {
            let what = format!("cannot check the store: {} is damaged", path.display());
            return Err(Failure::plain(what).or_hint("plyfs check --repair makes it again"));
        }
        Ok(())
    }
}

/// Tells what became of a list of images that was damaged.
fn tell(rebuilt: &Rebuilt) {
    let nameless = rebuilt.records.iter().filter(|r| r.reference.is_none());
    let nameless = nameless.count();
    let images = rebuilt.records.len();
    let aside = rebuilt.damaged.as_ref().map_or_else(String::new, |path| {
        format!("; what was damaged is {} now", path.display())
    });
    log::warn!("index.json was made again: {images} images, {nameless} of them nameless{aside}");
    if nameless > 0 {
        log::warn!("plyfs pull NAME gives an image its name again, and fetches nothing twice");
    }
}

/// What was done about something damaged.
fn outcome(outcome: &image::Outcome) -> &'static str {
    match outcome {
        image::Outcome::Rebuilt => "made again",
        image::Outcome::Removed => "removed",
        image::Outcome::Fetched => "fetched again",
        image::Outcome::InUse => "left, since it is in use",
    }
}

/// The images that need something damaged.
fn needing<'a>(damages: impl Iterator<Item = &'a image::Damage>) -> BTreeSet<&'a str> {
    damages
        .flat_map(|damage| &damage.images)
        .map(String::as_str)
        .collect()
}

fn kind(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Blob => "blob",
        ObjectKind::Layer => "layer",
        ObjectKind::Chain => "chain",
    }
}
