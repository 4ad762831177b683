//! Numbers of nodes that did not come from the base.
//!
//! What came into being in the upper has the number of its inode there, with a bit above all numbers
//! that the base gives. Where an inode number is too large for that (some network and stacked file
//! systems have such) the node gets a number that follows from nothing, which names of one inode share,
//! and which stays for as long as the node is in use.
//!
//! # Numbers of the base
//! * A chain numbers rows, with 32 bits.
//! * A stack has the inode number in 48 bits, the number of its file system in 13 above, and bit 62
//!   in what does not fit.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::union::Union;

/// Set in numbers that follow from nothing.
const DYNAMIC: u64 = 1 << 63;

/// See the module.
#[derive(Debug)]
pub(super) struct Numbers {
    /// Each stands above inode numbers that are smaller.
    bits: &'static [u64],
    next: AtomicU64,
    /// Of inodes with larger numbers, in use.
    large: Mutex<HashMap<u64, u64>>,
}

impl Numbers {
    pub(super) fn above(base: &Union) -> Numbers {
        Numbers::new(match base {
            // The smaller one first: few programs are happy with more than 53 bits.
            Union::Chain(_) => &[1 << 48, 1 << 62],
            Union::Stack(_) => &[1 << 61],
        })
    }

    fn new(bits: &'static [u64]) -> Numbers {
        Numbers {
            bits,
            next: AtomicU64::new(DYNAMIC + 1),
            large: Mutex::default(),
        }
    }

    /// A number that nothing else has or will have.
    pub(super) fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of something that came into being in the upper.
    pub(super) fn of_upper(&self, ino: u64) -> u64 {
        match self.bits.iter().find(|bit| ino < **bit) {
            Some(bit) => bit | ino,
            None => *(self.large.lock().entry(ino)).or_insert_with(|| self.fresh()),
        }
    }

    /// A node is not in use any more.
    pub(super) fn left(&self, number: u64, ino: u64) {
        if number & DYNAMIC != 0 {
            let mut large = self.large.lock();
            if large.get(&ino) == Some(&number) {
                large.remove(&ino);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// An inode with several names would be several nodes otherwise, of which the kernel keeps
    /// attributes apart.
    #[test]
    fn regression_an_inode_with_a_large_number_is_one_node() {
        for bits in [&[1 << 48, 1 << 62][..], &[1 << 61]] {
            let numbers = Numbers::new(bits);
            let inodes = [1, 1 << 47, (1 << 48) - 1, 1 << 48, (1 << 48) + 1, 1 << 61];
            let larger = [(1 << 62) - 1, 1 << 62, 1 << 63, u64::MAX - 1, u64::MAX];
            let inodes: HashSet<u64> = inodes.into_iter().chain(larger).collect();
            let given: HashSet<u64> = inodes.iter().map(|ino| numbers.of_upper(*ino)).collect();
            assert_eq!(given.len(), inodes.len(), "two inodes have one number");
            for ino in &inodes {
                let number = numbers.of_upper(*ino);
                assert!(given.contains(&number), "{ino} has two numbers");
                // Those of the base are smaller.
                assert!(number >= bits[0], "{ino} has the number {number}");
                numbers.left(number, *ino);
            }
            assert!(numbers.large.lock().is_empty());
        }
    }

    #[test]
    fn numbers_follow_from_inodes_where_they_can() {
        let numbers = Numbers::new(&[1 << 48, 1 << 62]);
        assert_eq!(numbers.of_upper(12), (1 << 48) | 12);
        assert_eq!(numbers.of_upper((1 << 50) | 3), (1 << 62) | (1 << 50) | 3);
        assert_eq!(numbers.of_upper(1 << 62), DYNAMIC + 1);
        assert_eq!(numbers.of_upper(1 << 63), DYNAMIC + 2);
        assert_eq!(numbers.of_upper(1 << 62), DYNAMIC + 1);
        // What nobody knows any more may have another one.
        numbers.left(DYNAMIC + 1, 1 << 62);
        assert_eq!(numbers.of_upper(1 << 62), DYNAMIC + 3);
    }
}
