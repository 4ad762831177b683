//! `plyfs check --repair`: what cannot be made again from what is stored is fetched again.

use std::collections::{BTreeMap, BTreeSet};

use super::access::Access;
use super::failure::Failure;
use super::pull::PARALLEL;
use super::{Result, progress};
use crate::cause;
use crate::image::{self, Damage, Outcome, Stored};
use crate::oci::Reference;
use crate::registry::Mirrored;
use crate::store::Store;

/// The images that something damaged belongs to and that a registry may have, by the name that is shown.
pub struct Fetchable(BTreeMap<String, (Reference, Stored)>);

impl Fetchable {
    /// To be asked before a repair. No registry has what was `imported`.
    pub fn of(
        store: &Store,
        needing: &BTreeSet<&str>,
        imported: &BTreeSet<String>,
    ) -> Result<Self> {
        let failed = |error| Failure::new("cannot read the list of images", error);
        let mut found = BTreeMap::new();
        for record in store.images().map_err(failed)? {
            let Some(reference) = record.reference.clone() else {
                continue;
            };
            let name = reference.familiar();
            if needing.contains(name.as_str()) && !imported.contains(&name) {
                found.insert(name, (reference, Stored::read(store, record)));
            }
        }
        Ok(Fetchable(found))
    }

    /// Fetches what a repair has removed, and says so in `outcomes`.
    pub fn fetch(
        &self,
        store: &Store,
        access: &Access,
        quiet: bool,
        damages: &[Damage],
        outcomes: &mut [Outcome],
    ) -> Result<()> {
        let mut any = false;
        for (name, (reference, stored)) in &self.0 {
            let mut lost = damages.iter().zip(outcomes.iter());
            if !lost.any(|(damage, it)| *it == Outcome::Removed && damage.images.contains(name)) {
                continue;
            }
            match fetch(store, access, quiet, reference, stored) {
                Ok(()) => any = true,
                Err(error) => log::warn!(
                    "cannot fetch what {name} lacks: {}",
                    cause::chain(error.as_ref())
                ),
            }
        }
        if any {
            // Whose some of it is was not known without a document that was damaged too.
            let failed = |error| Failure::new("cannot see what was fetched", error);
            let there = store.objects().map_err(failed)?;
            for (damage, outcome) in damages.iter().zip(outcomes) {
                if *outcome == Outcome::Removed && there.contains(&damage.object) {
                    *outcome = Outcome::Fetched;
                }
            }
        }
        Ok(())
    }
}

fn fetch(
    store: &Store,
    access: &Access,
    quiet: bool,
    reference: &Reference,
    stored: &Stored,
) -> anyhow::Result<()> {
    let source = Mirrored::open(&access.settings(), reference)?;
    let display = progress::Display::new(quiet);
    display.line(&format!("Fetching what {} lacks", reference.familiar()));
    let observer = &|event: image::Event| display.event(&event);
    let fetched = stored.fetch_lost(store, &source, PARALLEL, observer, &mut |layers| {
        display.start(layers);
    });
    display.finish();
    Ok(fetched?)
}
