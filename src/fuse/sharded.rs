//! Values that many threads use, each for nodes of its own: one lock for a sixteenth of the nodes.

use parking_lot::Mutex;

use crate::overlay::NodeNumber;

pub(super) const SHARDS: usize = 16;

/// A value for each shard of the nodes.
#[derive(Debug, Default)]
pub(super) struct Sharded<T>([Mutex<T>; SHARDS]);

impl<T> Sharded<T> {
    pub(super) fn new(make: impl Fn() -> T) -> Sharded<T> {
        Sharded(std::array::from_fn(|_| Mutex::new(make())))
    }

    /// The shard that `node` belongs to.
    pub(super) fn of(&self, node: NodeNumber) -> &Mutex<T> {
        // Neighbours are used together, so they are spread.
        let spread = node.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let [first, ..] = &self.0;
        let number = usize::try_from(spread).unwrap_or(0) % SHARDS;
        self.0.get(number).unwrap_or(first)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Mutex<T>> {
        self.0.iter()
    }
}
