//! `plyfs check --repair`: what cannot be made again from what is stored is fetched again.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::access::Access;
use super::failure::Failure;
use super::pull::PARALLEL;
use super::{Result, progress};
use crate::cause;
use crate::image::{self, Damage, Outcome};
use crate::oci::{Descriptor, Digest, Reference};
use crate::registry::{Mirrored, Source};
use crate::store::Store;

/// The images that something damaged belongs to and that a registry may have.
pub struct Fetchable {
    /// By the name that is shown.
    images: BTreeMap<String, (Reference, Descriptor)>,
    /// Which blobs there were.
    blobs: HashSet<Digest>,
}

impl Fetchable {
    /// To be asked before a repair. No registry has what was `imported`.
    pub fn of(
        store: &Store,
        needing: &BTreeSet<&str>,
        imported: &BTreeSet<String>,
    ) -> Result<Self> {
        let failed = |error| Failure::new("cannot read the list of images", error);
        let mut images = BTreeMap::new();
        for record in store.images().map_err(failed)? {
            let Some(reference) = record.reference.clone() else {
                continue;
            };
            let name = reference.familiar();
            if needing.contains(name.as_str()) && !imported.contains(&name) {
                images.insert(name, (reference, record.descriptor));
            }
        }
        let blobs = image::stored_blobs(store);
        let blobs = blobs.map_err(|error| Failure::new("cannot read the store", error))?;
        Ok(Fetchable { images, blobs })
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
        for (name, (reference, image)) in &self.images {
            let mut lost = damages.iter().zip(outcomes.iter());
            if !lost.any(|(damage, it)| *it == Outcome::Removed && damage.images.contains(name)) {
                continue;
            }
            match self.fetch_one(store, access, quiet, reference, image) {
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

    fn fetch_one(
        &self,
        store: &Store,
        access: &Access,
        quiet: bool,
        reference: &Reference,
        image: &Descriptor,
    ) -> anyhow::Result<()> {
        let source = Mirrored::open(&access.settings(), reference)?;
        let display = progress::Display::new(quiet);
        display.line(&format!("Fetching what {} lacks", reference.familiar()));
        let from = (&source as &dyn Source, PARALLEL);
        let observer = &|event: image::Event| display.event(&event);
        let fetched = image::fetch_lost(store, image, &self.blobs, from, observer, &mut |_, of| {
            display.start(&of.layers);
        });
        display.finish();
        Ok(fetched?)
    }
}
