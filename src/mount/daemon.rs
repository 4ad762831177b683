//! Serving a mount until it is gone, in this process or in one of its own.
//!
//! # Invariants
//! * Whatever can fail has succeeded before the caller is told that the mount is there.
//! * Only our own mount is ever detached, known by its identity, never by its path.
//! * The fork comes before any thread.
//!
//! # Signals
//! The first SIGTERM, SIGINT or SIGHUP detaches the mount; serving goes on until its last open
//! file is closed. The second breaks that off, but not the same one within a moment: some callers
//! send it twice. A mount that goes away by itself (umount, the end of its namespace, a mount point
//! that is removed) ends serving without an error.
//!
//! A tree that never changes is served by a child of the daemon, see [`super::holder`].

use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sys::stat::makedev;

use super::attach::{self, Pending, Place};
use super::caller::{self, Caller};
use super::error::{Error, Result};
use super::holder::{Held, Holder};
use super::serve::{Event, Interruptions, Server, detach, take_signals};
use super::{Mounted, OnEnd, OnReady, Ready, Serving, policy, record};
use crate::fuse::{Connection, Data, Ended, Handover, Settings};
use crate::overlay::Overlay;
use crate::sys::mount::MountIdentity;
use crate::sys::process;
use crate::union::Union;

/// Serves in a daemon, and returns when the mount is there and answers.
///
/// The calling process must have a single thread. What `serving` holds is dropped in the caller
/// too, after the daemon has got its own copy.
///
/// # Errors
/// Why there is no mount; nothing is left behind then.
pub fn serve_detached(serving: Serving) -> Result<Mounted> {
    let place = Place::open(&serving.target)?;
    detached(|caller| serve(serving, place, caller))
}

/// Runs in a daemon, and returns when the caller has been told how that went.
pub(super) fn detached(run: impl FnOnce(&Caller) -> Result<()>) -> Result<Mounted> {
    let status = process::fork_daemon(|status| daemon(run, &Caller::waiting(status)));
    caller::wait(status.map_err(Error::Start)?)
}

/// Serves in this process, and returns when the mount is gone.
///
/// # Errors
/// Why there is no mount, or what broke it.
pub fn serve_foreground(mut serving: Serving) -> Result<()> {
    let place = Place::open(&serving.target)?;
    serving.recovery = None;
    serve(serving, place, &Caller::none())
}

/// The life of the daemon; the result is its exit status.
fn daemon(run: impl FnOnce(&Caller) -> Result<()>, caller: &Caller) -> u8 {
    if let Err(error) = process::ask_to_be_spared() {
        log::debug!("the daemon may be killed when memory runs out: {error}");
    }
    match run(caller) {
        Ok(()) => 0,
        Err(error) => {
            if !caller.failed(&error) {
                log::error!("{}", error.chain());
            }
            1
        }
    }
}

/// Makes the mount, serves it, and returns when it is gone.
fn serve(mut serving: Serving, place: Place, caller: &Caller) -> Result<()> {
    to_the_end(serving.on_end.take(), |published, on_end| {
        serve_to_the_end(serving, place, caller, published, on_end)
    })
}

/// Does what is left to do after `serve`. The mount stays published until then: who unmounts waits for that.
pub(super) fn to_the_end(
    mut on_end: Option<OnEnd>,
    serve: impl FnOnce(&mut Option<File>, &mut Option<OnEnd>) -> Result<()>,
) -> Result<()> {
    let mut published = None;
    let served = serve(&mut published, &mut on_end);
    let ended = on_end.map_or(Ok(()), |on_end| on_end());
    served.and(ended.map_err(Error::system("cannot clean up after the mount")))
}

fn serve_to_the_end(
    serving: Serving,
    place: Place,
    caller: &Caller,
    published: &mut Option<File>,
    on_end: &mut Option<OnEnd>,
) -> Result<()> {
    let Serving {
        overlay,
        source,
        target: _,
        options,
        mut record,
        recovery,
        hold,
        on_ready,
        on_end: _,
    } = serving;
    let overlay = Arc::new(overlay);
    if let Err(error) = process::lift_limits() {
        log::debug!("the limits of this process stay as they are: {error}");
    }
    let signals = take_signals()?;
    let (traits, settings) = policy::decide(&overlay, source, &options)?;
    // All paths that callers gave are open or absolute, and there are no threads yet, some of which get a
    // current directory of their own.
    caller.leave_directory()?;
    let directory = place.path();
    let (device, pending) = attach::connect(place, &traits)?;
    let prepared = prepare(&overlay, &device, &settings, &pending);
    let (own, connection, handover) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            pending.undo();
            return Err(error);
        }
    };
    if let (Some(recovery), Some(own), Some(directory), Some(handover)) =
        (recovery, own, directory, handover)
    {
        // The next process serves, with a connection of its own.
        drop(connection);
        let held = Held {
            overlay,
            device,
            settings,
            handover,
            own,
            recovery,
            directory,
            options: options.print(),
        };
        let holder = Holder {
            held,
            record,
            hold,
            on_ready,
            control: None,
            published,
            on_end,
            caller,
            signals: &signals,
        };
        return holder.begin(pending);
    }
    drop(device);
    let server = match Server::start(connection) {
        Ok(server) => server,
        Err(error) => {
            pending.undo();
            return Err(error);
        }
    };
    if let Some(own) = own {
        record.device = own.device;
        *published = record::publish_or_not(&record);
    }
    // Without its mount the server ends by itself.
    pending.finish()?;
    let told = tell_ready(on_ready, own).and_then(|()| caller.leave_streams());
    if let Err(error) = told {
        own.into_iter().for_each(detach);
        return Err(error);
    }
    caller.ready();
    let mut interruptions = Interruptions::default();
    let result = server.wait(&signals, |event| match (event, own) {
        (Event::Orphaned, _) => Ok(ControlFlow::Continue(())),
        (Event::Interrupted(signal), Some(own)) => {
            interruptions.take(signal, own).map(ControlFlow::Continue)
        }
        // Whoever made the mount takes it away.
        (Event::Interrupted(_), None) => Ok(ControlFlow::Break(())),
    });
    if result.is_err() {
        // Nobody can use it any more.
        own.into_iter().for_each(detach);
    }
    if let Ok(Ended::Unmounted) = result
        && let Err(error) = overlay.shut_down()
    {
        log::error!("the upper directory is not marked as complete: {error}");
    }
    drop(overlay);
    drop(hold);
    result.map(drop)
}

/// Learns what the mount is known by, and shakes hands.
fn prepare(
    overlay: &Arc<Overlay>,
    device: &OwnedFd,
    settings: &Settings,
    pending: &Pending,
) -> Result<(Option<MountIdentity>, Connection, Option<Handover>)> {
    let own = pending.identity()?;
    if let (Some(own), Union::Stack(stack)) = (own, overlay.base()) {
        // Before anybody can come in: a layer may contain the mount point.
        let (major, minor) = own.device;
        stack.set_own_device(makedev(major.into(), minor.into()));
        // A kernel that collects what is written believes nobody else about the length of a file.
        if settings.data != Data::WriteBack {
            stack.renew_changed();
        }
    }
    let connection = device
        .try_clone()
        .and_then(|device| Connection::open(Arc::clone(overlay), device, settings.clone()));
    let connection = connection.map_err(Error::system(
        "the kernel and plyfs do not understand each other",
    ))?;
    let handover = connection.handover();
    let handover = handover.map_err(Error::system("cannot prepare for the death of the server"))?;
    Ok((own, connection, handover))
}

/// Says that the mount is there, and served by this process.
pub(super) fn tell_ready(on_ready: Option<OnReady>, own: Option<MountIdentity>) -> Result<()> {
    let ready = Ready {
        pid: std::process::id(),
        mount_id: own.map(|own| own.id),
    };
    on_ready
        .map_or(Ok(()), |on_ready| on_ready(ready))
        .map_err(Error::system("cannot record the mount"))
}
