//! Reading one directory of a layer, with its marks.

use std::io;

use super::marks::{Marks, Opacity};
use crate::layer::FileKind;
use crate::sys::at::{RootFd, Stat};
use crate::whiteout::{self, Marker, Namespace};

/// What a name in a directory of a layer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// There is something of this kind.
    Object(FileKind),
    /// The name is hidden, in this layer too.
    Whiteout,
    /// The name is hidden in the layers below; this layer may have it anew.
    HiddenBelow,
}

/// One name of a [`Scan`].
#[derive(Clone, Copy, Debug)]
pub struct Scanned {
    /// Where the name begins in [`Scan::names`].
    pub start: u32,
    /// Length of the name in bytes.
    pub length: u8,
    /// What it means.
    pub what: What,
}

/// The names of one or more directories, in the order in which they were read.
#[derive(Debug, Default)]
pub struct Scan {
    /// All names, one after another.
    pub names: Vec<u8>,
    /// What they mean.
    pub entries: Vec<Scanned>,
    buffer: Vec<u8>,
}

impl Scan {
    /// The bytes of a name of this scan.
    #[must_use]
    pub fn name(&self, entry: &Scanned) -> &[u8] {
        let start = entry.start as usize;
        let end = start + usize::from(entry.length);
        self.names.get(start..end).unwrap_or_default()
    }

    /// Reads `directory`, which is listable, to the end of this scan, and returns its marks, which are in
    /// `namespace`.
    ///
    /// # Errors
    /// What the system calls report; `EFBIG` for names of 4 GiB and more.
    pub fn read(&mut self, directory: &RootFd, namespace: Namespace) -> io::Result<Marks> {
        let mut marks = Marks::read(directory, b"", namespace)?;
        let has_whiteouts = marks.opacity == Opacity::HasWhiteouts;
        let mut doubtful = Vec::new();
        let mut too_big = false;
        let (names, entries) = (&mut self.names, &mut self.entries);
        directory.entries(&mut self.buffer, &mut |entry| {
            let (name, what) = match whiteout::marker(entry.name) {
                None => (entry.name, None),
                Some(Marker::Whiteout(hidden)) => (hidden, Some(What::HiddenBelow)),
                Some(Marker::Opaque) => {
                    marks.opacity = Opacity::Opaque;
                    return;
                }
                Some(Marker::Reserved | Marker::Invalid) => return,
            };
            let what = what.unwrap_or_else(|| {
                let kind = FileKind::from_mode(u32::from(entry.d_type) << 12);
                match kind {
                    Some(FileKind::Regular) if !has_whiteouts => What::Object(FileKind::Regular),
                    Some(FileKind::CharDevice | FileKind::Regular) | None => {
                        doubtful.push(entries.len());
                        What::Object(kind.unwrap_or(FileKind::Regular))
                    }
                    Some(kind) => What::Object(kind),
                }
            });
            let (Ok(start), Ok(length)) = (u32::try_from(names.len()), u8::try_from(name.len()))
            else {
                too_big = true;
                return;
            };
            names.extend_from_slice(name);
            entries.push(Scanned {
                start,
                length,
                what,
            });
        })?;
        if too_big {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        for index in doubtful {
            let Some(entry) = self.entries.get(index).copied() else {
                continue;
            };
            let what = examine(
                directory,
                self.name(&entry),
                has_whiteouts.then_some(namespace),
            )?;
            if let Some(entry) = self.entries.get_mut(index) {
                entry.what = what;
            }
        }
        Ok(marks)
    }
}

/// What an entry is whose type in the listing does not tell whether it is a whiteout, by an attribute in `marks` if
/// there may be such.
fn examine(directory: &RootFd, name: &[u8], marks: Option<Namespace>) -> io::Result<What> {
    let stat = directory.stat(name)?;
    if is_device_whiteout(&stat) {
        return Ok(What::Whiteout);
    }
    let kind = FileKind::from_mode(stat.mode)
        .ok_or_else(|| io::Error::other(format!("file of unknown type {:o}", stat.mode)))?;
    if kind == FileKind::Regular
        && stat.size == 0
        && let Some(namespace) = marks
        && Marks::read(directory, name, namespace)?.whiteout
    {
        return Ok(What::Whiteout);
    }
    Ok(What::Object(kind))
}

fn is_device_whiteout(stat: &Stat) -> bool {
    stat.mode & libc::S_IFMT == libc::S_IFCHR && stat.rdev == (0, 0)
}
