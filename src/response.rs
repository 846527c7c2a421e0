//! The response to a call of the peer.

use crate::{error::CallError, message::payload::Payload};

/// The response of a handler to a call.
#[derive(Debug)]
#[non_exhaustive]
pub enum Response {
    /// A CALLRESULT.
    Result(Payload),
    /// A CALLERROR.
    Error(CallError),
    /// No response: the call of the peer times out.
    Nothing,
    /// No further response: the handler gave one before it finished, through a
    /// [`Responder`](crate::extract::Responder).
    Given,
}

impl Response {
    /// Returns the outcome for the log: the code of a call error, or a word for any other response.
    pub(crate) fn outcome(&self) -> &str {
        match self {
            Self::Result(_) => "result",
            Self::Error(error) => error.code().as_str(),
            Self::Nothing => "no_response",
            Self::Given => "responded_early",
        }
    }
}
