//! The whole crate from outside: what a charging station and an application notice.
#![allow(unreachable_pub, reason = "a test crate has no outside")]

mod answers;
mod auth;
mod client;
mod engine;
mod handshake;
mod layers;
mod limits;
mod mounting;
mod registry;
mod support;
mod tcp;
