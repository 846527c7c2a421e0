//! The result of a call, on its way to the caller.

use bytestring::ByteString;
use tokio::sync::oneshot;

use crate::{
    error::Error,
    message::payload::{MessageId, Payload},
    validate::validator::Valid,
};

/// The result of a call to the peer. It is empty if the call was only to be written.
#[derive(Debug, Default)]
pub(crate) struct CallResult {
    pub(crate) id: MessageId,
    pub(crate) action: ByteString,
    pub(crate) payload: Payload,
    /// The value that validation made of the payload.
    pub(crate) valid: Valid,
}

/// Gives the outcome of a call to its caller.
pub(crate) type ResponseSender = oneshot::Sender<Result<CallResult, Error>>;
