//! A set of node numbers that threads change without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// One bit per node. Numbers beyond the end are never in the set.
#[derive(Debug)]
pub(super) struct Bits(Box<[AtomicU64]>);

impl Bits {
    pub(super) fn new(count: u64) -> Bits {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(0);
        Bits(
            std::iter::repeat_with(AtomicU64::default)
                .take(words)
                .collect(),
        )
    }

    fn word(&self, number: u64) -> Option<(&AtomicU64, u64)> {
        let word = self.0.get(usize::try_from(number / 64).ok()?)?;
        Some((word, 1 << (number % 64)))
    }

    pub(super) fn get(&self, number: u64) -> bool {
        self.word(number)
            .is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Puts a number in, and tells whether it was there.
    pub(super) fn set(&self, number: u64) -> bool {
        self.word(number)
            .is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::Relaxed) & bit != 0)
    }

    /// Takes a number out, and tells whether it was there.
    pub(super) fn clear(&self, number: u64) -> bool {
        // Most numbers are not there, and looking is cheaper than writing.
        self.get(number)
            && self
                .word(number)
                .is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_in_and_out() {
        let bits = Bits::new(100);
        assert!(!bits.set(99));
        assert!(bits.set(99) && bits.get(99) && !bits.get(98));
        assert!(bits.clear(99) && !bits.clear(99) && !bits.get(99));
    }

    #[test]
    fn numbers_beyond_the_end_are_never_in() {
        let bits = Bits::new(1);
        assert!(!bits.set(u64::MAX) && !bits.get(u64::MAX) && !bits.clear(u64::MAX));
    }
}
