//! Mounted images, through the kernel: what programs see, and how mounts begin and end.
//!
//! Needs /dev/fuse, and root for most of it. As root the tests let everybody open /dev/fuse, so
//! that they can mount as an ordinary user too.

#[path = "../support/mod.rs"]
mod support;

mod containers;
mod content;
mod fixture;
mod handles;
mod kernel_containers;
mod lifecycle;
mod mounting;
mod occupied;
mod peers;
mod peers_limits;
mod plain;
mod programs;
mod recovery;
mod stack;
mod writable;
mod write_coherence;
mod write_direct;
mod write_full;
mod write_holes;
mod write_races;
mod write_random;
mod write_reflink;
mod write_unopened;
mod write_users;
mod write_verbs;
