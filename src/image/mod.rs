//! Images as people know them: pulled, pushed, imported, found, opened, listed, removed and checked.
//!
//! It joins the registry (where images come from), the store (where they lie) and the packing of
//! layers; it prints nothing, and what happens on the way is told to an observer.

mod additional;
mod check;
mod commit;
mod documents;
mod error;
mod find;
mod history;
mod import;
mod incoming;
mod inspect;
mod load;
mod made;
mod open;
#[cfg(feature = "registry")]
mod outgoing;
mod parallel;
mod plan;
mod prune;
mod pull;
#[cfg(feature = "registry")]
mod push;
mod receive;
mod remote;
mod remove;
mod repair;
mod save;
mod tag;
mod tar_splits;

pub use additional::{EXPORT_MOUNTS, Exportable, exportable, write_additional};
pub use check::{Damage, MISSING, check};
pub use commit::{CommitRequest, Committed, commit};
pub use error::Error;
pub use find::{Found, find, find_manifest, find_record, find_recorded, find_snapshot};
pub use history::{LayerCounts, Step, history, layer_counts};
pub use import::{ImportRequest, ImportSource, Imported, import, is_import};
pub use inspect::{
    EntryKind, IndexEntry, LayerDetails, Row, Summary, entries, index_entries, list, summary,
    variants,
};
pub use load::{LoadRequest, Loaded, load};
pub use made::WriteError;
pub use open::{chain, layers, open};
#[cfg(feature = "registry")]
pub use outgoing::{Outgoing, outgoing};
pub use plan::{Plan, PlannedImage, PlannedLayer, plan};
pub use prune::{Group, Pruned, User, groups, prune};
pub use pull::{Held, Part, Platforms, PullRequest, Pulled, fetch, hold, pull, pull_platforms};
#[cfg(feature = "registry")]
pub use push::{PushObserver, PushState, push};
pub use receive::{Event, LayerState, Observer};
pub use remote::{Remote, look_up};
pub use remove::{Removal, RemoveRequest, Removed, plan_removal, remove};
pub use repair::{Outcome, fetch_lost, repair, stored_blobs};
pub use save::Saving;
pub use tag::tag;

/// The result of an operation on images.
pub type Result<T> = std::result::Result<T, Error>;
