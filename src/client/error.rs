//! The error of a client's attempt to connect.

use std::{borrow::Cow, error::Error as StdError, io, iter, sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::time::error::Elapsed;

#[cfg(feature = "tls")]
use crate::tls_error::{self, End};
use crate::{
    backoff::Failure,
    client::{handshake::HandshakeError, retry_after::retry_after},
    error::{BuildError, build::WithSources},
};

/// The failure of a client's attempt to connect.
///
/// ```
/// use ocpp_rpc::client::ConnectError;
///
/// fn advise(error: &ConnectError) -> &'static str {
///     match error.status() {
///         Some(status) if status == 401 => "check the password",
///         Some(_) => "ask the operator of the server",
///         None if error.is_timeout() => "check the network",
///         None => "check the address and the certificate of the server",
///     }
/// }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The client's settings contradict each other or can never work.
    #[error(transparent)]
    Settings(Arc<BuildError>),
    /// The connection could not be established, or was lost during the handshake. Errors of TLS are found here as well.
    #[error("cannot connect: {}", WithSources(&**.0))]
    Io(Arc<io::Error>),
    /// The [timeout](super::RpcClientBuilder::connect_timeout) passed.
    #[error("no connection in time")]
    Timeout,
    /// The server refused with an HTTP response.
    #[non_exhaustive]
    #[error("refused with HTTP status {status}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The headers.
        headers: Box<HeaderMap>,
        /// The body, or the part of its first 64 KiB that came within 5 s.
        body: Bytes,
    },
    /// The server does not speak HTTP.
    #[error("the server does not speak HTTP: {}", WithSources(&**.0))]
    Http(Arc<dyn StdError + Send + Sync>),
    /// The server's handshake violates RFC 6455.
    #[error("the server does not speak WebSocket: {0}")]
    Handshake(Cow<'static, str>),
    /// The server chose no subprotocol, one that the client did not offer, or another than at the first connect.
    #[non_exhaustive]
    #[error("{}", protocol_text(named.as_deref()))]
    Protocol {
        /// The subprotocol that the server named.
        named: Option<String>,
    },
    /// The client was closed while it connected.
    #[error("closed while connecting")]
    Aborted,
    /// The client is closing. It can connect again when it is closed.
    #[error("the client is closing")]
    Closing,
}

impl ConnectError {
    /// Returns true if the connection was not established in time, by the client's
    /// [timeout](super::RpcClientBuilder::connect_timeout) or that of the operating system.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Timeout => true,
            Self::Io(error) => error.kind() == io::ErrorKind::TimedOut,
            _ => false,
        }
    }

    /// Returns true if the server refused with an HTTP response, see [`status`](Self::status). A TCP connection
    /// that nothing accepts is an [`Io`](Self::Io) error instead.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// Returns the HTTP status if the server refused.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Returns what the error means for the next wait. `now` is the time of this end's clock.
    pub(super) fn failure(&self, now: SystemTime) -> Failure {
        match self {
            Self::Refused { headers, .. } => Failure::Refused { retry_after: retry_after(headers, now) },
            Self::Http(_) | Self::Handshake(_) | Self::Protocol { .. } => Failure::Refused { retry_after: None },
            _ => Failure::Unreachable,
        }
    }
}

fn protocol_text(named: Option<&str>) -> String {
    match named {
        Some(named) => format!("the server chose an unexpected subprotocol: {named:?}"),
        None => "the server chose no subprotocol".to_owned(),
    }
}

impl From<BuildError> for ConnectError {
    fn from(error: BuildError) -> Self {
        Self::Settings(Arc::new(error))
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<Elapsed> for ConnectError {
    fn from(_: Elapsed) -> Self {
        Self::Timeout
    }
}

impl From<hyper::Error> for ConnectError {
    fn from(error: hyper::Error) -> Self {
        // In TLS 1.3, the server refuses the client's certificate only after the handshake.
        #[cfg(feature = "tls")]
        if let Some(error) = io_cause(&error).and_then(|cause| tls_error::explain_cause(cause, End::Client)) {
            return error.into();
        }
        if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            io::Error::new(io::ErrorKind::UnexpectedEof, error).into()
        } else if io_cause(&error).is_some() {
            into_io_error(error).into()
        } else {
            Self::Http(Arc::new(error))
        }
    }
}

impl From<HandshakeError> for ConnectError {
    fn from(unfit: HandshakeError) -> Self {
        match unfit {
            HandshakeError::InvalidResponse(why) => Self::Handshake(why),
            HandshakeError::UnexpectedProtocol(named) => Self::Protocol { named },
        }
    }
}

/// Converts an error into an `io::Error`, with the kind and the text of the system's error if it has one.
pub(super) fn into_io_error(error: impl StdError + Send + Sync + 'static) -> io::Error {
    match io_cause(&error) {
        Some(cause) => io::Error::new(cause.kind(), format!("{error}: {cause}")),
        None => io::Error::other(error),
    }
}

fn io_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    let mut causes = iter::successors(error.source(), |cause| (**cause).source());
    causes.find_map(|cause| cause.downcast_ref())
}
