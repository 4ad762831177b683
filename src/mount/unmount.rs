//! Taking mounts away: our own by its identity, others by their place.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::error::{Error, Result};
use super::fusermount;
use super::mountinfo::{self, MountEntry};
use super::record::{self, Server};
use super::shared;
use crate::store::Store;
use crate::sys::mount::{MountIdentity, identity};

/// The last close of a file reaches a FUSE server after close(2) has returned.
const PATIENCE: Duration = Duration::from_secs(1);

/// Unmounts the plyfs mount at `path`; `lazy` hides it at once and leaves it to its last user.
///
/// # Errors
/// [`Error::NotMounted`] when what is seen at `path` is not ours, [`Error::Busy`] when it is used,
/// [`Error::NotYours`] when somebody else mounted it.
pub fn unmount(path: &Path, lazy: bool) -> Result<()> {
    let path = resolve(path)?;
    let seen = seen_at(&path)?.filter(mountinfo::is_ours);
    let Some(seen) = seen else {
        return Err(Error::NotMounted { path });
    };
    let flags = if lazy {
        MntFlags::MNT_DETACH
    } else {
        MntFlags::empty()
    };
    let started = Instant::now();
    loop {
        match umount2(&path, flags | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => return end_image_of(&seen),
            Err(Errno::EBUSY) if started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::EBUSY) => return Err(Error::Busy { path }),
            Err(Errno::EPERM) => break,
            Err(errno) => {
                return Err(Error::Unmount {
                    path,
                    source: errno.into(),
                });
            }
        }
    }
    let user = nix::unistd::getuid().as_raw();
    if let Some(user_id) = seen.user_id().filter(|&owner| owner != user) {
        return Err(Error::NotYours { path, user_id });
    }
    loop {
        match fusermount::unmount(&path, lazy) {
            Err(Error::Fusermount { message }) if message.contains("busy") => {
                if started.elapsed() > PATIENCE {
                    return Err(Error::Busy { path });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Takes away the image below a container that the kernel's overlay wrote, unless another one uses it. The
/// keeper of the container does so too, if it lives.
fn end_image_of(container: &MountEntry) -> Result<()> {
    let Some(image) = mountinfo::shared_image(container) else {
        return Ok(());
    };
    match shared::store_of(&image) {
        Some(root) => shared::end_unused(&Store::open(root)?),
        None => Ok(()),
    }
}

/// The process that serves the plyfs mount at `path`, if it may be looked at.
///
/// # Errors
/// What reading the table of mounts and `/proc` reports.
pub fn server_of(path: &Path) -> Result<Option<Server>> {
    let Some(entry) = seen_at(&resolve(path)?)? else {
        return Ok(None);
    };
    let servers = record::servers().map_err(Error::system("cannot read the table of processes"))?;
    Ok(servers.into_iter().find(|server| server.serves(&entry)))
}

pub(super) fn seen_at(path: &Path) -> Result<Option<MountEntry>> {
    mountinfo::seen_at(path).map_err(Error::system("cannot read the table of mounts"))
}

/// The absolute path without links; the root of a mount whose server died cannot be asked.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    let resolved = path
        .canonicalize()
        .or_else(|error| match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if is_unserved(&error) => {
                let parent = if parent.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    parent
                };
                parent.canonicalize().map(|parent| parent.join(name))
            }
            _ => Err(error),
        });
    resolved.map_err(|source| Error::Unmount {
        path: path.to_owned(),
        source,
    })
}

/// Detaches the mounts of this user at `path` that nobody serves any more. The next one would only cover them, or be
/// refused by fusermount3, which cannot look at them.
pub(super) fn detach_dead(path: &Path) -> Result<()> {
    let user = nix::unistd::getuid().as_raw();
    while path.metadata().is_err_and(|error| is_unserved(&error)) {
        let path = resolve(path)?;
        let own =
            |mount: &MountEntry| mount.kind == mountinfo::KIND && mount.user_id() == Some(user);
        let Some(dead) = seen_at(&path)?.filter(own) else {
            return Ok(());
        };
        let (id, device) = (dead.id, dead.device);
        if !detach_own(MountIdentity { id, device })? {
            return Ok(());
        }
        let shown = path.display();
        log::warn!("unmounted what was on {shown}: the process that served it is dead");
    }
    Ok(())
}

/// Whether a FUSE mount says by this that its server is gone.
fn is_unserved(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTCONN | libc::ECONNABORTED)
    )
}

/// Detaches the mount that `own` describes, wherever it is now; `false` when it is nowhere.
///
/// While the file system lives its device number belongs to nobody else, so that a later mount with the same
/// number of its own cannot be mistaken for it.
pub(super) fn detach_own(own: MountIdentity) -> Result<bool> {
    let mounts = mountinfo::all().map_err(Error::system("cannot read the table of mounts"))?;
    let found = mounts
        .iter()
        .find(|mount| mount.id == own.id && mount.device == own.device);
    let Some(mount) = found else { return Ok(false) };
    let path = mount.point.clone();
    if is_seen_at(&path, own).map_err(|source| Error::Unmount {
        path: path.clone(),
        source,
    })? {
        match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::EPERM) => fusermount::unmount(&path, true).map(|()| true),
            Err(errno) => Err(Error::Unmount {
                path,
                source: errno.into(),
            }),
        }
    } else {
        Err(Error::Busy { path })
    }
}

/// Whether what is seen at `path` is this mount, and not one that was put over it.
fn is_seen_at(path: &Path, own: MountIdentity) -> io::Result<bool> {
    let seen = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)?;
    Ok(identity(seen.as_fd(), false)? == own)
}
