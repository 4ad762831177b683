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

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use nix::sys::signal::Signal;
use nix::sys::stat::makedev;

use super::attach::{self, Place};
use super::error::{Error, Result};
use super::{Mounted, Ready, Serving, policy, record, syslog, unmount};
use crate::fuse::{self, Connection, Ended, Settings};
use crate::overlay::Overlay;
use crate::sys::mount::MountIdentity;
use crate::sys::process::{self, Signals};
use crate::union::Union;

const READY: u8 = b'r';
const FAILED: u8 = b'f';

/// Signals of one kind that follow each other faster were sent by one cause.
const ONE_SIGNAL: Duration = Duration::from_millis(100);

/// Serves in a daemon, and returns when the mount is there and answers.
///
/// The calling process must have a single thread. What `serving` holds is dropped in the caller
/// too, after the daemon has got its own copy.
///
/// # Errors
/// Why there is no mount; nothing is left behind then.
pub fn serve_detached(serving: Serving) -> Result<Mounted> {
    let place = Place::open(&serving.target)?;
    detached(|ready| serve(serving, place, leave_directory, ready))
}

/// Runs in a daemon, and returns when `run` has said that it is ready.
pub(super) fn detached(run: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>) -> Result<Mounted> {
    let mut status = process::fork_daemon(|status| daemon(run, status)).map_err(Error::Start)?;
    let mut message = Vec::new();
    status
        .read_to_end(&mut message)
        .map_err(Error::system("cannot hear from the daemon"))?;
    match message.split_first() {
        Some((&READY, pid)) => {
            let pid = pid.try_into().map(u32::from_le_bytes).unwrap_or(0);
            Ok(Mounted { pid })
        }
        Some((_, reason)) => Err(Error::Daemon(String::from_utf8_lossy(reason).into_owned())),
        None => Err(Error::Daemon(
            "the daemon died before the mount was ready".into(),
        )),
    }
}

/// Serves in this process, and returns when the mount is gone.
///
/// # Errors
/// Why there is no mount, or what broke it.
pub fn serve_foreground(serving: Serving) -> Result<()> {
    let place = Place::open(&serving.target)?;
    serve(serving, place, || Ok(()), || Ok(()))
}

/// The life of the daemon; the result is its exit status.
fn daemon(run: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>, status: File) -> u8 {
    if let Err(error) = process::ask_to_be_spared() {
        log::debug!("the daemon may be killed when memory runs out: {error}");
    }
    // The caller reads until the pipe is closed, so it is taken out to be written to.
    let status = Cell::new(Some(status));
    let ready = || {
        process::detach_standard_streams().map_err(Error::system("cannot close the streams"))?;
        syslog::detached();
        tell(status.take(), READY, &std::process::id().to_le_bytes());
        Ok(())
    };
    match run(&ready) {
        Ok(()) => 0,
        Err(error) => {
            match status.take() {
                // The caller says it.
                Some(status) => tell(Some(status), FAILED, error.chain().as_bytes()),
                None => log::error!("{}", error.chain()),
            }
            1
        }
    }
}

/// Keeps no directory of the caller in use.
pub(super) fn leave_directory() -> Result<()> {
    nix::unistd::chdir("/")
        .map_err(io::Error::from)
        .map_err(Error::system("cannot leave the directory"))
}

/// Sends a message to the caller, who may have gone: that does not end the mount.
fn tell(status: Option<File>, kind: u8, text: &[u8]) {
    let message = [&[kind], text].concat();
    if let Some(Err(error)) = status.map(|mut status| status.write_all(&message)) {
        log::debug!("nobody waits for the mount: {error}");
    }
}

/// Makes the mount, serves it, and returns when it is gone.
///
/// `alone` is called before there are threads, some of which get a current directory of their own, and
/// when all paths that callers gave are open or absolute; `ready` when the mount is there.
fn serve(
    mut serving: Serving,
    place: Place,
    alone: impl FnOnce() -> Result<()>,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let on_end = serving.on_end.take();
    // Published until everything is done: who unmounts waits for that.
    let mut published = None;
    let served = serve_to_the_end(serving, place, &mut published, alone, ready);
    let ended = on_end.map_or(Ok(()), |on_end| on_end());
    served.and(ended.map_err(Error::system("cannot clean up after the mount")))
}

fn serve_to_the_end(
    serving: Serving,
    place: Place,
    published: &mut Option<File>,
    alone: impl FnOnce() -> Result<()>,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let Serving {
        overlay,
        source,
        target: _,
        options,
        mut record,
        hold,
        on_ready,
        on_end: _,
    } = serving;
    let overlay = Arc::new(overlay);
    if let Err(error) = process::raise_open_files() {
        log::debug!("the limit of open files stays as it is: {error}");
    }
    let signals = Signals::take(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
        .map_err(Error::system("cannot take signals"))?;
    let ended = Arc::new(process::event().map_err(Error::system("cannot make an event"))?);
    let (traits, settings) = policy::decide(&overlay, source, &options)?;
    alone()?;
    let (device, pending) = attach::connect(place, &traits)?;
    let own = match pending.identity() {
        Ok(own) => own,
        Err(error) => {
            pending.undo();
            return Err(error);
        }
    };
    if let (Some(own), Union::Stack(stack)) = (own, overlay.base()) {
        // Before anybody can come in: a layer may contain the mount point.
        let (major, minor) = own.device;
        stack.set_own_device(makedev(major.into(), minor.into()));
    }
    let lost = Arc::new(AtomicBool::new(false));
    let server = match start(Arc::clone(&overlay), device, settings, &ended, &lost) {
        Ok(server) => server,
        Err(error) => {
            pending.undo();
            return Err(error);
        }
    };
    if let Some(own) = own {
        record.device = own.device;
        match record::publish(&record) {
            Ok(file) => *published = Some(file),
            Err(error) => log::debug!("the mount will be listed without details: {error}"),
        }
    }
    // Without its mount the server ends by itself.
    pending.finish()?;
    let told = match on_ready {
        Some(on_ready) => on_ready(Ready {
            pid: std::process::id(),
            mount_id: own.map(|own| own.id),
        })
        .map_err(Error::system("cannot record the mount")),
        None => Ok(()),
    };
    if let Err(error) = told.and_then(|()| ready()) {
        detach(own);
        return Err(error);
    }
    let result = watch(&signals, &ended, &lost, own, server);
    if let Ok(Ended::Unmounted) = result
        && let Err(error) = overlay.shut_down()
    {
        log::error!("the upper directory is not marked as complete: {error}");
    }
    drop(overlay);
    drop(hold);
    result.map(drop)
}

/// Shakes hands and starts to answer requests.
fn start(
    overlay: Arc<Overlay>,
    device: OwnedFd,
    settings: Settings,
    ended: &Arc<EventFd>,
    lost: &Arc<AtomicBool>,
) -> Result<Serve> {
    let (event, flag) = (Arc::clone(ended), Arc::clone(lost));
    fuse::on_lost_thread(move || {
        flag.store(true, Ordering::Release);
        raise(&event);
    });
    let connection = Connection::open(overlay, device, settings).map_err(Error::system(
        "the kernel and plyfs do not understand each other",
    ))?;
    let ended = Arc::clone(ended);
    std::thread::Builder::new()
        .name("plyfs-serve".into())
        .spawn(move || {
            let result = connection.run();
            raise(&ended);
            result
        })
        .map_err(Error::system("cannot start a thread"))
}

fn raise(event: &EventFd) {
    if let Err(errno) = event.write(1) {
        log::error!("cannot tell that the mount is gone: {errno}");
    }
}

/// Waits for the end of the mount, or for signals to bring it about.
fn watch(
    signals: &Signals,
    ended: &EventFd,
    lost: &AtomicBool,
    own: Option<MountIdentity>,
    server: Serve,
) -> Result<Ended> {
    let mut signalled: Option<(u32, Instant)> = None;
    while let Some(signal) = signals
        .wait(ended)
        .map_err(Error::system("cannot wait for signals"))?
    {
        match signalled {
            // timeout(1) sends its signal to the process, and to its group.
            Some((first, at)) if first == signal && at.elapsed() < ONE_SIGNAL => continue,
            Some(_) => return Err(Error::BrokenOff),
            None => {}
        }
        log::info!("signal {signal}: detaching the mount");
        if own.is_none() {
            // Whoever made the mount takes it away.
            return Ok(Ended::Aborted);
        }
        detach(own);
        signalled = Some((signal, Instant::now()));
    }
    let result = if lost.load(Ordering::Acquire) {
        // The others may wait for the kernel for ever: the end of the process ends them.
        Err(Error::Bug)
    } else {
        match server.join() {
            Ok(result) => result.map_err(Error::system("serving the mount broke off")),
            Err(_panic) => Err(Error::Bug),
        }
    };
    if result.is_err() {
        // Nobody can use it any more.
        detach(own);
    }
    result
}

pub(super) fn detach(own: Option<MountIdentity>) {
    match own.map(unmount::detach_own) {
        None | Some(Ok(true)) => {}
        Some(Ok(false)) => log::info!("the mount is attached nowhere any more"),
        Some(Err(error)) => log::error!("the mount stays: {}", error.chain()),
    }
}

type Serve = JoinHandle<io::Result<Ended>>;
