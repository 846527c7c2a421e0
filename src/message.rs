//! OCPP-J messages as text and as values: message kinds, ids, payloads and the differences between versions.

pub(crate) mod dialect;
pub(crate) mod kinds;
pub(crate) mod payload;
pub(crate) mod read;
pub(crate) mod tolerance;
pub(crate) mod write;

pub use self::{dialect::Dialect, kinds::MessageError, payload::EncodeError, tolerance::Deviation};
