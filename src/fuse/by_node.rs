//! Files of a writable connection whose opens the kernel does not tell us about.
//!
//! With the writeback cache all that OPEN would give is a descriptor of our own, and it costs two round trips a file.
//! So the kernel is not asked to send it: a file is opened at its first READ or WRITE, which is also when
//! it is copied up, and the files that were used last stay open. What loses its last name is kept by the engine
//! for as long as the kernel knows it.
//!
//! The kernel sends what it has collected in many requests at once. While one of them has a file copied up, the others
//! wait without a thread: else there would be none left for other files.
//!
//! # Invariants
//! * A file that the kernel has dropped is closed, so that its room is free again.
//! * Contents that share a file with others are not kept: opening them costs nothing.
//!
//! # Locking
//! That of the cache, and one lock for who waits; neither is held across a system call.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::Mutex;

use super::node_cache::NodeCache;
use crate::overlay::{NodeNumber, OpenRequest, Opened, Overlay, OverlayFile, Result};

/// What is done with a file when it can be written to, or with the error.
pub(super) type Waiting = Box<dyn FnOnce(std::result::Result<&OverlayFile, Errno>) + Send>;

/// For how long what was sent together with a request that failed fails too, without another try: a copy takes long.
const TOGETHER: Duration = Duration::from_millis(100);

/// How far a node is on its way to be written to.
enum Opening {
    /// Somebody is at it, for whom these wait.
    Begun(Vec<Waiting>),
    /// It could not be opened then.
    Failed(Errno, Instant),
}

/// Open files, by node.
pub(super) struct ByNode {
    open: NodeCache<Arc<OverlayFile>>,
    /// Nodes that are opened for writing just now, or could not be.
    opening: Mutex<HashMap<NodeNumber, Opening>>,
}

impl ByNode {
    pub(super) fn new() -> ByNode {
        ByNode {
            open: NodeCache::new(),
            opening: Mutex::default(),
        }
    }

    /// The file of `node`, opened now or before; copied up if it is to be written to.
    pub(super) fn open(
        &self,
        overlay: &Overlay,
        node: NodeNumber,
        write: bool,
    ) -> Result<Arc<OverlayFile>> {
        let known = self.open.get(node);
        if let Some(file) = known.filter(|file| !write || file.is_writable()) {
            return Ok(file);
        }
        let request = OpenRequest {
            write,
            ..OpenRequest::default()
        };
        let opened = match overlay.open_file(node, request) {
            Err(error) if matches!(error.errno, Errno::EMFILE | Errno::ENFILE) => {
                self.open.clear();
                overlay.open_file(node, request)
            }
            opened => opened,
        };
        let Opened::File(file) = opened? else {
            // Nobody reads a lower file but by requests.
            return Err(Errno::EIO.into());
        };
        if file.is_writable() || file.content()?.whole {
            self.keep(node, Arc::clone(&file));
        }
        Ok(file)
    }

    /// The same for writing. If somebody else is at it, nothing is returned, and what `wait` gives is done in the end.
    pub(super) fn open_or_wait(
        &self,
        overlay: &Overlay,
        node: NodeNumber,
        wait: impl FnOnce() -> Waiting,
    ) -> Option<Result<Arc<OverlayFile>>> {
        if let Some(file) = self.open.get(node).filter(|file| file.is_writable()) {
            return Some(Ok(file));
        }
        match self.opening.lock().entry(node) {
            Entry::Occupied(mut others) => match others.get_mut() {
                Opening::Begun(waiting) => {
                    waiting.push(wait());
                    return None;
                }
                Opening::Failed(errno, when) if when.elapsed() < TOGETHER => {
                    return Some(Err((*errno).into()));
                }
                failed @ Opening::Failed(..) => *failed = Opening::Begun(Vec::new()),
            },
            Entry::Vacant(first) => {
                first.insert(Opening::Begun(Vec::new()));
            }
        }
        let turn = Turn::new(self, node);
        let opened = self.open(overlay, node, true);
        turn.end(opened.as_deref().map_err(|error| error.errno));
        Some(opened)
    }

    /// Keeps a file open.
    pub(super) fn keep(&self, node: NodeNumber, file: Arc<OverlayFile>) {
        self.open.keep(node, file);
    }

    /// The kernel has dropped `node`.
    pub(super) fn forget(&self, node: NodeNumber) {
        self.open.remove(node);
        let mut opening = self.opening.lock();
        if let Some(Opening::Failed(..)) = opening.get(&node) {
            opening.remove(&node);
        }
    }
}

impl fmt::Debug for ByNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByNode").finish_non_exhaustive()
    }
}

/// For as long as a node is being opened for writing. Nobody waits when it has ended, whatever happens.
struct Turn<'a> {
    files: &'a ByNode,
    node: NodeNumber,
    has_ended: bool,
}

impl<'a> Turn<'a> {
    fn new(files: &'a ByNode, node: NodeNumber) -> Turn<'a> {
        Turn {
            files,
            node,
            has_ended: false,
        }
    }

    fn end(mut self, opened: std::result::Result<&OverlayFile, Errno>) {
        self.tell(opened);
    }

    /// Once: another one may have begun before all are told.
    fn tell(&mut self, opened: std::result::Result<&OverlayFile, Errno>) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let waiting = {
            let mut opening = self.files.opening.lock();
            match opened {
                Ok(_) => opening.remove(&self.node),
                Err(errno) => opening.insert(self.node, Opening::Failed(errno, Instant::now())),
            }
        };
        if let Some(Opening::Begun(waiting)) = waiting {
            for work in waiting {
                work(opened);
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.tell(Err(Errno::EIO));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::channel;

    use super::super::test_support::{Directories, node_of};
    use super::*;

    #[test]
    fn who_waits_for_a_copy_gets_the_file_or_the_error() {
        let directories = Directories::new();
        fs::write(directories.lower.join("file"), "lower").unwrap();
        let overlay = directories.overlay();
        let (node, files) = (node_of(&overlay, b"file"), ByNode::new());
        let (sender, told) = channel();
        let wait = || {
            let sender = sender.clone();
            let open = || -> Waiting {
                Box::new(move |file| sender.send(file.map(OverlayFile::is_writable)).unwrap())
            };
            files.open_or_wait(&overlay, node, open)
        };
        let begin = || {
            let begun = Opening::Begun(Vec::new());
            files.opening.lock().insert(node, begun);
            Turn::new(&files, node)
        };
        // Whoever is at it fails without a word.
        let turn = begin();
        assert!(wait().is_none() && wait().is_none());
        assert!(told.try_recv().is_err());
        drop(turn);
        assert_eq!([told.recv(), told.recv()], [Ok(Err(Errno::EIO)); 2]);
        // What was sent with it fails too, and what comes later does not wait.
        assert_eq!(wait().unwrap().unwrap_err().errno, Errno::EIO);
        files.forget(node);
        assert!(wait().unwrap().unwrap().is_writable());
        assert_eq!(fs::read(directories.upper.join("file")).unwrap(), b"lower");
        files.forget(node);
        let turn = begin();
        assert!(wait().is_none());
        turn.end(Ok(&*files.open(&overlay, node, true).unwrap()));
        assert_eq!(told.recv(), Ok(Ok(true)));
        assert!(told.try_recv().is_err() && files.opening.lock().is_empty());
    }

    /// It ended twice, and the second time others were waiting.
    #[test]
    fn regression_a_turn_ends_once() {
        let (files, node) = (ByNode::new(), NodeNumber(7));
        let mut first = Turn::new(&files, node);
        first.tell(Err(Errno::ENOSPC));
        let waiting = vec![Box::new(|_: std::result::Result<&OverlayFile, Errno>| {
            let waits_for_another = false;
            assert!(waits_for_another);
        }) as Waiting];
        files.opening.lock().insert(node, Opening::Begun(waiting));
        drop(first);
        assert_eq!(files.opening.lock().len(), 1);
    }
}
