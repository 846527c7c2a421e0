//! The result of a call, on its way to the caller.

use tokio::sync::oneshot;

use crate::{
    error::Error,
    message::payload::{MessageId, Payload},
    validate::validator::Valid,
};

/// The result that came in for a call of ours; empty where it was enough that the call was written.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub(crate) id: MessageId,
    pub(crate) payload: Payload,
    /// What validation made of the payload.
    pub(crate) valid: Valid,
}

/// Where the outcome of a call goes.
pub(crate) type Ticket = oneshot::Sender<Result<Answered, Error>>;
