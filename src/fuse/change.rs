//! Requests that change something and need more than one step: the duties that come with
//! `HANDLE_KILLPRIV_V2`, open files, and what the engine knows nothing of.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{BackingId, FileHandle, INodeNo, Request, TimeOrNow};
use nix::errno::Errno;

use super::convert::{self, FOREVER, node, permissions};
use super::files::{Wanted, Way};
use super::handler::Adapter;
use super::notify::Note;
use super::{Data, reply as send};
use crate::layer::FileKind;
use crate::overlay::{
    Attributes, Caller, NodeNumber, Origin, RenameFlags, Result, SetAttributes, Space, XattrChange,
};

/// Bits that writing by an unprivileged user takes away; the group's only with its right to execute.
const SET_USER_ID: u16 = 0o4000;
const SET_GROUP_ID: u16 = 0o2010;
const SET_GROUP_ID_ALONE: u16 = 0o2000;
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// What a SETATTR asks for.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) owner: (Option<u32>, Option<u32>),
    pub(super) size: Option<u64>,
    /// Of access, of modification.
    pub(super) times: (Option<TimeOrNow>, Option<TimeOrNow>),
    /// The user who asks.
    pub(super) by: u32,
}

impl Change {
    /// The kernel asks for nothing when it wants the set-id bits and capabilities cleared.
    fn is_empty(&self) -> bool {
        let none = self.mode.is_none() && self.owner == (None, None) && self.size.is_none();
        none && self.times.0.is_none() && self.times.1.is_none()
    }

    /// For how long the kernel may believe what it is told: the write that comes next may clear the set-id bits.
    pub(super) fn lifetime(&self) -> Duration {
        if self.is_empty() {
            Duration::ZERO
        } else {
            FOREVER
        }
    }
}

/// What COPY_FILE_RANGE copies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) to_offset: u64,
    pub(super) length: u64,
}

impl Adapter {
    /// On whose behalf a request is made. The kernel has applied the umask itself unless ACLs are
    /// in use, because only a directory without a default ACL has it applied.
    pub(super) fn caller(&self, request: &Request, umask: u32) -> Caller {
        Caller {
            uid: request.uid(),
            gid: request.gid(),
            umask,
        }
    }

    pub(super) fn make_node(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        device: u32,
        caller: &Caller,
    ) -> Result<Attributes> {
        let kind = FileKind::from_mode(mode).ok_or(Errno::EINVAL)?;
        let (name, device) = (name.as_bytes(), convert::device_pair(device));
        let mode = permissions(mode);
        self.overlay
            .make_node(node(parent), name, kind, mode, device, caller)
    }

    pub(super) fn rename_name(
        &self,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: fuser::RenameFlags,
    ) -> Result<()> {
        let flags = RenameFlags {
            no_replace: flags.contains(fuser::RenameFlags::RENAME_NOREPLACE),
            exchange: flags.contains(fuser::RenameFlags::RENAME_EXCHANGE),
            whiteout: flags.contains(fuser::RenameFlags::RENAME_WHITEOUT),
        };
        let (name, new_name) = (from.1.as_bytes(), to.1.as_bytes());
        let (parent, new_parent) = (node(from.0), node(to.0));
        self.overlay
            .rename(parent, name, new_parent, new_name, flags)
    }

    /// Attributes; `ESTALE` makes the kernel look up the name of a node that was left.
    pub(super) fn look(&self, node: NodeNumber, file: Option<FileHandle>) -> Result<Attributes> {
        // The kernel names the file where it asks before a write(2), and says which it is if it opened it with us.
        let is_written = match self.settings.data {
            Data::WriteBack => file.is_some(),
            _ => file == Some(send::handle(true)),
        };
        if is_written && let Some(errno) = self.files.doubts.take_lost(node) {
            return Err(errno.into());
        }
        if self.files.is_gone(node) {
            return Err(Errno::ESTALE.into());
        }
        self.overlay.attributes(node)
    }

    pub(super) fn change(&self, node: NodeNumber, change: &Change) -> Result<Attributes> {
        if change.is_empty() {
            return self.clear_set_ids(node, change.by);
        }
        let set = SetAttributes {
            permissions: change.mode.map(permissions),
            uid: change.owner.0,
            gid: change.owner.1,
            size: change.size,
            atime: change.times.0.map(convert::time_change),
            mtime: change.times.1.map(convert::time_change),
            kill_privileges: change.size.is_some() && change.by != 0,
        };
        let changed = self.files.set_attributes(&self.overlay, node, &set);
        if let Err(error) = &changed {
            // A part of it may have been done.
            self.files.notes.add(Note::Attributes(node));
            self.files.doubts.note_stale(node, error);
        } else if change.size.is_some() {
            // Whatever was lost is not expected there any more.
            self.files.doubts.take_lost(node);
        }
        changed
    }

    /// The kernel asks for it before somebody writes, and also for whoever calls chown(2) to change nothing, without
    /// looking whose file it is. So strangers must have it open for writing; where opens are not told, what they write
    /// says it once more.
    fn clear_set_ids(&self, node: NodeNumber, by: u32) -> Result<Attributes> {
        let now = self.overlay.attributes(node)?;
        if by == 0 || by == now.uid {
            return self.overlay.kill_privileges(node);
        }
        if self.files.by_node.is_some() {
            return Ok(now);
        }
        match self.files.get(node) {
            Some(file) if file.is_writable() => self.overlay.kill_privileges(node),
            _ => Err(Errno::EPERM.into()),
        }
    }

    /// Clears the set-id bits, if there are any. The kernel asks for it at every write, and for
    /// capabilities by another request.
    pub(super) fn kill_set_ids(&self, node: NodeNumber) -> Result<()> {
        let set = self.overlay.attributes(node)?.permissions;
        if set & SET_USER_ID != 0 || set & SET_GROUP_ID == SET_GROUP_ID {
            self.overlay.kill_privileges(node)?;
            // Of an open that truncates it expects a new size only.
            self.files.notes.add(Note::Attributes(node));
        }
        Ok(())
    }

    /// The names of extended attributes, each ended by NUL. Those of the system's administrator are for root only:
    /// others cannot read what is in them, and programs that copy all attributes would stumble over that.
    pub(super) fn list_xattrs(&self, node: NodeNumber, by_root: bool) -> Result<Vec<u8>> {
        let names = self.overlay.xattr_names(node)?;
        if by_root {
            return Ok(names);
        }
        let each = names.split_inclusive(|byte| *byte == 0);
        let shown = each.filter(|name| !name.starts_with(b"trusted."));
        Ok(shown.flatten().copied().collect())
    }

    /// Who is not in the group of a file loses its set-group-id bit by giving it an ACL, as by chmod(2). The kernel
    /// would ask for it in a form of the request that the library does not know.
    pub(super) fn set_xattr(
        &self,
        caller: &Request,
        node: NodeNumber,
        (name, value): (&[u8], &[u8]),
        how: XattrChange,
    ) -> Result<()> {
        let set = self.overlay.set_xattr(node, name, value, how);
        if !self.settings.acl && name == ACCESS_ACL {
            // The mode, too, of which a kernel that knows nothing of ACLs does not think; a part of it may have been
            // done.
            self.files.notes.add(Note::Attributes(node));
        }
        set?;
        if self.settings.acl && name == ACCESS_ACL && caller.uid() != 0 {
            let now = self.overlay.attributes(node)?;
            let is_set = now.permissions & SET_GROUP_ID_ALONE != 0;
            if is_set && caller.gid() != now.gid && !has_group(caller.pid(), now.gid) {
                let change = SetAttributes {
                    permissions: Some(now.permissions & !SET_GROUP_ID_ALONE),
                    ..SetAttributes::default()
                };
                self.overlay.set_attributes(node, &change)?;
            }
        }
        Ok(())
    }

    pub(super) fn create_file(
        &self,
        parent: NodeNumber,
        name: &OsStr,
        (permissions, flags): (u16, i32),
        caller: &Caller,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Result<(Attributes, Way)> {
        let name = name.as_bytes();
        let (made, file) = self.overlay.create(parent, name, permissions, caller)?;
        let exclusively = flags & libc::O_EXCL != 0;
        match self.files.created(made.node, file, exclusively, register) {
            Ok(way) => Ok((made, way)),
            Err(error) => {
                // The kernel does not forget what it was not told.
                self.overlay.forget(made.node, 1);
                Err(error.in_doubt())
            }
        }
    }

    pub(super) fn open_file(
        &self,
        node: NodeNumber,
        wanted: Wanted,
        by_root: bool,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Result<Way> {
        let mut opened = self.files.open(&self.overlay, node, wanted, register);
        if let Ok(way @ Way::PageCache) = &mut opened
            && self.files.doubts.take_stale(node)
        {
            *way = Way::Anew;
        }
        if !wanted.truncate {
            return opened;
        }
        let opened = opened.and_then(|way| {
            if !by_root && let Err(error) = self.kill_set_ids(node) {
                // The kernel does not release what was not opened.
                self.files.release(&self.overlay, node, wanted.write);
                return Err(error);
            }
            Ok(way)
        });
        if opened.is_err() {
            // It may be empty all the same.
            self.files.notes.add(Note::Attributes(node));
        }
        opened
    }

    /// Reads into `buffer`, which is made as long as it must be.
    pub(super) fn read_content(
        &self,
        node: NodeNumber,
        offset: u64,
        size: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<usize> {
        let open = if self.overlay.is_writable() {
            Some(self.file(node, false)?)
        } else {
            // With passthrough, opens of read-only files are told of too.
            self.files.get(node)
        };
        let Some(file) = open else {
            let mut read = || (self.contents).read(&self.overlay, node, offset, size, buffer);
            return match read() {
                // There is no open that could fail instead.
                Err(error) if error.errno == Errno::ESTALE => {
                    self.files.doubts.note_stale(node, &error);
                    read()
                }
                read => read,
            };
        };
        let size = usize::try_from(size).unwrap_or(0);
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let target = buffer.get_mut(..size).unwrap_or_default();
        file.read_at(target, offset)
    }

    /// Makes a file durable.
    pub(super) fn sync(&self, node: NodeNumber, data_only: bool) -> Result<()> {
        match self.overlay.origin(node)? {
            // Nobody has written to it, and it may be closed to us.
            Origin::Base(_) => Ok(()),
            Origin::Upper(_) => self.file(node, false)?.sync(data_only),
        }
    }

    /// Allocates, zeroes or gives back a part of a file.
    pub(super) fn allocate(
        &self,
        node: NodeNumber,
        by: u32,
        mode: i32,
        (offset, length): (u64, u64),
    ) -> Result<()> {
        if by != 0 {
            self.kill_set_ids(node)?;
        }
        self.file(node, true)?.allocate(mode, offset, length)
    }

    pub(super) fn copy_content(
        &self,
        by: u32,
        from: NodeNumber,
        to: NodeNumber,
        range: &Range,
    ) -> Result<u64> {
        if by != 0 {
            self.kill_set_ids(to)?;
        }
        let (from, to) = (self.file(from, false)?, self.file(to, true)?);
        // The answer has 32 bits.
        let length = range.length.min(1 << 30);
        from.copy_range(range.offset, &to, range.to_offset, length)
    }

    /// Figures of the file system that takes the changes, or of the image.
    pub(super) fn space(&self) -> Result<Space> {
        const BLOCK: u64 = 4096;
        if let Some(space) = self.overlay.space()? {
            return Ok(space);
        }
        let totals = self.overlay.base().totals().unwrap_or_default();
        Ok(Space {
            block_size: BLOCK,
            blocks: totals.bytes.div_ceil(BLOCK),
            files: totals.nodes,
            name_max: 255,
            ..Space::default()
        })
    }
}

/// Whether a process has a group beside its first one. Of whom it cannot be told, it has not.
fn has_group(pid: u32, gid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    let mut groups = groups.unwrap_or_default().split_ascii_whitespace();
    groups.any(|group| group.parse() == Ok(gid))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::super::contents::Contents;
    use super::super::files::Files;
    use super::super::first_read::FirstReads;
    use super::super::notify::notes;
    use super::super::test_support::{Directories, node_of};
    use super::super::{Settings, Xattrs};
    use super::*;
    use crate::fuse::Data;

    /// The kernel does not release what was not opened, and the node would stay open for ever.
    #[test]
    fn regression_an_open_that_fails_late_is_not_counted() {
        let directories = Directories::new();
        fs::write(directories.upper.join("file"), "text").unwrap();
        let overlay = directories.overlay();
        let node = node_of(&overlay, b"file");
        let (notes, _worker) = notes();
        let adapter = Adapter {
            overlay: Arc::new(overlay),
            settings: Settings {
                data: Data::Passthrough { stack_depth: 1 },
                acl: false,
                xattrs: Xattrs::Shown,
                sync: true,
                threads: 1,
                read_ahead: false,
            },
            contents: Contents::new(),
            files: Arc::new(Files::new(None, FirstReads::default(), notes)),
            backings: None,
            ahead: None,
        };
        let wanted = Wanted {
            write: true,
            truncate: true,
        };
        // Its attributes cannot be read any more after it was opened.
        let opened = adapter.open_file(node, wanted, false, |_| {
            fs::remove_file(directories.upper.join("file")).unwrap();
            Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
        });
        assert!(opened.is_err(), "{opened:?}");
        assert!(adapter.files.get(node).is_none());
    }
}
