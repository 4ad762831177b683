//! A connection to the kernel, from the handshake to its end.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use fuser::{Config, Notifier, Session};

use super::ahead::{self, Ahead};
use super::backing::{self, Backings};
use super::by_node::ByNode;
use super::contents::Contents;
use super::files::Files;
use super::first_read::FirstReads;
use super::handler::Adapter;
use super::handshake::{self, Terms};
use super::notify;
use super::{Data, Settings};
use crate::overlay::Overlay;

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything was answered.
    Unmounted,
    /// Somebody broke it off; what was written may not have arrived.
    Aborted,
}

thread_local! {
    /// Whether this thread is within something that catches panics.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which catches its panics.
pub(super) fn catching<T>(work: impl FnOnce() -> T) -> T {
    let before = CAUGHT.replace(true);
    let result = work();
    CAUGHT.set(before);
    result
}

/// What the threads are called that answer requests; the library names them.
const THREADS: &str = "fuser-";

/// Has `tell` called when a thread that answers requests panics where nobody catches it. The
/// library would notice only after all the others have ended, and what the thread was asked would
/// never be answered. For the whole process.
pub fn on_lost_thread(tell: impl Fn() + Send + Sync + 'static) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        let thread = std::thread::current();
        let ours = thread.name().is_some_and(|name| name.starts_with(THREADS));
        if ours && !CAUGHT.get() {
            log::error!("a thread that answers the kernel is lost: {panic}");
            tell();
        }
    }));
}

/// Whether a record of the log, without the number of its error, only says that the kernel does not know a request any
/// more that was answered. The library calls that an error. It comes when a process gets a signal while it
/// waits: the kernel says so by a request of its own, which may be answered after the one that it is about.
#[must_use]
pub fn is_unwanted_answer(target: &str, text: &str) -> bool {
    target.starts_with("fuser::") && text == "Failed to send FUSE reply: No such file or directory"
}

/// A connection that has shaken hands and waits to be served.
#[derive(Debug)]
pub struct Connection {
    session: Session<Adapter>,
    /// What handlers notify the kernel with.
    notifier: Arc<OnceLock<Notifier>>,
    worker: Option<ahead::Worker>,
    tellers: notify::Workers,
    terms: Terms,
    /// Of a tree that never changes.
    backing_files: Option<File>,
}

/// What another server must know of a connection that it takes over, beside the tree, which never changes.
#[derive(Debug)]
pub struct Handover {
    /// What was agreed on.
    pub terms: Terms,
    /// Which backing files there are: memory that all servers of a connection share.
    pub backing_files: File,
}

impl Connection {
    /// Shakes hands over `device`, the descriptor of a FUSE device whose file system is mounted,
    /// be it attached or not.
    ///
    /// # Errors
    /// What the device reports, `ENODEV` when the mount is gone already.
    pub fn open(overlay: Arc<Overlay>, device: OwnedFd, settings: Settings) -> io::Result<Self> {
        let totals = overlay.base().totals();
        let notes = totals.filter(|_| !overlay.is_writable());
        let notes = notes
            .map(|totals| backing::notes(totals.nodes))
            .transpose()?;
        Connection::build(overlay, device, settings, notes, handshake::begin)
    }

    /// Takes the connection of `device` over from a server that has ended. The tree must be the one that
    /// was served before, and the settings those of the first server.
    ///
    /// # Errors
    /// What the device reports, or that this version cannot do what was agreed on.
    pub fn take_over(
        overlay: Arc<Overlay>,
        device: OwnedFd,
        settings: Settings,
        handover: &Handover,
    ) -> io::Result<Self> {
        let notes = Some(handover.backing_files.try_clone()?);
        let terms = handover.terms.clone();
        Connection::build(
            overlay,
            device,
            settings,
            notes,
            |adapter, device, config| {
                let session = handshake::take_over(adapter, device, config, &terms)?;
                Ok((session, terms))
            },
        )
    }

    fn build(
        overlay: Arc<Overlay>,
        device: OwnedFd,
        settings: Settings,
        backing_files: Option<File>,
        shake_hands: impl FnOnce(Adapter, &OwnedFd, Config) -> io::Result<(Session<Adapter>, Terms)>,
    ) -> io::Result<Self> {
        let mut config = Config::default();
        config.n_threads = Some(settings.threads.max(1));
        let device = Arc::new(device);
        let ahead = settings.read_ahead.then(|| Ahead::new(&overlay)).flatten();
        let (ahead, worker) = ahead.unzip();
        let (notes, tellers) = notify::notes();
        let passthrough = matches!(settings.data, Data::Passthrough { .. });
        let known = backing_files.as_ref().filter(|_| passthrough);
        let known = known.map(File::try_clone).transpose()?;
        let by_node = (settings.data == Data::WriteBack).then(ByNode::new);
        let notifier = Arc::default();
        let first_reads = FirstReads::new(Arc::clone(&notifier));
        let adapter = Adapter {
            overlay,
            settings,
            contents: Contents::new(),
            files: Arc::new(Files::new(by_node, first_reads, notes)),
            backings: known.map(|known| Backings::new(known, Arc::clone(&device))),
            ahead,
        };
        let (session, terms) = shake_hands(adapter, &device, config)?;
        Ok(Connection {
            session,
            notifier,
            worker,
            tellers,
            terms,
            backing_files,
        })
    }

    /// What another server needs to take the connection over; nothing if none can, because the tree may
    /// change, or the kernel cannot send requests again.
    ///
    /// # Errors
    /// What fcntl(2) reports.
    pub fn handover(&self) -> io::Result<Option<Handover>> {
        let notes = self.backing_files.as_ref();
        let notes = notes.filter(|_| self.terms.allow_resending());
        let handover = |backing_files| Handover {
            terms: self.terms.clone(),
            backing_files,
        };
        Ok(notes.map(File::try_clone).transpose()?.map(handover))
    }

    /// Answers requests until the last mount of the file system is gone.
    ///
    /// # Errors
    /// What the device reports; the end of the mount is no error.
    pub fn run(self) -> io::Result<Ended> {
        let Connection {
            session,
            notifier,
            worker,
            tellers,
            ..
        } = self;
        notifier.get_or_init(|| session.notifier());
        let worker = worker
            .map(|worker| worker.start(session.notifier()))
            .transpose()?;
        let tellers = tellers.start(&session.notifier())?;
        let ended = match session.run() {
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(Ended::Aborted),
            ended => ended.map(|()| Ended::Unmounted),
        };
        // The adapter is gone, and with it what the workers listened to.
        if let Some(Err(_panic)) = worker.map(JoinHandle::join) {
            log::error!("read-ahead ended by a bug in plyfs");
        }
        for teller in tellers {
            if teller.join().is_err() {
                log::error!("notifications ended by a bug in plyfs");
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::Builder;

    use super::*;

    #[test]
    fn regression_an_answer_that_is_not_wanted_any_more_is_no_error() {
        let gone = "Failed to send FUSE reply: No such file or directory";
        assert!(is_unwanted_answer("fuser::reply", gone));
        assert!(!is_unwanted_answer("plyfs::fuse", gone));
        let other = "Failed to send FUSE reply: Invalid argument";
        assert!(!is_unwanted_answer("fuser::reply", other));
    }

    #[test]
    fn regression_a_lost_thread_is_noticed_at_once() {
        let lost = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lost);
        on_lost_thread(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let run = |name: &str, work: fn()| {
            let thread = Builder::new().name(name.into()).spawn(work).unwrap();
            assert!(thread.join().is_err() || name.ends_with("caught"));
            lost.load(Ordering::Relaxed)
        };
        let caught = || catching(|| drop(catch_unwind(|| panic!("caught"))));
        assert_eq!(run("fuser-caught", caught), 0);
        assert_eq!(run("another", || panic!("not ours")), 0);
        assert_eq!(run("fuser-1", || panic!("lost")), 1);
    }
}
