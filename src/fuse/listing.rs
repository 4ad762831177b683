//! Listings of directories, with and without attributes.
//!
//! An error ends a reply that has entries already, and is told by the next one: with attributes the
//! kernel owes a forget for each entry that it was told of, and cannot know of those that an error
//! took away.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use fuser::{INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::convert::{self, node};
use super::handler::Adapter;
use super::reply::{generation, lifetime};
use crate::overlay::{Attributes, Listed};

/// Whether a listing goes on after an entry was added to a reply.
fn full(full: bool) -> ControlFlow<()> {
    if full {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

/// Names only.
pub(super) fn plain(adapter: &Adapter, ino: INodeNo, offset: u64, mut reply: ReplyDirectory) {
    let mut is_empty = true;
    let mut add = |entry: Listed<'_>| {
        is_empty = false;
        let (number, kind) = (INodeNo(entry.node.0), convert::kind(entry.kind));
        let name = OsStr::from_bytes(entry.name);
        full(reply.add(number, entry.next_offset, kind, name))
    };
    let list = || adapter.overlay.list(node(ino), offset, &mut add);
    match adapter.answer("readdir", ino, list) {
        Err(errno) if is_empty => reply.error(errno),
        _ => reply.ok(),
    }
}

/// Names and what they stand for, as if each had been looked up.
pub(super) fn plus(adapter: &Adapter, ino: INodeNo, offset: u64, mut reply: ReplyDirectoryPlus) {
    let mut is_empty = true;
    let mut add = |entry: Listed<'_>, found: &Attributes| {
        is_empty = false;
        let (shown, name) = (convert::attributes(found), OsStr::from_bytes(entry.name));
        let (number, lifetime) = (shown.ino, lifetime(found));
        adapter.told((ino, name), number);
        let next = entry.next_offset;
        full(reply.add(number, next, name, &lifetime, &shown, generation(found)))
    };
    let overlay = &adapter.overlay;
    let list = || overlay.list_with_attributes(node(ino), offset, &mut add);
    let listed = adapter.answer("readdirplus", ino, list);
    adapter.listed(ino, offset > 0 && is_empty && listed.is_ok());
    match listed {
        Err(errno) if is_empty => reply.error(errno),
        _ => reply.ok(),
    }
}
