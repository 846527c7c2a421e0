//! A request of the peer, between the socket and its handler.

use bytestring::ByteString;

use crate::{
    message::payload::{MessageId, Payload},
    validate::validator::Valid,
};

/// A call that came in, on its way to whatever answers it.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) id: MessageId,
    pub(crate) action: ByteString,
    pub(crate) payload: Payload,
    /// A CALL wants an answer, a SEND does not.
    pub(crate) expects_response: bool,
    /// The connection that it came in on.
    pub(crate) generation: u32,
    /// Names it among all calls that came in, which its id does not.
    pub(crate) serial: u64,
    /// The bytes of its message, all of which it keeps in memory.
    pub(super) weight: usize,
    /// What validation made of the payload.
    pub(crate) valid: Valid,
}

impl Inbound {
    pub(super) fn new(
        id: MessageId,
        action: ByteString,
        payload: Payload,
        expects_response: bool,
        weight: usize,
    ) -> Self {
        Self { id, action, payload, expects_response, generation: 0, serial: 0, weight, valid: Valid::default() }
    }
}
