//! The `mount.plyfs` program.

fn main() {}
