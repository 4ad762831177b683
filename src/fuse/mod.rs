//! Serving an [`Overlay`] over FUSE: the only room that says `fuser`.
//!
//! A round trip through the kernel costs about 10 µs of processor time, whatever serves it, so
//! this room is about round trips that never happen: the kernel keeps names, attributes, missing
//! names, listings, link targets and contents for as long as it likes, because nobody but us
//! changes them, and where the mount allows it files are not even opened.
//!
//! # Invariants
//! * What a connection is ([`Settings`]) is decided before the handshake and never changes.
//! * A handler translates, calls the engine and replies; a panic in it answers `EIO`.
//! * Errors of the engine are logged here, once, and nowhere else.
//! * Nothing is kept in file handles, so that another process could take a connection over.
//! * Notifications are not sent by a thread that handles requests, but for contents of files that nobody has open
//!   ([`first_read`]).

mod adapter;
mod ahead;
mod backing;
mod by_node;
mod change;
mod contents;
mod convert;
mod doubts;
mod files;
mod first_read;
mod handler;
mod handshake;
mod listing;
mod node_cache;
mod notify;
mod passthrough;
mod reply;
mod seek;
mod session;
mod sharded;
mod state;
#[cfg(test)]
mod test_support;
mod write;

pub use handshake::Terms;
pub use passthrough::probe;
pub use session::{Connection, Ended, Handover, is_unwanted_answer, on_lost_thread};

use serde::{Deserialize, Serialize};

/// How the contents of files reach readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    /// Through the page cache of this mount. Files are not opened, as far as we are concerned.
    Cached,
    /// The kernel reads and writes large files, and all that are opened for writing, by itself, as
    /// far as they are whole files below; others go through the page cache. Needs `CAP_SYS_ADMIN` in the first user namespace.
    Passthrough {
        /// How many stacked file systems may lie below: 1, or 2 for a store on an overlay.
        stack_depth: u32,
    },
    /// Through the page cache of this mount, which also collects what is written. The kernel then
    /// owns sizes and times of files as long as it knows them. Files are not opened either.
    WriteBack,
}

/// Which questions about extended attributes are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Xattrs {
    /// All.
    Shown,
    /// There are none, and none can come: lists are empty, and the kernel need not ask for single ones, which
    /// some programs do for each file.
    Absent,
    /// None: they are not supported, as the user wants it.
    Hidden,
}

/// What a connection is to be like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// How contents are read.
    pub data: Data,
    /// Whether the kernel checks POSIX ACLs (which makes it check all permissions).
    pub acl: bool,
    /// Which questions about extended attributes are answered.
    pub xattrs: Xattrs,
    /// Whether fsync(2) does anything.
    pub sync: bool,
    /// Number of threads that answer requests.
    pub threads: usize,
    /// Whether contents that are likely to be read next are handed to the kernel unasked.
    pub read_ahead: bool,
}
