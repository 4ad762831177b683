//! Why layers do not fit together.

use thiserror::Error;

use crate::layer::tree::TreeError;

/// The largest number of layers, given by the format.
pub(super) const MAX_LAYERS: usize = 1 << 16;

/// Why layers cannot be flattened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FlattenError {
    /// A hard link to something that is in no layer.
    #[error("hard link {0:?}: there is no such file in this or the layers below")]
    LinkTarget(String),
    /// A path that leads through too many symlinks, or through something that is no directory.
    #[error("{0:?}: its parent cannot be found: {1}")]
    Parent(String, &'static str),
    /// More layers than an index can number.
    #[error("more than {MAX_LAYERS} layers")]
    TooManyLayers,
    /// More entries than an index holds.
    #[error(transparent)]
    Tree(#[from] TreeError),
}
