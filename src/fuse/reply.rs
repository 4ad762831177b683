//! Sending answers: one function for each kind, so that every request ends alike.

use std::time::Duration;

use fuser::{
    Errno, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::convert::{self, FOREVER};
use super::files::Way;
use crate::overlay::{Attributes, Space};

type Answer<T> = Result<T, Errno>;

/// A node's number is given to no other as long as the kernel knows the node; whoever keeps a file handle may
/// know it longer.
pub(super) fn generation(attributes: &Attributes) -> Generation {
    Generation(u64::from(attributes.generation))
}

/// How long the kernel may believe the attributes that come with a name. The library gives them the
/// number of the node as `st_ino`; where that is another one the kernel has to ask again.
pub(super) fn lifetime(attributes: &Attributes) -> Duration {
    if attributes.ino == attributes.node.0 {
        FOREVER
    } else {
        Duration::ZERO
    }
}

/// A name that was looked up or made.
pub(super) fn entry(reply: ReplyEntry, found: Answer<Option<Attributes>>) {
    match found {
        Ok(Some(found)) => {
            let shown = convert::attributes(&found);
            reply.entry_with_ttls(&lifetime(&found), &FOREVER, &shown, generation(&found));
        }
        Ok(None) => reply.entry(&FOREVER, &convert::nothing(), Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn created(reply: ReplyCreate, made: Answer<(Attributes, Way)>) {
    let handle = handle(true);
    match made {
        Ok((made, Way::Passthrough(id))) => {
            let (shown, flags) = (convert::attributes(&made), FopenFlags::empty());
            let generation = generation(&made);
            reply.created_passthrough(&FOREVER, &shown, generation, handle, flags, &id);
        }
        Ok((made, Way::PageCache | Way::Anew)) => {
            let (shown, flags) = (convert::attributes(&made), FopenFlags::FOPEN_KEEP_CACHE);
            reply.created(&FOREVER, &shown, generation(&made), handle, flags);
        }
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn attributes(reply: ReplyAttr, found: Answer<Attributes>, lifetime: Duration) {
    match found {
        Ok(found) => {
            let mut shown = convert::attributes(&found);
            shown.ino.0 = found.ino;
            reply.attr(&lifetime, &shown);
        }
        Err(errno) => reply.error(errno),
    }
}

/// The handle of an open file says no more than whether it is for writing.
pub(super) fn handle(write: bool) -> FileHandle {
    FileHandle(write.into())
}

pub(super) fn opened(reply: ReplyOpen, way: Answer<Way>, handle: FileHandle) {
    match way {
        Ok(Way::Passthrough(id)) => {
            reply.opened_passthrough(handle, FopenFlags::empty(), &id);
        }
        Ok(Way::PageCache) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
        // The kernel drops what it has read.
        Ok(Way::Anew) => reply.opened(handle, FopenFlags::empty()),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn empty(reply: ReplyEmpty, done: Answer<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn data(reply: ReplyData, data: Answer<impl AsRef<[u8]>>) {
    match data {
        Ok(data) => reply.data(data.as_ref()),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn offset(reply: ReplyLseek, found: Answer<i64>) {
    match found {
        Ok(found) => reply.offset(found),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn written(reply: ReplyWrite, length: Answer<u64>) {
    match length.map(u32::try_from) {
        Ok(Ok(length)) => reply.written(length),
        Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
        Err(errno) => reply.error(errno),
    }
}

/// The value of an extended attribute, or only its length.
pub(super) fn xattr(reply: ReplyXattr, size: u32, value: Answer<impl AsRef<[u8]>>) {
    let value = match &value {
        Ok(value) => value.as_ref(),
        Err(errno) => return reply.error(*errno),
    };
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

pub(super) fn space(reply: ReplyStatfs, space: Answer<Space>) {
    match space {
        Ok(space) => {
            let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            let (size, names) = (short(space.block_size), short(space.name_max));
            let (all, free, available) = (space.blocks, space.blocks_free, space.blocks_available);
            reply.statfs(
                all,
                free,
                available,
                space.files,
                space.files_free,
                size,
                names,
                size,
            );
        }
        Err(errno) => reply.error(errno),
    }
}
