//! A request becomes a live mount: attach, serve, detach, and the table of mounts.
//!
//! [`Serving`] is what to serve and where; [`serve_detached`] and [`serve_foreground`] do it.
//! [`unmount()`] takes a mount away, and [`mounts`] lists those that live.

mod attach;
mod caller;
mod container;
mod daemon;
mod error;
mod fusermount;
mod holder;
pub mod image;
mod keeper;
mod kernel;
pub mod layers;
mod mountinfo;
mod policy;
mod record;
mod remount;
mod serve;
mod shared;
mod syslog;
mod text;
mod unmount;
pub mod upgrade;
mod view;
mod writable;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::Path;

pub use attach::Target;
pub use container::{ContainerRequest, prepare_container, prepare_container_from};
pub use daemon::{serve_detached, serve_foreground};
pub use error::{Error, Missing, Result};
pub use keeper::KernelMount;
pub use kernel::try_overlay;
pub use mountinfo::{KIND, MountEntry, ours as mounts, owner};
pub use record::{MountRecord, Server, servers};
pub use remount::remount;
pub use shared::{make_mount_point, mount_shared, unmount_shared};
pub use syslog::tell_system;
pub use text::path_text;
pub use unmount::{server_of, unmount};
pub use view::{ContainerView, container_marks, container_view, flush_container};

use crate::options::MountOptions;
use crate::overlay::Overlay;

/// What is known once a mount is there.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The process that serves it, or has it served.
    pub pid: u32,
    /// The number of the mount in `/proc/self/mountinfo`; unknown when somebody else mounted.
    pub mount_id: Option<u64>,
}

/// Runs in the serving process as soon as the mount is there. An error takes it away again.
pub type OnReady = Box<dyn FnOnce(Ready) -> io::Result<()>>;

/// Runs in the serving process when the mount is gone, or did not come about.
pub type OnEnd = Box<dyn FnOnce() -> io::Result<()>>;

/// What to serve, and where.
pub struct Serving {
    /// The file system.
    pub overlay: Overlay,
    /// What df and findmnt show as the source, unless `fsname=` says otherwise.
    pub source: OsString,
    /// Where it appears.
    pub target: Target,
    /// How.
    pub options: MountOptions,
    /// What others can learn of it.
    pub record: MountRecord,
    /// How another process can serve the same, if it can.
    pub recovery: Option<image::Recovery>,
    /// Kept by the serving process as long as the mount lives, such as a locked file. It is dropped
    /// in the caller as well, so dropping it must do no more than close what a fork shares.
    pub hold: Option<Box<dyn Send>>,
    /// Told when the mount is there.
    pub on_ready: Option<OnReady>,
    /// What is left to do at the end. Like `hold`, it is dropped in the caller too.
    pub on_end: Option<OnEnd>,
}

impl Serving {
    /// Nothing but the file system.
    #[must_use]
    pub fn new(
        overlay: Overlay,
        source: OsString,
        target: Target,
        options: MountOptions,
    ) -> Serving {
        Serving {
            overlay,
            source,
            target,
            options,
            record: MountRecord::default(),
            recovery: None,
            hold: None,
            on_ready: None,
            on_end: None,
        }
    }

    /// Whether writing was asked for where nothing can be written. mount(8) asks for it unless told
    /// otherwise, so it is worth a word, not a refusal.
    #[must_use]
    pub fn is_write_protected(&self) -> bool {
        self.options.read_only == Some(false) && !self.overlay.is_writable()
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("source", &self.source)
            .field("target", &self.target)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What is ready to be mounted.
pub enum Prepared {
    /// A file system of ours.
    Served(Box<Serving>),
    /// A container that the kernel's overlay writes.
    Kept(Box<KernelMount>),
}

impl From<Serving> for Prepared {
    fn from(serving: Serving) -> Prepared {
        Prepared::Served(Box::new(serving))
    }
}

impl Prepared {
    /// What is mounted, as its source shows.
    #[must_use]
    pub fn source(&self) -> &OsStr {
        match self {
            Prepared::Served(serving) => &serving.source,
            Prepared::Kept(mount) => &mount.source,
        }
    }

    /// As [`Serving::is_write_protected`].
    #[must_use]
    pub fn is_write_protected(&self) -> bool {
        match self {
            Prepared::Served(serving) => serving.is_write_protected(),
            Prepared::Kept(_) => false,
        }
    }

    /// Mounts it, and leaves it to a daemon. The calling process has a single thread.
    ///
    /// # Errors
    /// Why there is no mount; nothing is left behind then.
    pub fn mount_detached(self) -> Result<Mounted> {
        match self {
            Prepared::Served(serving) => serve_detached(*serving),
            Prepared::Kept(mount) => mount.keep_detached(),
        }
    }

    /// Mounts it, and returns when the mount is gone.
    ///
    /// # Errors
    /// Why there is no mount, or what broke it.
    pub fn mount_here(self) -> Result<()> {
        match self {
            Prepared::Served(serving) => serve_foreground(*serving),
            Prepared::Kept(mount) => mount.keep_here(),
        }
    }
}

/// A mount that a daemon serves.
#[derive(Clone, Copy, Debug)]
pub struct Mounted {
    /// The daemon.
    pub pid: u32,
}

/// Closes what this process inherited and does not know, which a daemon would keep open for as long
/// as it lives; the device that `mount_point` may name stays. To be called first of all.
///
/// # Errors
/// What close_range(2) reports.
pub fn close_inherited(mount_point: &Path) -> io::Result<()> {
    let keep = match Target::from_path(mount_point) {
        Target::Device(device) => Some(device),
        Target::Directory(_) => None,
    };
    crate::sys::process::close_inherited(keep)
}
