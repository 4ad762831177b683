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
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::stat::makedev;

use super::error::{Error, Result};
use super::{fusermount, mountinfo, unmount};
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
    /// Where it is; nothing if somebody else has mounted.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match self {
            Place::Directory { path, .. } => Some(path.clone()),
            Place::Device(_) => None,
        }
    }

    pub(super) fn open(target: &Target) -> Result<Place> {
        match target {
            Target::Directory(path) => {
                unmount::detach_dead(path)?;
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
            Target::Device(number) => adopt_device(*number)
                .map(Place::Device)
                .map_err(Error::system("cannot use the FUSE device that was passed")),
        }
    }
}

/// Takes an open FUSE device over. Another descriptor would be read from, and lose what is not ours.
fn adopt_device(number: RawFd) -> io::Result<OwnedFd> {
    let passed = File::from(descriptor::adopt(number)?);
    let metadata = passed.metadata()?;
    if !metadata.file_type().is_char_device() || metadata.rdev() != makedev(10, 229) {
        return Err(io::Error::other("it is no FUSE device"));
    }
    Ok(passed.into())
}

/// A connected device whose mount may have to be moved to its place still.
#[derive(Debug)]
pub(super) enum Pending {
    /// Made by us, without a place.
    Detached {
        mount: DetachedMount,
        directory: File,
    },
    /// Already in its place, which does not tell what it is: others may mount over it meanwhile.
    Attached {
        path: PathBuf,
        identity: MountIdentity,
    },
    /// Somebody else's business.
    Foreign,
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
    let device = match old_mount(&path, traits) {
        Ok(device) => device,
        Err(error) => {
            log::debug!("mount(2) refuses: {error}");
            let unheard = unheard(traits);
            if !unheard.is_empty() {
                log::warn!("fusermount3 cannot be told {unheard}: without effect");
            }
            fusermount::mount(&path, &traits.source, &fusermount_options(traits))?
        }
    };
    let identity = just_mounted(&path).map_err(Error::system(
        "the mount cannot be told from others at its place",
    ))?;
    Ok((device, Pending::Attached { path, identity }))
}

/// The mount that was put on `path` a moment ago. The file system is not asked: nobody serves it
/// yet.
fn just_mounted(path: &Path) -> io::Result<MountIdentity> {
    let seen = identity_at(path, false)?;
    let known = mountinfo::all()?;
    let ours = |mount: &mountinfo::MountEntry| {
        mount.id == seen.id && mount.device == seen.device && mount.kind == mountinfo::KIND
    };
    if known.iter().any(ours) {
        Ok(seen)
    } else {
        Err(io::Error::other("something else was mounted there"))
    }
}

pub(super) fn identity_at(path: &Path, ask: bool) -> io::Result<MountIdentity> {
    let root = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)?;
    sys::identity(root.as_fd(), ask)
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

/// Mounts with mount(2) and returns the device.
fn old_mount(path: &Path, traits: &Traits) -> Result<OwnedFd> {
    let device = open_device()?;
    let mut data = OsString::from(format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        nix::unistd::geteuid(),
        nix::unistd::getegid()
    ));
    if traits.allow_other {
        data.push(",allow_other");
    }
    if traits.default_permissions {
        data.push(",default_permissions");
    }
    if let Some(label) = &traits.context {
        // Labels hold commas.
        data.push(",context=\"");
        data.push(label);
        data.push("\"");
    }
    let flags = flags(traits.attributes);
    let (source, data) = (traits.source.as_os_str(), data.as_os_str());
    nix::mount::mount(Some(source), path, Some(mountinfo::KIND), flags, Some(data))
        .map_err(|errno| Error::system("mount(2) failed")(errno.into()))?;
    Ok(device)
}

/// `MOUNT_ATTR_*` as mount(2) has them.
pub(super) fn flags(attributes: u32) -> MsFlags {
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
        flags.set(flag, attributes & attribute != 0);
    }
    flags
}

/// What fusermount3 has no word for, of what is asked for.
fn unheard(traits: &Traits) -> String {
    let mut unheard = Vec::new();
    if traits.context.is_some() {
        unheard.push("context=");
    }
    if traits.attributes & sys::ATTRIBUTE_STRICTATIME != 0 {
        unheard.push("strictatime");
    }
    if traits.attributes & sys::ATTRIBUTE_NODIRATIME != 0 {
        unheard.push("nodiratime");
    }
    unheard.join(", ")
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
    /// How to recognise the mount; none that somebody else has made. Its server is not needed.
    pub(super) fn identity(&self) -> Result<Option<MountIdentity>> {
        match self {
            Pending::Foreign => Ok(None),
            Pending::Attached { identity, .. } => Ok(Some(*identity)),
            Pending::Detached { mount, .. } => sys::identity(mount.as_fd(), false)
                .map(Some)
                .map_err(Error::system("the mount cannot be told from others")),
        }
    }

    /// Asks the served file system for its root, and puts it in its place if it has none.
    pub(super) fn finish(self) -> Result<()> {
        match &self {
            Pending::Foreign => Ok(()),
            Pending::Detached { mount, directory } => {
                sys::identity(mount.as_fd(), true).map_err(Error::system(NO_ANSWER))?;
                mount
                    .attach(directory.as_fd())
                    .map_err(Error::system("cannot put the mount in its place"))
            }
            Pending::Attached { path, .. } => match identity_at(path, true) {
                Ok(_) => Ok(()),
                Err(source) => {
                    self.undo();
                    Err(Error::System {
                        doing: NO_ANSWER,
                        source,
                    })
                }
            },
        }
    }

    /// Takes away a mount that will not be served.
    pub(super) fn undo(self) {
        let undone = match self {
            Pending::Attached { identity, .. } => unmount::detach_own(identity),
            // A mount without a place goes away with its descriptor.
            Pending::Detached { .. } | Pending::Foreign => Ok(true),
        };
        if let Err(error) = undone {
            let error = error.chain();
            log::warn!("a mount that failed may have been left behind: {error}");
        }
    }
}

const NO_ANSWER: &str = "the mount does not answer";
