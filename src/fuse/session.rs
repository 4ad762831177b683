//! A connection to the kernel, from the handshake to its end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{Config, Session, SessionACL};

use super::ahead::{self, Ahead};
use super::contents::Contents;
use super::files::Files;
use super::handler::Adapter;
use super::notify;
use super::{Data, Settings};
use crate::overlay::Overlay;

/// A connection that has shaken hands and waits to be served.
#[derive(Debug)]
pub struct Connection {
    session: Session<Adapter>,
    worker: Option<ahead::Worker>,
    teller: notify::Worker,
}

impl Connection {
    /// Shakes hands over `device`, the descriptor of a FUSE device whose file system is mounted,
    /// be it attached or not.
    ///
    /// # Errors
    /// What the device reports, `ENODEV` when the mount is gone already.
    pub fn open(overlay: Arc<Overlay>, device: OwnedFd, settings: Settings) -> io::Result<Self> {
        let mut config = Config::default();
        config.n_threads = Some(settings.threads.max(1));
        let contents = Contents::new();
        let ahead = settings.read_ahead.then(|| Ahead::new(&overlay)).flatten();
        let (ahead, worker) = ahead.unzip();
        let (notes, teller) = notify::notes();
        let passthrough = matches!(settings.data, Data::Passthrough { .. });
        let adapter = Adapter {
            overlay,
            settings,
            contents,
            files: Files::new(passthrough, notes),
            ahead,
        };
        // Who may come in is checked by the kernel; the library would compare raw user ids.
        let session = Session::from_fd(adapter, device, SessionACL::All, config)?;
        Ok(Connection {
            session,
            worker,
            teller,
        })
    }

    /// Answers requests until the last mount of the file system is gone.
    ///
    /// # Errors
    /// What the device reports; the end of the mount is no error.
    pub fn run(self) -> io::Result<()> {
        let Connection {
            session,
            worker,
            teller,
        } = self;
        let worker = worker
            .map(|worker| worker.start(session.notifier()))
            .transpose()?;
        let teller = teller.start(session.notifier())?;
        let ended = match session.run() {
            // The connection was aborted.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            ended => ended,
        };
        // The adapter is gone, and with it what the workers listened to.
        if let Some(Err(_panic)) = worker.map(JoinHandle::join) {
            log::error!("read-ahead ended by a bug in plyfs");
        }
        if teller.join().is_err() {
            log::error!("notifications ended by a bug in plyfs");
        }
        ended
    }
}
