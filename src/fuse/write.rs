//! WRITE: what programs write, and what the kernel has collected of it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use fuser::{INodeNo, ReplyWrite, WriteFlags};
use nix::errno::Errno;

use super::convert::node;
use super::files::Files;
use super::handler::{Adapter, answer};
use super::notify::Note;
use super::reply as send;
use crate::overlay::{NodeNumber, OverlayFile, Result};

impl Adapter {
    /// Answers WRITE. What the kernel has collected waits without a thread while its file is copied up.
    pub(super) fn write_data(
        &self,
        ino: INodeNo,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        reply: ReplyWrite,
    ) {
        let node = node(ino);
        if !flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            let write = || {
                if flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                    self.kill_set_ids(node)?;
                }
                let written = self.file(node, true)?.write_at(data, offset)?;
                Ok(u64::try_from(written).unwrap_or(u64::MAX))
            };
            return send::written(reply, self.answer("write", ino, write));
        }
        let mut unanswered = Some(reply);
        let answered = self.answer("write", ino, || {
            let wait = || {
                let (files, data, reply) =
                    (Arc::clone(&self.files), data.to_owned(), unanswered.take());
                Box::new(move |file: std::result::Result<&OverlayFile, Errno>| {
                    let write = || write_collected(&files, file?, node, &data, offset);
                    let written = answer("write", ino, write);
                    if let Some(reply) = reply {
                        send::written(reply, written);
                    }
                }) as _
            };
            let file = match &self.files.by_node {
                Some(files) => files.open_or_wait(&self.overlay, node, wait),
                None => Some(self.file(node, true)),
            };
            let Some(file) = file else {
                return Ok(None);
            };
            let file = file.inspect_err(|error| self.is_not_copied(node, error.errno))?;
            write_collected(&self.files, &file, node, data, offset).map(Some)
        });
        if let Some(reply) = unanswered {
            let written = answered.map(Option::unwrap_or_default);
            send::written(reply, written);
        }
    }

    /// A lower file is as it was, but the kernel believes what it has collected of it: it shall drop that, and its name
    /// each time it has learnt it, so that it forgets how long it took the file for when the last one closes it.
    fn is_not_copied(&self, node: NodeNumber, errno: Errno) {
        let doubts = &self.files.doubts;
        let Some((parent, name)) = self.overlay.lower_place(node) else {
            return doubts.note_lost(node, errno);
        };
        let notes = &self.files.notes;
        notes.add(Note::Content(node));
        if doubts.note_uncopied(node) {
            notes.add(Note::Name(parent, OsString::from_vec(name)));
        }
    }
}

/// Writes all that was collected: of the answer the kernel looks at the error only (`fuse_writepage_end`), not at how
/// much was written.
fn write_collected(
    files: &Files,
    file: &OverlayFile,
    node: NodeNumber,
    data: &[u8],
    offset: u64,
) -> Result<u64> {
    let mut done = 0;
    while let Some(rest) = data.get(done..)
        && !rest.is_empty()
    {
        let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        let written = match file.write_at(rest, at) {
            Ok(0) => Err(Errno::ENOSPC.into()),
            written => written,
        };
        done += written.inspect_err(|error| files.doubts.note_lost(node, error.errno))?;
    }
    // There is room again, and what the kernel believes is so.
    files.doubts.settle(node);
    Ok(u64::try_from(done).unwrap_or(u64::MAX))
}
