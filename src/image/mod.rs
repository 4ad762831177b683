//! Images as people know them: pulled, imported, found, opened, listed, removed and checked.
//!
//! It joins the registry (where images come from), the store (where they lie) and the packing of
//! layers; it prints nothing, and what happens on the way is told to an observer.

mod check;
mod error;
mod find;
mod import;
mod incoming;
mod inspect;
mod open;
mod pull;
mod receive;
mod remove;
mod repair;

pub use check::{Damage, check};
pub use error::Error;
pub use find::{Found, find, find_record, find_recorded, find_snapshot};
pub use import::{ImportRequest, ImportSource, Imported, import, is_import};
pub use inspect::{LayerDetails, Row, Summary, list, summary};
pub use open::{chain, open};
pub use pull::{Held, PullRequest, Pulled, fetch, hold, pull};
pub use receive::{Event, LayerState, Observer};
pub use remove::{RemoveRequest, Removed, remove};
pub use repair::{Outcome, repair};

/// The result of an operation on images.
pub type Result<T> = std::result::Result<T, Error>;
