//! What people are told who interrupt a pull.

use nix::sys::signal::{Signal, raise};

use crate::sys::process::{self, Signals};

/// From now on SIGINT tells how to go on before it ends the process, as it would have anyway: what
/// was received is safe at every moment.
pub fn explain(quiet: bool) {
    // Where it is ignored, as in the background of a shell, it ends nothing, and would still arrive.
    if quiet || is_ignored() {
        return;
    }
    let taken = Signals::take(&[Signal::SIGINT]).and_then(|taken| Ok((taken, process::event()?)));
    let (signals, never) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            log::debug!("an interruption is not explained: {error}");
            return;
        }
    };
    let wait = move || {
        if !matches!(signals.wait(&never), Ok(Some(_))) {
            return;
        }
        eprintln!("\nplyfs: interrupted; running it again goes on where it stopped");
        // Unblocks the signal in this thread, where it arrives then.
        drop(signals);
        if let Err(errno) = raise(Signal::SIGINT) {
            log::error!("cannot end: {errno}");
        }
    };
    let thread = std::thread::Builder::new().name("interrupt".into());
    if let Err(error) = thread.spawn(wait) {
        log::debug!("an interruption is not explained: {error}");
    }
}

/// Whether SIGINT was ignored when the program was started.
fn is_ignored() -> bool {
    let status = match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => status,
        Err(error) => {
            log::debug!("it is not known whether interruptions are ignored: {error}");
            return false;
        }
    };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (Signal::SIGINT as u32 - 1)) != 0)
}
