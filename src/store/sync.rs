//! Makes many writers' data durable with few syncs.
//!
//! # Locking
//! One mutex around a counter; it is not held during syncfs(2).

use std::fs::File;
use std::io;

use parking_lot::{Condvar, Mutex};

/// Batches calls of syncfs(2): whoever arrives during one shares the next.
#[derive(Debug)]
pub struct Syncer {
    directory: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// Rounds finished, and how the last one that failed ended.
    finished: u64,
    failed: Option<(u64, i32)>,
}

impl Syncer {
    /// Syncs the file system that `directory` is on.
    #[must_use]
    pub fn new(directory: File) -> Syncer {
        Syncer {
            directory,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Returns when everything written before the call is durable.
    ///
    /// # Errors
    /// What syncfs(2) reported in the round that covered the call.
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        // A round that is running began before the caller's last write.
        let round = state.finished + 1 + u64::from(state.running);
        while state.finished < round {
            if state.running {
                self.changed.wait(&mut state);
                continue;
            }
            state.running = true;
            drop(state);
            let result = nix::unistd::syncfs(&self.directory);
            state = self.state.lock();
            state.running = false;
            state.finished += 1;
            if let Err(errno) = result {
                state.failed = Some((state.finished, errno as i32));
            }
            self.changed.notify_all();
        }
        match state.failed {
            Some((failed, errno)) if failed >= round => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_callers_return() {
        let directory = tempfile::tempdir().unwrap();
        let syncer = Syncer::new(File::open(directory.path()).unwrap());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..5).for_each(|_| syncer.sync().unwrap()));
            }
        });
        assert!(syncer.state.lock().finished <= 40);
    }
}
