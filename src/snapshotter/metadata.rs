//! What the snapshotter knows of its snapshots, in an embedded database.
//!
//! Each call is one transaction: it happens whole and durably, or not at all, whatever ends the
//! process. Readers see the state before or after it and never wait for a writer.
//!
//! # Invariants
//! * Active, view and committed snapshots share one space of names.
//! * A number is given to one snapshot and never again; committing keeps it.
//! * A parent is committed, and stays as long as it has children.
//!
//! # Locking
//! The database lets one writer in at a time, and only one process.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use redb::{ReadOnlyTable, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::database::Database;
use super::error::database;
use super::filter::Filter;
use super::{Error, Info, Kind, Labels, Result};
use crate::store::Usage;

/// Name → record.
const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
/// Number of a parent, number of its child.
const CHILDREN: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("children");
/// Counters.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const NEXT_NUMBER: &str = "next number";

/// The metadata of all snapshots.
#[derive(Debug)]
pub(super) struct Metadata(Database);

/// What the database keeps of a snapshot under its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// What its directory is called.
    pub number: u64,
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
    created: Duration,
    updated: Duration,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Of committed snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// It stands for layers of an image of the store, and has no directory of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_image: bool,
}

/// A snapshot to be made.
pub(super) struct New<'a> {
    pub name: &'a str,
    pub parent: &'a str,
    pub kind: Kind,
    pub labels: Labels,
    pub is_image: bool,
}

/// A snapshot with what lies below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub number: u64,
    pub kind: Kind,
    /// Its parent, the parent of that, and so on.
    pub parents: Vec<Parent>,
    pub labels: Labels,
}

/// A snapshot below another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub number: u64,
    pub is_image: bool,
}

impl Metadata {
    /// Opens the database in `directory`, made if it is not there.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it, [`Error::Database`].
    pub(super) fn open(directory: &Path) -> Result<Metadata> {
        let metadata = Metadata(Database::open(directory.join("metadata.redb"))?);
        // A reader finds no table that no writer has made.
        metadata.write(|tables| tables.counters.get(NEXT_NUMBER).map(drop).map_err(database))?;
        Ok(metadata)
    }

    /// Makes a snapshot. `place` makes what it needs on disk, before anybody can see it.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::InvalidArgument`] about the parent,
    /// [`Error::AlreadyExists`], what `place` reports, [`Error::Database`].
    pub(super) fn create(
        &self,
        new: New<'_>,
        place: impl FnOnce(&Snapshot) -> Result<()>,
    ) -> Result<Snapshot> {
        self.write(|tables| {
            if !new.parent.is_empty() && tables.record(new.parent)?.kind != Kind::Committed {
                let reason = format!("parent {} is not committed", new.parent);
                return Err(Error::InvalidArgument(reason));
            }
            tables.must_be_free(new.name)?;
            let now = now();
            let record = Record {
                number: tables.next_number()?,
                kind: new.kind,
                parent: new.parent.to_owned(),
                created: now,
                updated: now,
                labels: without_empty(new.labels),
                usage: new.is_image.then(Usage::default),
                is_image: new.is_image,
            };
            let snapshot = Snapshot {
                number: record.number,
                kind: record.kind,
                parents: tables.parents(&record)?,
                labels: record.labels.clone(),
            };
            if let Some(parent) = snapshot.parents.first() {
                let link = (parent.number, record.number);
                tables.children.insert(link, ()).map_err(database)?;
            }
            tables.put(new.name, &record)?;
            place(&snapshot)?;
            Ok(snapshot)
        })
    }

    /// Turns an active snapshot into a committed one with another name. Its labels become those
    /// given; `parent`, unless empty, is that of a snapshot which has none so far.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::NotFound`], [`Error::FailedPrecondition`] for what is
    /// not active, [`Error::InvalidArgument`] about the parent, [`Error::Database`].
    pub(super) fn commit(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: Labels,
        usage: Usage,
    ) -> Result<()> {
        self.write(|tables| {
            tables.must_be_free(name)?;
            let mut record = tables.record(key)?;
            if record.kind != Kind::Active {
                let reason = format!("snapshot {key} is not active");
                return Err(Error::FailedPrecondition(reason));
            }
            if !parent.is_empty() && parent != record.parent {
                tables.adopt(&mut record, key, parent)?;
            }
            record.kind = Kind::Committed;
            record.created = now();
            record.updated = record.created;
            record.labels = without_empty(labels);
            record.usage = Some(usage);
            tables.snapshots.remove(key).map_err(database)?;
            tables.put(name, &record)
        })
    }

    /// Takes a snapshot out, and returns what was known of it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::FailedPrecondition`] when it has children,
    /// [`Error::Database`].
    pub(super) fn remove(&self, name: &str) -> Result<Record> {
        self.write(|tables| {
            let record = tables.record(name)?;
            let number = record.number;
            let mut children = tables
                .children
                .range((number, 0)..=(number, u64::MAX))
                .map_err(database)?;
            if children.next().is_some() {
                let reason = format!("cannot remove snapshot with child: {name}");
                return Err(Error::FailedPrecondition(reason));
            }
            drop(children);
            if let Some(parent) = tables.parents(&record)?.first() {
                let link = (parent.number, number);
                tables.children.remove(link).map_err(database)?;
            }
            tables.snapshots.remove(name).map_err(database)?;
            Ok(record)
        })
    }

    /// Changes labels: all of them, or those that `paths` name (`labels`, `labels.KEY`). A label
    /// without a value is removed.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidArgument`] for a path that is no label,
    /// [`Error::Database`].
    pub(super) fn update(&self, name: &str, labels: Labels, paths: &[String]) -> Result<Info> {
        self.write(|tables| {
            let mut record = tables.record(name)?;
            if paths.is_empty() {
                record.labels.clone_from(&labels);
            }
            for path in paths {
                match path.strip_prefix("labels.") {
                    Some(key) => {
                        let value = labels.get(key).cloned().unwrap_or_default();
                        record.labels.insert(key.to_owned(), value);
                    }
                    None if path == "labels" => record.labels.clone_from(&labels),
                    None => {
                        let reason = format!("cannot update {path:?} of snapshot {name}");
                        return Err(Error::InvalidArgument(reason));
                    }
                }
            }
            record.labels = without_empty(record.labels);
            record.updated = now();
            tables.put(name, &record)?;
            Ok(record.info(name))
        })
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Database`].
    pub(super) fn record(&self, name: &str) -> Result<Record> {
        self.read(|snapshots| find(snapshots, name))
    }

    /// A snapshot that can be mounted, with all below it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::FailedPrecondition`] for one that is committed,
    /// [`Error::Database`].
    pub(super) fn mountable(&self, key: &str) -> Result<Snapshot> {
        self.read(|snapshots| {
            let record = find(snapshots, key)?;
            if record.kind == Kind::Committed {
                let reason = format!("snapshot {key} is neither active nor a view");
                return Err(Error::FailedPrecondition(reason));
            }
            Ok(Snapshot {
                number: record.number,
                kind: record.kind,
                parents: parents(snapshots, &record)?,
                labels: record.labels,
            })
        })
    }

    /// The snapshots that a filter lets through, in the order of their names.
    ///
    /// # Errors
    /// [`Error::Database`] or [`Error::Record`].
    pub(super) fn list(&self, filter: &Filter) -> Result<Vec<Info>> {
        self.read(|snapshots| {
            let mut found = Vec::new();
            for entry in snapshots.iter().map_err(database)? {
                let (name, bytes) = entry.map_err(database)?;
                let info = parse(name.value(), bytes.value())?.info(name.value());
                if filter.matches(&info) {
                    found.push(info);
                }
            }
            Ok(found)
        })
    }

    /// Hands the numbers of all snapshots to `act` while no other can be made.
    ///
    /// # Errors
    /// What `act` reports, [`Error::Database`] or [`Error::Record`].
    pub(super) fn with_numbers(&self, act: impl FnOnce(&HashSet<u64>) -> Result<()>) -> Result<()> {
        self.write(|tables| {
            let mut numbers = HashSet::new();
            for entry in tables.snapshots.iter().map_err(database)? {
                let (name, bytes) = entry.map_err(database)?;
                numbers.insert(parse(name.value(), bytes.value())?.number);
            }
            act(&numbers)
        })
    }

    /// One transaction; an error undoes it.
    fn write<T>(&self, act: impl FnOnce(&mut Tables<'_>) -> Result<T>) -> Result<T> {
        self.0
            .write(|transaction| act(&mut Tables::open(transaction)?))
    }

    fn read<T>(
        &self,
        act: impl FnOnce(&ReadOnlyTable<&'static str, &'static [u8]>) -> Result<T>,
    ) -> Result<T> {
        self.0
            .read(|transaction| act(&transaction.open_table(SNAPSHOTS).map_err(database)?))
    }
}

/// The tables of a transaction that writes.
struct Tables<'t> {
    snapshots: Table<'t, &'static str, &'static [u8]>,
    children: Table<'t, (u64, u64), ()>,
    counters: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Tables<'t>> {
        Ok(Tables {
            snapshots: transaction.open_table(SNAPSHOTS).map_err(database)?,
            children: transaction.open_table(CHILDREN).map_err(database)?,
            counters: transaction.open_table(COUNTERS).map_err(database)?,
        })
    }

    fn record(&self, name: &str) -> Result<Record> {
        find(&self.snapshots, name)
    }

    fn parents(&self, record: &Record) -> Result<Vec<Parent>> {
        parents(&self.snapshots, record)
    }

    fn must_be_free(&self, name: &str) -> Result<()> {
        match self.snapshots.get(name).map_err(database)? {
            Some(_) => Err(Error::AlreadyExists(name.to_owned())),
            None => Ok(()),
        }
    }

    fn next_number(&mut self) -> Result<u64> {
        let last = self.counters.get(NEXT_NUMBER).map_err(database)?;
        let number = last.map_or(1, |last| last.value());
        let next = number.saturating_add(1);
        self.counters
            .insert(NEXT_NUMBER, next)
            .map_err(database)
            .map(|_| number)
    }

    fn put(&mut self, name: &str, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record).map_err(|source| Error::Record {
            name: name.to_owned(),
            source,
        })?;
        let put = self.snapshots.insert(name, bytes.as_slice());
        put.map(drop).map_err(database)
    }

    /// Gives a snapshot without a parent one.
    fn adopt(&mut self, record: &mut Record, key: &str, parent: &str) -> Result<()> {
        if !record.parent.is_empty() {
            let reason = format!("snapshot {key} has another parent than {parent}");
            return Err(Error::InvalidArgument(reason));
        }
        let above = self.record(parent)?;
        if above.kind != Kind::Committed {
            let reason = format!("parent {parent} is not committed");
            return Err(Error::InvalidArgument(reason));
        }
        let link = (above.number, record.number);
        self.children.insert(link, ()).map_err(database)?;
        parent.clone_into(&mut record.parent);
        Ok(())
    }
}

impl Record {
    /// As containerd sees it.
    pub(super) fn info(&self, name: &str) -> Info {
        Info {
            name: name.to_owned(),
            parent: self.parent.clone(),
            kind: self.kind,
            created: SystemTime::UNIX_EPOCH + self.created,
            updated: SystemTime::UNIX_EPOCH + self.updated,
            labels: self.labels.clone(),
        }
    }
}

fn find(snapshots: &impl ReadableTable<&'static str, &'static [u8]>, name: &str) -> Result<Record> {
    match snapshots.get(name).map_err(database)? {
        Some(bytes) => parse(name, bytes.value()),
        None => Err(Error::NotFound(name.to_owned())),
    }
}

fn parents(
    snapshots: &impl ReadableTable<&'static str, &'static [u8]>,
    record: &Record,
) -> Result<Vec<Parent>> {
    let mut found = Vec::new();
    let mut next = record.parent.clone();
    while !next.is_empty() {
        let parent = find(snapshots, &next)?;
        found.push(Parent {
            number: parent.number,
            is_image: parent.is_image,
        });
        next = parent.parent;
    }
    Ok(found)
}

fn parse(name: &str, bytes: &[u8]) -> Result<Record> {
    serde_json::from_slice(bytes).map_err(|source| Error::Record {
        name: name.to_owned(),
        source,
    })
}

/// A label without a value is none.
fn without_empty(mut labels: Labels) -> Labels {
    labels.retain(|_, value| !value.is_empty());
    labels
}

fn now() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default()
}
