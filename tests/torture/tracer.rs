//! Runs a program up to one of the system calls by which it changes files: there it dies, or the call fails.
//!
//! The program is the one that people use, traced by ptrace(2). What counts as a step is any system call of
//! any of its threads that changes a directory or a file below a given directory, or makes it durable, and any
//! that sends something to somebody else.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed before it.
    Kill,
    /// From it on there is no space for anything more.
    Full,
    /// It fails, for want of space if it needs some; what comes after it does not.
    Once,
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// How many steps there were.
    pub steps: usize,
    /// The step at which something happened, as text.
    pub hit: Option<String>,
    /// The exit status; `None` if it was killed.
    pub status: Option<i32>,
    /// What it said on standard error.
    pub said: String,
}

/// Runs `command`; `fault` happens at the step with the number `at`, counted from zero. Its standard
/// input is empty.
pub fn run(command: &Command, below: &Path, at: usize, fault: Fault) -> Run {
    // It waits to be traced.
    let mut shell = Command::new("sh");
    shell.args(["-c", "read go; exec \"$@\" </dev/null", "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let said = tempfile::tempfile().unwrap();
    shell.stdin(Stdio::piped()).stdout(Stdio::null());
    #[allow(clippy::zombie_processes)] // its end is seen by `follow`
    let mut child = shell.stderr(said.try_clone().unwrap()).spawn().unwrap();
    let root = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(root, options).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut tracer = Tracer {
        root,
        below,
        at,
        fault,
        failing: HashMap::new(),
        run: Run {
            steps: 0,
            hit: None,
            status: None,
            said: String::new(),
        },
    };
    while tracer.follow() {}
    let mut text = vec![0; usize::try_from(said.metadata().unwrap().len()).unwrap()];
    said.read_exact_at(&mut text, 0).unwrap();
    tracer.run.said = String::from_utf8_lossy(&text).into_owned();
    tracer.run
}

struct Tracer<'a> {
    root: Pid,
    below: &'a Path,
    at: usize,
    fault: Fault,
    /// Threads within a call that is to fail, and how.
    failing: HashMap<Pid, i32>,
    run: Run,
}

impl Tracer<'_> {
    /// Waits for the next thing to happen; whether there may be more.
    fn follow(&mut self) -> bool {
        // Of this thread only: other tests have their own children.
        let ours = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let (pid, signal) = match waitpid(None, Some(ours)) {
            Ok(WaitStatus::PtraceSyscall(pid)) => {
                self.at_call(pid);
                (pid, None)
            }
            Ok(WaitStatus::PtraceEvent(pid, ..)) => (pid, None),
            Ok(WaitStatus::Stopped(pid, signal)) => (pid, Some(signal)),
            // Its last thread; we may have other children.
            Ok(WaitStatus::Exited(pid, status)) if pid == self.root => {
                self.run.status = Some(status);
                return false;
            }
            Ok(WaitStatus::Signaled(pid, ..)) if pid == self.root => return false,
            Ok(_) => return true,
            Err(error) => panic!("waiting for a traced program: {error}"),
        };
        match ptrace::syscall(pid, signal) {
            // It was killed meanwhile.
            Ok(()) | Err(nix::errno::Errno::ESRCH) => true,
            Err(error) => panic!("going on with a traced program: {error}"),
        }
    }

    fn at_call(&mut self, pid: Pid) {
        let Ok(mut registers) = ptrace::getregs(pid) else {
            return;
        };
        if let Some(errno) = self.failing.remove(&pid) {
            registers.rax = i64::from(-errno) as u64;
            ptrace::setregs(pid, registers).unwrap();
            return;
        }
        // So it is when a call begins.
        if registers.rax as i64 != -i64::from(libc::ENOSYS) {
            return;
        }
        let Some(call) = Call::of(pid, &registers, self.below) else {
            return;
        };
        let step = self.run.steps;
        self.run.steps += 1;
        let is_due = match self.fault {
            Fault::Kill | Fault::Once => step == self.at,
            Fault::Full => step >= self.at && call.takes_space,
        };
        if !is_due {
            return;
        }
        self.run.hit.get_or_insert_with(|| call.text());
        if self.fault == Fault::Kill {
            kill(self.root, Signal::SIGKILL).unwrap();
            return;
        }
        let errno = match call.takes_space {
            true => libc::ENOSPC,
            false => libc::EIO,
        };
        // No system call has this number.
        registers.orig_rax = u64::MAX;
        ptrace::setregs(pid, registers).unwrap();
        self.failing.insert(pid, errno);
    }
}

/// A system call that changes something.
struct Call {
    name: &'static str,
    path: PathBuf,
    takes_space: bool,
}

impl Call {
    fn of(pid: Pid, registers: &user_regs_struct, below: &Path) -> Option<Call> {
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
        let name = name(registers.orig_rax as i64)?;
        let path_at = |n: usize| PathBuf::from(text(pid, arguments[n]));
        let is_made = |n: usize| !path_at(n).exists();
        let call = |path, takes_space| Call {
            name,
            path,
            takes_space,
        };
        let found = match name {
            "open" | "openat" => {
                let at = usize::from(name == "openat");
                let flags = arguments[at + 1] as i32;
                if flags & libc::O_TMPFILE == libc::O_TMPFILE {
                    call(path_at(at), true)
                } else if flags & libc::O_CREAT != 0 {
                    call(path_at(at), is_made(at))
                } else if flags & libc::O_TRUNC != 0 {
                    call(path_at(at), false)
                } else {
                    return None;
                }
            }
            "mkdir" => call(path_at(0), is_made(0)),
            "mkdirat" => call(path_at(1), is_made(1)),
            "rename" | "link" => call(path_at(1), true),
            "renameat" | "renameat2" | "linkat" => call(path_at(3), true),
            "symlink" => call(path_at(1), true),
            "symlinkat" => call(path_at(2), true),
            "unlink" | "rmdir" | "chmod" | "truncate" => call(path_at(0), false),
            "unlinkat" | "fchmodat" | "fchownat" | "utimensat" => call(path_at(1), false),
            "setxattr" | "lsetxattr" => call(path_at(0), true),
            "copy_file_range" => call(open_file(pid, arguments[2], below)?, true),
            "sendto" => call(socket(pid, arguments[0])?, false),
            "write" | "pwrite64" | "writev" | "pwritev" | "fallocate" | "sendfile" => {
                call(open_file(pid, arguments[0], below)?, true)
            }
            _ => call(open_file(pid, arguments[0], below)?, false),
        };
        let elsewhere = found.path.is_absolute() && !found.path.starts_with(below);
        (!elsewhere).then_some(found)
    }

    fn text(&self) -> String {
        format!("{} {}", self.name, self.path.display())
    }
}

/// The file that a descriptor stands for, if it is one of those that count.
fn open_file(pid: Pid, descriptor: u64, below: &Path) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/fd/{}", descriptor as i32)).ok()?;
    path.starts_with(below).then_some(path)
}

/// The socket that a descriptor stands for.
fn socket(pid: Pid, descriptor: u64) -> Option<PathBuf> {
    open_file(pid, descriptor, Path::new(""))
        .filter(|file| file.to_string_lossy().starts_with("socket:"))
}

/// A text in the memory of a process.
fn text(pid: Pid, at: u64) -> String {
    let mut bytes = vec![0; libc::PATH_MAX as usize];
    let read = File::open(format!("/proc/{pid}/mem")).and_then(|it| it.read_at(&mut bytes, at));
    bytes.truncate(read.unwrap_or_default());
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or_default());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The name of a system call that may change something.
fn name(number: i64) -> Option<&'static str> {
    Some(match number {
        libc::SYS_open => "open",
        libc::SYS_openat => "openat",
        libc::SYS_mkdir => "mkdir",
        libc::SYS_mkdirat => "mkdirat",
        libc::SYS_rename => "rename",
        libc::SYS_renameat => "renameat",
        libc::SYS_renameat2 => "renameat2",
        libc::SYS_link => "link",
        libc::SYS_linkat => "linkat",
        libc::SYS_symlink => "symlink",
        libc::SYS_symlinkat => "symlinkat",
        libc::SYS_unlink => "unlink",
        libc::SYS_unlinkat => "unlinkat",
        libc::SYS_rmdir => "rmdir",
        libc::SYS_chmod => "chmod",
        libc::SYS_fchmod => "fchmod",
        libc::SYS_fchmodat => "fchmodat",
        libc::SYS_fchown => "fchown",
        libc::SYS_fchownat => "fchownat",
        libc::SYS_utimensat => "utimensat",
        libc::SYS_truncate => "truncate",
        libc::SYS_ftruncate => "ftruncate",
        libc::SYS_fallocate => "fallocate",
        libc::SYS_setxattr => "setxattr",
        libc::SYS_lsetxattr => "lsetxattr",
        libc::SYS_fsetxattr => "fsetxattr",
        libc::SYS_write => "write",
        libc::SYS_pwrite64 => "pwrite64",
        libc::SYS_writev => "writev",
        libc::SYS_pwritev => "pwritev",
        libc::SYS_copy_file_range => "copy_file_range",
        libc::SYS_sendfile => "sendfile",
        libc::SYS_sendto => "sendto",
        libc::SYS_fsync => "fsync",
        libc::SYS_fdatasync => "fdatasync",
        libc::SYS_syncfs => "syncfs",
        _ => return None,
    })
}
