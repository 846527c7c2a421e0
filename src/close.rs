//! How a connection is asked to end, and how it ended.

use std::{borrow::Cow, fmt, time::Duration};

use crate::options;

/// A wish to close: code, reason, and what becomes of calls under way.
///
/// ```
/// use std::time::Duration;
/// use ocpp_rpc::Close;
///
/// let later = Close::going_away().reason("maintenance").drain(Duration::from_secs(10));
/// assert_eq!((later.code(), later.reason_text()), (1001, "maintenance"));
/// // Codes that may not be sent become 1000, long reasons are cut.
/// assert_eq!(Close::new(1005).code(), 1000);
/// ```
///
/// OCPP defines no codes of its own; those of RFC 6455 §7.4 hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    code: u16,
    reason: Cow<'static, str>,
    mode: CloseMode,
    pub(crate) cause: CloseCause,
}

/// What becomes of calls under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseMode {
    /// They fail, and the close frame goes out.
    Immediate,
    /// They are waited for, so long at most.
    Drain(Duration),
    /// The socket is dropped without a close frame.
    Forced,
}

impl Close {
    /// A close with this code: 1000 to 1003, 1007 to 1014 or 3000 to 4999. Any other becomes 1000.
    pub fn new(code: u16) -> Self {
        let code = match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => code,
            _ => 1000,
        };
        Self { code, reason: Cow::Borrowed(""), mode: CloseMode::Immediate, cause: CloseCause::Local }
    }

    /// 1000: the purpose is fulfilled.
    pub fn normal() -> Self {
        Self::new(1000)
    }

    /// 1001: this side is going away.
    pub fn going_away() -> Self {
        Self::new(1001)
    }

    /// 1012: this side restarts; come back.
    pub fn restart() -> Self {
        Self::new(1012)
    }

    /// No close frame: the socket is dropped, and both sides see 1006.
    pub fn forced() -> Self {
        Self { code: 1006, mode: CloseMode::Forced, ..Self::normal() }
    }

    /// Sets the reason; it is cut to 123 bytes, at the end of a character.
    #[must_use]
    pub fn reason(self, reason: impl Into<Cow<'static, str>>) -> Self {
        let mut reason = reason.into();
        if reason.len() > MAX_REASON {
            let end = (0..=MAX_REASON).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
            reason = Cow::Owned(reason[..end].to_owned());
        }
        Self { reason, ..self }
    }

    /// Lets pending calls of both directions end first, queued ones included, for at most `timeout`. New calls are
    /// refused meanwhile. A [forced](Self::forced) close waits for nothing.
    #[must_use]
    pub fn drain(self, timeout: Duration) -> Self {
        match self.mode {
            CloseMode::Forced => self,
            _ => Self { mode: CloseMode::Drain(options::finite(timeout)), ..self },
        }
    }

    /// The code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The reason, perhaps empty.
    pub fn reason_text(&self) -> &str {
        &self.reason
    }

    pub(crate) fn mode(&self) -> CloseMode {
        self.mode
    }

    pub(crate) fn with_cause(self, cause: CloseCause) -> Self {
        Self { cause, ..self }
    }

    /// The outcome, once the close frame went out.
    pub(crate) fn outcome(&self) -> CloseInfo {
        CloseInfo { code: self.code, reason: self.reason.to_string(), cause: self.cause }
    }
}

/// A close frame's payload is at most 125 bytes (RFC 6455 §5.5), two of which are the code.
const MAX_REASON: usize = 123;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_not_be_sent_become_1000() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert_eq!(Close::new(code).code(), 1000, "{code}");
        }
        for code in [1000, 1001, 1003, 1007, 1008, 1012, 1014, 3000, 4999] {
            assert_eq!(Close::new(code).code(), code);
        }
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let close = Close::normal().reason("é".repeat(100));
        assert_eq!(close.reason_text(), "é".repeat(61));
        assert_eq!(Close::normal().reason("x".repeat(123)).reason_text().len(), 123);
    }
}
