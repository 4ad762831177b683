//! What the mounts of a container need to be mounted on, made before the runtime would make it, so that it is known
//! not to be a change of the container.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use super::Result;
use super::failure::Failure;
use crate::oci::Mount;
use crate::store::Store;
use crate::sys::at::RootFd;
use crate::sys::writable::{At, NewTime, WritableDir};

/// How many symlinks lead to a place at most, as in the kernel.
const MOST_LINKS: u32 = 40;

/// Makes what is missing for `mounts` in `rootfs`, on which the container is mounted, and records it.
pub fn make(store: &Store, container: &str, rootfs: &Path, mounts: &[Mount]) -> Result<()> {
    let failed = |error| Failure::new("cannot record the container's mount points", error);
    let mut maker = Maker {
        upper: store.container_upper(container),
        made: store.mount_points(container).map_err(failed)?,
    };
    let before = maker.made.clone();
    let result = maker.make_all(rootfs, mounts);
    result.map_err(|error| Failure::new("cannot make the container's mount points", error))?;
    if maker.made == before {
        return Ok(());
    }
    let recorded = store.record_mount_points(container, &maker.made);
    recorded.map_err(failed)
}

struct Maker {
    upper: PathBuf,
    /// What is in the upper for mounts only.
    made: BTreeSet<Vec<u8>>,
}

impl Maker {
    fn make_all(&mut self, rootfs: &Path, mounts: &[Mount]) -> io::Result<()> {
        for (number, mount) in mounts.iter().enumerate() {
            let place = Path::new(&mount.destination);
            let mut earlier = mounts.iter().take(number);
            // What lies in another mount is no part of the container.
            if !earlier.any(|earlier| place.starts_with(&earlier.destination)) {
                let is_file = mount.kind == "bind" && !Path::new(&mount.source).is_dir();
                self.make(rootfs, mount.destination.as_bytes(), is_file)?;
            }
        }
        Ok(())
    }

    /// Goes to `destination` as the runtime will, within the root, and makes what is not there.
    fn make(&mut self, rootfs: &Path, destination: &[u8], is_file: bool) -> io::Result<()> {
        let split = |path: &[u8]| -> Vec<Vec<u8>> {
            let names = path.split(|byte| *byte == b'/');
            let names = names.filter(|name| !matches!(*name, b"" | b"."));
            names.map(<[u8]>::to_vec).collect()
        };
        let root = WritableDir::open(rootfs)?;
        let mut way: Vec<(Vec<u8>, WritableDir)> = Vec::new();
        let mut left = VecDeque::from(split(destination));
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == b".." {
                way.pop();
                continue;
            }
            let directory = way.last().map_or(&root, |(_, directory)| directory);
            let kind = match directory.at(&name).stat() {
                Ok(stat) => stat.mode & libc::S_IFMT,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let names: Vec<&[u8]> = way.iter().map(|(name, _)| name.as_slice()).collect();
                    self.add(directory, &names, &name, is_file && left.is_empty())?;
                    libc::S_IFDIR
                }
                Err(error) => return Err(error),
            };
            match kind {
                libc::S_IFLNK if links < MOST_LINKS => {
                    links += 1;
                    let target = directory.at(&name).read_link()?;
                    if target.starts_with(b"/") {
                        way.clear();
                    }
                    for name in split(&target).into_iter().rev() {
                        left.push_front(name);
                    }
                }
                libc::S_IFDIR if !left.is_empty() => {
                    let next = directory.directory(&name)?;
                    way.push((name, next));
                }
                // There, or the runtime says what it thinks of it.
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Makes one entry. What it brings about besides, copies of directories and their times, is no change either.
    fn add(
        &mut self,
        directory: &WritableDir,
        names: &[&[u8]],
        name: &[u8],
        is_file: bool,
    ) -> io::Result<()> {
        let mut path = Vec::new();
        let mut copied = Vec::new();
        let mut upper = Some(RootFd::open(&self.upper)?);
        for above in names {
            path.extend_from_slice(above);
            upper = match upper.map(|upper| upper.directory(above)) {
                Some(Ok(found)) => Some(found),
                Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {
                    copied.push(path.clone());
                    None
                }
            };
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let (seconds, nanoseconds) = directory.at(b"").stat()?.mtime;
        // Not by name: whoever owns the directory may have put a symlink there since.
        if is_file {
            let file = directory.create_file(name, 0o644)?;
            At::file(&file).set_mode(0o644)?;
        } else {
            directory.make_directory(name, 0o755)?;
            directory.directory(name)?.at(b"").set_mode(0o755)?;
        }
        let before = NewTime::Set(seconds, nanoseconds);
        directory.at(b"").set_times(NewTime::Keep, before)?;
        self.made.extend(copied);
        self.made.insert(path);
        Ok(())
    }
}
