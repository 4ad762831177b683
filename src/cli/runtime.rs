//! Running a bundle with the OCI runtime that is installed.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::failure::Failure;
use super::{Result, environment};
use crate::sys::process::Signals;

/// Looked for in this order.
const KNOWN: [&str; 2] = ["runc", "crun"];

/// What is handed on to the container.
const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// What Docker ends with when a container could not be started, when its command could not be run, and
/// when there is no such command.
pub const NOT_STARTED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NO_COMMAND: u8 = 127;

/// An OCI runtime.
#[derive(Debug)]
pub struct Runtime {
    program: PathBuf,
}

impl Runtime {
    /// The runtime that was asked for, or the one that is installed.
    pub fn find(asked: Option<&Path>) -> Result<Runtime> {
        let program = match asked {
            Some(path) if path.components().count() > 1 => Some(path.to_owned()),
            Some(name) => installed(name),
            None => KNOWN.iter().find_map(|name| installed(Path::new(name))),
        };
        let program = program.ok_or_else(|| match asked {
            Some(name) => Failure::plain(format!("there is no runtime {}", name.display())),
            None => Failure::plain("there is no OCI runtime: neither runc nor crun is installed")
                .or_hint("install one, or name another with --runtime"),
        })?;
        Ok(Runtime { program })
    }

    /// Signals from now on wait for [`Runtime::run`].
    pub fn take_signals() -> Result<Signals> {
        let mut signals = FORWARDED.to_vec();
        signals.push(Signal::SIGCHLD);
        Signals::take(&signals).map_err(|error| Failure::new("cannot wait for signals", error))
    }

    /// Runs the container of a bundle to its end, and returns its exit status. `reads` tells whether it
    /// gets our standard input.
    pub fn run(&self, bundle: &Path, id: &str, reads: bool, signals: &Signals) -> Result<u8> {
        let (started, log) = (bundle.join("pid"), bundle.join("log"));
        let mut command = self.command(bundle);
        command
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json"]);
        command.arg("run").arg("--bundle").arg(bundle);
        command.arg("--pid-file").arg(&started).arg(id);
        if !reads {
            command.stdin(Stdio::null());
        }
        let failed = |error| Failure::new(format!("cannot run {}", self.program.display()), error);
        let mut child = command.spawn().map_err(failed)?;
        let pid = i32::try_from(child.id()).map(Pid::from_raw);
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            let (number, from_process) = signals.next().map_err(failed)?;
            // What the terminal sends, it sends to the runtime as well.
            if number != Signal::SIGCHLD as i32
                && from_process
                && let (Ok(pid), Ok(signal)) = (pid, Signal::try_from(number))
                && let Err(errno) = kill(pid, signal)
            {
                log::debug!("cannot hand on {signal}: {errno}");
            }
        };
        let code = code(status);
        if code != 0 && !started.exists() {
            return Ok(not_started(&log));
        }
        Ok(code)
    }

    /// Ends what the runtime may have left of a container.
    pub fn delete(&self, bundle: &Path, id: &str) {
        let state = bundle.join("state").join(id);
        if !state.exists() {
            return;
        }
        let mut command = self.command(bundle);
        let ended = command
            .args(["delete", "--force", id])
            .stdin(Stdio::null())
            .status();
        if !matches!(ended, Ok(status) if status.success()) {
            log::warn!(
                "the runtime may have left something of the container in {}",
                state.display()
            );
        }
    }

    fn command(&self, bundle: &Path) -> Command {
        let mut command = Command::new(&self.program);
        // A directory of its own, so that nothing stays that the bundle does not hold.
        command.arg("--root").arg(bundle.join("state"));
        command
    }
}

fn installed(name: &Path) -> Option<PathBuf> {
    // Users often lack the directories of administrators.
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(|place| Path::new(place).join(name));
    let found = name.to_str().and_then(environment::program);
    found.or_else(|| more.into_iter().find(|path| path.is_file()))
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Why the runtime did not start the command, as it wrote to its log.
fn not_started(log: &Path) -> u8 {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    log::debug!("the runtime says: {}", said.trim());
    if !said.contains("exec") {
        NOT_STARTED
    } else if said.contains("not found") || said.contains("no such file") {
        NO_COMMAND
    } else if said.contains("ermission denied") || said.contains("is a directory") {
        NOT_EXECUTABLE
    } else {
        NOT_STARTED
    }
}
