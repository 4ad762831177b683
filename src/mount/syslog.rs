//! The words of a daemon, whose standard error goes nowhere: to the system's log.

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};

use log::Level;

static DETACHED: AtomicBool = AtomicBool::new(false);

/// From now on nobody reads the standard error of this process.
pub(super) fn detached() {
    DETACHED.store(true, Ordering::Relaxed);
}

/// Hands a line to the system's log if this process is a daemon; whether it is. For loggers, which
/// the programs bring along. Where there is no such log the line is lost.
pub fn tell_system(level: Level, text: &str) -> bool {
    if !DETACHED.load(Ordering::Relaxed) {
        return false;
    }
    let socket = UnixDatagram::unbound();
    if let Ok(socket) = socket
        && socket.set_nonblocking(true).is_ok()
    {
        let line = line(level, std::process::id(), text);
        // There is nobody left to tell of a failure.
        drop(socket.send_to(line.as_bytes(), "/dev/log"));
    }
    true
}

/// As syslog(3) writes it: facility `daemon` and the severity, who, and what.
fn line(level: Level, pid: u32, text: &str) -> String {
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let priority = 3 * 8 + severity;
    let text = text.replace('\n', " ");
    format!("<{priority}>plyfs[{pid}]: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_syslog() {
        assert_eq!(line(Level::Error, 7, "gone"), "<27>plyfs[7]: gone");
        assert_eq!(line(Level::Info, 7, "x\ny"), "<30>plyfs[7]: x y");
    }
}
