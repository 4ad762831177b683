//! Open files.
//!
//! A handle belongs to a node, not to a layer: a file that was opened for reading while its data
//! lay in the base shows the data of the upper as soon as there are any.
//!
//! # Locking
//! The lock of a handle is held while its content is looked at, and exclusively while it changes
//! over to the upper; never while data are read or written.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use parking_lot::RwLock;

use super::engine::Engine;
use super::node::{Node, Stage};
use super::upper::failed;
use super::{NodeNumber, OpenContent, Result};
use crate::layer::FileKind;
use crate::sys::data;

use super::copy_up::Want;
use super::request::{OpenRequest, Opened};

/// What is written at once. For more, file systems take large folios, which often come from memory that nobody has
/// used for long: in a virtual machine that gives free memory back, touching it costs ten times the copying.
const PIECE: usize = 64 << 10;

/// What makes a handle follow its node.
#[derive(Debug)]
struct Live {
    engine: Arc<Engine>,
    node: Arc<Node>,
}

#[derive(Clone, Debug)]
enum Content {
    Base(OpenContent),
    Upper(Arc<File>),
}

/// An open regular file.
#[derive(Debug)]
pub struct OverlayFile {
    node: NodeNumber,
    is_writable: bool,
    live: Option<Live>,
    content: RwLock<Content>,
}

impl OverlayFile {
    /// A file of a base that nothing changes.
    pub(super) fn of_base(node: NodeNumber, content: OpenContent) -> OverlayFile {
        OverlayFile {
            node,
            is_writable: false,
            live: None,
            content: RwLock::new(Content::Base(content)),
        }
    }

    /// A file of the upper, open for reading and writing.
    pub(super) fn of_upper(engine: &Arc<Engine>, node: &Arc<Node>, file: File) -> OverlayFile {
        OverlayFile {
            node: NodeNumber(node.number),
            is_writable: true,
            live: Some(Live {
                engine: Arc::clone(engine),
                node: Arc::clone(node),
            }),
            content: RwLock::new(Content::Upper(Arc::new(file))),
        }
    }

    /// The node that was opened.
    #[must_use]
    pub fn node(&self) -> NodeNumber {
        self.node
    }

    /// Whether it was opened for writing.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Whether the data lie in the upper.
    #[must_use]
    pub fn is_upper(&self) -> bool {
        match &*self.content.read() {
            Content::Upper(_) => true,
            Content::Base(_) => {
                (self.live.as_ref()).is_some_and(|l| l.node.stage() == Stage::Upper)
            }
        }
    }

    /// The data as they lie at present.
    fn current(&self) -> Result<Content> {
        let content = self.content.read().clone();
        let Content::Base(_) = &content else {
            return Ok(content);
        };
        match &self.live {
            Some(live) if live.node.stage() == Stage::Upper => {
                let file = live.engine.open_upper(&live.node, false)?;
                let upper = Content::Upper(Arc::new(file));
                *self.content.write() = upper.clone();
                Ok(upper)
            }
            _ => Ok(content),
        }
    }

    /// The data as they lie on disk at present: for passthrough, where `whole`.
    ///
    /// # Errors
    /// What open(2) reports.
    pub fn content(&self) -> Result<OpenContent> {
        match self.current()? {
            Content::Base(content) => Ok(content),
            Content::Upper(file) => {
                let size = file
                    .metadata()
                    .map_err(failed("reading attributes in the upper"))?
                    .len();
                Ok(OpenContent {
                    file,
                    start: 0,
                    size,
                    whole: true,
                })
            }
        }
    }

    /// Reads until `buffer` is full or the file ends; returns the number of bytes.
    ///
    /// # Errors
    /// What pread(2) reports.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        match self.current()? {
            Content::Base(content) => content.read_at(buffer, offset),
            Content::Upper(file) => read_full(&file, buffer, offset),
        }
    }

    fn writable(&self) -> Result<Arc<File>> {
        match &*self.content.read() {
            Content::Upper(file) if self.is_writable => Ok(Arc::clone(file)),
            _ => Err(Errno::EBADF.into()),
        }
    }

    /// Writes all of `data`, or says how much of it was written before an error.
    ///
    /// # Errors
    /// `EBADF` when not opened for writing, or what pwrite(2) reports.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<usize> {
        let file = self.writable()?;
        let mut done = 0;
        while let Some(rest) = data.get(done..)
            && !rest.is_empty()
        {
            let piece = rest.get(..PIECE).unwrap_or(rest);
            match data::write_at(&file, piece, offset + done as u64) {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(failed("writing to the upper")(error)),
            }
        }
        Ok(done)
    }

    /// fallocate(2) with any mode.
    ///
    /// # Errors
    /// As [`OverlayFile::write_at`].
    pub fn allocate(&self, mode: i32, offset: u64, length: u64) -> Result<()> {
        let file = self.writable()?;
        data::allocate(&file, mode, offset, length).map_err(failed("allocating in the upper"))
    }

    /// Makes what was written durable; of the attributes only what is needed to read it if
    /// `data_only`. Nothing on a volatile overlay.
    ///
    /// # Errors
    /// What fsync(2) reports.
    pub fn sync(&self, data_only: bool) -> Result<()> {
        let Some(live) = &self.live else {
            return Ok(());
        };
        let file = match self.current()? {
            Content::Upper(file) => file,
            Content::Base(_) if live.node.stage() == Stage::Base => return Ok(()),
            // Of a metacopy the attributes are there.
            Content::Base(_) => Arc::new(live.engine.open_upper(&live.node, false)?),
        };
        live.engine.upper.sync(&file, data_only)
    }

    /// copy_file_range(2) to another open file; returns the number of bytes.
    ///
    /// # Errors
    /// As [`OverlayFile::write_at`].
    pub fn copy_range(
        &self,
        offset: u64,
        to: &OverlayFile,
        to_offset: u64,
        length: u64,
    ) -> Result<u64> {
        let target = to.writable()?;
        let from = self.content()?;
        let length = length.min(from.size.saturating_sub(offset));
        if length == 0 {
            return Ok(0);
        }
        data::copy_range(&from.file, from.start + offset, &target, to_offset, length)
            .map_err(failed("copying data into the upper"))
    }
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..)
        && !rest.is_empty()
    {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(failed("reading from the upper")(error)),
        }
    }
    Ok(done)
}

impl Engine {
    /// Opens the data of a node that lie in the upper.
    pub(super) fn open_upper(&self, node: &Arc<Node>, write: bool) -> Result<File> {
        let _still = self.still();
        let reach = self.upper.reach(node)?;
        reach
            .at()
            .open(write)
            .map_err(failed("opening a file of the upper"))
    }

    /// See [`super::Overlay::open_file`].
    pub(super) fn open_file(
        self: &Arc<Engine>,
        node: NodeNumber,
        request: OpenRequest,
    ) -> Result<Opened> {
        let node = self.node(node)?;
        match node.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
        let write = request.write || request.truncate;
        let may_be_cut = node.stage() != Stage::Upper;
        if write {
            let keep = if request.truncate { 0 } else { u64::MAX };
            if request.lower_is_live {
                return self.split(&node, keep).map(Opened::MovedTo);
            }
            self.copy_up(&node, Want::Data(keep))?;
        }
        let content = if node.stage() == Stage::Upper {
            let file = self.open_upper(&node, write)?;
            if request.truncate
                && let Err(error) = data::truncate(&file, 0)
            {
                let error = failed("truncating in the upper")(error);
                return Err(if may_be_cut { error.in_doubt() } else { error });
            }
            Content::Upper(Arc::new(file))
        } else {
            Content::Base(self.open_base(&node)?)
        };
        Ok(Opened::File(Arc::new(OverlayFile {
            node: NodeNumber(node.number),
            is_writable: write,
            live: Some(Live {
                engine: Arc::clone(self),
                node,
            }),
            content: RwLock::new(content),
        })))
    }

    fn open_base(&self, node: &Node) -> Result<OpenContent> {
        let base = node.base.ok_or(Errno::EIO)?;
        self.base.open(NodeNumber(base))
    }

    /// See [`super::Overlay::open`].
    pub(super) fn open(&self, node: NodeNumber) -> Result<OpenContent> {
        let node = self.node(node)?;
        match node.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
        if node.stage() != Stage::Upper {
            return self.open_base(&node);
        }
        let file = self.open_upper(&node, false)?;
        let size = file
            .metadata()
            .map_err(failed("reading attributes in the upper"))?
            .len();
        Ok(OpenContent {
            file: Arc::new(file),
            start: 0,
            size,
            whole: true,
        })
    }
}
