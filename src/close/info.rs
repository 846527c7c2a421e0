//! Information on the end of a connection.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Information on the end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CloseInfo {
    /// The close code of the side that closed first.
    ///
    /// The code is 1005 if the peer's close frame has none, and 1006 if there was no close frame. It is 1008 if there was
    /// no close frame because the peer [does not read](CloseCause::NotReading).
    pub code: u16,
    /// The reason in the close frame, which may be empty.
    ///
    /// If there was no close frame, it is the text of the error for [`Transport`](CloseCause::Transport) and
    /// [`GaveUp`](CloseCause::GaveUp).
    pub reason: String,
    /// The cause of the end.
    pub cause: CloseCause,
}

impl CloseInfo {
    pub(crate) fn remote(code: u16, reason: String) -> Self {
        Self { code, reason, cause: CloseCause::Remote }
    }

    /// Creates the information on an end without a close frame.
    pub(crate) fn abnormal(cause: CloseCause) -> Self {
        let code = if cause == CloseCause::NotReading { 1008 } else { 1006 };
        Self { code, reason: String::new(), cause }
    }
}

impl fmt::Display for CloseInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} ({})", self.code, self.reason, self.cause)
    }
}

/// The cause of the end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CloseCause {
    /// This side closed the connection.
    Local,
    /// The peer closed the connection, with or without a close frame.
    Remote,
    /// The peer did not respond to pings for two intervals.
    PingTimeout,
    /// The peer violated the WebSocket protocol or sent too many bad messages in a row.
    ProtocolError,
    /// A newer connection of the same identity replaced the connection.
    Replaced,
    /// The peer sent a message over the size limit.
    TooLarge,
    /// The peer does not read, and more than [`Options::max_unsent`](crate::Options::max_unsent) was unsent.
    NotReading,
    /// The transport failed. The reason is the text of its error.
    Transport,
    /// The client gave up reconnecting. The reason contains the error.
    GaveUp,
}

/// Writes the cause as it serializes, in snake case.
impl fmt::Display for CloseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}
