//! The filesystem family: unions over layers made in temporary directories, mostly without a mount.

mod chain;
mod dialects;
#[cfg(feature = "fault-injection")]
mod fault;
mod follow;
mod identity;
mod kernel;
mod model;
mod mounted;
mod null_device;
mod odd;
mod reference;
mod support;
mod writable;
mod writable_kernel;
mod writable_regressions;
mod writable_verbs;
