//! The engine of a connection, the same for both ends: pure rules ([`exchange`], [`keepalive`]), the WebSocket
//! ([`socket`]), and the one task that brings them together ([`driver`]).

mod calls_in;
pub(crate) mod calls_out;
pub(crate) mod driver;
pub(crate) mod exchange;
mod handler;
pub(crate) mod info;
mod keepalive;
pub(crate) mod link;
pub(crate) mod request;
pub(crate) mod result;
pub(crate) mod socket;
