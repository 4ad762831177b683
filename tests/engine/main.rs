//! The filesystem family without a mount: unions over layers made in temporary directories.

mod dialects;
mod follow;
mod identity;
mod kernel;
mod model;
mod odd;
mod reference;
mod support;
mod writable;
mod writable_kernel;
