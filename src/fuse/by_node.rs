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

use nix::errno::Errno;
use parking_lot::Mutex;

use super::node_cache::NodeCache;
use crate::overlay::{NodeNumber, OpenRequest, Opened, Overlay, OverlayFile, Result};

/// What is done with a file when it can be written to, or with the error.
pub(super) type Waiting = Box<dyn FnOnce(std::result::Result<&OverlayFile, Errno>) + Send>;

/// Open files, by node.
pub(super) struct ByNode {
    open: NodeCache<Arc<OverlayFile>>,
    /// Nodes that are opened for writing just now, and what waits for each.
    opening: Mutex<HashMap<NodeNumber, Vec<Waiting>>>,
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
            Entry::Occupied(mut others) => {
                others.get_mut().push(wait());
                return None;
            }
            Entry::Vacant(first) => first.insert(Vec::new()),
        };
        let turn = Turn { files: self, node };
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
}

impl Turn<'_> {
    fn end(&self, opened: std::result::Result<&OverlayFile, Errno>) {
        let waiting = self.files.opening.lock().remove(&self.node);
        for work in waiting.unwrap_or_default() {
            work(opened);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.end(Err(Errno::EIO));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::layer::directory::DirectoryLayer;
    use crate::overlay::{Namespace, OverlayOptions, Union};
    use crate::union::stack::{Stack, StackOptions};

    #[test]
    fn who_waits_for_a_copy_gets_the_file_or_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        });
        fs::write(lower.join("file"), "lower").unwrap();
        let layer = DirectoryLayer::open(&lower).unwrap();
        let base = Stack::new(vec![layer], vec![], StackOptions::default()).unwrap();
        let options = OverlayOptions {
            namespace: Some(Namespace::User),
            ..OverlayOptions::default()
        };
        let overlay = Overlay::writable(Union::Stack(base), &upper, &work, options).unwrap();
        let found = overlay.lookup(NodeNumber::ROOT, b"file").unwrap();
        let (node, files) = (found.unwrap().node, ByNode::new());
        let (sender, told) = channel();
        let wait = || {
            let sender = sender.clone();
            let open = || -> Waiting {
                Box::new(move |file| sender.send(file.map(OverlayFile::is_writable)).unwrap())
            };
            files.open_or_wait(&overlay, node, open)
        };
        let begin = || {
            files.opening.lock().insert(node, Vec::new());
            Turn {
                files: &files,
                node,
            }
        };
        // Whoever is at it fails without a word.
        let turn = begin();
        assert!(wait().is_none() && wait().is_none());
        assert!(told.try_recv().is_err());
        drop(turn);
        assert_eq!([told.recv(), told.recv()], [Ok(Err(Errno::EIO)); 2]);
        // And the next one does not wait.
        assert!(wait().unwrap().unwrap().is_writable());
        assert_eq!(fs::read(upper.join("file")).unwrap(), b"lower");
        files.forget(node);
        let turn = begin();
        assert!(wait().is_none());
        turn.end(Ok(&*files.open(&overlay, node, true).unwrap()));
        drop(turn);
        assert_eq!(told.recv(), Ok(Ok(true)));
        assert!(told.try_recv().is_err() && files.opening.lock().is_empty());
    }
}
