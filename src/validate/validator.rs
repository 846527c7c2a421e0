//! The trait of validators, with its arguments and results.

use std::{
    any::Any,
    fmt,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use crate::{error::Violation, message::payload::Payload};

/// The rules for the payloads of some protocols.
///
/// The task of a connection calls the validator once for each payload. The validator should return quickly and must not
/// block.
///
/// ```
/// use ocpp_rpc::{ErrorCode, validate::{PayloadContext, PayloadKind, Valid, Validator, Violation}};
///
/// /// A private protocol in which every request must have a timestamp.
/// struct Dated;
///
/// #[derive(serde::Deserialize)]
/// struct Request {
///     timestamp: Option<String>,
/// }
///
/// impl Validator for Dated {
///     fn supports(&self, protocol: &str) -> bool {
///         protocol == "acme1"
///     }
///
///     fn validate(&self, context: &PayloadContext<'_>) -> Result<Valid, Violation> {
///         if context.kind == PayloadKind::Response {
///             return Ok(Valid::without_value());
///         }
///         let wrong = |error: serde_json::Error| {
///             Violation::new(ErrorCode::TYPE_CONSTRAINT_VIOLATION, "/timestamp", error.to_string())
///         };
///         match context.payload.decode::<Request>().map_err(wrong)?.timestamp {
///             Some(_) => Ok(Valid::without_value()),
///             None => Err(Violation::new(ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION, "/timestamp", "is missing")),
///         }
///     }
/// }
/// ```
pub trait Validator: Send + Sync + 'static {
    /// Returns `true` if there are rules for this subprotocol. `build` returns an error if it must validate a protocol
    /// without rules.
    fn supports(&self, protocol: &str) -> bool;

    /// Checks one payload.
    ///
    /// # Errors
    ///
    /// Returns the violation and its code. If the protocol does not have the action, the code should be
    /// [`ErrorCode::NOT_IMPLEMENTED`](crate::ErrorCode::NOT_IMPLEMENTED).
    fn validate(&self, context: &PayloadContext<'_>) -> Result<Valid, Violation>;
}

/// Uses the first of the two validators that supports the protocol.
impl<A: Validator, B: Validator> Validator for (A, B) {
    fn supports(&self, protocol: &str) -> bool {
        self.0.supports(protocol) || self.1.supports(protocol)
    }

    fn validate(&self, context: &PayloadContext<'_>) -> Result<Valid, Violation> {
        if self.0.supports(context.protocol) { self.0.validate(context) } else { self.1.validate(context) }
    }
}

/// A payload to check, with its protocol and action.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct PayloadContext<'a> {
    /// The subprotocol of the connection.
    pub protocol: &'a str,
    /// The action of the call.
    pub action: &'a str,
    /// The kind of the payload.
    pub kind: PayloadKind,
    /// The JSON object to check.
    pub payload: &'a Payload,
}

impl<'a> PayloadContext<'a> {
    /// Creates the context of a payload.
    pub fn new(protocol: &'a str, action: &'a str, kind: PayloadKind, payload: &'a Payload) -> Self {
        Self { protocol, action, kind, payload }
    }
}

/// The kind of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadKind {
    /// The payload of a CALL, or of a SEND (OCPP 2.1).
    Request,
    /// The payload of a CALLRESULT.
    Response,
}

/// A valid payload, with the value that the validator decoded.
///
/// A handler or a caller that takes a value of the same type gets this value, and the payload is not decoded again.
#[derive(Default)]
pub struct Valid {
    /// Behind a lock only because the value is taken out of shared state.
    value: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Valid {
    /// Creates a result without a decoded value.
    pub fn without_value() -> Self {
        Self::default()
    }

    /// Creates a result with the decoded value.
    pub fn with_value<T: Send + 'static>(value: T) -> Self {
        Self { value: Mutex::new(Some(Box::new(value))) }
    }

    /// Takes the value if it has the type `T`.
    pub(crate) fn take<T: 'static>(&self) -> Option<T> {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let value = value.take_if(|value| value.is::<T>())?;
        value.downcast().ok().map(|value| *value)
    }
}

impl fmt::Debug for Valid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Valid").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    /// Supports one protocol, and rejects all of its payloads.
    struct Rejects(&'static str, ErrorCode);

    impl Validator for Rejects {
        fn supports(&self, protocol: &str) -> bool {
            protocol == self.0
        }

        fn validate(&self, _: &PayloadContext<'_>) -> Result<Valid, Violation> {
            Err(Violation::new(self.1.clone(), "", ""))
        }
    }

    #[test]
    fn pair_uses_the_first_validator_that_supports_the_protocol() {
        let a = Rejects("a", ErrorCode::FORMAT_VIOLATION);
        let b = (Rejects("a", ErrorCode::SECURITY_ERROR), Rejects("b", ErrorCode::GENERIC_ERROR));
        let all = (a, b);
        let payload = Payload::default();
        for (protocol, code) in [("a", ErrorCode::FORMAT_VIOLATION), ("b", ErrorCode::GENERIC_ERROR)] {
            assert!(all.supports(protocol));
            let violation = all.validate(&PayloadContext::new(protocol, "Reset", PayloadKind::Request, &payload));
            assert_eq!(*violation.expect_err("rejected").code(), code);
        }
        assert!(!all.supports("c"));
    }
}
