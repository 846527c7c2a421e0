//! Tests of the applications, the examples and the client with real peers: charging stations and servers by other
//! authors, and curl. The Autobahn Testsuite tests the WebSocket codec.
//!
//! `tests/run` builds the programs, fetches the peers, and runs these tests. They need `sh`, `kill` and `ulimit`.
#![cfg(unix)]

#[path = "interop/autobahn.rs"]
mod autobahn;
#[path = "interop/clients.rs"]
mod clients;
#[path = "interop/compression.rs"]
mod compression;
#[path = "interop/examples.rs"]
mod examples;
#[path = "interop/fleet.rs"]
mod fleet;
#[path = "interop/harness.rs"]
mod harness;
#[path = "interop/hostile.rs"]
mod hostile;
#[path = "interop/load.rs"]
mod load;
#[path = "interop/npm.rs"]
mod npm;
#[path = "interop/peers.rs"]
mod peers;
#[path = "interop/profiles.rs"]
mod profiles;
#[path = "interop/rest.rs"]
mod rest;
