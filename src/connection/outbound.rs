//! A message to the peer.

use crate::{
    event::kind::{CallOutcome, EventKind},
    message::payload::MessageId,
};

/// The text of a message, and the event that describes it if an application reads events.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) text: String,
    pub(crate) event: Option<Box<EventKind>>,
}

impl Outbound {
    /// Returns the outcome of the call that this responds to, if it responds to one and is described.
    pub(super) fn outcome(&self) -> Option<CallOutcome> {
        match self.event.as_deref()? {
            EventKind::CallResult { .. } => Some(CallOutcome::Result),
            EventKind::CallError { error, .. } => Some(CallOutcome::Rejected(error.code().clone())),
            _ => None,
        }
    }

    /// Returns a copy of the id of the request, if this responds to one and is described. It does not keep the message
    /// of the request while the response waits for a slow peer.
    pub(super) fn described_response(&self) -> Option<MessageId> {
        match self.event.as_deref()? {
            EventKind::CallResult { id, .. } | EventKind::CallError { id, .. } => Some(id.detached()),
            _ => None,
        }
    }
}

/// A request on which no handler starts.
#[derive(Debug)]
pub(crate) struct Unhandled {
    /// The call error, if the request expects a response.
    pub(crate) response: Option<Outbound>,
    /// The event that the call has ended, if an application reads events.
    pub(crate) ended: Option<Box<EventKind>>,
}
