//! The kinds of OCPP-J messages, and the errors of messages that cannot be read.
//!
//! A message is parsed once. Its payload stays a slice of the received text until a handler or a caller decodes it.
//! The [dialect](crate::message::Dialect) decides if a message is allowed, and the exchange decides if it is expected.

use bytestring::ByteString;
use serde::Serialize;

use crate::{
    error::{CallError, ErrorCode},
    message::{
        payload::{MessageId, Payload},
        tolerance::Deviation,
    },
};

/// A parsed message.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// `[2, id, action, payload]`
    Call { id: MessageId, action: ByteString, payload: Payload },
    /// `[3, id, payload]`
    CallResult { id: MessageId, payload: Payload },
    /// `[4, id, code, description, details]`
    CallError { id: MessageId, error: CallError },
    /// `[5, id, code, description, details]`, with the id of a CALLRESULT (OCPP 2.1)
    CallResultError { id: MessageId, error: CallError },
    /// `[6, id, action, payload]` (OCPP 2.1)
    Send { id: MessageId, action: ByteString, payload: Payload },
}

pub(crate) const CALL: u64 = 2;
pub(crate) const CALL_RESULT: u64 = 3;
pub(crate) const CALL_ERROR: u64 = 4;
pub(super) const CALL_RESULT_ERROR: u64 = 5;
pub(crate) const SEND: u64 = 6;

impl Message {
    /// Returns the message type number.
    pub(crate) fn message_type(&self) -> u64 {
        match self {
            Self::Call { .. } => CALL,
            Self::CallResult { .. } => CALL_RESULT,
            Self::CallError { .. } => CALL_ERROR,
            Self::CallResultError { .. } => CALL_RESULT_ERROR,
            Self::Send { .. } => SEND,
        }
    }

    pub(crate) fn id(&self) -> &MessageId {
        match self {
            Self::Call { id, .. }
            | Self::CallResult { id, .. }
            | Self::CallError { id, .. }
            | Self::CallResultError { id, .. }
            | Self::Send { id, .. } => id,
        }
    }
}

/// A message that cannot be read or is not allowed, with the parts of it that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnreadableMessage {
    /// The first element, if it is a number.
    pub(crate) message_type: Option<u64>,
    pub(crate) id: Option<MessageId>,
    /// The third element of a CALLERROR or CALLRESULTERROR, if it is a string.
    pub(crate) code: Option<ErrorCode>,
    pub(crate) error: MessageError,
}

impl UnreadableMessage {
    #[cold]
    pub(crate) fn new(message_type: Option<u64>, id: Option<MessageId>, error: MessageError) -> Self {
        Self { message_type, id, code: None, error }
    }
}

/// The error of a bad message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MessageError {
    /// The message is not JSON.
    #[error("the message is not JSON")]
    NotJson,
    /// The message is JSON, but not an array.
    #[error("the message is not a JSON array")]
    NotAnArray,
    /// The first element is not a whole number.
    #[error("the message type is not a number")]
    NoMessageType,
    /// The protocol does not have the message type number.
    #[error("the message type is unknown")]
    UnknownMessageType,
    /// The second element is not a string.
    #[error("the message id is not a string")]
    NoMessageId,
    /// The third element is not a string.
    #[error("the action is not a string")]
    NoAction,
    /// The payload is not an object.
    #[error("the payload is not an object")]
    PayloadNotAnObject,
    /// The message has more elements than a call has.
    #[error("the message has too many elements")]
    TooManyElements,
    /// The message is a call with the id of a call that a handler still works on.
    #[error("a call with this message id is still in progress")]
    DuplicateMessageId,
    /// The message deviates from the standard, and the connection's [`Tolerance`](crate::Tolerance) does not allow it.
    #[error("the message has {0}")]
    Deviation(Deviation),
}
