//! The trait of those that know what payloads must look like.

use std::{
    any::Any,
    fmt,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use crate::{error::Violation, message::payload::Payload};

/// Knows what the payloads of protocols must look like.
///
/// It is asked by the task of a connection, about each payload once: it should be quick and must not block.
///
/// ```
/// use ocpp_rpc::{ErrorCode, validate::{PayloadContext, PayloadKind, Valid, Validator, Violation}};
///
/// /// A private protocol, in which every request is dated.
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
///     fn validate(&self, subject: &PayloadContext<'_>) -> Result<Valid, Violation> {
///         if subject.kind == PayloadKind::Response {
///             return Ok(Valid::without_value());
///         }
///         let wrong = |error: serde_json::Error| {
///             Violation::new(ErrorCode::TYPE_CONSTRAINT_VIOLATION, "/timestamp", error.to_string())
///         };
///         match subject.payload.decode::<Request>().map_err(wrong)?.timestamp {
///             Some(_) => Ok(Valid::without_value()),
///             None => Err(Violation::new(ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION, "/timestamp", "is missing")),
///         }
///     }
/// }
/// ```
pub trait Validator: Send + Sync + 'static {
    /// Whether there are rules for this subprotocol. Settings that ask for validation where there are none are
    /// refused.
    fn supports(&self, protocol: &str) -> bool;

    /// Checks one payload. An action that the protocol does not have is a violation with
    /// [`ErrorCode::NOT_IMPLEMENTED`].
    ///
    /// # Errors
    /// What is wrong with it, and which code says so.
    fn validate(&self, subject: &PayloadContext<'_>) -> Result<Valid, Violation>;
}

/// For each protocol the first of the two that knows it.
impl<A: Validator, B: Validator> Validator for (A, B) {
    fn supports(&self, protocol: &str) -> bool {
        self.0.supports(protocol) || self.1.supports(protocol)
    }

    fn validate(&self, subject: &PayloadContext<'_>) -> Result<Valid, Violation> {
        match self.0.supports(subject.protocol) {
            true => self.0.validate(subject),
            false => self.1.validate(subject),
        }
    }
}

/// What is to be checked.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct PayloadContext<'a> {
    /// The subprotocol of the connection.
    pub protocol: &'a str,
    /// The action of the call.
    pub action: &'a str,
    /// Which of the action's payloads it is.
    pub kind: PayloadKind,
    /// The payload, a JSON object.
    pub payload: &'a Payload,
}

impl<'a> PayloadContext<'a> {
    /// A payload of this action.
    pub fn new(protocol: &'a str, action: &'a str, kind: PayloadKind, payload: &'a Payload) -> Self {
        Self { protocol, action, kind, payload }
    }
}

/// Which of an action's payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadKind {
    /// That of a CALL, or of OCPP 2.1's SEND.
    Request,
    /// That of a CALLRESULT.
    Response,
}

/// A payload that passed, with what it was read as: whoever wants it as that very type need not read it again.
#[derive(Default)]
pub struct Valid {
    /// Locked only to be taken out of what is shared.
    value: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Valid {
    /// It passed without being read as a type.
    pub fn without_value() -> Self {
        Self::default()
    }

    /// It passed, and is this value.
    pub fn with_value<T: Send + 'static>(value: T) -> Self {
        Self { value: Mutex::new(Some(Box::new(value))) }
    }

    /// Takes the value out, where it is of this type.
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

    /// Knows one protocol, and lets nothing of it pass.
    struct Refuses(&'static str, ErrorCode);

    impl Validator for Refuses {
        fn supports(&self, protocol: &str) -> bool {
            protocol == self.0
        }

        fn validate(&self, _: &PayloadContext<'_>) -> Result<Valid, Violation> {
            Err(Violation::new(self.1.clone(), "", ""))
        }
    }

    #[test]
    fn of_two_validators_the_first_that_knows_the_protocol_is_asked() {
        let a = Refuses("a", ErrorCode::FORMAT_VIOLATION);
        let b = (Refuses("a", ErrorCode::SECURITY_ERROR), Refuses("b", ErrorCode::GENERIC_ERROR));
        let all = (a, b);
        let payload = Payload::default();
        for (protocol, code) in [("a", ErrorCode::FORMAT_VIOLATION), ("b", ErrorCode::GENERIC_ERROR)] {
            assert!(all.supports(protocol));
            let violation = all.validate(&PayloadContext::new(protocol, "Reset", PayloadKind::Request, &payload));
            assert_eq!(*violation.expect_err("refused").code(), code);
        }
        assert!(!all.supports("c"));
    }
}
