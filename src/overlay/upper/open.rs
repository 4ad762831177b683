//! Opening an upper: who may, what is cleaned, and what the file system can do.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::Mutex;

use super::{MarkNames, Upper, cache, failed};
use crate::overlay::request::OverlayOptions;
use crate::sys::at::RootFd;
use crate::sys::lock;
use crate::sys::writable::{At, WritableDir};
use crate::union::{Error, Result};
use crate::whiteout::Namespace;

const INCOMPAT: &[u8] = b"incompat";
const VOLATILE: &[u8] = b"volatile";
const INDEX: &[u8] = b"plyfs.index";

/// How long a server may take to end after its mount is gone.
const PATIENCE: Duration = Duration::from_secs(3);

impl Upper {
    /// Opens `upper` and `work`, and removes what was left in `work`.
    ///
    /// # Errors
    /// `EBUSY` when one of them is in use, `EXDEV` when they lie on different file systems, `EINVAL`
    /// when one lies in the other or after a crash of a volatile overlay, `EROFS`.
    pub(in crate::overlay) fn open(
        upper: &Path,
        work: &Path,
        identity: [u8; 16],
        options: OverlayOptions,
    ) -> Result<Upper> {
        let root = WritableDir::open(upper).map_err(failed("opening the upper directory"))?;
        let outer = WritableDir::open(work).map_err(failed("opening the work directory"))?;
        same_device(&root, &outer)?;
        apart(upper, work)?;
        let locks = vec![
            lock_patiently(&root, "locking the upper directory")?,
            lock_patiently(&outer, "locking the work directory")?,
        ];
        let inner = work_directory(&outer, b"work").map_err(failed("making the work directory"))?;
        if volatile_in_this_boot(&inner)? && !options.volatile {
            // From now on it counts as complete.
            let doing = "syncing what a volatile overlay wrote";
            let listable = root.listable().map_err(failed(doing))?;
            nix::unistd::syncfs(&listable).map_err(|errno| failed(doing)(errno.into()))?;
        }
        clean(&inner).map_err(failed("cleaning the work directory"))?;
        let index = work_directory(&outer, INDEX).map_err(failed("making the index"))?;
        if options.volatile {
            mark_volatile(&inner).map_err(failed("marking the work directory as volatile"))?;
        }
        let namespace = match options.namespace {
            Some(namespace) => namespace,
            None if options.override_stat => Namespace::User,
            None => probe_namespace(&inner)?,
        };
        let upper = Upper::of(root, inner, index, namespace, identity, options);
        Ok(Upper { locks, ..upper })
    }

    /// Opens `upper` and `work` to read what another process is writing there. Nothing is locked,
    /// made or removed.
    ///
    /// # Errors
    /// What opening them reports.
    pub(in crate::overlay) fn beside(
        upper: &Path,
        work: &Path,
        identity: [u8; 16],
        options: OverlayOptions,
    ) -> Result<Upper> {
        let root = WritableDir::open(upper).map_err(failed("opening the upper directory"))?;
        let doing = "opening the work directory";
        let outer = || WritableDir::open(work).map_err(failed(doing));
        let index = match outer()?.directory(INDEX) {
            // There is nothing in it either that looks like an entry of the index.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => outer()?,
            index => index.map_err(failed(doing))?,
        };
        let namespace = options.marks();
        let (work, index) = (outer()?, index);
        Ok(Upper::of(root, work, index, namespace, identity, options))
    }

    fn of(
        root: WritableDir,
        work: WritableDir,
        index: WritableDir,
        namespace: Namespace,
        identity: [u8; 16],
        options: OverlayOptions,
    ) -> Upper {
        Upper {
            root: Arc::new(root),
            work,
            index: Arc::new(index),
            locks: Vec::new(),
            names: MarkNames::new(namespace),
            ids: options.ids,
            override_stat: options.override_stat,
            volatile: options.volatile,
            metacopy_redirect: options.metacopy_redirect && !options.override_stat,
            identity,
            own_ids: (
                nix::unistd::geteuid().as_raw(),
                nix::unistd::getegid().as_raw(),
            ),
            next_name: AtomicU64::new(0),
            no_unnamed_files: AtomicBool::new(false),
            whiteout: Mutex::default(),
            directories: cache(),
        }
    }

    /// Leaves word for the next one who opens a volatile upper, see [`volatile_in_this_boot`].
    pub(in crate::overlay) fn shut_down(&self) -> Result<()> {
        if !self.volatile {
            return Ok(());
        }
        let Some(name) = ended_mark() else {
            return Ok(());
        };
        let marked = self.work.directory(INCOMPAT).and_then(|incompat| {
            let volatile = incompat.directory(VOLATILE)?;
            volatile.make_directory(&name, 0o700)
        });
        match marked {
            // containers/storage removes the mark as it likes.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            marked => marked.map_err(failed("marking the end of a volatile overlay")),
        }
    }
}

/// The process that served the last mount may be at its end, but not over it, so this waits a bit.
/// The lock belongs to the open description: it goes when the last process that has it closes it,
/// so it outlives the parent of a daemon.
fn lock_patiently(directory: &WritableDir, doing: &'static str) -> Result<File> {
    let file = directory.listable().map_err(failed(doing))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                let by = match lock::holder(&file).map_err(failed(doing))? {
                    Some(pid) => format!("process {pid}"),
                    None => "another process".to_owned(),
                };
                return Err(Error {
                    errno: Errno::EBUSY,
                    doing: format!("{doing}, which is in use by {by}").into(),
                    source: None,
                });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(error, doing)),
        }
    }
}

fn same_device(upper: &WritableDir, work: &WritableDir) -> Result<()> {
    let stat = |directory: &WritableDir| {
        let stat = directory.at(b"").stat();
        stat.map_err(failed("reading attributes of the upper directory"))
    };
    let (upper, work) = (stat(upper)?, stat(work)?);
    if upper.dev != work.dev {
        return Err(Error {
            errno: Errno::EXDEV,
            doing: "the work directory is not on the file system of the upper directory".into(),
            source: None,
        });
    }
    if upper.ino == work.ino {
        return Err(nested());
    }
    Ok(())
}

fn nested() -> Error {
    Error {
        errno: Errno::EINVAL,
        doing: "the upper and the work directory lie in one another".into(),
        source: None,
    }
}

/// Refuses directories of which one contains the other.
fn apart(upper: &Path, work: &Path) -> Result<()> {
    let above =
        |path: &Path| -> io::Result<Vec<(u64, u64)>> { RootFd::open(path)?.ancestors(&|_| false) };
    let doing = "comparing the upper and the work directory";
    let (upper, work) = (
        above(upper).map_err(failed(doing))?,
        above(work).map_err(failed(doing))?,
    );
    let contains = |outer: &[(u64, u64)], inner: &[(u64, u64)]| {
        outer.first().is_some_and(|outer| inner.contains(outer))
    };
    if contains(&upper, &work) || contains(&work, &upper) {
        return Err(nested());
    }
    Ok(())
}

/// Opens a directory of our own, made if it is not there. What is made in it has the ACLs that it is
/// given, not those that somebody has set for everything below a directory above.
fn work_directory(outer: &WritableDir, name: &[u8]) -> io::Result<WritableDir> {
    let directory = match outer.directory(name) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            outer.make_directory(name, 0o700)?;
            outer.directory(name)?
        }
        result => result?,
    };
    directory.at(b"").remove_acls()?;
    Ok(directory)
}

/// Whether a volatile overlay wrote here and was shut down in order, on this run of the machine: then
/// what it wrote is all there, on disk or in the page cache. Otherwise its upper may have lost anything.
fn volatile_in_this_boot(work: &WritableDir) -> Result<bool> {
    let doing = "looking for the mark of a volatile overlay";
    let mark = match work.directory(INCOMPAT).and_then(|i| i.directory(VOLATILE)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
        mark => mark.map_err(failed(doing))?,
    };
    let ended = ended_mark().map(|name| mark.at(&name).stat());
    match ended {
        Some(Ok(_)) => Ok(true),
        Some(Err(error)) if error.raw_os_error() != Some(libc::ENOENT) => Err(failed(doing)(error)),
        _ => Err(Error {
            errno: Errno::EINVAL,
            doing: "the upper was written without syncs (volatile) before a crash or a restart of \
                    the machine and may be incomplete; remove work/incompat/volatile in the work \
                    directory to use it all the same"
                .into(),
            source: None,
        }),
    }
}

/// The name of the mark that a volatile overlay leaves at its end; none where runs of the machine
/// cannot be told apart.
fn ended_mark() -> Option<Vec<u8>> {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    Some([b"plyfs.ended-", boot.trim_ascii()].concat())
}

fn mark_volatile(work: &WritableDir) -> io::Result<()> {
    work.make_directory(INCOMPAT, 0o700)?;
    work.directory(INCOMPAT)?.make_directory(VOLATILE, 0o700)
}

/// Removes everything that is in `directory`.
pub(super) fn clean(directory: &WritableDir) -> io::Result<()> {
    // Depth is bounded by the tree on disk; what is under way is flat.
    let mut names = Vec::new();
    directory.entries(&mut |entry| names.push(entry.name.to_vec()))?;
    for name in names {
        match directory.unlink(&name) {
            Err(error) if error.raw_os_error() == Some(libc::EISDIR) => {
                clean(&directory.directory(&name)?)?;
                directory.remove_directory(&name)?;
            }
            result => result?,
        }
    }
    Ok(())
}

/// Whether marks can be `trusted.`. Needs no room, or nothing could be removed from an upper that is full.
fn probe_namespace(work: &WritableDir) -> Result<Namespace> {
    let (trusted, user) = (b"trusted.plyfs.probe", b"user.plyfs.probe");
    let work = work.at(b"");
    let tried = match try_xattr(work, trusted) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            try_xattr(work, user).map(|()| Namespace::User)
        }
        tried => tried.map(|()| Namespace::Trusted),
    };
    tried.map_err(failed("trying extended attributes in the work directory"))
}

/// Sets and removes an attribute; where only the room for it is missing, it is possible.
fn try_xattr(at: At<'_>, name: &[u8]) -> io::Result<()> {
    match at.set_xattr(name, b"", 0) {
        Ok(()) => at.remove_xattr(name),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => Ok(()),
        Err(error) => Err(error),
    }
}
