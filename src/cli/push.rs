//! `plyfs push`

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use clap::Args;
use serde_json::json;

use super::access::Access;
use super::failure::{Failure, each};
use super::platforms::{Asked, Wanted};
use super::progress::Display;
use super::{Global, Result, complete, environment, interrupt, output};
use crate::image::{self, Outgoing};
use crate::oci::Reference;
use crate::registry::{Mirrored, Repository};
use crate::store::Store;

/// Layers sent at the same time.
const PARALLEL: usize = 4;

/// Push images to registries
///
/// An image goes to the repository that its name says: give it that name with plyfs tag. What the
/// registry has already is not sent, and an interrupted push goes on where it stopped.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs tag alpine:3.20 registry.example/alpine:3.20
  plyfs push registry.example/alpine:3.20
  plyfs push --all-tags registry.example/app
  plyfs push --platform linux/arm64 registry.example/app:1")]
pub struct Push {
    /// The images
    #[arg(required = true, value_name = "NAME[:TAG]", add = complete::images())]
    names: Vec<String>,
    /// Push every tag that the repositories have here
    #[arg(short, long)]
    all_tags: bool,
    /// Push only these of the platforms that an image is stored for; all: an index of all that are
    #[arg(
        long = "platform",
        value_name = "OS/ARCH[/VARIANT]|all",
        value_delimiter = ','
    )]
    platforms: Vec<Wanted>,
    /// Print nothing but the full name
    #[arg(short, long)]
    quiet: bool,
    /// Print nothing but JSON: an object for each image
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

impl Push {
    pub fn run(self, global: &Global) -> Result<()> {
        let store = environment::open_store(global)?;
        let names = self.names.iter().map(|text| self.name(&store, text));
        let names = names.collect::<Result<Vec<_>>>()?;
        let names = match self.all_tags {
            true => tags(&store, &names)?,
            false => names,
        };
        interrupt::explain(self.quiet || self.json);
        let settings = self.access.settings();
        let mut known: HashMap<String, Repository> = HashMap::new();
        each(&names, |name| {
            let repository = match known.entry(name.name()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let failed = |e| Failure::new(format!("cannot push {}", name.familiar()), e);
                    new.insert(Mirrored::writable(&settings, name).map_err(failed)?)
                }
            };
            self.push(&store, repository, name)
        })
    }

    /// The name under which an image is to be stored, or whose repository is meant.
    fn name(&self, store: &Store, text: &str) -> Result<Reference> {
        let cannot = format!("cannot push {text}");
        let as_name = |why: &str| {
            let failure = Failure::usage(format!("{cannot}: {why}"));
            failure.or_hint(format!("plyfs tag {text} NAME:TAG, and push that"))
        };
        let name = text.parse::<Reference>();
        let images = store.images().map_err(|e| Failure::new(&cannot, e))?;
        let is_known = |name: &Reference| {
            let mut names = images.iter().filter_map(|image| image.reference.as_ref());
            names.any(|known| known.name() == name.name())
        };
        // It may have got the name just now.
        if !name.as_ref().is_ok_and(is_known)
            && let Ok(found) = image::find_record(store, text)
            && found.reference.as_ref() != name.as_ref().ok()
        {
            return Err(as_name("it is no name to store it under"));
        }
        let name = name.map_err(|error| Failure::new(&cannot, error))?;
        if name.digest().is_some() {
            return Err(as_name("a name with a digest is none to store it under"));
        }
        let last = text.rsplit('/').next().unwrap_or(text);
        if self.all_tags && last.contains(':') {
            let why = "a tag does not go with --all-tags";
            return Err(Failure::usage(format!("{cannot}: {why}"))
                .or_hint(format!("plyfs push --all-tags {}", name.familiar_name())));
        }
        Ok(name)
    }

    fn push(&self, store: &Store, repository: &Repository, name: &Reference) -> Result<()> {
        let familiar = name.familiar();
        let failed = |error| Failure::of_image("push", &familiar, error);
        let platforms = Asked::of(&self.platforms);
        let platforms = (!self.platforms.is_empty()).then(|| platforms.as_ref());
        let display = Display::new(self.quiet || self.json);
        let image = image::outgoing(store, name, repository, platforms).map_err(failed)?;
        display.line(&format!("The push refers to repository [{}]", name.name()));
        display.start(image.layers());
        let observer = |layer: &_, state| display.push_event(layer, &state);
        let pushed = image::push(store, &image, name, repository, PARALLEL, &observer);
        display.finish();
        pushed.map_err(failed)?;
        warn_of(&image, name);
        let (digest, size) = (image.descriptor.digest, image.descriptor.size);
        if self.json {
            let name = name.to_string();
            return output::json_line(&json!({"Name": name, "Digest": digest, "Size": size}));
        }
        output::line(&match self.quiet {
            true => name.to_string(),
            false => {
                let tag = name.tag().unwrap_or_default();
                format!("{tag}: digest: {digest} size: {size}")
            }
        })
    }
}

/// All names in the store of these repositories.
fn tags(store: &Store, repositories: &[Reference]) -> Result<Vec<Reference>> {
    let mut found = Vec::new();
    for wanted in repositories {
        let repository = wanted.familiar_name();
        let cannot = format!("cannot push all tags of {repository}");
        let images = store.images().map_err(|e| Failure::new(&cannot, e))?;
        let names = images.into_iter().filter_map(|image| image.reference);
        let tags = names.filter(|name| name.tag().is_some());
        let mut names: Vec<_> = tags.filter(|name| name.name() == wanted.name()).collect();
        if names.is_empty() {
            return Err(Failure::plain(format!("{cannot}: the store has none"))
                .or_hint(format!("plyfs tag IMAGE {repository}")));
        }
        names.sort();
        found.append(&mut names);
    }
    Ok(found)
}

/// Tells what of an image was not pushed.
fn warn_of(image: &Outgoing, name: &Reference) {
    if let Some(platform) = &image.only {
        log::warn!(
            "{}: of several platforms only {platform} is stored, and was pushed alone",
            name.familiar()
        );
    }
    if !image.left_out.is_empty() {
        log::warn!(
            "{}: pushed without {}, which the store does not have (pull --platform all fetches \
             attestations)",
            name.familiar(),
            image.left_out.join(", ")
        );
    }
}
