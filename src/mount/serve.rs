//! A server: answers the kernel until the mount is gone, or signals take it away.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use nix::sys::signal::Signal;

use super::error::{Error, Result};
use super::unmount;
use crate::fuse::{self, Connection, Ended};
use crate::sys::descriptor;
use crate::sys::mount::MountIdentity;
use crate::sys::process::{self, Signals};

/// Tells a server that its holder is gone.
pub(super) const ORPHANED: Signal = Signal::SIGUSR1;

/// Signals of one kind that follow each other faster were sent by one cause.
const ONE_SIGNAL: Duration = Duration::from_millis(100);

/// The signals that servers and holders take.
pub(super) fn take_signals() -> Result<Signals> {
    use Signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
    Signals::take(&[SIGTERM, SIGINT, SIGHUP, SIGCHLD, ORPHANED])
        .map_err(Error::system("cannot take signals"))
}

/// The signals that ask for an end, as they come.
#[derive(Debug, Default)]
pub(super) struct Interruptions(Option<(Signal, Instant)>);

impl Interruptions {
    /// Acts on a signal: the first detaches the mount, the second breaks off.
    ///
    /// # Errors
    /// [`Error::BrokenOff`].
    pub(super) fn take(&mut self, signal: Signal, own: MountIdentity) -> Result<()> {
        match self.0 {
            // timeout(1) sends its signal to the process, and to its group.
            Some((first, at)) if first == signal && at.elapsed() < ONE_SIGNAL => Ok(()),
            Some(_) => Err(Error::BrokenOff),
            None => {
                log::info!("{signal}: detaching the mount");
                detach(own);
                // What was sent together is read only now, however long that has taken.
                self.0 = Some((signal, Instant::now()));
                Ok(())
            }
        }
    }
}

/// What a server is told while it serves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// Its holder is gone.
    Orphaned,
    /// Somebody wants the mount to end.
    Interrupted(Signal),
}

/// The threads that serve, and how they tell of their end.
#[derive(Debug)]
pub(super) struct Server {
    thread: JoinHandle<io::Result<Ended>>,
    ended: Arc<EventFd>,
    lost: Arc<AtomicBool>,
}

impl Server {
    /// Starts to answer requests.
    pub(super) fn start(connection: Connection) -> Result<Server> {
        let ended = Arc::new(process::event().map_err(Error::system("cannot make an event"))?);
        // The last moment at which there is one thread.
        if let Err(error) = descriptor::make_room(&*ended) {
            log::debug!("the table of open files grows by and by: {error}");
        }
        let lost = Arc::new(AtomicBool::new(false));
        let (event, flag) = (Arc::clone(&ended), Arc::clone(&lost));
        fuse::on_lost_thread(move || {
            flag.store(true, Ordering::Release);
            raise(&event);
        });
        let event = Arc::clone(&ended);
        let thread = std::thread::Builder::new()
            .name("plyfs-serve".into())
            .spawn(move || {
                let result = connection.run();
                raise(&event);
                result
            })
            .map_err(Error::system("cannot start a thread"))?;
        Ok(Server {
            thread,
            ended,
            lost,
        })
    }

    /// Waits for the end of the mount, or until `act`, which is told what happens meanwhile, breaks.
    pub(super) fn wait(
        self,
        signals: &Signals,
        mut act: impl FnMut(Event) -> Result<ControlFlow<()>>,
    ) -> Result<Ended> {
        let waiting = |error| Error::system("cannot wait for signals")(error);
        while let Some(signal) = signals.wait(&*self.ended).map_err(waiting)? {
            let event = match Signal::try_from(signal.cast_signed()) {
                Ok(ORPHANED) => Event::Orphaned,
                Ok(Signal::SIGCHLD) | Err(_) => continue,
                Ok(signal) => Event::Interrupted(signal),
            };
            if act(event)?.is_break() {
                return Ok(Ended::Aborted);
            }
        }
        if self.lost.load(Ordering::Acquire) {
            // The others may wait for the kernel for ever: the end of the process ends them.
            return Err(Error::Bug);
        }
        match self.thread.join() {
            Ok(result) => result.map_err(Error::system("serving the mount broke off")),
            Err(_panic) => Err(Error::Bug),
        }
    }
}

fn raise(event: &EventFd) {
    if let Err(errno) = event.write(1) {
        log::error!("cannot tell that the mount is gone: {errno}");
    }
}

/// Takes our mount away, wherever it is.
pub(super) fn detach(own: MountIdentity) {
    match unmount::detach_own(own) {
        Ok(true) => {}
        Ok(false) => log::info!("the mount is attached nowhere any more"),
        Err(error) => log::error!("the mount stays: {}", error.chain()),
    }
}
