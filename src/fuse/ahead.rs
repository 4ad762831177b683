//! Read-ahead across files. (To be written: it only takes notes so far.)

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::Notifier;

use super::contents::Contents;
use crate::overlay::{NodeNumber, Overlay};

/// What handlers tell the worker.
#[derive(Debug)]
pub(super) struct Ahead;

/// The thread that stores.
#[derive(Debug)]
pub(super) struct Worker;

impl Ahead {
    pub(super) fn new(_overlay: Arc<Overlay>, _contents: Arc<Contents>) -> (Ahead, Worker) {
        (Ahead, Worker)
    }
    pub(super) fn told(&self, _node: NodeNumber) {}
    pub(super) fn forgotten(&self, _node: NodeNumber) {}
    pub(super) fn seen(&self, _node: NodeNumber, _offset: u64) {}
}

impl Worker {
    pub(super) fn start(self, _notifier: Notifier) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("plyfs-ahead".into())
            .spawn(|| {})
    }
}
