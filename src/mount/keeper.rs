//! A container that the kernel's overlay writes, over the mount of its image that all such containers
//! share, and the process that keeps it: it serves nothing, but holds the container and its image until
//! the overlay is gone, and then does what is left to do.
//!
//! # Invariants
//! * The keeper ends with the overlay's super block, not with its place: a copy of the mount in another
//!   namespace, and a file that is open in it, still write to the container.
//! * Whatever can fail has succeeded before the caller is told that the mount is there.
//! * A keeper that is killed takes nothing along. The mount itself tells that the container is in use,
//!   and who unmounts it takes the image away.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::Signal;

use super::attach::Place;
use super::caller::Caller;
use super::error::{Error, Result};
use super::image::{Leased, tidy};
use super::serve::detach;
use super::{Mounted, Target, daemon, kernel, path_text, policy, record, shared};
use crate::image::Found;
use crate::options::MountOptions;
use crate::store::{Container, Store};
use crate::sys::mount::{self as sys, DetachedMount};
use crate::sys::process::Signals;
use crate::sys::writable::WritableDir;

/// A container under the kernel's overlay, made and attached nowhere yet.
pub struct KernelMount {
    /// What df and findmnt show as the source.
    pub(super) source: OsString,
    store: Store,
    mount: DetachedMount,
    directory: File,
    leased: Leased,
    container: Container,
    /// Told that the super block is gone.
    end: Inotify,
    guard: shared::Guard,
}

/// Whether the kernel's overlay can write containers of the store, as `options` want them.
///
/// # Errors
/// Why it cannot.
pub(super) fn is_possible(store: &Store, target: &Target, options: &MountOptions) -> Result<()> {
    let unsupported = |reason: &str| Err(Error::Unsupported(reason.into()));
    if !options.ids.is_identity() {
        return unsupported(
            "the kernel's overlay shows ids as they are: mappings go with writable=fuse",
        );
    }
    if let Some(option) = unheard(options) {
        let reason = format!("the kernel's overlay knows no {option}: it goes with writable=fuse");
        return Err(Error::Unsupported(reason));
    }
    if matches!(target, Target::Device(_)) {
        return unsupported("the kernel's overlay needs no FUSE device");
    }
    let refused = Error::system("the kernel's overlay cannot write to the store");
    let staging = store.staging()?;
    // A user namespace has other marks, which our own mounts do not read there.
    WritableDir::open(staging.path())
        .and_then(|directory| directory.at(b"").set_xattr(PROBE, b"", 0))
        .and_then(|()| kernel::try_overlay(staging.path(), &settings(options)))
        .map_err(refused)
}

const PROBE: &[u8] = b"trusted.overlay.plyfs.probe";

/// An option that changes what our own file system shows.
fn unheard(options: &MountOptions) -> Option<&'static str> {
    [
        ("xattr_permissions", options.xattr_permissions != 0),
        ("userxattr", options.userxattr),
        ("noxattrs", options.noxattrs),
        ("noacl", options.noacl),
    ]
    .into_iter()
    .find_map(|(name, given)| given.then_some(name))
}

/// What our own mounts of containers do, in the kernel's words.
fn settings(options: &MountOptions) -> Vec<kernel::Setting<'static>> {
    let (metacopy, redirect) = match options.metacopy.or(options.redirect_dir) {
        Some(false) => ("off", "follow"),
        _ => ("on", "on"),
    };
    let mut settings = vec![
        (c"index", "off"),
        (c"metacopy", metacopy),
        (c"redirect_dir", redirect),
    ];
    if options.volatile {
        settings.push((c"volatile", ""));
    }
    settings
}

/// Prepares a container: its image is mounted, if it is not, and the overlay made.
///
/// # Errors
/// What mounting the image, or the kernel, reports.
pub(super) fn prepare(
    store: Store,
    container: Container,
    found: &Found,
    target: &Target,
    options: &MountOptions,
    helper: Command,
) -> Result<KernelMount> {
    let Place::Directory { directory, .. } = Place::open(target)? else {
        return Err(Error::Unsupported(
            "a directory to mount on is needed".into(),
        ));
    };
    let leased = Leased::new(&store, found, target)?;
    let guard = shared::lock(store.root())?;
    let manifest = found.manifest_descriptor.digest;
    let lower = shared::ensure(&guard, &store, &leased.name, manifest, helper)?;
    let source = options.source.clone();
    let source = source.unwrap_or_else(|| OsString::from(&leased.name));
    let mount = kernel::overlay(
        &source,
        &lower,
        &container.upper(),
        &container.work(),
        &settings(options),
        policy::attributes(options, true),
    )
    .map_err(Error::system("the kernel refuses the overlay"))?;
    let watched = PathBuf::from(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd()));
    let end = Inotify::init(InitFlags::IN_CLOEXEC)
        // Nobody can remove the root; that it is unmounted is told without asking.
        .and_then(|end| {
            end.add_watch(&watched, AddWatchFlags::IN_DELETE_SELF)
                .map(|_| end)
        })
        .map_err(|errno| Error::system("cannot watch the overlay")(errno.into()))?;
    Ok(KernelMount {
        source,
        store,
        mount,
        directory,
        leased,
        container,
        end,
        guard,
    })
}

impl KernelMount {
    /// Attaches the mount, and leaves its end to a process of its own. The calling process has a single
    /// thread.
    ///
    /// # Errors
    /// Why there is no mount; nothing is left behind then.
    pub(super) fn keep_detached(self) -> Result<Mounted> {
        daemon::detached(|caller| self.keep(caller))
    }

    /// Attaches the mount, and returns when it is gone.
    ///
    /// # Errors
    /// Why there is no mount.
    pub(super) fn keep_here(self) -> Result<()> {
        self.keep(&Caller::none())
    }

    fn keep(self, caller: &Caller) -> Result<()> {
        let KernelMount {
            store,
            mount,
            directory,
            mut leased,
            container,
            end,
            guard,
            ..
        } = self;
        caller.leave_directory()?;
        let signals = Signals::take(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
            .map_err(Error::system("cannot take signals"))?;
        let own = sys::identity(mount.as_fd(), false)
            .map_err(Error::system("the mount cannot be told from others"))?;
        leased.shown.device = own.device;
        leased.shown.upper = Some(path_text(&container.upper()));
        let published =
            record::publish(&leased.shown).map_err(Error::system("cannot tell of the mount"))?;
        mount
            .attach(directory.as_fd())
            .map_err(Error::system("cannot put the mount in its place"))?;
        // No descriptor into the mount stays open, or nobody could unmount it.
        drop((mount, directory));
        let told = daemon::tell_ready(Some(leased.on_ready), Some(own));
        drop(guard);
        if let Err(error) = told.and_then(|()| caller.leave_streams()) {
            detach(own);
            return Err(error);
        }
        caller.ready();
        while signals
            .wait(&end)
            .map_err(Error::system("cannot wait for signals"))?
            .is_some()
        {
            log::info!("a signal: detaching the mount");
            detach(own);
        }
        // Who unmounts waits until everything is done.
        let ended = end_of(&store, container);
        drop((leased.hold, published));
        ended
    }
}

/// What is left to do when the overlay is gone.
fn end_of(store: &Store, container: Container) -> Result<()> {
    if container.record.ephemeral {
        store.remove_container(container)?;
    }
    shared::end_unused(store)?;
    tidy(store);
    Ok(())
}
