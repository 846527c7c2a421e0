//! How a connection ended.

use std::fmt;

use serde::Serialize;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CloseInfo {
    /// The close code: that of the side that closed first; 1005 where the peer sent none, 1006 where there was no
    /// close frame, and 1008 where there was none because the peer [does not read](CloseCause::NotReading).
    pub code: u16,
    /// The reason that came with the code, perhaps empty.
    pub reason: String,
    /// Who or what ended it.
    pub cause: CloseCause,
}

impl CloseInfo {
    pub(crate) fn remote(code: u16, reason: String) -> Self {
        Self { code, reason, cause: CloseCause::Remote }
    }

    /// Ended without a close frame.
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

/// Who or what ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CloseCause {
    /// This side asked for it.
    Local,
    /// The peer closed, with or without a close frame.
    Remote,
    /// The peer answered no ping for two intervals.
    PingTimeout,
    /// The peer broke the WebSocket protocol or sent too many bad messages in a row.
    ProtocolError,
    /// A newer connection of the same identity took its place.
    Replaced,
    /// The peer sent a message over the size limit.
    TooLarge,
    /// The peer does not read what it is sent.
    NotReading,
    /// The transport failed.
    Transport,
    /// A client gave up to reconnect; the reason says why.
    GaveUp,
}

impl fmt::Display for CloseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl CloseCause {
    /// A word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::PingTimeout => "ping timeout",
            Self::ProtocolError => "protocol error",
            Self::Replaced => "replaced",
            Self::TooLarge => "too large",
            Self::NotReading => "not reading",
            Self::Transport => "transport error",
            Self::GaveUp => "gave up",
        }
    }
}
