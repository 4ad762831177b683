//! Becoming a daemon: fork with a status pipe, standard streams, limits, signals.
//!
//! # Invariants
//! * A forked child never returns into its parent's code: it ends with `_exit`.
//! * Fork happens while the process has one thread; whoever calls it sees to that.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

/// Runs `child` in a process of its own that has no controlling terminal and is nobody's child.
///
/// Returns the reading end of a pipe whose writing end `child` gets. The pipe ends when the child
/// drops it, or dies. The number that `child` returns becomes the exit status.
///
/// # Errors
/// What pipe(2) and fork(2) report.
pub fn fork_daemon(child: impl FnOnce(File) -> u8) -> io::Result<File> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the child runs ordinary code, which is sound because this process has a single
    // thread (the duty of the caller), so that no lock is left held by a vanished thread.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => {
            drop(writer);
            // The middle process ends at once; the daemon belongs to init from then on.
            loop {
                match waitpid(child, None) {
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                    Ok(_) => return Ok(File::from(reader)),
                }
            }
        }
        ForkResult::Child => {
            drop(reader);
            let status = match setsid() {
                Ok(_) => fork_again(writer, child),
                Err(_) => 1,
            };
            exit_now(status)
        }
    }
}

fn fork_again(writer: OwnedFd, child: impl FnOnce(File) -> u8) -> u8 {
    // SAFETY: as above; this process is the copy of one with a single thread.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { .. }) => 0,
        Ok(ForkResult::Child) => {
            catch_unwind(AssertUnwindSafe(|| child(File::from(writer)))).unwrap_or(101)
        }
        Err(_) => 1,
    }
}

/// Runs `child` in a child of this process; the number that it returns becomes the exit status.
///
/// Returns the reading end of a pipe too, as [`fork_daemon`] does.
///
/// # Errors
/// What pipe(2) and fork(2) report.
pub fn fork_child(child: impl FnOnce(File) -> u8) -> io::Result<(Pid, File)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: as in `fork_daemon`.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok((child, File::from(reader))),
        ForkResult::Child => {
            drop(reader);
            let child = AssertUnwindSafe(|| child(File::from(writer)));
            exit_now(catch_unwind(child).unwrap_or(101));
        }
    }
}

/// Has this process sent `signal` when `parent`, which forked it, ends. If that has happened already, `false`.
///
/// # Errors
/// What prctl(2) reports.
pub fn signal_when_orphaned(signal: Signal, parent: Pid) -> io::Result<bool> {
    nix::sys::prctl::set_pdeathsig(signal)?;
    Ok(nix::unistd::getppid() == parent)
}

/// Ends the process without running destructors or exit handlers.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(libc::c_int::from(status)) }
}

/// Connects the three standard streams to `/dev/null`, so that nobody waits for them to close.
///
/// # Errors
/// What open(2) and dup2(2) report.
pub fn detach_standard_streams() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// Raises the soft limit of open files to the hard one.
///
/// # Errors
/// What getrlimit(2) and setrlimit(2) report.
pub fn raise_open_files() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// Lifts the soft limits that a caller has set for programs of his own: of open files, of the size of files, of time to
/// compute. Where a hard one is left, writing beyond it fails with `EFBIG` and does not end this process.
///
/// # Errors
/// What getrlimit(2), setrlimit(2) and sigaction(2) report.
pub fn lift_limits() -> io::Result<()> {
    // SAFETY: no code runs for a signal that is ignored.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
    for resource in [Resource::RLIMIT_FSIZE, Resource::RLIMIT_CPU] {
        let (_, hard) = getrlimit(resource)?;
        setrlimit(resource, hard, hard)?;
    }
    raise_open_files()
}

/// Asks the kernel to spare this process when memory runs out: a server that is killed takes
/// every program below its mount with it.
///
/// # Errors
/// `EACCES` without `CAP_SYS_RESOURCE`.
pub fn ask_to_be_spared() -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", "-900")
}

/// Whether this process has `CAP_SYS_ADMIN` in its own user namespace.
///
/// # Errors
/// What reading `/proc/self/status` reports.
pub fn is_administrator() -> io::Result<bool> {
    const CAP_SYS_ADMIN: u32 = 21;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))?;
    Ok(effective & (1 << CAP_SYS_ADMIN) != 0)
}

/// Signals that are taken from a descriptor; blocked in this thread and those it starts.
#[derive(Debug)]
pub struct Signals {
    source: SignalFd,
    previous: SigSet,
}

impl Signals {
    /// Blocks `signals` and takes them from now on.
    ///
    /// # Errors
    /// What sigprocmask(2) and signalfd(2) report.
    pub fn take(signals: &[Signal]) -> io::Result<Signals> {
        let mut previous = SigSet::empty();
        let set: SigSet = signals.iter().copied().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut previous))?;
        let source = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Signals { source, previous })
    }

    /// Waits for one of the signals. Tells its number, and whether a process sent it, not the kernel or
    /// its terminal.
    ///
    /// # Errors
    /// What poll(2) and read(2) report.
    pub fn next(&self) -> io::Result<(i32, bool)> {
        loop {
            let mut waited = [PollFd::new(self.source.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut waited, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
                Ok(_) => {}
            }
            if let Some(signal) = self.source.read_signal()? {
                let number = i32::try_from(signal.ssi_signo).map_err(io::Error::other)?;
                return Ok((number, signal.ssi_code <= libc::SI_USER));
            }
        }
    }

    /// Waits for one of the signals, or until there is something to read from `other`, which gives `None`.
    ///
    /// # Errors
    /// What poll(2) and read(2) report.
    pub fn wait(&self, other: &impl AsFd) -> io::Result<Option<u32>> {
        loop {
            let mut waited = [
                PollFd::new(self.source.as_fd(), PollFlags::POLLIN),
                PollFd::new(other.as_fd(), PollFlags::POLLIN),
            ];
            match nix::poll::poll(&mut waited, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
                Ok(_) => {}
            }
            if let Some(signal) = self.source.read_signal()? {
                return Ok(Some(signal.ssi_signo));
            }
            if waited.get(1).and_then(PollFd::any) == Some(true) {
                return Ok(None);
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let restored = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.previous), None);
        if let Err(errno) = restored {
            log::debug!("cannot restore the signal mask: {errno}");
        }
    }
}

/// An event that one thread raises and another waits for.
///
/// # Errors
/// What eventfd(2) reports.
pub fn event() -> io::Result<EventFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?)
}

/// Closes every descriptor above standard error, but `keep`: those of a caller who did not mark his
/// own would stay open as long as a daemon lives. For the very beginning of a program only.
///
/// # Errors
/// What close_range(2) reports.
pub fn close_inherited(keep: Option<RawFd>) -> io::Result<()> {
    let keep = keep
        .and_then(|fd| u32::try_from(fd).ok())
        .filter(|fd| *fd > 2);
    let ranges = match keep {
        Some(keep) => [Some((3, keep - 1)), Some((keep + 1, u32::MAX))],
        None => [Some((3, u32::MAX)), None],
    };
    for (first, last) in ranges
        .into_iter()
        .flatten()
        .filter(|(first, last)| first <= last)
    {
        // SAFETY: close_range has no memory arguments. The caller promises that nothing in this
        // program owns a descriptor yet, so none is closed under an owner.
        if unsafe { libc::close_range(first, last, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
