//! SEEK_DATA and SEEK_HOLE.

use std::sync::Arc;

use fuser::{INodeNo, ReplyLseek};
use nix::errno::Errno;
use nix::unistd::Whence;

use super::convert::node;
use super::handler::{Adapter, answer};
use super::reply as send;
use crate::overlay::{OpenContent, Result};

impl Adapter {
    /// Answers LSEEK. What the kernel has collected is neither in the file below nor a hole of it, and is not sent
    /// before it asks: so where there may be such data the answer waits until they are sent.
    pub(super) fn seek(&self, ino: INodeNo, offset: i64, whence: i32, reply: ReplyLseek) {
        let node = node(ino);
        if !self.overlay.is_writable() {
            let seek = || {
                let content = match self.files.get(node) {
                    Some(file) => file.content()?,
                    None => self.contents.open(&self.overlay, node)?,
                };
                within(&content, offset, whence)
            };
            return send::offset(reply, self.answer("lseek", ino, seek));
        }
        let (overlay, files) = (Arc::clone(&self.overlay), Arc::clone(&self.files));
        let may_be_dirty = files.may_be_dirty(node);
        let answer = move |is_sent: bool| {
            let seek = || {
                let doubts = &files.doubts;
                if !is_sent || doubts.is_lost(node) || doubts.is_uncopied(node) {
                    // Programs then read everything.
                    return Err(Errno::EINVAL.into());
                }
                let file = files.file(&overlay, node, false)?;
                within(&file.content()?, offset, whence)
            };
            send::offset(reply, answer("lseek", ino, seek));
        };
        if may_be_dirty {
            self.files.notes.send_collected(node, answer);
        } else {
            answer(true);
        }
    }
}

/// The next data or hole of `content`, which may be part of a larger file, at or after `offset`.
///
/// The file position that lseek(2) moves is used by nobody: contents are read with pread(2).
fn within(content: &OpenContent, offset: i64, whence: i32) -> Result<i64> {
    let whence = match whence {
        libc::SEEK_DATA => Whence::SeekData,
        libc::SEEK_HOLE => Whence::SeekHole,
        _ => return Err(Errno::EINVAL.into()),
    };
    let size = i64::try_from(content.size).map_err(|_| Errno::EOVERFLOW)?;
    let start = i64::try_from(content.start).map_err(|_| Errno::EOVERFLOW)?;
    if offset < 0 || offset >= size {
        return Err(Errno::ENXIO.into());
    }
    let from = start.checked_add(offset).ok_or(Errno::EOVERFLOW)?;
    match nix::unistd::lseek(&content.file, from, whence) {
        // Data that begins behind the end of this content is another file's.
        Ok(found) if found - start >= size && matches!(whence, Whence::SeekData) => {
            Err(Errno::ENXIO.into())
        }
        // The end of a file is a hole.
        Ok(found) => Ok((found - start).min(size)),
        Err(Errno::EINVAL) if matches!(whence, Whence::SeekData) => Ok(offset),
        Err(Errno::EINVAL) => Ok(size),
        Err(errno) => Err(errno.into()),
    }
}
