//! Errors: a [`CallError`] travels in a CALLERROR, an [`Error`] is the failure of a call that this side made. An
//! [`ErrorCode`] is the code of either.
//!
//! The text of an error names its causes, so that one line of a log is enough. `source()` returns a cause only if its
//! text is not part of that line: an error that is printed with its sources says nothing twice. A cause that a program
//! may want to match is a field of its variant.

#[cfg(feature = "axum")]
mod axum;
pub(crate) mod build;
pub(crate) mod call_error;
pub(crate) mod code;
pub(crate) mod violation;

pub use self::{build::BuildError, call_error::CallError, code::ErrorCode, violation::Violation};

use std::sync::Arc;

use http::StatusCode;

use crate::message::payload::EncodeError;

/// The failure of a call that this side made.
///
/// ```
/// use ocpp_rpc::{CallError, Error, ErrorCode};
///
/// fn report(error: &Error) -> &'static str {
///     match error {
///         Error::Rejected(e) if *e.code() == ErrorCode::NOT_IMPLEMENTED => "old firmware",
///         e if e.is_retryable() => "try again",
///         e if e.maybe_delivered() => "ask the station before trying again",
///         _ => "give up",
///     }
/// }
///
/// assert_eq!(report(&Error::QueueFull), "try again");
/// assert_eq!(report(&Error::Timeout), "ask the station before trying again");
/// ```
///
/// | Error | May the peer have carried it out? | [Retryable](Self::is_retryable) |
/// |---|---|---|
/// | [`NeverSent`](Self::NeverSent), [`QueueFull`](Self::QueueFull), [`NotConnected`](Self::NotConnected), [`Unreachable`](Self::Unreachable), [`Closing`](Self::Closing), [`Closed`](Self::Closed) | no | yes |
/// | [`Disconnected`](Self::Disconnected) | as `maybe_delivered` says | if not |
/// | [`Timeout`](Self::Timeout), [`Cancelled`](Self::Cancelled), [`Layer`](Self::Layer) | yes | no |
/// | [`TooLarge`](Self::TooLarge) | as `maybe_delivered` says | no |
/// | [`Rejected`](Self::Rejected) | no: it says so | no |
/// | [`Decode`](Self::Decode), [`Invalid`](Self::Invalid) of a response | it did | no |
/// | [`Encode`](Self::Encode), [`Invalid`](Self::Invalid) of parameters, [`SendNotSupported`](Self::SendNotSupported), [`InvalidMessageId`](Self::InvalidMessageId) | no | no: it fails again |
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer responded with a CALLERROR.
    #[error("rejected by the peer: {0}")]
    Rejected(CallError),
    /// No response came in time; the peer may have carried out the call.
    #[error("no response in time: the peer may have carried out the call")]
    Timeout,
    /// The total timeout passed while the call was queued: it was never sent.
    #[error("no response in time: the call was never sent")]
    NeverSent,
    /// The connection was lost or closed before the response came.
    #[error("disconnected: {}", if *.maybe_delivered { "the peer may have carried out the call" } else { "the call was never sent" })]
    Disconnected {
        /// True if the call had been written, so that the peer may have carried it out.
        maybe_delivered: bool,
    },
    /// A [station](crate::Station) has no session, on no node of a cluster. Or a client has no connection, and its calls
    /// [do not wait](crate::client::Reconnect::refuse_calls) for one.
    #[error("not connected")]
    NotConnected,
    /// The [cluster](crate::cluster) is away, and the station is not connected to this node. Nothing was sent.
    #[error("the cluster is away, and the station is not connected to this node")]
    Unreachable,
    /// The call or its result is larger than the [cluster](crate::cluster) can carry between its nodes.
    #[error("too large for the cluster: {}", if *.maybe_delivered { "the response; the peer has carried out the call" } else { "the call was never sent" })]
    TooLarge {
        /// True if it is the response, so that the peer has carried out the call.
        maybe_delivered: bool,
    },
    /// The connection is closing and accepts no more calls.
    #[error("the connection is closing")]
    Closing,
    /// The connection is closed.
    #[error("the connection is closed")]
    Closed,
    /// The call was cancelled by its [token](crate::Call::cancel_on); it may have been written.
    #[error("cancelled: the peer may have carried out the call")]
    Cancelled,
    /// Too many calls are queued on this connection.
    #[error("too many calls are queued on this connection")]
    QueueFull,
    /// The connection's protocol has no SEND.
    #[error("the protocol of this connection has no SEND")]
    SendNotSupported,
    /// The [id](crate::Call::id) of the call cannot be used; nothing was sent.
    #[non_exhaustive]
    #[error("invalid message id: {reason}")]
    InvalidMessageId {
        /// The reason.
        reason: &'static str,
    },
    /// The parameters do not serialize to a JSON object; nothing was sent.
    #[error("cannot encode the parameters: {0}")]
    Encode(Arc<EncodeError>),
    /// The response does not deserialize as the caller's type.
    #[error("cannot decode the response: {0}")]
    Decode(Arc<serde_json::Error>),
    /// Parameters or response did not pass [validation](crate::validate::Validation).
    #[error("invalid payload: {0}")]
    Invalid(Arc<Violation>),
    /// A [layer](crate::outgoing) around the call failed, with an error of its own.
    #[error("a layer around the call failed: {0}")]
    Layer(Arc<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Returns true if the response did not come in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout | Self::NeverSent)
    }

    /// Returns true if the call can be made again without risk: the peer certainly did not carry it out, and it may
    /// succeed the next time.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NeverSent
                | Self::QueueFull
                | Self::NotConnected
                | Self::Unreachable
                | Self::Closing
                | Self::Closed
                | Self::Disconnected { maybe_delivered: false }
        )
    }

    /// Returns true if the peer may have carried out the call although no response says so. This includes
    /// [`Layer`](Self::Layer), because the layer may have made the call.
    pub fn maybe_delivered(&self) -> bool {
        matches!(
            self,
            Self::Timeout
                | Self::Cancelled
                | Self::Layer(_)
                | Self::Disconnected { maybe_delivered: true }
                | Self::TooLarge { maybe_delivered: true }
        )
    }

    /// Returns the status for an HTTP response to the request that led to the call, as of a REST backend.
    ///
    /// | Error | Status |
    /// |---|---|
    /// | [`Encode`](Self::Encode), [`InvalidMessageId`](Self::InvalidMessageId) | 400 Bad Request |
    /// | [`TooLarge`](Self::TooLarge) | 413 Content Too Large; 502 Bad Gateway if it is the response |
    /// | [`Invalid`](Self::Invalid) | 422 Unprocessable Content |
    /// | [`Layer`](Self::Layer) | 500 Internal Server Error |
    /// | [`SendNotSupported`](Self::SendNotSupported) | 501 Not Implemented |
    /// | [`Rejected`](Self::Rejected), [`Decode`](Self::Decode) | 502 Bad Gateway |
    /// | [`Disconnected`](Self::Disconnected), [`NotConnected`](Self::NotConnected), [`Unreachable`](Self::Unreachable), [`Closing`](Self::Closing), [`Closed`](Self::Closed), [`Cancelled`](Self::Cancelled), [`QueueFull`](Self::QueueFull) | 503 Service Unavailable |
    /// | [`Timeout`](Self::Timeout), [`NeverSent`](Self::NeverSent) | 504 Gateway Timeout |
    ///
    /// `Encode` and `Invalid` assume that the parameters came with the request. A status does not tell if the peer may
    /// have carried out the call: see [`maybe_delivered`](Self::maybe_delivered).
    ///
    /// With the feature `axum`, an error is a response of this status with a JSON body.
    pub fn http_status(&self) -> StatusCode {
        match self {
            Self::Encode(_) | Self::InvalidMessageId { .. } => StatusCode::BAD_REQUEST,
            Self::TooLarge { maybe_delivered: false } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Layer(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::SendNotSupported => StatusCode::NOT_IMPLEMENTED,
            Self::Rejected(_) | Self::Decode(_) | Self::TooLarge { maybe_delivered: true } => StatusCode::BAD_GATEWAY,
            Self::Disconnected { .. }
            | Self::NotConnected
            | Self::Unreachable
            | Self::Closing
            | Self::Closed
            | Self::Cancelled
            | Self::QueueFull => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout | Self::NeverSent => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Returns the outcome of the call for metrics and spans: its code if the peer rejected it.
    pub(crate) fn outcome(&self) -> &str {
        match self {
            Self::Rejected(error) => error.code().as_str(),
            other => other.name(),
        }
    }

    /// Returns the name of the variant in snake case, for metrics, spans, events and JSON.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::Timeout => "timeout",
            Self::NeverSent => "never_sent",
            Self::Disconnected { .. } => "disconnected",
            Self::NotConnected => "not_connected",
            Self::Unreachable => "unreachable",
            Self::TooLarge { .. } => "too_large",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Cancelled => "cancelled",
            Self::QueueFull => "queue_full",
            Self::SendNotSupported => "send_not_supported",
            Self::InvalidMessageId { .. } => "invalid_message_id",
            Self::Encode(_) => "encode",
            Self::Decode(_) => "decode",
            Self::Invalid(_) => "invalid",
            Self::Layer(_) => "layer",
        }
    }
}

impl From<EncodeError> for Error {
    fn from(error: EncodeError) -> Self {
        Self::Encode(Arc::new(error))
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Invalid(Arc::new(violation))
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Decode(Arc::new(error))
    }
}
