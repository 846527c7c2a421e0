//! Messages of OCPP-J as text and as values: frames, ids, payloads, and what differs between versions. Pure.

pub(crate) mod dialect;
pub(crate) mod frame;
pub(crate) mod payload;
pub(crate) mod read;
pub(crate) mod tolerance;

pub use self::{dialect::Dialect, frame::MessageError, payload::EncodeError, tolerance::Deviation};
