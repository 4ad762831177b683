//! System calls: the only room with `unsafe`, and without a word of the domain.
//!
//! Everything here is a thin, safe wrapper over one kernel interface that std and nix do not
//! offer. Each `unsafe` block carries a SAFETY comment that names what makes it sound.

pub mod at;
pub mod data;
pub mod descriptor;
pub mod fault;
pub mod getdents;
pub mod identity;
pub mod lock;
pub mod mapping;
pub mod mount;
pub mod mountinfo;
pub mod process;
pub mod writable;
mod writable_xattr;
pub mod xattr;
mod xattr_at;
