//! Pulling from a real registry, and from servers that misbehave. All traffic stays on 127.0.0.1.

#![cfg(feature = "registry")]

mod lab;
mod real;
mod scripted;
mod server;
