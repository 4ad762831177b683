//! A repository with its mirrors, as one source.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::blob::skip;
use super::super::{BlobReader, Fetched, ManifestName, Registry, Repository, Source};
use super::{Answers, Endpoint, Error, Settings, endpoints};
use crate::cause::chain;
use crate::oci::{Descriptor, Digest, Reference, RegistryName};

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

    /// A registry, reached as the settings say of it.
    ///
    /// # Errors
    /// As [`Mirrored::open`].
    pub fn registry(settings: &Settings, name: &RegistryName) -> Result<Registry, Error> {
        // What is said of single repositories does not count: any will do.
        let image: Reference = format!("{name}/any").parse()?;
        let own = endpoints(settings, &image)?.pop();
        Ok(match own.filter(|own| own.reference == image) {
            Some(own) => registry_of(settings, &image, &own),
            None => Registry::new(settings.clone()),
        })
    }

    /// The tags of the repository.
    ///
    /// # Errors
    /// As [`Repository::tags`].
    pub fn tags(&self) -> Result<Vec<String>, Error> {
        self.first(self.that_answer(Answers::Tags), Repository::tags)
            .map(|(tags, _)| tags)
    }

    /// The digest of a manifest or index, as a registry tells it; `None` where there is none.
    ///
    /// # Errors
    /// As [`Repository::digest_of`].
    pub fn digest_of(&self, which: &ManifestName) -> Result<Option<Digest>, Error> {
        // What one mirror does not have the next may.
        let ask = |repository: &Repository| {
            let digest = repository.digest_of(which)?;
            digest.ok_or_else(|| nowhere(&self.image))
        };
        match self.first(self.that_answer(Answers::Tags), ask) {
            Ok((digest, _)) => Ok(Some(digest)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Those that may be asked for this, in order.
    fn that_answer(&self, what: Answers) -> Vec<usize> {
        let every = self.asked.iter().enumerate();
        let fit = every.filter(|(_, (_, answers))| [what, Answers::Everything].contains(answers));
        fit.map(|(at, _)| at).collect()
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
    settings
        .extra_ca_files
        .extend(endpoint.ca_files.iter().cloned());
    settings.api = endpoint.api.clone();
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
        let order = self.that_answer(wanted);
        let (found, at) = self.first(order, |repository| repository.manifest(which))?;
        self.served.store(at, Ordering::Relaxed);
        Ok(found)
    }

    fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader, Error> {
        let served = self.served.load(Ordering::Relaxed);
        // Mirrors for tags only have no blobs that were not asked for there.
        let others = self.that_answer(Answers::Digests).into_iter();
        let order: Vec<usize> = std::iter::once(served)
            .chain(others.filter(|at| *at != served))
            .collect();
        let ask = |repository: &Repository| repository.blob(descriptor, offset);
        let (first, at) = self.first(order.clone(), ask)?;
        let others = order.into_iter().skip_while(|other| *other != at).skip(1);
        let others = others.filter_map(|at| self.asked.get(at));
        let others: Vec<Repository> = others.map(|(other, _)| other.clone()).collect();
        if others.is_empty() {
            return Ok(first);
        }
        Ok(BlobReader {
            start: first.start,
            reader: Box::new(Body {
                descriptor: descriptor.clone(),
                position: first.start,
                reader: first.reader,
                others: others.into_iter(),
            }),
        })
    }
}

/// Reads a blob; where a registry gives it up in the middle, the next one goes on.
struct Body {
    descriptor: Descriptor,
    position: u64,
    reader: Box<dyn Read + Send>,
    others: std::vec::IntoIter<Repository>,
}

impl Body {
    /// Goes on with the next registry that can; the error again if none can.
    fn fall_over(&mut self, error: io::Error) -> io::Result<()> {
        for next in self.others.by_ref() {
            let (digest, position) = (&self.descriptor.digest, self.position);
            log::warn!("{}; going on at {}", chain(&error), next.name());
            match next.blob(&self.descriptor, position) {
                Ok(mut found) => match skip(&mut found.reader, position - found.start) {
                    Ok(()) => {
                        self.reader = found.reader;
                        return Ok(());
                    }
                    Err(error) => log::info!("{}: {digest}: {error}", next.name()),
                },
                Err(error) => log::info!("{}: {}", next.name(), chain(&error)),
            }
        }
        Err(error)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) => self.fall_over(error)?,
            }
        }
    }
}
