//! The violation of a rule by a payload.

use serde::Serialize;

use crate::error::code::ErrorCode;

/// A violation of a schema, a type or a rule by a payload.
///
/// ```
/// use ocpp_rpc::{ErrorCode, validate::Violation};
///
/// let violation = Violation::new(ErrorCode::PROPERTY_CONSTRAINT_VIOLATION, "/idTag", "has more than 20 characters");
/// assert_eq!(violation.to_string(), "/idTag: has more than 20 characters");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{pointer}{}{reason}", if .pointer.is_empty() { "" } else { ": " })]
pub struct Violation {
    code: ErrorCode,
    pointer: String,
    reason: String,
}

impl Violation {
    /// Creates a violation at the place that a JSON pointer (RFC 6901) names; `""` is the whole payload.
    pub fn new(code: ErrorCode, pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { code, pointer: pointer.into(), reason: reason.into() }
    }

    /// Returns the code of the CALLERROR or CALLRESULTERROR that reports the violation to the payload's sender.
    pub fn code(&self) -> &ErrorCode {
        &self.code
    }

    /// Returns the place of the violation, as a JSON pointer (RFC 6901).
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Returns the reason, a description of the wrong value.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}
