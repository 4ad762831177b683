//! What tells whether the kernel has changed a file by itself.

use crate::layer::Timestamp;
use crate::overlay::{NodeNumber, Overlay};

/// What every change leaves different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    size: u64,
    mtime: Timestamp,
    ctime: Timestamp,
}

impl State {
    /// What `node` is like now; `None` when it cannot be told.
    pub(super) fn of(overlay: &Overlay, node: NodeNumber) -> Option<State> {
        match overlay.attributes(node) {
            Ok(attributes) => Some(State {
                size: attributes.size,
                mtime: attributes.mtime,
                ctime: attributes.ctime,
            }),
            Err(error) => {
                log::debug!("attributes of the open node {}: {error}", node.0);
                None
            }
        }
    }
}
