//! The two kinds of failure: [`CallError`] is what travels in a CALLERROR, [`Error`] is what came of a call that
//! this side made. [`ErrorCode`] is the word that both share.

use std::{borrow::Cow, convert::Infallible, error::Error as StdError, fmt, hash, sync::Arc};

use serde::Serialize;

use crate::message::payload::{EncodeError, Payload};

/// The code of a CALLERROR, kept as it was spelled.
///
/// OCPP 1.6 and 2.x spell two codes differently (`FormationViolation` and `FormatViolation`,
/// `OccurenceConstraintViolation` and `OccurrenceConstraintViolation`). Both spellings are equal here and are
/// written as the connection's protocol spells them. Codes that no standard knows are kept verbatim.
///
/// ```
/// use ocpp_rpc::ErrorCode;
///
/// let code = ErrorCode::new("FormationViolation");
/// assert_eq!(code, ErrorCode::FORMAT_VIOLATION);
/// assert_eq!(code.as_str(), "FormationViolation");
/// ```
///
/// Standard: OCPP-J 1.6 §4.2.3, OCPP 2.0.1 part 4 §4.3.
#[derive(Clone)]
pub struct ErrorCode(Cow<'static, str>);

macro_rules! codes {
    ($($name:ident $text:literal $doc:literal)*) => {
        impl ErrorCode {
            $(#[doc = $doc] pub const $name: Self = Self(Cow::Borrowed($text));)*
        }
        const KNOWN: &[&str] = &[$($text),*];
    };
}

codes! {
    FORMAT_VIOLATION "FormatViolation" "The payload is syntactically wrong; 1.6 spells it `FormationViolation`."
    GENERIC_ERROR "GenericError" "Any error that no other code covers."
    INTERNAL_ERROR "InternalError" "The receiver failed while it processed the action."
    MESSAGE_TYPE_NOT_SUPPORTED "MessageTypeNotSupported" "A message type number that is not supported (2.x)."
    NOT_IMPLEMENTED "NotImplemented" "The action is not known to the receiver."
    NOT_SUPPORTED "NotSupported" "The action is known but not supported."
    OCCURRENCE_CONSTRAINT_VIOLATION "OccurrenceConstraintViolation" "A member is missing or there are too few or too many items; 1.6 spells it with one r."
    PROPERTY_CONSTRAINT_VIOLATION "PropertyConstraintViolation" "A member has a value that is not allowed."
    PROTOCOL_ERROR "ProtocolError" "The payload is not conform to the protocol."
    RPC_FRAMEWORK_ERROR "RpcFrameworkError" "The message is not a valid RPC request (2.x)."
    SECURITY_ERROR "SecurityError" "A security issue prevented the action."
    TYPE_CONSTRAINT_VIOLATION "TypeConstraintViolation" "A member has a value of the wrong type."
}

impl ErrorCode {
    /// A code of any spelling, kept verbatim.
    pub fn new(code: impl Into<Cow<'static, str>>) -> Self {
        let code = code.into();
        // A code that is known needs no memory of its own.
        match KNOWN.iter().find(|known| **known == code) {
            Some(known) => Self(Cow::Borrowed(known)),
            None => Self(code),
        }
    }

    /// The code as it was spelled.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The code as OCPP 2.x spells it: what two spellings are compared by.
    pub(crate) fn canonical(&self) -> &str {
        match self.as_str() {
            "FormationViolation" => "FormatViolation",
            "OccurenceConstraintViolation" => "OccurrenceConstraintViolation",
            other => other,
        }
    }
}

impl PartialEq for ErrorCode {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for ErrorCode {}

impl hash::Hash for ErrorCode {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.canonical().hash(state);
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: code, description and details of a CALLERROR.
///
/// Handlers return it to refuse a call; [`Error::Rejected`] carries the one that the peer sent. Any error that
/// converts into it works with `?` in a handler. Errors that the crate does not know become
/// [`ErrorCode::INTERNAL_ERROR`] and keep their text to themselves: it reaches the log as
/// [`source`](StdError::source), and the peer only where
/// [`Options::detailed_errors`](crate::Options::detailed_errors) is on.
///
/// ```
/// use ocpp_rpc::{CallError, ErrorCode};
///
/// let error = CallError::new(ErrorCode::NOT_SUPPORTED, "no such connector");
/// assert_eq!(error.to_string(), "NotSupported: no such connector");
/// ```
///
/// Standard: OCPP-J 1.6 §4.2.3, OCPP 2.0.1 part 4 §4.2.3. The description is cut to 255 characters when it is
/// sent.
#[derive(Debug, Clone)]
pub struct CallError {
    code: ErrorCode,
    description: Cow<'static, str>,
    details: Option<Payload>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl CallError {
    /// An error with this code and description, and no details.
    pub fn new(code: ErrorCode, description: impl Into<Cow<'static, str>>) -> Self {
        Self { code, description: description.into(), details: None, source: None }
    }

    /// An [`ErrorCode::INTERNAL_ERROR`] that keeps `source` to itself.
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let mut error = Self::new(ErrorCode::INTERNAL_ERROR, "An internal error occurred");
        error.source = Some(Arc::from(source.into()));
        error
    }

    /// Sets the details, which must serialize to a JSON object; others are dropped.
    #[must_use]
    pub fn with_details(mut self, details: &impl Serialize) -> Self {
        self.details = Payload::encode(details).ok();
        self
    }

    /// Details as a peer sent them, of any shape.
    pub(crate) fn with_raw_details(mut self, details: Payload) -> Self {
        self.details = Some(details);
        self
    }

    /// The code.
    pub fn code(&self) -> &ErrorCode {
        &self.code
    }

    /// The description, perhaps empty.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The details where there are any: an object by the standard, but peers send whatever they like.
    pub fn details(&self) -> Option<&Payload> {
        self.details.as_ref()
    }

    /// Returns the error as its message carries it: with the code as spelled and the description as cut.
    pub(crate) fn as_sent(&self, code: &str, description: &str) -> Self {
        let description = description.chars().take(255).collect::<String>();
        let mut sent = Self::new(ErrorCode::new(code.to_owned()), description);
        sent.details = self.details.clone().filter(|details| details.is_object() && details.as_str() != "{}");
        sent
    }

    /// What a peer is told: with `detailed`, the description names the source.
    pub(crate) fn told(&self, detailed: bool) -> Cow<'_, str> {
        match &self.source {
            Some(source) if detailed => Cow::Owned(format!("{}: {source}", self.description)),
            _ => Cow::Borrowed(&self.description),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        match self.description() {
            "" => Ok(()),
            description => write!(f, ": {description}"),
        }
    }
}

impl StdError for CallError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<ErrorCode> for CallError {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, "")
    }
}

impl From<Infallible> for CallError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<Box<dyn StdError + Send + Sync>> for CallError {
    fn from(error: Box<dyn StdError + Send + Sync>) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => *error,
            Err(error) => Self::internal(error),
        }
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self::internal(error)
    }
}

/// What came of a call that this side made.
///
/// ```
/// use ocpp_rpc::{CallError, Error, ErrorCode};
///
/// fn report(error: &Error) -> &'static str {
///     match error {
///         Error::Rejected(e) if *e.code() == ErrorCode::NOT_IMPLEMENTED => "old firmware",
///         e if e.is_retryable() => "try again",
///         e if e.maybe_delivered() => "ask the station before trying again",
///         _ => "give up",
///     }
/// }
///
/// assert_eq!(report(&Error::QueueFull), "try again");
/// assert_eq!(report(&Error::Timeout), "ask the station before trying again");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// The peer answered with a CALLERROR.
    Rejected(CallError),
    /// No answer came in time; the call may have been carried out.
    Timeout,
    /// The total deadline passed while the call still waited for its turn: it was never sent.
    NeverSent,
    /// The connection went away.
    Disconnected {
        /// Whether the call had been written, so that the peer may have carried it out.
        maybe_delivered: bool,
    },
    /// A client has no connection, and its calls [do not wait](crate::client::Reconnect::refuse_calls) for one.
    NotConnected,
    /// The connection is being closed and takes no more calls.
    Closing,
    /// The connection is closed.
    Closed,
    /// The call was taken back by its [token](crate::Call::cancel_on); it may have been written.
    Cancelled,
    /// Too many calls wait for their turn on this connection.
    QueueFull,
    /// The connection's protocol has no SEND.
    SendNotSupported,
    /// The parameters are not an object or do not serialize; nothing was sent.
    Encode(Arc<EncodeError>),
    /// The answer is not what the caller's type wants.
    Decode(Arc<serde_json::Error>),
    /// Parameters or answer did not pass [validation](crate::validate::Validation).
    Invalid(Arc<Violation>),
}

impl Error {
    /// Whether the peer had its time and did not answer.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout | Self::NeverSent)
    }

    /// Whether the same call may be made again without risk: it was certainly not carried out, and nothing says
    /// that it will fail again.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NeverSent
                | Self::QueueFull
                | Self::NotConnected
                | Self::Closing
                | Self::Closed
                | Self::Disconnected { maybe_delivered: false }
        )
    }

    /// Whether the peer may have carried the call out although no answer says so.
    pub fn maybe_delivered(&self) -> bool {
        matches!(self, Self::Timeout | Self::Cancelled | Self::Disconnected { maybe_delivered: true })
    }
}

impl Error {
    /// A word for what came of the call: the code where the peer rejected it.
    pub(crate) fn outcome(&self) -> &str {
        match self {
            Self::Rejected(error) => error.code().as_str(),
            other => other.name(),
        }
    }

    /// A word for the kind of failure.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::Timeout => "timeout",
            Self::NeverSent => "never sent",
            Self::Disconnected { .. } => "disconnected",
            Self::NotConnected => "not connected",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Cancelled => "cancelled",
            Self::QueueFull => "queue full",
            Self::SendNotSupported => "no SEND",
            Self::Encode(_) => "not encodable",
            Self::Decode(_) => "not decodable",
            Self::Invalid(_) => "invalid",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(error) => write!(f, "rejected by the peer: {error}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::NeverSent => f.write_str("the deadline passed before the call was sent"),
            Self::Disconnected { maybe_delivered: true } => f.write_str("disconnected before the answer came"),
            Self::Disconnected { maybe_delivered: false } => f.write_str("disconnected before the call was sent"),
            Self::NotConnected => f.write_str("there is no connection"),
            Self::Closing => f.write_str("the connection is closing"),
            Self::Closed => f.write_str("the connection is closed"),
            Self::Cancelled => f.write_str("taken back"),
            Self::QueueFull => f.write_str("too many calls wait on this connection"),
            Self::SendNotSupported => f.write_str("the protocol of this connection has no SEND"),
            Self::Encode(error) => write!(f, "the parameters cannot be sent: {error}"),
            Self::Decode(error) => write!(f, "the answer cannot be read: {error}"),
            Self::Invalid(violation) => write!(f, "invalid: {violation}"),
        }
    }
}

/// What it holds is a part of the message already.
impl StdError for Error {}

impl From<EncodeError> for Error {
    fn from(error: EncodeError) -> Self {
        Self::Encode(Arc::new(error))
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Invalid(Arc::new(violation))
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Decode(Arc::new(error))
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

/// Settings that contradict each other or could never work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError(pub(crate) String);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BuildError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boxed_call_error_keeps_its_code() {
        let boxed: Box<dyn StdError + Send + Sync> = Box::new(CallError::from(ErrorCode::SECURITY_ERROR));
        assert_eq!(*CallError::from(boxed).code(), ErrorCode::SECURITY_ERROR);
    }

    #[test]
    fn an_unknown_error_keeps_its_text_private_unless_details_are_wanted() {
        let error = CallError::from(Box::<dyn StdError + Send + Sync>::from("password is hunter2"));
        assert_eq!(*error.code(), ErrorCode::INTERNAL_ERROR);
        assert!(!error.told(false).contains("hunter2"));
        assert!(!error.to_string().contains("hunter2"));
        assert!(error.told(true).contains("hunter2"));
    }

    #[test]
    fn spellings_are_equal_and_kept() {
        for (old, new) in [
            ("FormationViolation", ErrorCode::FORMAT_VIOLATION),
            ("OccurenceConstraintViolation", ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION),
        ] {
            assert_eq!(ErrorCode::new(old), new);
            assert_eq!(ErrorCode::new(old).as_str(), old);
        }
        assert_ne!(ErrorCode::new("Teapot"), ErrorCode::GENERIC_ERROR);
        assert_eq!(ErrorCode::new("Teapot".to_owned()).as_str(), "Teapot");
    }
}
