//! The backend example, as a station and a user of its REST interface meet it: charging stations by others, and curl.
//!
//! `tests/run` builds the one, fetches the others, and runs this.

#[path = "interop/clients.rs"]
mod clients;
#[path = "interop/harness.rs"]
mod harness;
#[path = "interop/peers.rs"]
mod peers;
#[path = "interop/rest.rs"]
mod rest;
