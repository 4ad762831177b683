//! Owner, mode and kind of objects of the upper: as they are, or as an attribute says (`override_stat`).

use std::fs::File;
use std::io::Read;

use nix::errno::Errno;

use super::{Upper, failed};
use crate::layer::directory::{Override, OverrideKey};
use crate::layer::{FileKind, Timestamp};
use crate::sys::at::Stat;
use crate::sys::writable::{At, NewTime};
use crate::union::{Attributes, Error, NodeNumber, Result};

/// Owner and mode, as they are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::overlay) struct Owner {
    pub(in crate::overlay) uid: u32,
    pub(in crate::overlay) gid: u32,
    pub(in crate::overlay) permissions: u16,
}

/// What an object of the upper is.
#[derive(Clone, Copy, Debug)]
pub(in crate::overlay) struct Looks {
    /// What the file system says.
    pub(in crate::overlay) stat: Stat,
    /// Its kind, as it is meant.
    pub(in crate::overlay) kind: FileKind,
    /// Its owner and mode, as they are shown.
    pub(in crate::overlay) owner: Owner,
    device: (u32, u32),
}

impl Looks {
    /// Whether an empty file stands for a device that would be a whiteout.
    fn is_placeholder(&self) -> bool {
        let is_null = self.kind == FileKind::CharDevice && self.device == (0, 0);
        is_null && FileKind::from_mode(self.stat.mode) == Some(FileKind::Regular)
    }

    /// What tells this object from others that had its inode before: when it was made.
    pub(in crate::overlay) fn generation(&self) -> u32 {
        let (seconds, nanoseconds) = self.stat.btime;
        (seconds as u32)
            .wrapping_mul(1_000_000_000)
            .wrapping_add(nanoseconds)
    }

    /// What stat(2) shall tell.
    pub(in crate::overlay) fn attributes(&self) -> Attributes {
        let is_device = matches!(self.kind, FileKind::CharDevice | FileKind::BlockDevice);
        let has_size = !is_device && !matches!(self.kind, FileKind::Fifo | FileKind::Socket);
        let time = |(seconds, nanoseconds)| Timestamp {
            seconds,
            nanoseconds,
        };
        Attributes {
            node: NodeNumber::ROOT,
            ino: 0,
            generation: 0,
            kind: self.kind,
            permissions: self.owner.permissions,
            nlink: self.stat.nlink,
            uid: self.owner.uid,
            gid: self.owner.gid,
            device: if is_device { self.device } else { (0, 0) },
            size: if has_size { self.stat.size } else { 0 },
            blocks: self.stat.blocks,
            atime: time(self.stat.atime),
            mtime: time(self.stat.mtime),
            ctime: time(self.stat.ctime),
        }
    }
}

fn key() -> &'static [u8] {
    OverrideKey::Containers.name()
}

impl Upper {
    /// What an object is.
    pub(in crate::overlay) fn looks(&self, at: At<'_>) -> Result<Looks> {
        let doing = failed("reading attributes in the upper");
        let stat = at.stat().map_err(&doing)?;
        let kind = FileKind::from_mode(stat.mode)
            .ok_or_else(|| Error::broken(format!("unknown type {:o}", stat.mode)))?;
        let mut said = None;
        if kind == FileKind::Regular
            && !self.override_stat
            && let Some(permissions) = self.null_device(at, &stat)?
        {
            said = Some(Override {
                uid: stat.uid,
                gid: stat.gid,
                permissions,
                kind: Some((FileKind::CharDevice, (0, 0))),
            });
        }
        if self.override_stat && kind != FileKind::Symlink {
            said = match at.xattr(key()).map_err(&doing)? {
                Some(value) => Some(Override::parse(&value).ok_or_else(|| {
                    let value = value.escape_ascii();
                    Error::broken(format!("an owner in the upper is kept as {value}"))
                })?),
                None => None,
            };
        }
        let on_disk = Override {
            uid: stat.uid,
            gid: stat.gid,
            permissions: (stat.mode & 0o7777) as u16,
            kind: None,
        };
        let said = said.unwrap_or(on_disk);
        let (kind, device) = match said.kind {
            Some((said, device)) if kind == FileKind::Regular && said != FileKind::Directory => {
                (said, device)
            }
            _ => (kind, stat.rdev),
        };
        Ok(Looks {
            stat,
            kind,
            owner: Owner {
                uid: self.ids.shown_uid(said.uid),
                gid: self.ids.shown_gid(said.gid),
                permissions: said.permissions,
            },
            device,
        })
    }

    /// The ids on disk for those that are shown.
    pub(in crate::overlay) fn stored(&self, uid: u32, gid: u32) -> Result<(u32, u32)> {
        let uid = self.ids.users.stored(uid).ok_or(Errno::EOVERFLOW)?;
        let gid = self.ids.groups.stored(gid).ok_or(Errno::EOVERFLOW)?;
        Ok((uid, gid))
    }

    /// Gives an object that was just made its owner, whose ids are those on disk, and tells what it was
    /// before; the mode is for [`Upper::set_permissions`].
    pub(in crate::overlay) fn set_first_owner(
        &self,
        at: At<'_>,
        kind: FileKind,
        device: (u32, u32),
        stored: Owner,
    ) -> Result<Stat> {
        let Owner {
            uid,
            gid,
            permissions,
        } = stored;
        let stat = at
            .stat()
            .map_err(failed("reading attributes in the upper"))?;
        if self.override_stat {
            self.set_override(at, kind, device, (uid, gid), permissions)?;
            return Ok(stat);
        }
        let differs = |now, then| (now != then).then_some(then);
        let (uid, gid) = (differs(stat.uid, uid), differs(stat.gid, gid));
        if uid.is_some() || gid.is_some() {
            at.set_owner(uid, gid)
                .map_err(failed("setting the owner in the upper"))?;
        }
        Ok(stat)
    }

    pub(super) fn set_override(
        &self,
        at: At<'_>,
        kind: FileKind,
        device: (u32, u32),
        (uid, gid): (u32, u32),
        permissions: u16,
    ) -> Result<()> {
        let (major, minor) = device;
        let kind = match kind {
            FileKind::Directory => "dir".to_owned(),
            FileKind::Regular => "file".to_owned(),
            FileKind::Symlink => "symlink".to_owned(),
            FileKind::Fifo => "pipe".to_owned(),
            FileKind::Socket => "socket".to_owned(),
            FileKind::BlockDevice => format!("block-{major}-{minor}"),
            FileKind::CharDevice => format!("char-{major}-{minor}"),
        };
        let value = format!("{uid}:{gid}:{permissions:o}:{kind}");
        at.set_xattr(key(), value.as_bytes(), 0)
            .map_err(failed("keeping the owner in the upper"))
    }

    /// Changes the mode, of a file that stands for a device too.
    pub(in crate::overlay) fn change_permissions(
        &self,
        at: At<'_>,
        kind: FileKind,
        permissions: u16,
    ) -> Result<()> {
        if kind == FileKind::CharDevice && !self.override_stat && self.looks(at)?.is_placeholder() {
            return self.set_null_device(at, permissions);
        }
        self.set_permissions(at, permissions)
    }

    /// Sets the mode.
    pub(in crate::overlay) fn set_permissions(&self, at: At<'_>, permissions: u16) -> Result<()> {
        if self.override_stat {
            let looks = self.looks(at)?;
            let (uid, gid) = self.stored(looks.owner.uid, looks.owner.gid)?;
            return self.set_override(at, looks.kind, looks.device, (uid, gid), permissions);
        }
        at.set_mode(u32::from(permissions))
            .map_err(failed("setting the mode in the upper"))
    }

    /// Changes the owner; the file loses its set-id bits, as by chown(2).
    pub(in crate::overlay) fn set_owner(
        &self,
        at: At<'_>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<()> {
        let looks = self.looks(at)?;
        let (uid, gid) = (
            uid.unwrap_or(looks.owner.uid),
            gid.unwrap_or(looks.owner.gid),
        );
        let (uid, gid) = self.stored(uid, gid)?;
        if self.override_stat {
            let permissions = match looks.kind {
                FileKind::Directory => looks.owner.permissions,
                _ => without_set_id(looks.owner.permissions),
            };
            return self.set_override(at, looks.kind, looks.device, (uid, gid), permissions);
        }
        at.set_owner(Some(uid), Some(gid))
            .map_err(failed("setting the owner in the upper"))?;
        let permissions = without_set_id(looks.owner.permissions);
        if looks.is_placeholder() && permissions != looks.owner.permissions {
            return self.set_null_device(at, permissions);
        }
        Ok(())
    }

    /// Gives something new all that another object has beside its contents, marks included; returns
    /// its inode number.
    pub(in crate::overlay) fn copy_looks(&self, from: At<'_>, to: At<'_>) -> Result<u64> {
        let doing = failed("copying attributes in the upper");
        let (old, new) = (from.stat().map_err(&doing)?, to.stat().map_err(&doing)?);
        if (old.uid, old.gid) != (new.uid, new.gid) {
            to.set_owner(Some(old.uid), Some(old.gid)).map_err(&doing)?;
        }
        let names = from.xattr_names().map_err(&doing)?;
        for name in names.split(|byte| *byte == 0).filter(|n| !n.is_empty()) {
            let Some(value) = from.xattr(name).map_err(&doing)? else {
                continue;
            };
            match to.set_xattr(name, &value, 0) {
                // A label, which the system gives to what is made.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {}
                set => set.map_err(&doing)?,
            }
        }
        to.set_mode(old.mode & 0o7777).map_err(&doing)?;
        let time = |(seconds, nanoseconds)| NewTime::Set(seconds, nanoseconds);
        to.set_times(time(old.atime), time(old.mtime))
            .map_err(doing)?;
        Ok(new.ino)
    }

    /// The target of a symlink.
    pub(in crate::overlay) fn read_link(&self, at: At<'_>) -> Result<Vec<u8>> {
        let doing = failed("reading a symlink of the upper");
        match at.read_link() {
            Err(error) if self.override_stat && error.raw_os_error() == Some(libc::EINVAL) => {
                let file: File = at.open(false).map_err(&doing)?;
                let mut target = Vec::new();
                file.take(4095).read_to_end(&mut target).map_err(doing)?;
                Ok(target)
            }
            result => result.map_err(doing),
        }
    }
}

/// What is left of a mode when set-id bits are cleared: set-group-id without execution by the group
/// is none.
pub(in crate::overlay) fn without_set_id(permissions: u16) -> u16 {
    let group = if permissions & 0o010 != 0 { 0o2000 } else { 0 };
    permissions & !(0o4000 | group)
}
