//! Sequential files written past the page cache.
//!
//! What a layer holds is mostly not read soon, so it need not push out of memory what is; and
//! filling the page cache costs several times the processor time of the write itself.
//!
//! # Invariants
//! Direct writes are whole, aligned blocks; the rest at the end of a file, and everything where
//! the file system has no direct writes, goes through the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use super::Error;

/// What every file system and disk takes as alignment.
const ALIGNMENT: usize = 4096;

/// Bytes gathered before they are written.
const CAPACITY: usize = 1 << 19;

/// Aligned zeros of this many bytes become a hole: less would only scatter a file on the disk.
const HOLE: usize = 1 << 16;
static ZEROS: [u8; HOLE] = [0; HOLE];

/// Memory that direct writes may come from.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    pub(super) fn new() -> Buffer {
        let bytes = vec![0; CAPACITY + ALIGNMENT];
        // The vector never grows, so its memory stays where it is.
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Buffer {
            bytes,
            start,
            length: 0,
        }
    }

    fn filled(&self) -> &[u8] {
        self.bytes
            .get(self.start..self.start + self.length)
            .unwrap_or_default()
    }

    /// Takes as much of `piece` as there is room for; gives the rest.
    fn fill<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let count = piece.len().min(CAPACITY - self.length);
        let (now, later) = piece.split_at(count);
        let start = self.start + self.length;
        if let Some(room) = self.bytes.get_mut(start..start + count) {
            room.copy_from_slice(now);
        }
        self.length += count;
        later
    }
}

/// A new file that is written from its beginning to its end.
pub(super) struct Sink {
    file: File,
    path: PathBuf,
    buffer: Buffer,
    written: u64,
    direct: bool,
    /// Whether zeros become holes.
    sparse: bool,
}

impl Sink {
    /// Creates `path`, which must not exist.
    pub(super) fn create(path: PathBuf, buffer: Buffer) -> Result<Sink, Error> {
        let open = |flags| {
            let mut options = OpenOptions::new();
            options
                .write(true)
                .create_new(true)
                .mode(0o644)
                .custom_flags(flags)
                .open(&path)
        };
        let opened = match open(libc::O_DIRECT) {
            Ok(file) => Ok((file, true)),
            // Some file systems make the file before they refuse the flag.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => remove_leftover(&path)
                .and_then(|()| open(0))
                .map(|file| (file, false)),
            Err(error) => Err(error),
        };
        match opened {
            Ok((file, direct)) => Ok(Sink {
                file,
                path,
                buffer,
                written: 0,
                direct,
                sparse: false,
            }),
            Err(source) => Err(Error::Write { path, source }),
        }
    }

    /// The same file, in which long runs of zeros become holes.
    pub(super) fn sparse(self) -> Sink {
        Sink {
            sparse: true,
            ..self
        }
    }

    /// Appends `piece`.
    pub(super) fn append(&mut self, mut piece: &[u8]) -> Result<(), Error> {
        loop {
            piece = self.buffer.fill(piece);
            if self.buffer.length == CAPACITY {
                self.flush()?;
            }
            if piece.is_empty() {
                return Ok(());
            }
        }
    }

    /// Appends `count` zeros.
    pub(super) fn append_zeros(&mut self, mut count: u64) -> Result<(), Error> {
        while count > 0 {
            let now = count.min(ALIGNMENT as u64);
            self.append([0; ALIGNMENT].get(..now as usize).unwrap_or_default())?;
            count -= now;
        }
        Ok(())
    }

    /// Writes what is left, and gives the buffer back.
    pub(super) fn finish(mut self) -> Result<Buffer, Error> {
        self.flush()?;
        if self.sparse {
            // What ends in a hole has not got its length yet.
            let length = self.file.set_len(self.written);
            length.map_err(|source| Error::Write {
                path: self.path.clone(),
                source,
            })?;
        }
        Ok(self.buffer)
    }

    fn flush(&mut self) -> Result<(), Error> {
        let result = self.try_flush();
        self.buffer.length = 0;
        result.map_err(|source| Error::Write {
            path: self.path.clone(),
            source,
        })
    }

    fn try_flush(&mut self) -> io::Result<()> {
        let bytes = self.buffer.filled();
        if !self.sparse {
            write_run(&self.file, &mut self.direct, bytes, self.written)?;
        } else {
            // The buffer begins at a multiple of its capacity, so the chunks are aligned.
            let is_hole = |chunk: &[u8]| Some(chunk) == ZEROS.get(..chunk.len());
            let mut at = 0;
            for run in bytes
                .chunks(HOLE)
                .collect::<Vec<_>>()
                .chunk_by(|a, b| is_hole(a) == is_hole(b))
            {
                let end = at + run.iter().map(|chunk| chunk.len()).sum::<usize>();
                if !run.first().is_some_and(|chunk| is_hole(chunk)) {
                    let data = bytes.get(at..end).unwrap_or_default();
                    write_run(&self.file, &mut self.direct, data, self.written + at as u64)?;
                }
                at = end;
            }
        }
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Writes `bytes` at `offset`, which is aligned while writes are direct.
fn write_run(file: &File, direct: &mut bool, bytes: &[u8], offset: u64) -> io::Result<()> {
    let blocks = if *direct {
        bytes.len() / ALIGNMENT * ALIGNMENT
    } else {
        0
    };
    let (mut blocks, mut rest) = bytes.split_at(blocks);
    if !blocks.is_empty() {
        match file.write_all_at(blocks, offset) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                (blocks, rest) = (&[], bytes);
            }
            Err(error) => return Err(error),
        }
    }
    if !rest.is_empty() {
        if *direct {
            fcntl(file, FcntlArg::F_SETFL(OFlag::empty()))?;
            *direct = false;
        }
        file.write_all_at(rest, offset + blocks.len() as u64)?;
    }
    Ok(())
}

fn remove_leftover(path: &PathBuf) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_size_are_whole() {
        let directory = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::new();
        for (number, size) in [
            0,
            1,
            ALIGNMENT - 1,
            ALIGNMENT,
            ALIGNMENT + 1,
            CAPACITY - 1,
            CAPACITY,
            CAPACITY + 1,
            2 * CAPACITY + ALIGNMENT,
            3 * CAPACITY + 5,
        ]
        .into_iter()
        .enumerate()
        {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let path = directory.path().join(number.to_string());
            let mut sink = Sink::create(path.clone(), buffer).unwrap();
            for piece in bytes.chunks(100_003) {
                sink.append(piece).unwrap();
            }
            sink.append_zeros(5000).unwrap();
            buffer = sink.finish().unwrap();
            let expected = [bytes, vec![0; 5000]].concat();
            assert!(std::fs::read(path).unwrap() == expected, "{size}");
        }
    }

    #[test]
    fn regression_zeros_of_a_large_file_become_holes() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::new();
        for end in [0, 1, 5, HOLE] {
            let mut bytes = vec![0; 3 * CAPACITY + end];
            bytes[CAPACITY + HOLE] = 1;
            let path = directory.path().join(end.to_string());
            let mut sink = Sink::create(path.clone(), buffer).unwrap().sparse();
            for piece in bytes.chunks(100_003) {
                sink.append(piece).unwrap();
            }
            buffer = sink.finish().unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes, "{end}");
            let blocks = std::fs::metadata(&path).unwrap().blocks();
            assert!(blocks * 512 <= 2 * HOLE as u64, "{end}: {blocks} blocks");
        }
    }

    #[test]
    fn a_full_disk_is_reported() {
        // The device refuses every write, and cannot be created anew either.
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let path = PathBuf::from("/dev/full");
        let mut sink = Sink {
            file,
            path,
            buffer: Buffer::new(),
            written: 0,
            direct: false,
            sparse: false,
        };
        let error = sink.append(&[1; CAPACITY]).unwrap_err();
        assert!(
            matches!(error, Error::Write { source, .. } if source.raw_os_error() == Some(libc::ENOSPC))
        );
        assert!(Sink::create("/dev/full".into(), Buffer::new()).is_err());
    }
}
