//! A repository with its mirrors, as one source.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{BlobReader, Fetched, ManifestName, Registry, Repository, Source};
use super::{Answers, Endpoint, Error, Settings, endpoints};
use crate::cause::chain;
use crate::oci::{Descriptor, Digest, Reference};

/// A repository that mirrors are asked for first.
#[derive(Debug)]
pub struct Mirrored {
    image: Reference,
    /// Mirrors first; there is at least one, the registry itself.
    asked: Vec<(Repository, Answers)>,
    /// Who gave the last manifest: blobs are asked for there first.
    served: AtomicUsize,
}

impl Mirrored {
    /// The repository of an image, with the mirrors that the settings name.
    ///
    /// # Errors
    /// [`Error::Settings`] or [`Error::Io`] for files about mirrors that cannot be used.
    pub fn open(settings: &Settings, image: &Reference) -> Result<Mirrored, Error> {
        let endpoints = endpoints(settings, image)?;
        let repository = |endpoint: Endpoint| {
            let registry = registry_of(settings, image, &endpoint);
            (registry.repository(&endpoint.reference), endpoint.answers)
        };
        Ok(Mirrored {
            image: image.clone(),
            asked: endpoints.into_iter().map(repository).collect(),
            served: AtomicUsize::new(0),
        })
    }

    /// The repository of an image in the registry itself, to be written.
    ///
    /// # Errors
    /// As [`Mirrored::open`].
    pub fn writable(settings: &Settings, image: &Reference) -> Result<Repository, Error> {
        let own = endpoints(settings, image)?.pop();
        let own = own.ok_or_else(|| nowhere(image))?;
        Ok(registry_of(settings, image, &own).writable(&own.reference))
    }

    /// The tags of the repository.
    ///
    /// # Errors
    /// As [`Repository::tags`].
    pub fn tags(&self) -> Result<Vec<String>, Error> {
        let every = self.asked.iter().enumerate();
        let fit = every.filter(|(_, (_, answers))| *answers != Answers::Digests);
        self.first(fit.map(|(at, _)| at).collect(), |repository| {
            repository.tags()
        })
        .map(|(tags, _)| tags)
    }

    /// The digest of a manifest or index, as a registry tells it; `None` where there is none.
    ///
    /// # Errors
    /// As [`Repository::digest_of`].
    pub fn digest_of(&self, which: &ManifestName) -> Result<Option<Digest>, Error> {
        let every = self.asked.iter().enumerate();
        let fit = every.filter(|(_, (_, answers))| *answers != Answers::Digests);
        self.first(fit.map(|(at, _)| at).collect(), |repository| {
            repository.digest_of(which)
        })
        .map(|(digest, _)| digest)
    }

    /// What the first of these gives that can, and which it is.
    fn first<T>(
        &self,
        order: Vec<usize>,
        ask: impl Fn(&Repository) -> Result<T, Error>,
    ) -> Result<(T, usize), Error> {
        let mut last = None;
        for at in order {
            let Some((repository, _)) = self.asked.get(at) else {
                continue;
            };
            match ask(repository) {
                Ok(found) => {
                    log::info!("{} comes from {}", self.image, repository.name());
                    return Ok((found, at));
                }
                Err(error) => {
                    log::info!("{}: {}", repository.name(), chain(&error));
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| nowhere(&self.image)))
    }
}

/// The means to reach one of the registries that are asked for an image.
fn registry_of(settings: &Settings, image: &Reference, endpoint: &Endpoint) -> Registry {
    let mut settings = settings.clone();
    settings.insecure |= endpoint.insecure;
    settings.ca_files.extend(endpoint.ca_files.iter().cloned());
    if endpoint.reference.registry() != image.registry() {
        // They are for the registry that was named.
        settings.credentials = None;
    }
    Registry::new(settings)
}

fn nowhere(image: &Reference) -> Error {
    Error::NotFound {
        reference: image.to_string(),
        closest: Vec::new(),
    }
}

impl Source for Mirrored {
    fn describe(&self) -> String {
        self.image.to_string()
    }

    fn manifest(&self, which: &ManifestName) -> Result<Fetched, Error> {
        let wanted = match which {
            ManifestName::Digest(_) => Answers::Digests,
            ManifestName::Tag(_) | ManifestName::Default => Answers::Tags,
        };
        let every = self.asked.iter().enumerate();
        let fit = every.filter(|(_, (_, answers))| [wanted, Answers::Everything].contains(answers));
        let (found, at) = self.first(fit.map(|(at, _)| at).collect(), |repository| {
            repository.manifest(which)
        })?;
        self.served.store(at, Ordering::Relaxed);
        Ok(found)
    }

    fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader, Error> {
        let served = self.served.load(Ordering::Relaxed);
        // Mirrors for tags only have no blobs that were not asked for there.
        let others = self.asked.iter().enumerate();
        let others = others.filter(|(_, (_, answers))| *answers != Answers::Tags);
        let others = others.map(|(at, _)| at).filter(|at| *at != served);
        let order: Vec<usize> = std::iter::once(served).chain(others).collect();
        self.first(order, |repository| repository.blob(descriptor, offset))
            .map(|(reader, _)| reader)
    }
}
