//! The WebSocket protocol: the compression of messages and its negotiation (RFC 7692).

pub(crate) mod compression;
#[allow(dead_code, reason = "the socket uses it next")]
pub(crate) mod deflate;
#[allow(dead_code, reason = "the socket uses it next")]
pub(crate) mod extension;
