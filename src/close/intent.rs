//! The request to close a connection.

use std::{borrow::Cow, time::Duration};

use crate::{
    close::info::{CloseCause, CloseInfo},
    options,
};

/// A request to close a connection, with its code, its reason and its treatment of pending calls.
///
/// OCPP defines no codes of its own. The codes are those of RFC 6455 §7.4.
///
/// ```
/// use std::time::Duration;
/// use ocpp_rpc::Close;
///
/// let later = Close::going_away().reason("maintenance").drain(Duration::from_secs(10));
/// assert_eq!((later.code(), later.reason_text()), (1001, "maintenance"));
/// // A code that must not be sent becomes 1000.
/// assert_eq!(Close::new(1005).code(), 1000);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    code: u16,
    reason: Cow<'static, str>,
    mode: CloseMode,
    /// The time over which a server closes its sessions.
    spread: Duration,
    pub(crate) cause: CloseCause,
}

/// The treatment of pending calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseMode {
    /// Pending calls fail, and the close frame is sent at once.
    Immediate,
    /// The close frame is sent when no call is pending, or after this timeout.
    Drain(Duration),
    /// The socket is closed without a close frame.
    Forced,
}

impl Close {
    /// Creates a request with this code: 1000 to 1003, 1007 to 1014 or 3000 to 4999. Any other code becomes 1000.
    pub fn new(code: u16) -> Self {
        let code = match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => code,
            _ => 1000,
        };
        Self {
            code,
            reason: Cow::Borrowed(""),
            mode: CloseMode::Immediate,
            spread: Duration::ZERO,
            cause: CloseCause::Local,
        }
    }

    /// Creates a request with code 1000, *normal closure*.
    pub fn normal() -> Self {
        Self::new(1000)
    }

    /// Creates a request with code 1001, *going away*.
    pub fn going_away() -> Self {
        Self::new(1001)
    }

    /// Creates a request with code 1012, *service restart*, so that the peer should reconnect.
    pub fn restart() -> Self {
        Self::new(1012)
    }

    /// Creates a request to close the socket without a close frame. Both sides see code 1006.
    pub fn forced() -> Self {
        Self { code: 1006, mode: CloseMode::Forced, ..Self::normal() }
    }

    /// Sets the reason. At most 123 bytes; a longer one is cut after a whole character. Default empty.
    #[must_use]
    pub fn reason(self, reason: impl Into<Cow<'static, str>>) -> Self {
        let mut reason = reason.into();
        if reason.len() > MAX_REASON {
            let end = (0..=MAX_REASON).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
            reason = Cow::Owned(reason[..end].to_owned());
        }
        Self { reason, ..self }
    }

    /// Waits for pending and queued calls of both directions before the close frame is sent, at most for `timeout`.
    ///
    /// New calls fail meanwhile. A [forced](Self::forced) close does not wait.
    #[must_use]
    pub fn drain(self, timeout: Duration) -> Self {
        if self.mode == CloseMode::Forced {
            self
        } else {
            Self { mode: CloseMode::Drain(options::finite(timeout)), ..self }
        }
    }

    /// Spreads the close of a server over this time: its sessions close one after the other, evenly. Default zero: all
    /// sessions close at once.
    ///
    /// Stations that reconnect at another node then do not arrive there all at once. The server opens no new sessions
    /// meanwhile. The time of [`drain`](Self::drain) begins for each session when its turn comes. The close of a single
    /// session is never delayed.
    #[must_use]
    pub fn spread(self, time: Duration) -> Self {
        Self { spread: options::finite(time), ..self }
    }

    /// Returns the code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Returns the reason, which may be empty.
    pub fn reason_text(&self) -> &str {
        &self.reason
    }

    pub(crate) fn mode(&self) -> CloseMode {
        self.mode
    }

    /// Returns the time over which a server closes its sessions. Only a server needs it.
    #[cfg(feature = "server")]
    pub(crate) fn spread_time(&self) -> Duration {
        self.spread
    }

    pub(crate) fn with_cause(self, cause: CloseCause) -> Self {
        Self { cause, ..self }
    }

    /// Returns the information to report when the close frame was sent.
    pub(crate) fn outcome(&self) -> CloseInfo {
        CloseInfo { code: self.code, reason: self.reason.to_string(), cause: self.cause }
    }
}

/// The payload of a close frame has at most 125 bytes, and the code takes two of them (RFC 6455 §5.5).
pub(crate) const MAX_REASON: usize = 123;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_must_not_be_sent_becomes_1000() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert_eq!(Close::new(code).code(), 1000, "{code}");
        }
        for code in [1000, 1001, 1003, 1007, 1008, 1012, 1014, 3000, 4999] {
            assert_eq!(Close::new(code).code(), code);
        }
    }

    #[test]
    fn reason_too_long_is_cut_between_characters() {
        let close = Close::normal().reason("é".repeat(100));
        assert_eq!(close.reason_text(), "é".repeat(61));
        assert_eq!(Close::normal().reason("x".repeat(123)).reason_text().len(), 123);
    }
}
