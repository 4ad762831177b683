//! Serving a tree that never changes in a process that may die.
//!
//! The daemon of such a mount is its *holder*: it made the mount, keeps the FUSE device open, and what
//! protects the image, and has a child serve. As long as anybody has the device open the kernel keeps the
//! requests that were not answered. When the server dies, another child takes the connection over and the
//! kernel hands it those requests; whoever made them sees nothing of it but a moment's delay. That works
//! because a server knows nothing that the next one does not know: numbers of nodes come from the chain
//! index, nothing is kept by file handle, and the backing files are noted in memory that both share.
//!
//! A server is a fork of its holder, not another program, so that it starts at once and always with
//! the version that holds the mount; see [`super::upgrade`] for how another version comes in.
//!
//! # Invariants
//! * The holder has one thread, and asks the mount for nothing.
//! * Only one server at a time answers; the holder has seen the end of the last one before it starts another.
//! * A server that ends by itself and without an error has seen the end of the mount.
//!
//! # When the holder dies
//! The server goes on alone, as a daemon without a holder: it publishes the mount, and cleans up at the
//! end. Its death is then the end of the mount.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};

use super::attach::Pending;
use super::caller::{self, Caller};
use super::daemon::tell_ready;
use super::error::{Error, Result};
use super::image::Recovery;
use super::serve::{Event, Interruptions, ORPHANED, Server, detach};
use super::upgrade::Control;
use super::{MountRecord, OnEnd, OnReady, record};
use crate::fuse::{Connection, Handover, Settings};
use crate::overlay::Overlay;
use crate::sys::mount::MountIdentity;
use crate::sys::process::{self, Signals};

/// A server that lived no longer has died of what it was asked, and the next one will be asked the same.
const SOON: Duration = Duration::from_millis(50);
/// How many in a row may. Each is waited for twice as long as the one before, four seconds in all.
const ATTEMPTS: u32 = 12;

/// What every server of a mount needs.
pub(super) struct Held {
    pub(super) overlay: Arc<Overlay>,
    pub(super) device: OwnedFd,
    pub(super) settings: Settings,
    pub(super) handover: Handover,
    pub(super) own: MountIdentity,
    /// How another program opens the image.
    pub(super) recovery: Recovery,
    /// Where it was mounted, and how; for another program too.
    pub(super) directory: PathBuf,
    pub(super) options: OsString,
}

/// The holder of a mount. A server has a copy of it, and closes what is not its own.
pub(super) struct Holder<'a> {
    pub(super) held: Held,
    pub(super) record: MountRecord,
    pub(super) hold: Option<Box<dyn Send>>,
    pub(super) on_ready: Option<OnReady>,
    pub(super) control: Option<Control>,
    pub(super) published: &'a mut Option<File>,
    pub(super) on_end: &'a mut Option<OnEnd>,
    pub(super) caller: &'a Caller,
    pub(super) signals: &'a Signals,
}

/// Servers that died at once, one after the other.
#[derive(Debug, Default)]
struct Deaths {
    count: u32,
    /// When the last server began to answer; how long it took to start is no part of its life.
    answers_since: Option<Instant>,
}

impl Deaths {
    /// Counts one, and waits until another server may be started.
    fn count(&mut self) -> Result<()> {
        let since = self.answers_since.take();
        if since.is_some_and(|since| since.elapsed() > SOON) {
            self.count = 0;
        }
        if self.count == ATTEMPTS {
            return Err(Error::GaveUp);
        }
        std::thread::sleep(Duration::from_millis(1 << self.count));
        self.count += 1;
        Ok(())
    }
}

impl Holder<'_> {
    /// Puts the mount in its place with a first server, and holds it to its end.
    pub(super) fn begin(mut self, pending: Pending) -> Result<()> {
        let own = self.held.own;
        if let Err(error) = self.publish() {
            pending.undo();
            return Err(error);
        }
        let server = match self.start(Some(pending)) {
            Ok(server) => server,
            Err(error) => {
                detach(own);
                return Err(error);
            }
        };
        let told = tell_ready(self.on_ready.take(), Some(own));
        if let Err(error) = told.and_then(|()| self.caller.leave_streams()) {
            detach(own);
            return Err(error);
        }
        self.caller.ready();
        self.watch(server)
    }

    /// Makes the holder known, and how it can be asked for something.
    pub(super) fn publish(&mut self) -> Result<()> {
        let control = Control::new().map_err(Error::system("cannot make a pipe"))?;
        self.record.device = self.held.own.device;
        self.record.control = Some(control.numbers());
        self.control = Some(control);
        *self.published = record::publish_or_not(&self.record);
        Ok(())
    }

    /// Starts a server and waits until it answers; the first one puts the mount in its place.
    pub(super) fn start(&mut self, mut pending: Option<Pending>) -> Result<Pid> {
        let holder = Pid::this();
        let (server, told) =
            process::fork_child(|told| self.be_server(pending.take(), told, holder))
                .map_err(Error::Start)?;
        if let Err(error) = caller::wait(told) {
            end(server);
            return Err(error);
        }
        Ok(server)
    }

    /// The life of a server; the result is its exit status.
    fn be_server(&mut self, pending: Option<Pending>, told: File, holder: Pid) -> u8 {
        self.caller.leave_alone();
        self.control = None;
        *self.published = None;
        let told = Caller::waiting(told);
        match self.serve(pending, &told, holder) {
            Ok(()) => 0,
            Err(error) => {
                if !told.failed(&error) {
                    log::error!("{}", error.chain());
                }
                1
            }
        }
    }

    fn serve(&mut self, pending: Option<Pending>, told: &Caller, holder: Pid) -> Result<()> {
        let held = &self.held;
        let own = held.own;
        let (overlay, settings) = (Arc::clone(&held.overlay), held.settings.clone());
        let connection = (held.device.try_clone())
            .and_then(|device| Connection::take_over(overlay, device, settings, &held.handover))
            .map_err(Error::system("cannot take the mount over"))?;
        let server = Server::start(connection)?;
        if let Some(pending) = pending {
            // Without its mount the server ends by itself.
            pending.finish()?;
            self.caller.leave_streams()?;
        }
        let is_held = process::signal_when_orphaned(ORPHANED, holder);
        let mut is_alone = !is_held.map_err(Error::system("cannot watch the holder"))?;
        if is_alone {
            self.go_on_alone();
        }
        told.ready();
        let mut interruptions = Interruptions::default();
        let result = server.wait(self.signals, |event| {
            match event {
                Event::Orphaned => {
                    self.go_on_alone();
                    is_alone = true;
                }
                Event::Interrupted(signal) if is_alone => interruptions.take(signal, own)?,
                // One process only takes the mount away: what is seen at its place then is another one.
                Event::Interrupted(signal) => {
                    if getppid() == holder
                        && let Err(errno) = kill(holder, signal)
                    {
                        log::debug!("the holder is gone: {errno}");
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        });
        if is_alone {
            if result.is_err() {
                detach(own);
            }
            (self.hold, self.on_ready) = (None, None);
            if let Some(on_end) = self.on_end.take() {
                on_end().map_err(Error::system("cannot clean up after the mount"))?;
            }
        }
        result.map(drop)
    }

    /// Does without a holder from now on.
    fn go_on_alone(&mut self) {
        log::warn!("the holder of the mount is gone: its server goes on without one");
        self.record.control = None;
        *self.published = record::publish_or_not(&self.record);
    }

    /// Sees to it that there is a server until the mount is gone.
    pub(super) fn watch(mut self, mut server: Pid) -> Result<()> {
        let own = self.held.own;
        let mut interruptions = Interruptions::default();
        let mut deaths = Deaths::default();
        while let Some(control) = &self.control {
            let signal = self.signals.wait(control);
            let signal = signal.map_err(Error::system("cannot wait for signals"))?;
            let Some(signal) = signal else {
                match self.asked(server) {
                    Some(other) => server = other?,
                    // Its successor holds the mount.
                    None => return Ok(()),
                }
                continue;
            };
            match Signal::try_from(signal.cast_signed()) {
                Ok(Signal::SIGCHLD) => match waitpid(server, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) => {}
                    Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
                    how => {
                        log::error!("the server of the mount {}: another follows", death(how));
                        server = self.restart(&mut deaths)?;
                    }
                },
                Ok(ORPHANED) | Err(_) => {}
                Ok(signal) => {
                    if let Err(error) = interruptions.take(signal, own) {
                        end(server);
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn restart(&mut self, deaths: &mut Deaths) -> Result<Pid> {
        loop {
            if let Err(error) = deaths.count() {
                detach(self.held.own);
                return Err(error);
            }
            match self.start(None) {
                Ok(server) => {
                    deaths.answers_since = Some(Instant::now());
                    return Ok(server);
                }
                Err(error) => log::error!("no server for the mount: {}", error.chain()),
            }
        }
    }

    /// A server after one that was ended on purpose.
    pub(super) fn start_again(&mut self) -> Result<Pid> {
        self.restart(&mut Deaths::default())
    }
}

/// What became of a server that died.
fn death(how: nix::Result<WaitStatus>) -> String {
    match how {
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
        Ok(WaitStatus::Exited(_, status)) => format!("ended with status {status}"),
        _ => "is gone".to_owned(),
    }
}

/// Ends a server, wherever it is, and waits for its end: what it has not answered is left to the next.
pub(super) fn end(server: Pid) {
    if let Err(errno) = kill(server, Signal::SIGKILL) {
        log::debug!("the server was gone: {errno}");
    }
    if let Err(errno) = waitpid(server, None) {
        log::debug!("nobody knows how the server ended: {errno}");
    }
}

impl fmt::Debug for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder")
            .field("own", &self.held.own)
            .field("directory", &self.held.directory)
            .finish_non_exhaustive()
    }
}
