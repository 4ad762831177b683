//! Pulling from a real registry and pushing to it, and from servers that misbehave. All traffic stays on 127.0.0.1.

#![cfg(feature = "registry")]

#[path = "../support/mod.rs"]
mod support;

mod lab;
mod logins;
mod mirrors;
mod real;
mod scripted;
mod server;
mod uploads;
