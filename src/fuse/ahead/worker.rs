//! The thread that stores contents in the page cache of the mount.

use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};

use super::{Hint, Shared};
use crate::overlay::{NodeNumber, OpenContent, Overlay};

/// Larger files are left to the kernel's own read-ahead.
const SMALL: u64 = 256 << 10;
/// Contents this close together are read in one go.
const GAP: u64 = 16 << 10;
/// As much as is read in one go.
const BATCH: u64 = 512 << 10;
/// Nodes that are looked at for one window.
const REACH: u64 = 4096;
/// Unknown nodes in a row that end a window: directories that nobody has listed.
const STRANGERS: u32 = 256;

/// A file that is to be stored.
#[derive(Debug)]
struct Item {
    node: NodeNumber,
    content: OpenContent,
}

/// The worker before and while it runs.
#[derive(Debug)]
pub(in crate::fuse) struct Worker {
    overlay: Arc<Overlay>,
    shared: Arc<Shared>,
    hints: Receiver<Hint>,
    batch: Vec<Item>,
    buffer: Vec<u8>,
}

impl Worker {
    pub(super) fn new(overlay: Arc<Overlay>, shared: Arc<Shared>, hints: Receiver<Hint>) -> Worker {
        Worker {
            overlay,
            shared,
            hints,
            batch: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Starts the thread. It ends when the handlers are gone.
    pub(in crate::fuse) fn start(self, notifier: Notifier) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("plyfs-ahead".into())
            .spawn(move || self.run(&notifier))
    }

    fn run(mut self, notifier: &Notifier) {
        while let Ok(hint) = self.hints.recv() {
            match hint {
                Hint::After { node, budget } => self.after(notifier, node, budget),
                Hint::In {
                    directory,
                    budget,
                    leave_out,
                } => {
                    self.inside(notifier, directory, budget, leave_out);
                }
            }
            self.flush(notifier);
        }
    }

    /// Stores files in the order of nodes. One at three quarters of the way is left out, so that
    /// the next window is begun before this one is used up.
    fn after(&mut self, notifier: &Notifier, node: NodeNumber, budget: u64) {
        let mut left = budget;
        let mut strangers = 0;
        let mut leave_out = true;
        for next in (node.0 + 1)..(node.0 + REACH) {
            if !self.shared.known.get(next) {
                strangers += 1;
                if strangers > STRANGERS {
                    return;
                }
                continue;
            }
            strangers = 0;
            let content = match self.overlay.packed_content(NodeNumber(next)) {
                Ok(content) => content,
                // Beyond the last node.
                Err(_) => return,
            };
            let Some(content) = content.filter(|content| content.size <= SMALL) else {
                continue;
            };
            if self.shared.left_out.get(next) {
                leave_out = false;
                continue;
            }
            if leave_out && left <= budget / 4 && !self.shared.done.get(next) {
                leave_out = false;
                self.shared.left_out.set(next);
                continue;
            }
            if self.shared.done.set(next) {
                continue;
            }
            left = left.saturating_sub(content.size);
            self.add(
                notifier,
                Item {
                    node: NodeNumber(next),
                    content,
                },
            );
            if left == 0 {
                return;
            }
        }
    }

    /// Stores the files of a directory; with `leave_out` all but the last.
    fn inside(&mut self, notifier: &Notifier, directory: NodeNumber, budget: u64, leave_out: bool) {
        let mut left = budget;
        let mut items = Vec::new();
        let overlay = Arc::clone(&self.overlay);
        let listed = overlay.list(directory, 2, &mut |entry| {
            let content = overlay.packed_content(entry.node).ok().flatten();
            if let Some(content) = content.filter(|content| content.size <= SMALL)
                && !self.shared.done.get(entry.node.0)
            {
                left = left.saturating_sub(content.size);
                items.push(Item {
                    node: entry.node,
                    content,
                });
            }
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if let Err(error) = listed {
            log::debug!("read-ahead in directory {}: {error}", directory.0);
        }
        if leave_out && let Some(item) = items.pop() {
            self.shared.left_out.set(item.node.0);
        }
        for item in items {
            if !self.shared.done.set(item.node.0) {
                self.add(notifier, item);
            }
        }
    }

    /// Puts a file into the batch, which is stored first when the file lies elsewhere.
    fn add(&mut self, notifier: &Notifier, item: Item) {
        let fits = match (self.batch.first(), self.batch.last()) {
            (Some(first), Some(last)) => {
                let end = last.content.start + last.content.size;
                Arc::ptr_eq(&first.content.file, &item.content.file)
                    && item.content.start >= end
                    && item.content.start - end <= GAP
                    && item.content.start + item.content.size - first.content.start <= BATCH
            }
            _ => true,
        };
        if !fits {
            self.flush(notifier);
        }
        self.batch.push(item);
    }

    /// Reads the batch in one go and stores it file by file.
    fn flush(&mut self, notifier: &Notifier) {
        let (Some(first), Some(last)) = (self.batch.first(), self.batch.last()) else {
            return;
        };
        let start = first.content.start;
        let length = last.content.start + last.content.size - start;
        let length = usize::try_from(length).unwrap_or(0);
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        let target = self.buffer.get_mut(..length).unwrap_or_default();
        if let Err(error) = first.content.file.read_exact_at(target, start) {
            // Whoever reads the file is told; here it only means that it is not stored.
            log::debug!("read-ahead: {error}");
            self.batch.clear();
            return;
        }
        for item in self.batch.drain(..) {
            let from = usize::try_from(item.content.start - start).unwrap_or(usize::MAX);
            let length = usize::try_from(item.content.size).unwrap_or(usize::MAX);
            let bytes = self.buffer.get(from..).and_then(|rest| rest.get(..length));
            let Some(bytes) = bytes else { continue };
            if let Err(error) = notifier.store(INodeNo(item.node.0), 0, bytes) {
                log::debug!("storing node {}: {error}", item.node.0);
            }
        }
    }
}
