//! The response to a call of the peer.

use crate::{error::CallError, message::payload::Payload};

/// What a call is answered with.
#[derive(Debug)]
#[non_exhaustive]
pub enum Response {
    /// A CALLRESULT.
    Result(Payload),
    /// A CALLERROR.
    Error(CallError),
    /// No answer at all: the peer will run into its timeout.
    Nothing,
    /// No other answer than the one that was given already, by way of [`Responder`](crate::extract::Responder).
    Given,
}

impl Response {
    /// A word for it: the code of an error.
    pub(crate) fn outcome(&self) -> &str {
        match self {
            Self::Result(_) => "result",
            Self::Error(error) => error.code().as_str(),
            Self::Nothing => "no reply",
            Self::Given => "given early",
        }
    }
}
