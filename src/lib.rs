//! plyfs: a FUSE union filesystem for container images.
//!
//! The map of the house, from the cellar up. Each room may use what stands above it in this list
//! and nothing below; `tests/architecture.rs` holds that.
//!
//! Two families meet only in [`export`], [`mount`] and above: the filesystem family ([`layer`], [`union`], [`overlay`],
//! [`fuse`]) knows nothing of images and registries, the image family ([`oci`], [`store`],
//! [`registry`], [`pack`], [`image`]) knows nothing of FUSE.

#[allow(unsafe_code)]
pub mod sys;

pub mod cause;
pub mod idmap;
pub mod layer;
pub mod oci;
pub mod options;
pub mod whiteout;

pub mod pack;
pub mod registry;
pub mod store;
pub mod union;

pub mod image;
pub mod overlay;

pub mod export;

pub mod fuse;

pub mod mount;

#[cfg(feature = "snapshotter")]
pub mod snapshotter;

#[cfg(feature = "cli")]
pub mod cli;
