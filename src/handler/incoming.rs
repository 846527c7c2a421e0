//! A call that came in, as extractors and layers see it.

use std::sync::{Arc, OnceLock, atomic::AtomicBool};

use bytestring::ByteString;

use crate::{
    connection::request::IncomingRequest,
    message::payload::{MessageId, Payload},
    session::Session,
};

/// A call that came in: what extractors and layers see.
#[derive(Debug)]
pub struct IncomingCall {
    pub(super) request: IncomingRequest,
    pub(super) session: Session,
    /// Whether the answer was given early; made for a handler that can do so.
    pub(super) given: OnceLock<Arc<AtomicBool>>,
}

impl IncomingCall {
    /// The action that is called.
    pub fn action(&self) -> &str {
        &self.request.head.action
    }

    /// The id of the call.
    pub fn id(&self) -> &MessageId {
        &self.request.head.id
    }

    /// The parameters, unread: a JSON object, or [`ErrorCode::FORMAT_VIOLATION`](crate::ErrorCode::FORMAT_VIOLATION)
    /// would have been the answer already.
    pub fn params(&self) -> &Payload {
        &self.request.payload
    }

    /// Who calls.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether the caller waits for an answer: a CALL wants one, a SEND (OCPP 2.1) does not.
    pub fn expects_response(&self) -> bool {
        self.request.head.expects_response
    }

    pub(super) fn new(request: IncomingRequest, session: Session) -> Self {
        Self { request, session, given: OnceLock::new() }
    }

    /// The parameters, where validation has read them as this very type and no other argument took them.
    pub(super) fn validated<T: 'static>(&self) -> Option<T> {
        self.request.valid.take()
    }

    pub(super) fn action_text(&self) -> ByteString {
        self.request.head.action.clone()
    }
}
