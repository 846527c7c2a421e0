//! Whether payloads are what their action allows: the trait of those who know, and where they are asked.

mod fault;
mod misfit;
#[cfg(feature = "json-schema")]
mod schema;
#[cfg(feature = "strict")]
mod strict;

use std::{
    any::Any,
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

pub(crate) use self::misfit::misfit;
#[cfg(feature = "json-schema")]
pub use self::schema::{SchemaError, Schemas};
#[cfg(feature = "strict")]
pub use self::strict::Strict;
use crate::{
    error::{CallError, ErrorCode},
    options::BuildError,
    payload::Payload,
};

/// Knows what the payloads of protocols must look like.
///
/// It is asked by the task of a connection, about each payload once: it should be quick and must not block.
///
/// ```
/// use ocpp_rpc::{ErrorCode, PayloadKind, Subject, Valid, Validator, Violation};
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
///     fn knows(&self, protocol: &str) -> bool {
///         protocol == "acme1"
///     }
///
///     fn validate(&self, subject: &Subject<'_>) -> Result<Valid, Violation> {
///         if subject.kind == PayloadKind::Response {
///             return Ok(Valid::unread());
///         }
///         let wrong = |error: serde_json::Error| {
///             Violation::new(ErrorCode::TYPE_CONSTRAINT_VIOLATION, "/timestamp", error.to_string())
///         };
///         match subject.payload.decode::<Request>().map_err(wrong)?.timestamp {
///             Some(_) => Ok(Valid::unread()),
///             None => Err(Violation::new(ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION, "/timestamp", "is missing")),
///         }
///     }
/// }
/// ```
pub trait Validator: Send + Sync + 'static {
    /// Whether there are rules for this subprotocol. Settings that ask for validation where there are none are
    /// refused.
    fn knows(&self, protocol: &str) -> bool;

    /// Checks one payload. An action that the protocol does not have is a violation with
    /// [`ErrorCode::NOT_IMPLEMENTED`].
    ///
    /// # Errors
    /// What is wrong with it, and which code says so.
    fn validate(&self, subject: &Subject<'_>) -> Result<Valid, Violation>;
}

/// For each protocol the first of the two that knows it.
impl<A: Validator, B: Validator> Validator for (A, B) {
    fn knows(&self, protocol: &str) -> bool {
        self.0.knows(protocol) || self.1.knows(protocol)
    }

    fn validate(&self, subject: &Subject<'_>) -> Result<Valid, Violation> {
        match self.0.knows(subject.protocol) {
            true => self.0.validate(subject),
            false => self.1.validate(subject),
        }
    }
}

/// What is to be checked.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Subject<'a> {
    /// The subprotocol of the connection.
    pub protocol: &'a str,
    /// The action of the call.
    pub action: &'a str,
    /// Which of the action's payloads it is.
    pub kind: PayloadKind,
    /// The payload, a JSON object.
    pub payload: &'a Payload,
}

impl<'a> Subject<'a> {
    /// A payload of this action.
    pub fn new(protocol: &'a str, action: &'a str, kind: PayloadKind, payload: &'a Payload) -> Self {
        Self { protocol, action, kind, payload }
    }
}

/// Which of an action's payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    pub fn unread() -> Self {
        Self::default()
    }

    /// It passed, and is this value.
    pub fn read<T: Send + 'static>(value: T) -> Self {
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

/// What is wrong with a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    code: ErrorCode,
    pointer: String,
    reason: String,
}

impl Violation {
    /// A violation at the place that a JSON pointer (RFC 6901) names: `""` is the whole payload.
    pub fn new(code: ErrorCode, pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { code, pointer: pointer.into(), reason: reason.into() }
    }

    /// The code that the payload's sender is told.
    pub fn code(&self) -> &ErrorCode {
        &self.code
    }

    /// Where, as a JSON pointer (RFC 6901).
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// What is wrong there.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer() {
            "" => f.write_str(&self.reason),
            pointer => write!(f, "{pointer}: {}", self.reason),
        }
    }
}

impl StdError for Violation {}

/// The pointer is in the details as well.
impl From<Violation> for CallError {
    fn from(violation: Violation) -> Self {
        #[derive(Serialize)]
        struct Details<'a> {
            pointer: &'a str,
        }

        let error = Self::new(violation.code.clone(), violation.to_string());
        error.with_details(&Details { pointer: &violation.pointer })
    }
}

#[doc = include_str!("docs/validation.md")]
#[derive(Clone)]
pub struct Validation {
    pub(crate) validator: Arc<dyn Validator>,
    /// None are all.
    pub(crate) protocols: Option<Vec<Arc<str>>>,
    pub(crate) report_only: bool,
}

impl Validation {
    /// Checks the payloads of every protocol.
    pub fn new(validator: impl Validator) -> Self {
        Self { validator: Arc::new(validator), protocols: None, report_only: false }
    }

    /// Checks the payloads of these protocols only.
    #[must_use]
    pub fn only<P: AsRef<str>>(self, protocols: impl IntoIterator<Item = P>) -> Self {
        let protocols = protocols.into_iter().map(|protocol| protocol.as_ref().into()).collect();
        Self { protocols: Some(protocols), ..self }
    }

    /// Lets everything pass, and tells of violations by events alone.
    #[must_use]
    pub fn report_only(self) -> Self {
        Self { report_only: true, ..self }
    }

    /// Whether payloads of this protocol are checked.
    pub(crate) fn applies_to(&self, protocol: &str) -> bool {
        let is_named = |names: &Vec<Arc<str>>| names.iter().any(|name| **name == *protocol);
        self.protocols.as_ref().is_none_or(is_named) && self.validator.knows(protocol)
    }

    /// Refuses what checks nothing, or not all that it is asked to.
    pub(crate) fn check(&self, protocols: &[Arc<str>]) -> Result<(), BuildError> {
        if protocols.is_empty() {
            return Err(BuildError("validation without a protocol: nobody could say what is valid".into()));
        }
        let named = self.protocols.as_deref().unwrap_or(protocols);
        if let Some(unknown) = named.iter().find(|name| !protocols.contains(name)) {
            return Err(BuildError(format!("validation of {unknown:?}, which is none of the protocols")));
        }
        match named.iter().find(|name| !self.validator.knows(name)) {
            Some(unknown) => Err(BuildError(format!("the validator does not know the protocol {unknown:?}"))),
            None => Ok(()),
        }
    }
}

/// Two are equal that have the same validator, not one that is like it.
impl PartialEq for Validation {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.validator, &other.validator)
            && (&self.protocols, self.report_only) == (&other.protocols, other.report_only)
    }
}

impl Eq for Validation {}

impl fmt::Debug for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validation")
            .field("protocols", &self.protocols)
            .field("report_only", &self.report_only)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows one protocol, and lets nothing of it pass.
    struct Refuses(&'static str, ErrorCode);

    impl Validator for Refuses {
        fn knows(&self, protocol: &str) -> bool {
            protocol == self.0
        }

        fn validate(&self, _: &Subject<'_>) -> Result<Valid, Violation> {
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
            assert!(all.knows(protocol));
            let violation = all.validate(&Subject::new(protocol, "Reset", PayloadKind::Request, &payload));
            assert_eq!(*violation.expect_err("refused").code(), code);
        }
        assert!(!all.knows("c"));
    }
}
