//! From a mount point to a connected FUSE device, and from a served device to a visible mount.
//!
//! The best way is to make the mount without a place, serve it, ask it for its root, and then move
//! it to its place: whoever sees it finds it ready. Where the kernel does not let us do that,
//! mount(2) and then fusermount3 are tried, which attach first.
//!
//! # Invariants
//! * No descriptor into the mount stays open, or nobody could unmount it.
//! * What fails before the end leaves no mount behind.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};

use super::error::{Error, Result};
use super::{fusermount, mountinfo};
use crate::sys::descriptor;
use crate::sys::mount::{self as sys, Context, DetachedMount, MountIdentity};

/// Where a mount is to appear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// On a directory.
    Directory(PathBuf),
    /// Nowhere: somebody has mounted already and passes the open FUSE device.
    Device(RawFd),
}

impl Target {
    /// Reads a mount point as the FUSE helpers do: `/dev/fd/N` is an open FUSE device.
    #[must_use]
    pub fn from_path(path: &Path) -> Target {
        let number = path.strip_prefix("/dev/fd").ok().and_then(Path::to_str);
        match number.and_then(|number| number.parse().ok()) {
            Some(number) => Target::Device(number),
            None => Target::Directory(path.to_owned()),
        }
    }
}

/// What the kernel is told about the mount.
#[derive(Clone, Debug)]
pub(super) struct Traits {
    pub(super) source: OsString,
    pub(super) context: Option<OsString>,
    /// `MOUNT_ATTR_*`
    pub(super) attributes: u32,
    pub(super) allow_other: bool,
    pub(super) default_permissions: bool,
}

/// A place that was found fit to be mounted on.
#[derive(Debug)]
pub(super) enum Place {
    Directory { directory: File, path: PathBuf },
    Device(OwnedFd),
}

impl Place {
    pub(super) fn open(target: &Target) -> Result<Place> {
        match target {
            Target::Directory(path) => {
                let wrong = |source| Error::MountPoint {
                    path: path.clone(),
                    source,
                };
                let directory = File::options()
                    .read(true)
                    .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
                    .open(path)
                    .map_err(wrong)?;
                let path = path.canonicalize().map_err(wrong)?;
                Ok(Place::Directory { directory, path })
            }
            Target::Device(number) => descriptor::adopt(*number)
                .map(Place::Device)
                .map_err(Error::system("cannot use the FUSE device that was passed")),
        }
    }
}

/// A connected device whose mount may have to be moved to its place still.
#[derive(Debug)]
pub(super) enum Pending {
    /// Made by us, without a place.
    Detached {
        mount: DetachedMount,
        directory: File,
    },
    /// Already in its place.
    Attached { path: PathBuf, undo: Undo },
    /// Somebody else's business.
    Foreign,
}

/// How a mount that was attached too early is taken away when serving it fails.
#[derive(Debug, Clone, Copy)]
pub(super) enum Undo {
    Umount,
    Fusermount,
}

fn open_device() -> Result<OwnedFd> {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    Ok(device
        .map_err(Error::system("cannot open /dev/fuse"))?
        .into())
}

/// Makes the mount, in the best way that is allowed.
pub(super) fn connect(place: Place, traits: &Traits) -> Result<(OwnedFd, Pending)> {
    let (directory, path) = match place {
        Place::Device(device) => return Ok((device, Pending::Foreign)),
        Place::Directory { directory, path } => (directory, path),
    };
    let refused = match Context::new(c"fuse") {
        Ok(context) => {
            let device = open_device()?;
            let mount = detached(context, &device, traits)
                .map_err(Error::system("the kernel refuses the mount"))?;
            return Ok((device, Pending::Detached { mount, directory }));
        }
        Err(error) => error,
    };
    match refused.raw_os_error().map(Errno::from_raw) {
        // An old kernel, or a filter that knows only the old system call.
        Some(Errno::ENOSYS | Errno::EPERM) => {}
        _ => {
            return Err(Error::System {
                doing: "the kernel refuses to mount FUSE",
                source: refused,
            });
        }
    }
    if let Ok(device) = open_device()
        && old_mount(&path, &device, traits).is_ok()
    {
        return Ok((
            device,
            Pending::Attached {
                path,
                undo: Undo::Umount,
            },
        ));
    }
    let device = fusermount::mount(&path, &traits.source, &fusermount_options(traits))?;
    Ok((
        device,
        Pending::Attached {
            path,
            undo: Undo::Fusermount,
        },
    ))
}

/// Makes a mount that is nowhere yet.
fn detached(context: Context, device: &OwnedFd, traits: &Traits) -> io::Result<DetachedMount> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    context.set(c"source", &traits.source)?;
    context.set(c"subtype", OsStr::new("plyfs"))?;
    context.set(c"fd", OsStr::new(&device.as_raw_fd().to_string()))?;
    context.set(c"rootmode", OsStr::new("40000"))?;
    context.set(c"user_id", OsStr::new(&uid.to_string()))?;
    context.set(c"group_id", OsStr::new(&gid.to_string()))?;
    if traits.allow_other {
        context.set_flag(c"allow_other")?;
    }
    if traits.default_permissions {
        context.set_flag(c"default_permissions")?;
    }
    if traits.attributes & sys::ATTRIBUTE_READ_ONLY != 0 {
        context.set_flag(c"ro")?;
    }
    if let Some(label) = &traits.context {
        context.set(c"context", label)?;
    }
    context.create()?;
    context.mount(traits.attributes)
}

/// A connection for trying something out, which is never attached. It ends with both values.
pub(super) fn throw_away() -> io::Result<(OwnedFd, DetachedMount)> {
    let context = Context::new(c"fuse")?;
    let device: OwnedFd = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")?
        .into();
    let traits = Traits {
        source: "plyfs".into(),
        context: None,
        attributes: sys::ATTRIBUTE_READ_ONLY,
        allow_other: false,
        default_permissions: false,
    };
    let mount = detached(context, &device, &traits)?;
    Ok((device, mount))
}

fn old_mount(path: &Path, device: &OwnedFd, traits: &Traits) -> nix::Result<()> {
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        nix::unistd::geteuid(),
        nix::unistd::getegid()
    );
    if traits.allow_other {
        data.push_str(",allow_other");
    }
    if traits.default_permissions {
        data.push_str(",default_permissions");
    }
    let mut flags = MsFlags::empty();
    for (attribute, flag) in [
        (sys::ATTRIBUTE_READ_ONLY, MsFlags::MS_RDONLY),
        (sys::ATTRIBUTE_NOSUID, MsFlags::MS_NOSUID),
        (sys::ATTRIBUTE_NODEV, MsFlags::MS_NODEV),
        (sys::ATTRIBUTE_NOEXEC, MsFlags::MS_NOEXEC),
        (sys::ATTRIBUTE_NOATIME, MsFlags::MS_NOATIME),
        (sys::ATTRIBUTE_NODIRATIME, MsFlags::MS_NODIRATIME),
        (sys::ATTRIBUTE_STRICTATIME, MsFlags::MS_STRICTATIME),
    ] {
        flags.set(flag, traits.attributes & attribute != 0);
    }
    let (source, data) = (traits.source.as_os_str(), data.as_str());
    nix::mount::mount(Some(source), path, Some(mountinfo::KIND), flags, Some(data))
}

fn fusermount_options(traits: &Traits) -> Vec<&'static str> {
    let on =
        |attribute: u32, name: &'static str| (traits.attributes & attribute != 0).then_some(name);
    [
        on(sys::ATTRIBUTE_READ_ONLY, "ro"),
        on(sys::ATTRIBUTE_NOEXEC, "noexec"),
        on(sys::ATTRIBUTE_NOATIME, "noatime"),
        traits.allow_other.then_some("allow_other"),
        traits.default_permissions.then_some("default_permissions"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Pending {
    /// Asks the served file system for its root, puts it in its place if it has none, and tells
    /// how to recognise it later.
    pub(super) fn finish(self) -> Result<Option<MountIdentity>> {
        match self {
            Pending::Foreign => Ok(None),
            Pending::Detached { mount, directory } => {
                let identity =
                    sys::identity(mount.as_fd(), true).map_err(Error::system(NO_ANSWER))?;
                mount
                    .attach(directory.as_fd())
                    .map_err(Error::system("cannot put the mount in its place"))?;
                Ok(Some(identity))
            }
            Pending::Attached { path, undo } => {
                let identity = File::options()
                    .read(true)
                    .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
                    .open(&path)
                    .and_then(|root| sys::identity(root.as_fd(), true));
                match identity {
                    Ok(identity) => Ok(Some(identity)),
                    Err(error) => {
                        Pending::Attached { path, undo }.undo();
                        Err(Error::System {
                            doing: NO_ANSWER,
                            source: error,
                        })
                    }
                }
            }
        }
    }

    /// Takes away a mount that will not be served.
    pub(super) fn undo(self) {
        let undone = match self {
            Pending::Attached {
                path,
                undo: Undo::Umount,
            } => umount2(&path, MntFlags::MNT_DETACH).map_err(|errno| errno.to_string()),
            Pending::Attached {
                path,
                undo: Undo::Fusermount,
            } => fusermount::unmount(&path, true).map_err(|error| error.chain()),
            // A mount without a place goes away with its descriptor.
            Pending::Detached { .. } | Pending::Foreign => Ok(()),
        };
        if let Err(error) = undone {
            log::warn!("a mount that failed may have been left behind: {error}");
        }
    }
}

const NO_ANSWER: &str = "the mount does not answer";
