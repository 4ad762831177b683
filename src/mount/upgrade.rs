//! Another version of the program takes live mounts over.
//!
//! Whoever asks writes the path of a program to a pipe of the holder, which others of its user (and root)
//! find in `/proc/<pid>/fd`. The holder starts that program as its successor and hands it copies of what
//! it holds. Only when the successor has opened the image and leased it does the old server end; and the
//! old holder leaves only when a new server answers. Whatever fails before that leaves the mount with
//! the old program.
//!
//! ```text
//! holder                                  successor
//!   device, notes, Legacy     ------->      opens the image
//!                             <-------    "prepared"
//!   ends its server
//!   "go"                      ------->      starts a server
//!                             <-------    "serving"
//!   leaves                                  holds the mount
//! ```
//! What is neither of these words is the reason why not.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, pipe2};
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::daemon::to_the_end;
use super::error::{Error, Result};
use super::holder::{Held, Holder, end};
use super::image::{Recovery, serving_held};
use super::serve::take_signals;
use super::{KIND, Server, Target, servers, syslog, unmount};
use crate::fuse::{Handover, Settings, Terms};
use crate::options::MountOptions;
use crate::sys::mount::MountIdentity;
use crate::sys::{descriptor, process};

/// The verb by which a successor is started.
pub const VERB: &str = "take-over";

/// How long a successor may take for one step.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest path of a program, and the longest reason, that a pipe takes at once.
const LONGEST: usize = 4096;

const PREPARED: &str = "prepared";
const GO: &str = "go";
const SERVING: &str = "serving";
/// What is told of a successor that told nothing.
const SILENT: &str = "the new program ended without a word";

/// What a successor gets told, beside the descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Legacy {
    recovery: Recovery,
    settings: Settings,
    terms: Terms,
    mount_id: u64,
    device: (u32, u32),
}

/// How a holder is asked for something, and answers: a pipe each way, of which it keeps all ends.
#[derive(Debug)]
pub(super) struct Control {
    asked: (File, File),
    answers: (File, File),
}

impl Control {
    pub(super) fn new() -> io::Result<Control> {
        let pipe = || {
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
            io::Result::Ok((File::from(reader), File::from(writer)))
        };
        Ok(Control {
            asked: pipe()?,
            answers: pipe()?,
        })
    }

    /// The descriptors that others open: to ask, and to read the answer.
    pub(super) fn numbers(&self) -> (RawFd, RawFd) {
        (self.asked.1.as_raw_fd(), self.answers.0.as_raw_fd())
    }

    /// What was asked for; an answer that nobody has fetched is taken back.
    fn take(&self) -> io::Result<Vec<u8>> {
        let mut message = vec![0; LONGEST];
        if let Err(error) = (&self.answers.0).read(&mut message)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(error);
        }
        let length = (&self.asked.0).read(&mut message)?;
        message.truncate(length);
        Ok(message)
    }

    fn answer(&self, text: &str) {
        let text = text.as_bytes();
        let text = text.get(..LONGEST).unwrap_or(text);
        if let Err(error) = (&self.answers.1).write_all(text) {
            log::error!("cannot answer who asked for an upgrade: {error}");
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.asked.0.as_fd()
    }
}

/// The other side of a succession.
#[derive(Debug)]
struct Peer(BufReader<UnixStream>);

impl Peer {
    fn new(socket: UnixStream) -> io::Result<Peer> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Peer(BufReader::new(socket)))
    }

    fn say(&self, word: &str) -> io::Result<()> {
        let line = format!("{}\n", word.replace('\n', " "));
        self.0.get_ref().write_all(line.as_bytes())
    }

    fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        match line.pop() {
            Some('\n') => Ok(line),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Waits for a word; another one is the reason for not going on.
    fn expect(&mut self, word: &str) -> std::result::Result<(), String> {
        match self.hear() {
            Ok(said) if said == word => Ok(()),
            Ok(reason) => Err(reason),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err("the new program did not answer in time".to_owned())
            }
            Err(_) => Err(SILENT.to_owned()),
        }
    }
}

impl Holder<'_> {
    /// Does what somebody has asked for. The server afterwards; none if the mount has another holder.
    pub(super) fn asked(&mut self, server: Pid) -> Option<Result<Pid>> {
        let Some(control) = &self.control else {
            return Some(Ok(server));
        };
        let program = match control.take() {
            Ok(program) => program,
            Err(error) => {
                log::error!("cannot hear what is asked for: {error}");
                return Some(Ok(server));
            }
        };
        let program = Path::new(OsStr::from_bytes(&program));
        let (mut child, mut successor) = match self.prepare(program) {
            Ok(prepared) => prepared,
            Err(reason) => {
                control.answer(&reason);
                return Some(Ok(server));
            }
        };
        // What it has not answered is left to the next server, be it ours or not.
        end(server);
        let serves = match successor.say(GO) {
            Ok(()) => successor.expect(SERVING),
            Err(_) => Err(SILENT.to_owned()),
        };
        match serves {
            Ok(()) => {
                *self.published = None;
                control.answer(SERVING);
                None
            }
            Err(reason) => {
                stop(&mut child);
                control.answer(&reason);
                Some(self.start_again())
            }
        }
    }

    /// Starts a successor and waits until it has all that it needs.
    fn prepare(&self, program: &Path) -> std::result::Result<(Child, Peer), String> {
        let failed = |error| format!("the new program cannot be started: {error}");
        let (mut child, socket) = self.spawn(program).map_err(failed)?;
        let prepared = self
            .bequeath(&socket)
            .and_then(|()| Peer::new(socket))
            .map_err(|_| SILENT.to_owned())
            .and_then(|mut peer| peer.expect(PREPARED).map(|()| peer));
        if prepared.is_err() {
            stop(&mut child);
        }
        prepared.map(|peer| (child, peer))
    }

    fn spawn(&self, program: &Path) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let held = &self.held;
        let mut command = Command::new(program);
        command.arg(VERB).arg("-o").arg(&held.options);
        command.arg(&held.recovery.image).arg(&held.directory);
        command.stdin(OwnedFd::from(theirs));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok((command.spawn()?, ours))
    }

    fn bequeath(&self, socket: &UnixStream) -> io::Result<()> {
        let held = &self.held;
        descriptor::send(socket, held.device.as_fd())?;
        descriptor::send(socket, held.handover.backing_files.as_fd())?;
        let legacy = Legacy {
            recovery: held.recovery.clone(),
            settings: held.settings.clone(),
            terms: held.handover.terms.clone(),
            mount_id: held.own.id,
            device: held.own.device,
        };
        let mut line = serde_json::to_vec(&legacy)?;
        line.push(b'\n');
        let mut socket = socket;
        socket.write_all(&line)
    }
}

/// Ends a successor that is none.
fn stop(child: &mut Child) {
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        log::debug!("a successor that was of no use may live on: {error}");
    }
}

/// Takes a mount over from its holder, which has started this process and waits at its standard input, and holds it
/// to its end.
///
/// # Errors
/// What broke the mount; the holder is told of what comes before.
pub fn take_over(directory: &Path, options: MountOptions) -> Result<()> {
    syslog::detached();
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let socket = socket.map(UnixStream::from).map_err(failed)?;
    process::detach_standard_streams().map_err(failed)?;
    let device = receive(&socket)?;
    let backing_files = File::from(receive(&socket)?);
    let mut peer = Peer::new(socket).map_err(failed)?;
    let legacy = peer.hear().map_err(failed)?;
    let result = succeed(
        &mut peer,
        &legacy,
        device,
        backing_files,
        directory,
        options,
    );
    if let Err(error) = &result
        && let Err(gone) = peer.say(&error.chain())
    {
        // It has left, having heard that we serve.
        log::debug!("the holder before us does not listen: {gone}");
    }
    result
}

fn receive(socket: &UnixStream) -> Result<OwnedFd> {
    let received = descriptor::receive(socket).map_err(failed)?;
    received.ok_or_else(|| failed(io::Error::other("it has handed nothing over")))
}

fn failed(error: io::Error) -> Error {
    Error::system("cannot take over from the holder of the mount")(error)
}

fn succeed(
    peer: &mut Peer,
    legacy: &str,
    device: OwnedFd,
    backing_files: File,
    directory: &Path,
    options: MountOptions,
) -> Result<()> {
    let legacy: Legacy = serde_json::from_str(legacy).map_err(|error| failed(error.into()))?;
    let printed = options.print();
    let target = Target::Directory(directory.to_owned());
    let mut serving = serving_held(&legacy.recovery, target, options)?;
    let own = MountIdentity {
        id: legacy.mount_id,
        device: legacy.device,
    };
    let held = Held {
        overlay: Arc::new(serving.overlay),
        device,
        settings: legacy.settings,
        handover: Handover {
            terms: legacy.terms,
            backing_files,
        },
        own,
        recovery: legacy.recovery,
        directory: directory.to_owned(),
        options: printed,
    };
    let signals = take_signals()?;
    let caller = Caller::none();
    to_the_end(serving.on_end.take(), |published, on_end| {
        let mut holder = Holder {
            held,
            record: serving.record,
            hold: serving.hold,
            on_ready: None,
            control: None,
            published,
            on_end,
            caller: &caller,
            signals: &signals,
        };
        peer.say(PREPARED).map_err(failed)?;
        let word = peer.hear().map_err(failed)?;
        if word != GO {
            return Err(failed(io::Error::other("it goes on itself")));
        }
        let server = holder.start(None)?;
        holder.publish()?;
        peer.say(SERVING).map_err(failed)?;
        holder.watch(server)
    })
}

/// Has the mount at `path` served by `program` from now on.
///
/// # Errors
/// [`Error::NotMounted`], [`Error::NotYours`], [`Error::NotHeld`] for a mount without a holder; [`Error::Upgrade`] says why
/// the mount stays with the program that serves it.
pub fn upgrade(path: &Path, program: &Path) -> Result<()> {
    let path = unmount::resolve(path)?;
    let seen = unmount::seen_at(&path)?.filter(|mount| mount.kind == KIND);
    let Some(seen) = seen else {
        return Err(Error::NotMounted { path });
    };
    let user = nix::unistd::geteuid();
    if let Some(user_id) = seen
        .user_id()
        .filter(|&owner| !user.is_root() && owner != user.as_raw())
    {
        return Err(Error::NotYours { path, user_id });
    }
    let servers = servers().map_err(Error::system("cannot read the table of processes"))?;
    let holds = |server: &&Server| server.serves(&seen) && server.record.control.is_some();
    let server = servers.iter().find(holds).ok_or(Error::NotHeld)?;
    let (ask, answers) = server.record.control.ok_or(Error::NotHeld)?;
    let asking = |error| Error::system("cannot ask the process that holds the mount")(error);
    let open = |number: RawFd, options: &OpenOptions| {
        let path = format!("/proc/{}/fd/{number}", server.pid);
        // Whatever else it says it is may keep us waiting.
        if !std::fs::read_link(&path)?
            .as_os_str()
            .as_bytes()
            .starts_with(b"pipe:[")
        {
            return Err(io::Error::other("it has no such pipe"));
        }
        options.open(path)
    };
    let mut reading = OpenOptions::new();
    reading.read(true).custom_flags(libc::O_NONBLOCK);
    let mut answers = open(answers, &reading).map_err(asking)?;
    let mut writing = OpenOptions::new();
    writing.write(true).custom_flags(libc::O_NONBLOCK);
    let mut ask = open(ask, &writing).map_err(asking)?;
    let path = program.as_os_str().as_bytes();
    if path.len() > LONGEST {
        return Err(asking(io::Error::from_raw_os_error(libc::ENAMETOOLONG)));
    }
    ask.write_all(path).map_err(asking)?;
    let patience = PATIENCE * 3;
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::NONE);
    let mut waited = [PollFd::new(answers.as_fd(), PollFlags::POLLIN)];
    poll(&mut waited, patience).map_err(|errno| asking(errno.into()))?;
    let mut answer = Vec::new();
    match answers.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(asking(error)),
        _ => {}
    }
    match String::from_utf8_lossy(&answer).into_owned() {
        word if word == SERVING => Ok(()),
        reason if reason.is_empty() => Err(Error::Upgrade("no answer came".to_owned())),
        reason => Err(Error::Upgrade(reason)),
    }
}
