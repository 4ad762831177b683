//! The embedded database, opened again after the disk has failed it.
//!
//! After an error of input or output, a full disk among them, redb does nothing with a file until that is opened anew. Then
//! nothing could be removed any more to make room.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use redb::{DatabaseError, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::allocated::Allocated;
use super::error::database as failed;
use super::{Error, Result};

/// A database in a file, which one process at a time can have.
///
/// # Locking
/// `opened` is held shared by transactions, exclusively while the file is opened again.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    /// Nothing where it could not be opened again.
    opened: RwLock<Option<redb::Database>>,
    must_reopen: AtomicBool,
}

impl Database {
    /// Opens the file, made if it is not there.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it, [`Error::Database`].
    pub(super) fn open(path: PathBuf) -> Result<Database> {
        Ok(Database {
            opened: RwLock::new(Some(open(&path)?)),
            must_reopen: AtomicBool::new(false),
            path,
        })
    }

    /// One transaction that writes; an error undoes it. They come one after another.
    ///
    /// # Errors
    /// What `act` reports, [`Error::Database`] or [`Error::InUse`].
    pub(super) fn write<T>(&self, act: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        self.with(|database| {
            let transaction = database.begin_write().map_err(failed)?;
            let result = act(&transaction)?;
            transaction.commit().map_err(failed)?;
            Ok(result)
        })
    }

    /// One transaction that reads, and waits for no other.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub(super) fn read<T>(&self, act: impl FnOnce(&ReadTransaction) -> Result<T>) -> Result<T> {
        self.with(|database| act(&database.begin_read().map_err(failed)?))
    }

    fn with<T>(&self, act: impl FnOnce(&redb::Database) -> Result<T>) -> Result<T> {
        if self.must_reopen.load(Ordering::Acquire) {
            self.reopen()?;
        }
        let opened = self.opened.read();
        let database = opened.as_ref();
        let result = act(database.ok_or_else(|| failed(redb::Error::PreviousIo))?);
        if let Err(Error::Database(error)) = &result
            && matches!(**error, redb::Error::Io(_) | redb::Error::PreviousIo)
        {
            self.must_reopen.store(true, Ordering::Release);
        }
        result
    }

    fn reopen(&self) -> Result<()> {
        let mut opened = self.opened.write();
        // Another call may have been faster.
        if self.must_reopen.load(Ordering::Acquire) {
            // Its lock on the file goes with it.
            *opened = None;
            *opened = Some(open(&self.path)?);
            self.must_reopen.store(false, Ordering::Release);
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<redb::Database> {
    let open = || {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        redb::Builder::new().create_with_backend(Allocated::new(file)?)
    };
    open().map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => {
            let store = path.ancestors().nth(2).unwrap_or(path);
            Error::InUse(store.to_owned())
        }
        error => failed(error),
    })
}
