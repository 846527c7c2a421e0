//! Why a client did not get a connection.

use std::{error::Error as StdError, fmt, io, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::{client::handshake::HandshakeError, error::BuildError};

/// Why a client did not get a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConnectError {
    /// The client's settings contradict each other or could never work.
    Settings(BuildError),
    /// Nobody answers at the address, or the connection broke.
    Io(Arc<io::Error>),
    /// The [deadline](super::RpcClientBuilder::connect_timeout) passed.
    Timeout,
    /// The server refuses over HTTP.
    #[non_exhaustive]
    Refused {
        /// The status.
        status: StatusCode,
        /// The headers.
        headers: Box<HeaderMap>,
        /// The body, or its first 64 KiB.
        body: Bytes,
    },
    /// What answers does not speak HTTP.
    Http(Arc<dyn StdError + Send + Sync>),
    /// The server upgrades in a way that RFC 6455 does not know.
    Handshake(&'static str),
    /// The server named no subprotocol, one that was not offered, or another than at the first connect.
    #[non_exhaustive]
    Protocol {
        /// What it named.
        named: Option<String>,
    },
    /// The client was closed meanwhile.
    Aborted,
    /// The client is closing, and can connect again when it has closed.
    Closing,
}

impl ConnectError {
    /// The HTTP status, where the server refused.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => error.fmt(f),
            Self::Io(error) => write!(f, "cannot connect: {error}"),
            Self::Timeout => f.write_str("no connection in time"),
            Self::Refused { status, .. } => write!(f, "refused with HTTP status {status}"),
            Self::Http(error) => write!(f, "the server does not speak HTTP: {error}"),
            Self::Handshake(why) => write!(f, "the server does not speak WebSocket: {why}"),
            Self::Protocol { named: Some(named) } => write!(f, "the server chose the subprotocol {named:?}"),
            Self::Protocol { named: None } => f.write_str("the server agreed to no subprotocol"),
            Self::Aborted => f.write_str("closed while connecting"),
            Self::Closing => f.write_str("the client is closing"),
        }
    }
}

/// What is within is a part of the message already, so that the source is what caused that.
impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Io(error) => error.source(),
            Self::Http(error) => error.source(),
            _ => None,
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<hyper::Error> for ConnectError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(Arc::new(error))
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
