//! How a connection is asked to end.

use std::{borrow::Cow, time::Duration};

use crate::{
    close::info::{CloseCause, CloseInfo},
    options,
};

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
