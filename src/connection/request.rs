//! A request of the peer, between the socket and its handler.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytestring::ByteString;

use crate::{
    error::ErrorCode,
    message::payload::{MessageId, Payload},
    response::Response,
    telemetry,
    validate::validator::Valid,
};

/// Identifies a request among all requests of a session. A message id does not: peers repeat them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RequestKey {
    /// The connection that the request came in on.
    pub(super) generation: u32,
    pub(super) seq: u64,
}

/// The parts of a request that its response needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestHead {
    pub(crate) id: MessageId,
    pub(crate) action: ByteString,
    /// A CALL expects a response, a SEND does not.
    pub(crate) expects_response: bool,
    pub(crate) key: RequestKey,
}

impl RequestHead {
    /// Returns whether the request is a whole message, for the handler of raw messages.
    pub(crate) fn is_raw(&self) -> bool {
        self.id.is_number() && self.id.as_str().is_empty()
    }

    /// Logs an internal error of the handler, which the peer does not see.
    pub(super) fn log_failure(&self, response: &Response) {
        let Response::Error(error) = response else { return };
        let (action, id) = (telemetry::cut(&self.action), telemetry::cut(self.id.as_str()));
        match error.source_text() {
            Some(source) => tracing::warn!(action, id, error = source, "a handler failed"),
            None if *error.code() == ErrorCode::INTERNAL_ERROR => {
                tracing::warn!(action, id, error = error.description(), "a handler failed");
            }
            None => {}
        }
    }
}

/// A request of the peer.
#[derive(Debug)]
pub(crate) struct IncomingRequest {
    pub(crate) head: RequestHead,
    pub(crate) payload: Payload,
    /// The length of the whole message in bytes. The payload keeps all of it in memory.
    pub(super) message_len: usize,
    /// The value that validation made of the payload.
    pub(crate) valid: Valid,
}

/// Returns a number that tells a repetition of a request from another request with the same id.
pub(super) fn fingerprint(action: &str, payload: &Payload) -> u64 {
    let mut hasher = DefaultHasher::new();
    (action, payload.as_str()).hash(&mut hasher);
    hasher.finish()
}

/// The longest message of which an id or an action may be a slice, in bytes.
///
/// They are kept until the request has its response, and keep the whole message that they are slices of.
const MAX_SHARED: usize = 1 << 10;

impl IncomingRequest {
    pub(crate) fn new(
        mut id: MessageId,
        mut action: ByteString,
        payload: Payload,
        expects_response: bool,
        message_len: usize,
    ) -> Self {
        if message_len > MAX_SHARED {
            (id, action) = (id.detached(), ByteString::from(&*action));
        }
        let head = RequestHead { id, action, expects_response, key: RequestKey::default() };
        // A payload that was not JSON may be a longer copy.
        let message_len = message_len.max(payload.as_str().len());
        Self { head, payload, message_len, valid: Valid::default() }
    }

    /// Creates the request of a whole message, which is its payload.
    pub(super) fn raw(text: ByteString) -> Self {
        // No message has this id, because every number has digits.
        let head = RequestHead { id: MessageId::number(ByteString::new()), ..RequestHead::default() };
        Self { head, message_len: text.len(), payload: Payload(text), valid: Valid::default() }
    }
}
