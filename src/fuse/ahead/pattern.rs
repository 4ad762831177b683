//! Whether reads follow an order, and how far ahead it is worth to go.
//!
//! Pure: it is told what happens and answers with advice.

/// The first window, and the smallest.
const FIRST: u64 = 64 << 10;
/// The largest window.
const LAST: u64 = 2 << 20;
/// Reads in order before the first window.
const CONVINCED: u32 = 3;
/// Reads of stored files in a row that mean that the kernel has dropped its cache.
const DROPPED: u32 = 8;
/// A file is left out of every so many listed directories.
const SAMPLE: u32 = 8;
/// Files left out and not read before listings are no more acted upon.
const PATIENCE: u32 = 3;

/// One read of the beginning of a file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Read {
    /// A file shortly before it was read or stored.
    pub(super) in_order: bool,
    /// It was left out on purpose.
    pub(super) left_out: bool,
    /// It was stored or read before.
    pub(super) stored: bool,
}

/// What to do after a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Advice {
    /// Bytes to store after the file that was read.
    pub(super) budget: u64,
    /// What was stored is not there any more.
    pub(super) dropped: bool,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    /// Reads in order, in a row.
    streak: u32,
    window: u64,
    /// Reads of stored files, in a row.
    stale: u32,
    /// Whether directories are read after they are listed.
    listings: bool,
    /// Directories stored since a file was left out of one.
    since_sample: u32,
    /// Files left out of directories, and not read so far.
    unread: u32,
}

impl Pattern {
    pub(super) fn read(&mut self, read: Read) -> Advice {
        let mut advice = Advice::default();
        if read.stored {
            // Also what a reader does that overtakes the worker, so one is no sign.
            self.stale += 1;
            if self.stale >= DROPPED {
                self.stale = 0;
                advice.dropped = true;
            } else {
                return advice;
            }
        } else {
            self.stale = 0;
        }
        if read.left_out {
            self.unread = 0;
            self.window = (self.window * 2).clamp(FIRST, LAST);
            self.streak = CONVINCED;
        } else if read.in_order {
            self.streak = self.streak.saturating_add(1);
        } else {
            self.streak = 0;
            self.window /= 2;
        }
        if self.streak >= CONVINCED {
            self.listings = true;
            self.unread = 0;
            self.window = self.window.max(FIRST);
            advice.budget = self.window;
        }
        advice
    }

    /// How much of a directory to store that was just listed, and whether to leave a file out.
    pub(super) fn listed(&mut self) -> Option<(u64, bool)> {
        if !self.listings {
            return None;
        }
        self.since_sample += 1;
        let leave_out = self.since_sample >= SAMPLE;
        if leave_out {
            self.since_sample = 0;
            self.unread += 1;
            if self.unread > PATIENCE {
                self.listings = false;
                self.unread = 0;
                return None;
            }
        }
        Some((self.window.max(FIRST), leave_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_ORDER: Read = Read {
        in_order: true,
        left_out: false,
        stored: false,
    };
    const ELSEWHERE: Read = Read {
        in_order: false,
        left_out: false,
        stored: false,
    };
    const LEFT_OUT: Read = Read {
        in_order: true,
        left_out: true,
        stored: false,
    };
    const STORED: Read = Read {
        in_order: true,
        left_out: false,
        stored: true,
    };

    #[test]
    fn reads_in_order_open_a_window_and_hits_widen_it() {
        let mut pattern = Pattern::default();
        assert_eq!(pattern.read(IN_ORDER).budget, 0);
        assert_eq!(pattern.read(IN_ORDER).budget, 0);
        assert_eq!(pattern.read(IN_ORDER).budget, FIRST);
        assert_eq!(pattern.read(LEFT_OUT).budget, 2 * FIRST);
        for _ in 0..20 {
            pattern.read(LEFT_OUT);
        }
        assert_eq!(pattern.read(LEFT_OUT).budget, LAST);
    }

    #[test]
    fn reads_elsewhere_store_nothing() {
        let mut pattern = Pattern::default();
        for _ in 0..100 {
            assert_eq!(pattern.read(ELSEWHERE), Advice::default());
            assert_eq!(pattern.listed(), None);
        }
    }

    #[test]
    fn directories_that_are_only_listed_are_stored_no_more() {
        let mut pattern = Pattern::default();
        for _ in 0..CONVINCED {
            pattern.read(IN_ORDER);
        }
        let stored = (0..1000).filter(|_| pattern.listed().is_some()).count();
        assert!(stored <= (SAMPLE * (PATIENCE + 1)) as usize, "{stored}");
    }

    #[test]
    fn a_dropped_cache_is_noticed() {
        let mut pattern = Pattern::default();
        let dropped = (0..DROPPED)
            .filter(|_| pattern.read(STORED).dropped)
            .count();
        assert_eq!(dropped, 1);
    }
}
