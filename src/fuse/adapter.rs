//! The requests of the kernel, one method each: translate, call, reply.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::change::{Change, Range};
use super::convert::{self, FOREVER, node, permissions};
use super::files::Way;
use super::handler::Adapter;
use super::{Data, Xattrs, listing, reply as send};

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.configure(config)
    }

    // Names.

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let find = || self.overlay.lookup(node(parent), name.as_bytes());
        let found = self.answer("lookup", parent, find);
        if let Ok(Some(found)) = &found {
            self.told((parent, name), INodeNo(found.node.0));
        }
        send::entry(reply, found);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        self.forgotten(ino, count);
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (caller, at) = (self.caller(req, umask), (parent, name));
        let make = || self.make_node(parent, name, mode, rdev, &caller);
        send::entry(reply, self.answer_at("mknod", at, make).map(Some));
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (caller, at, mode) = (self.caller(req, umask), (parent, name), permissions(mode));
        let (overlay, name) = (&self.overlay, name.as_bytes());
        let make = || overlay.make_directory(node(parent), name, mode, &caller);
        send::entry(reply, self.answer_at("mkdir", at, make).map(Some));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (caller, at, target) = (self.caller(req, 0), (parent, name), target.as_os_str());
        let (overlay, name) = (&self.overlay, name.as_bytes());
        let make = || overlay.make_symlink(node(parent), name, target.as_bytes(), &caller);
        send::entry(reply, self.answer_at("symlink", at, make).map(Some));
    }

    fn link(&self, _req: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (at, name) = ((parent, name), name.as_bytes());
        let link = || self.overlay.link(node(ino), node(parent), name);
        send::entry(reply, self.answer_at("link", at, link).map(Some));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.overlay.unlink(node(parent), name.as_bytes());
        send::empty(reply, self.answer("unlink", parent, remove));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes();
        let remove = || self.overlay.remove_directory(node(parent), name);
        send::empty(reply, self.answer("rmdir", parent, remove));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, at) = ((parent, name), (new_parent, new_name));
        let rename = || self.rename_name(from, at, flags);
        send::empty(reply, self.answer_at("rename", at, rename));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let read = || self.overlay.read_link(node(ino));
        send::data(reply, self.answer("readlink", ino, read));
    }

    // Attributes.

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let look = || self.look(node(ino), fh);
        let found = self.answer("getattr", ino, look);
        // Who writes to it shall ask again.
        let is_lost = self.files.doubts.is_lost(node(ino));
        let lifetime = if is_lost { Duration::ZERO } else { FOREVER };
        send::attributes(reply, found, lifetime);
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode,
            owner: (uid, gid),
            size,
            times: (atime, mtime),
            by: req.uid(),
        };
        let set = || self.change(node(ino), &change);
        send::attributes(reply, self.answer("setattr", ino, set), change.lifetime());
    }

    /// Programs ask whether what they opened is a terminal; nothing here is a device.
    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if self.settings.xattrs != Xattrs::Shown {
            // Once; the kernel then stops asking.
            return reply.error(Errno::ENOSYS);
        }
        let read = || self.overlay.xattr(node(ino), name.as_bytes());
        send::xattr(reply, size, self.answer("getxattr", ino, read));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if self.settings.xattrs == Xattrs::Hidden {
            return reply.error(Errno::ENOSYS);
        }
        let read = || self.list_xattrs(node(ino), req.uid() == 0);
        send::xattr(reply, size, self.answer("listxattr", ino, read));
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        if self.settings.xattrs != Xattrs::Shown {
            return reply.error(Errno::ENOSYS);
        }
        let (name, how) = (name.as_bytes(), convert::xattr_change(flags));
        let set = || self.set_xattr(req, node(ino), (name, value), how);
        send::empty(reply, self.answer("setxattr", ino, set));
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if self.settings.xattrs != Xattrs::Shown {
            return reply.error(Errno::ENOSYS);
        }
        let remove = || self.overlay.remove_xattr(node(ino), name.as_bytes());
        send::empty(reply, self.answer("removexattr", ino, remove));
    }

    // Contents.

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let caller = self.caller(req, umask);
        let how = (permissions(mode), flags);
        let register = |file: &std::fs::File| reply.open_backing(file);
        let make = || self.create_file(node(parent), name, how, &caller, register);
        let made = self.answer_at("create", (parent, name), make);
        send::created(reply, made);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if matches!(self.settings.data, Data::Cached | Data::WriteBack) {
            // Once; the kernel then opens everything by itself and keeps what it has read.
            return reply.error(Errno::ENOSYS);
        }
        let wanted = convert::wanted(flags);
        if let Some(backings) = &self.backings {
            let open = || backings.open(&self.overlay, &self.contents, node(ino), wanted);
            return match self.answer("open", ino, open) {
                Ok(Some(id)) => backings.reply(req, reply, id),
                Ok(None) => send::opened(reply, Ok(Way::PageCache), send::handle(false)),
                Err(errno) => reply.error(errno),
            };
        }
        let register = |file: &std::fs::File| reply.open_backing(file);
        let open = || self.open_file(node(ino), wanted, req.uid() == 0, register);
        let opened = self.answer("open", ino, open);
        send::opened(reply, opened, send::handle(wanted.write));
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let writable = convert::wanted(flags).write;
        let files = &self.files;
        let release = || {
            files.release(&self.overlay, node(ino), writable);
            Ok(())
        };
        send::empty(reply, self.answer("release", ino, release));
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let read = || self.read_content(node(ino), offset, size, buffer);
            let length = self.answer("read", ino, read);
            send::data(
                reply,
                length.map(|length| buffer.get(..length).unwrap_or_default()),
            );
        });
        self.was_read(ino, offset);
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.write_data(ino, offset, data, write_flags, reply);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocate = || self.allocate(node(ino), req.uid(), mode, (offset, length));
        send::empty(reply, self.answer("fallocate", ino, allocate));
    }

    fn copy_file_range(
        &self,
        req: &Request,
        from: INodeNo,
        _fh: FileHandle,
        offset: u64,
        to: INodeNo,
        _to_fh: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let range = Range {
            offset,
            to_offset,
            length,
        };
        let copy = || self.copy_content(req.uid(), node(from), node(to), &range);
        send::written(reply, self.answer("copy_file_range", to, copy));
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.seek(ino, offset, whence, reply);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        if !self.settings.sync || !self.overlay.is_writable() {
            return reply.error(Errno::ENOSYS);
        }
        let sync = || self.sync(node(ino), data_only);
        send::empty(reply, self.answer("fsync", ino, sync));
    }

    // Directories.

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Once; listings need no handle, and the kernel keeps them.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        listing::plain(self, ino, offset, reply);
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        listing::plus(self, ino, offset, reply);
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        if !self.settings.sync || !self.overlay.is_writable() {
            return reply.error(Errno::ENOSYS);
        }
        let sync = || self.overlay.sync_directory(node(ino));
        send::empty(reply, self.answer("fsyncdir", ino, sync));
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        send::space(reply, self.answer("statfs", ino, || self.space()));
    }
}
