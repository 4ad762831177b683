//! `--filter`: which images are meant, by the keys that Docker defines and combined as it does.
//!
//! Several `reference` are alternatives; all else must hold together.

use std::time::SystemTime;

use jiff::Timestamp;

use super::failure::Failure;
use super::glob::Pattern;
use super::{Result, moment};
use crate::image::{self, Row};
use crate::oci::Reference;
use crate::store::Store;

/// Conditions on images.
#[derive(Debug, Default)]
pub struct Filter {
    dangling: Option<bool>,
    labels: Vec<Label>,
    /// Made before all of these.
    before: Vec<Timestamp>,
    /// Made after all of these.
    since: Vec<Timestamp>,
    references: Vec<Pattern>,
}

/// A condition on a label.
#[derive(Debug)]
struct Label {
    key: String,
    value: Option<String>,
    /// Whether an image with it is meant, or one without.
    wanted: bool,
}

/// Which keys a verb knows.
pub const OF_LIST: &[&str] = &[
    "dangling",
    "label",
    "label!",
    "before",
    "since",
    "until",
    "reference",
];
/// Those of a prune.
pub const OF_PRUNE: &[&str] = &["dangling", "label", "label!", "until", "reference"];

impl Filter {
    /// Reads the values of `--filter`; `known` are the keys that the verb has.
    ///
    /// `store` finds the images of `before` and `since`.
    ///
    /// # Errors
    /// A filter that says nothing, a key that is not known, a value that it cannot have, or an image
    /// that is not there.
    pub fn parse(texts: &[String], known: &[&str], store: Option<&Store>) -> Result<Filter> {
        let now = SystemTime::now();
        let mut filter = Filter::default();
        for text in texts {
            let Some((key, value)) = text.split_once('=') else {
                return Err(
                    Failure::usage(format!("the filter {text:?} is not KEY=VALUE"))
                        .or_hint(keys(known)),
                );
            };
            // As Docker: `label!=x` is the key `label!`.
            let key = key.trim().to_lowercase();
            if !known.contains(&key.as_str()) {
                return Err(
                    Failure::usage(format!("there is no filter {key:?}")).or_hint(keys(known))
                );
            }
            match key.as_str() {
                "dangling" => filter.set_dangling(value)?,
                "label" | "label!" => {
                    let (name, text) = match value.split_once('=') {
                        Some((name, text)) => (name, Some(text.to_owned())),
                        None => (value, None),
                    };
                    filter.labels.push(Label {
                        key: name.to_owned(),
                        value: text,
                        wanted: key == "label",
                    });
                }
                "before" => filter.before.push(created(store, &key, value)?),
                "since" => filter.since.push(created(store, &key, value)?),
                "until" => {
                    let time = moment::parse(value, now).ok_or_else(|| {
                        Failure::usage(format!("until={value} names no time"))
                            .or_hint("24h, 2026-01-31, 2026-01-31T12:00:00Z or seconds since 1970")
                    })?;
                    filter.before.push(time);
                }
                _ => filter.add_reference(value)?,
            }
        }
        Ok(filter)
    }

    /// Adds a pattern of names.
    ///
    /// # Errors
    /// One that is not well formed.
    pub fn add_reference(&mut self, pattern: &str) -> Result<()> {
        let parsed = Pattern::parse(pattern)
            .ok_or_else(|| Failure::usage(format!("{pattern:?} is not a pattern of names")))?;
        self.references.push(parsed);
        Ok(())
    }

    /// What `dangling` was asked for.
    pub fn dangling(&self) -> Option<bool> {
        self.dangling
    }

    fn set_dangling(&mut self, value: &str) -> Result<()> {
        let asked = match value.to_lowercase().as_str() {
            "true" | "1" | "t" => true,
            "false" | "0" | "f" => false,
            _ => {
                return Err(Failure::usage(format!(
                    "dangling={value} is neither true nor false"
                )));
            }
        };
        if self.dangling.is_some_and(|before| before != asked) {
            return Err(Failure::usage("dangling cannot be true and false"));
        }
        self.dangling = Some(asked);
        Ok(())
    }

    /// Whether an image is meant; `is_dangling` says whether no tag stands for it.
    pub fn takes(&self, row: &Row, is_dangling: bool) -> bool {
        if self.dangling.is_some_and(|asked| asked != is_dangling) || !self.takes_name(row) {
            return false;
        }
        let summary = row.summary().ok();
        let labels = summary.map(|summary| &summary.config.config.labels);
        let labelled = self.labels.iter().all(|label| {
            let found = labels.and_then(|labels| labels.get(&label.key));
            let there = match &label.value {
                Some(value) => found == Some(value),
                None => found.is_some(),
            };
            there == label.wanted
        });
        if self.before.is_empty() && self.since.is_empty() {
            return labelled;
        }
        // What does not say when it was made is neither before nor after anything.
        let made = summary.and_then(|s| moment::of_image(s.config.created.as_deref()));
        labelled
            && made.is_some_and(|made| {
                self.before.iter().all(|time| made < *time)
                    && self.since.iter().all(|time| made > *time)
            })
    }

    fn takes_name(&self, row: &Row) -> bool {
        if self.references.is_empty() {
            return true;
        }
        let names = names(row);
        let any = |pattern: &Pattern| names.iter().any(|name| pattern.matches(name));
        self.references.iter().any(any)
    }
}

/// All that an image may be called: short as Docker matches it, and in full.
fn names(row: &Row) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(reference) = &row.record.reference {
        names.extend([reference.familiar(), reference.to_string()]);
    }
    let repository = row.record.repository.as_deref();
    if let Some(Ok(repository)) = repository.map(str::parse::<Reference>) {
        let digest = repository.with_digest(row.record.descriptor.digest);
        names.extend([repository.familiar_name(), repository.name()]);
        names.extend([digest.familiar(), digest.to_string()]);
    }
    names
}

fn keys(known: &[&str]) -> String {
    format!("the filters are {}", known.join(", "))
}

/// When the image was made that `before` or `since` names.
fn created(store: Option<&Store>, key: &str, name: &str) -> Result<Timestamp> {
    let cannot = format!("cannot filter by {key}={name}");
    let Some(store) = store else {
        return Err(Failure::new(cannot, image::Error::NotStored));
    };
    let found = image::find(store, name, None).map_err(|error| Failure::new(&cannot, error))?;
    moment::of_image(found.config.created.as_deref())
        .ok_or_else(|| Failure::plain(format!("{cannot}: it does not say when it was made")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Summary;
    use crate::oci::{Descriptor, Digest, ImageConfig, MediaType};
    use crate::store::Record;

    fn row(name: &str, created: &str, labels: &[(&str, &str)]) -> Row {
        let descriptor = Descriptor::of(MediaType::OciManifest, name.as_bytes());
        let reference: Option<Reference> = name.parse().ok();
        let mut config = ImageConfig {
            created: (!created.is_empty()).then(|| created.to_owned()),
            ..ImageConfig::default()
        };
        let label = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        config.config.labels = labels.iter().map(label).collect();
        Row {
            record: Record {
                repository: reference.as_ref().map(Reference::name),
                reference,
                ..Record::nameless(descriptor.clone())
            },
            variants: Ok(vec![Summary {
                id: Digest::of(name.as_bytes()),
                manifest: descriptor,
                platform: config.platform.clone(),
                config,
                size: 0,
                compressed_size: 0,
                layers: Vec::new(),
            }]),
            size: 0,
            shared_size: 0,
            compressed_size: 0,
        }
    }

    fn taken(filters: &[&str]) -> Vec<&'static str> {
        let rows = [
            (
                "debian:12",
                "2020-01-01T00:00:00Z",
                &[("a", "1"), ("b", "2")][..],
            ),
            ("debian:13", "2022-01-01T00:00:00Z", &[("a", "1")]),
            ("ghcr.io/own/app:1", "2024-01-01T00:00:00Z", &[("a", "2")]),
            ("", "", &[]),
        ];
        let filters: Vec<String> = filters.iter().map(|&text| text.to_owned()).collect();
        let filter = Filter::parse(&filters, OF_LIST, None).unwrap();
        let taken = rows.into_iter().filter(|(name, created, labels)| {
            filter.takes(&row(name, created, labels), name.is_empty())
        });
        taken.map(|(name, ..)| name).collect()
    }

    #[test]
    fn combined_as_docker_does() {
        for (filters, expected) in [
            (
                &[][..],
                &["debian:12", "debian:13", "ghcr.io/own/app:1", ""][..],
            ),
            (&["dangling=true"], &[""]),
            (
                &["dangling=false", "reference=debian"],
                &["debian:12", "debian:13"],
            ),
            (
                &["label=a"],
                &["debian:12", "debian:13", "ghcr.io/own/app:1"],
            ),
            (&["label=a=1", "label=b"], &["debian:12"]),
            (
                &["label!=b", "label=a"],
                &["debian:13", "ghcr.io/own/app:1"],
            ),
            (&["label!=a=1"], &["ghcr.io/own/app:1", ""]),
            (
                &["reference=debian:12", "reference=ghcr.io/*/app"],
                &["debian:12", "ghcr.io/own/app:1"],
            ),
            (&["reference=deb*:*3"], &["debian:13"]),
            (
                &["reference=docker.io/library/debian"],
                &["debian:12", "debian:13"],
            ),
            (&["reference=*/*"], &[]),
            (&["until=2022-01-01T00:00:00Z"], &["debian:12"]),
            (
                &["until=2023-01-01T00:00:00Z", "label=a", "reference=*"],
                &["debian:12", "debian:13"],
            ),
        ] {
            assert_eq!(taken(filters), expected, "{filters:?}");
        }
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "dangling",
            "colour=red",
            "dangling=maybe",
            "until=soon",
            "reference=[",
            "before=x",
        ] {
            assert!(
                Filter::parse(&[text.to_owned()], OF_LIST, None).is_err(),
                "{text}"
            );
        }
        let both = ["dangling=true".to_owned(), "dangling=false".to_owned()];
        assert!(Filter::parse(&both, OF_LIST, None).is_err());
        assert!(Filter::parse(&["before=x".to_owned()], OF_PRUNE, None).is_err());
    }
}
