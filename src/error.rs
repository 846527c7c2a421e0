//! Errors: a [`CallError`] travels in a CALLERROR, an [`Error`] is the failure of a call that this side made. An
//! [`ErrorCode`] is the code of either.
//!
//! The text of an error names its causes, so that one line of a log is enough. `source()` returns a cause only if its
//! text is not part of that line: an error that is printed with its sources says nothing twice. A cause that a program
//! may want to match is a field of its variant.

#[cfg(feature = "axum")]
mod axum;

use std::{borrow::Cow, error::Error as StdError, fmt, hash, io, path::PathBuf, sync::Arc};

use http::StatusCode;
use serde::Serialize;

use crate::{
    message::payload::{EncodeError, Payload},
    text::impl_text,
};

/// The code of a CALLERROR, in its original spelling.
///
/// OCPP 1.6 and 2.x spell two codes differently (`FormationViolation` and `FormatViolation`,
/// `OccurenceConstraintViolation` and `OccurrenceConstraintViolation`). Both spellings are equal here. A code is sent
/// in the spelling of the connection's protocol. Codes of no standard are kept verbatim. Equality with a `str` ignores the
/// spelling, too; `as_str` and all else that reads the text does not.
///
/// ```
/// use ocpp_rpc::ErrorCode;
///
/// let code = ErrorCode::new("FormationViolation");
/// assert_eq!(code, ErrorCode::FORMAT_VIOLATION);
/// assert_eq!(code, "FormatViolation");
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
    FORMAT_VIOLATION "FormatViolation" "Code of a payload with wrong syntax; 1.6 spells it `FormationViolation`."
    GENERIC_ERROR "GenericError" "Code of an error that no other code covers."
    INTERNAL_ERROR "InternalError" "Code of a failure while the receiver processed the action."
    MESSAGE_TYPE_NOT_SUPPORTED "MessageTypeNotSupported" "Code of a message type number that is not supported (2.x)."
    NOT_IMPLEMENTED "NotImplemented" "Code of an action that the receiver does not know."
    NOT_SUPPORTED "NotSupported" "Code of an action that the receiver knows but does not support."
    OCCURRENCE_CONSTRAINT_VIOLATION "OccurrenceConstraintViolation" "Code of a missing member, or of too few or too many items; 1.6 spells it `OccurenceConstraintViolation`."
    PROPERTY_CONSTRAINT_VIOLATION "PropertyConstraintViolation" "Code of a member with a value that is not allowed."
    PROTOCOL_ERROR "ProtocolError" "Code of a payload that does not conform to the protocol."
    RPC_FRAMEWORK_ERROR "RpcFrameworkError" "Code of a message that is not a valid RPC request (2.x)."
    SECURITY_ERROR "SecurityError" "Code of an action that a security issue prevented."
    TYPE_CONSTRAINT_VIOLATION "TypeConstraintViolation" "Code of a member with a value of the wrong type."
}

impl ErrorCode {
    /// Creates a code of any spelling, kept verbatim.
    pub fn new(code: impl Into<Cow<'static, str>>) -> Self {
        let code = code.into();
        // A known code needs no memory of its own.
        match KNOWN.iter().find(|known| **known == code) {
            Some(known) => Self(Cow::Borrowed(known)),
            None => Self(code),
        }
    }

    /// Returns the code in its original spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the code in the spelling of OCPP 2.x, by which codes are compared.
    pub(crate) fn canonical(&self) -> &str {
        canonical(self.as_str())
    }
}

fn canonical(code: &str) -> &str {
    match code {
        "FormationViolation" => "FormatViolation",
        "OccurenceConstraintViolation" => "OccurrenceConstraintViolation",
        other => other,
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

impl_text!(ErrorCode, |code: &ErrorCode, text: &str| code.canonical() == canonical(text));

/// The code, description and details of a CALLERROR.
///
/// A handler returns a call error to reject a call; [`Error::Rejected`] carries the call error that the peer sent.
///
/// In a handler, `?` converts any error into a call error: those of the standard library and of other crates,
/// `anyhow::Error`, boxed errors, texts, and the errors of this crate. A [`Violation`] keeps its code and pointer. Any
/// other error becomes an [`ErrorCode::INTERNAL_ERROR`] with a private text: it is logged as
/// [`source`](Self::source), and is sent only with [`Options::detailed_errors`](crate::Options::detailed_errors). For
/// another code, create the call error by [`CallError::new`], or implement `From<YourError> for CallError` for a type
/// that does not implement [`std::error::Error`].
///
/// ```
/// use ocpp_rpc::{CallError, ErrorCode, extract::Params};
/// use serde_json::{Value, json};
///
/// async fn authorize(Params(params): Params<Value>) -> Result<Value, CallError> {
///     let tags = std::fs::read_to_string("tags.txt")?;
///     let Some(tag) = params["idTag"].as_str() else {
///         return Err(CallError::new(ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION, "idTag is missing"));
///     };
///     let status = if tags.lines().any(|known| known == tag) { "Accepted" } else { "Invalid" };
///     Ok(json!({"idTagInfo": {"status": status}}))
/// }
/// ```
///
/// For this to work, a call error itself is no [`std::error::Error`]. It converts neither into `anyhow::Error` nor into
/// a boxed error, which would lose its code: a function between that rejects calls returns `Result<_, CallError>`, too.
///
/// Standard: OCPP-J 1.6 §4.2.3, OCPP 2.0.1 part 4 §4.2.3. The description is cut to 255 characters when it is sent.
#[derive(Debug, Clone, Serialize)]
pub struct CallError {
    code: ErrorCode,
    description: Cow<'static, str>,
    details: Option<Payload>,
    #[serde(skip)]
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl CallError {
    /// Creates a call error without details.
    ///
    /// ```
    /// use ocpp_rpc::{CallError, ErrorCode};
    ///
    /// let error = CallError::new(ErrorCode::NOT_SUPPORTED, "no such connector");
    /// assert_eq!(error.to_string(), "NotSupported: no such connector");
    /// ```
    pub fn new(code: ErrorCode, description: impl Into<Cow<'static, str>>) -> Self {
        Self { code, description: description.into(), details: None, source: None }
    }

    /// Creates an [`ErrorCode::INTERNAL_ERROR`] that keeps the text of `source` private.
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

    /// Sets details of any shape, as a peer sent them.
    pub(crate) fn with_raw_details(mut self, details: Payload) -> Self {
        self.details = Some(details);
        self
    }

    /// Returns the code.
    pub fn code(&self) -> &ErrorCode {
        &self.code
    }

    /// Returns the description, which may be empty.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Returns the details, if there are any. They are an object by the standard, but may be any JSON if a peer sent
    /// them.
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

    /// Returns the error that caused this one, for the log. A call error that came from a peer has none.
    pub fn source(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.source.as_deref()
    }

    /// Creates the call error that reports a violation. Its details have the pointer, as its description has.
    fn from_violation(violation: &Violation) -> Self {
        #[derive(Serialize)]
        struct Details<'a> {
            pointer: &'a str,
        }

        let error = Self::new(violation.code.clone(), violation.to_string());
        error.with_details(&Details { pointer: &violation.pointer })
    }

    /// Returns the description to send. With `detailed`, it includes the text of the source.
    pub(crate) fn sent_description(&self, detailed: bool) -> Cow<'_, str> {
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

impl From<ErrorCode> for CallError {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, "")
    }
}

/// Converts any error: a [`Violation`] keeps its code and pointer, others become an [`ErrorCode::INTERNAL_ERROR`].
impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for CallError {
    fn from(error: E) -> Self {
        match error.into().downcast::<Violation>() {
            Ok(violation) => Self::from_violation(&violation),
            Err(error) => Self::internal(error),
        }
    }
}

/// The failure of a call that this side made.
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
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer responded with a CALLERROR.
    #[error("rejected by the peer: {0}")]
    Rejected(CallError),
    /// No response came in time; the peer may have carried out the call.
    #[error("no response in time: the peer may have carried out the call")]
    Timeout,
    /// The total timeout passed while the call was queued: it was never sent.
    #[error("no response in time: the call was never sent")]
    NeverSent,
    /// The connection was lost or closed before the response came.
    #[error("disconnected: {}", if *.maybe_delivered { "the peer may have carried out the call" } else { "the call was never sent" })]
    Disconnected {
        /// True if the call had been written, so that the peer may have carried it out.
        maybe_delivered: bool,
    },
    /// A client has no connection, and its calls [do not wait](crate::client::Reconnect::refuse_calls) for one.
    #[error("not connected")]
    NotConnected,
    /// The connection is closing and accepts no more calls.
    #[error("the connection is closing")]
    Closing,
    /// The connection is closed.
    #[error("the connection is closed")]
    Closed,
    /// The call was cancelled by its [token](crate::Call::cancel_on); it may have been written.
    #[error("cancelled: the peer may have carried out the call")]
    Cancelled,
    /// Too many calls are queued on this connection.
    #[error("too many calls are queued on this connection")]
    QueueFull,
    /// The connection's protocol has no SEND.
    #[error("the protocol of this connection has no SEND")]
    SendNotSupported,
    /// The parameters do not serialize to a JSON object; nothing was sent.
    #[error("cannot encode the parameters: {0}")]
    Encode(Arc<EncodeError>),
    /// The response does not deserialize as the caller's type.
    #[error("cannot decode the response: {0}")]
    Decode(Arc<serde_json::Error>),
    /// Parameters or response did not pass [validation](crate::validate::Validation).
    #[error("invalid payload: {0}")]
    Invalid(Arc<Violation>),
}

impl Error {
    /// Returns true if the response did not come in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout | Self::NeverSent)
    }

    /// Returns true if the call can be made again without risk: the peer certainly did not carry it out, and it may
    /// succeed the next time.
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

    /// Returns true if the peer may have carried out the call although no response says so.
    pub fn maybe_delivered(&self) -> bool {
        matches!(self, Self::Timeout | Self::Cancelled | Self::Disconnected { maybe_delivered: true })
    }

    /// Returns the status for an HTTP response to the request that led to the call, as of a REST backend.
    ///
    /// | Error | Status |
    /// |---|---|
    /// | [`Encode`](Self::Encode) | 400 Bad Request |
    /// | [`Invalid`](Self::Invalid) | 422 Unprocessable Content |
    /// | [`SendNotSupported`](Self::SendNotSupported) | 501 Not Implemented |
    /// | [`Rejected`](Self::Rejected), [`Decode`](Self::Decode) | 502 Bad Gateway |
    /// | [`Disconnected`](Self::Disconnected), [`NotConnected`](Self::NotConnected), [`Closing`](Self::Closing), [`Closed`](Self::Closed), [`Cancelled`](Self::Cancelled), [`QueueFull`](Self::QueueFull) | 503 Service Unavailable |
    /// | [`Timeout`](Self::Timeout), [`NeverSent`](Self::NeverSent) | 504 Gateway Timeout |
    ///
    /// `Encode` and `Invalid` assume that the parameters came with the request. A status does not tell if the peer may
    /// have carried out the call: see [`maybe_delivered`](Self::maybe_delivered).
    ///
    /// With the feature `axum`, an error is a response of this status with a JSON body.
    pub fn http_status(&self) -> StatusCode {
        match self {
            Self::Encode(_) => StatusCode::BAD_REQUEST,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::SendNotSupported => StatusCode::NOT_IMPLEMENTED,
            Self::Rejected(_) | Self::Decode(_) => StatusCode::BAD_GATEWAY,
            Self::Disconnected { .. }
            | Self::NotConnected
            | Self::Closing
            | Self::Closed
            | Self::Cancelled
            | Self::QueueFull => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout | Self::NeverSent => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Returns the outcome of the call for metrics and spans: its code if the peer rejected it.
    pub(crate) fn outcome(&self) -> &str {
        match self {
            Self::Rejected(error) => error.code().as_str(),
            other => other.name(),
        }
    }

    /// Returns the kind of failure for metrics and spans.
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

/// A violation of a schema, a type or a rule by a payload.
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

/// An error of settings: they contradict each other, can never work, or need a file that cannot be read.
///
/// ```
/// use std::{error::Error, io};
/// use ocpp_rpc::BuildError;
///
/// /// A certificate that does not exist yet is no reason to stop.
/// fn is_missing_file(error: &BuildError) -> bool {
///     matches!(error, BuildError::File { error, .. } if error.kind() == io::ErrorKind::NotFound)
/// }
///
/// // The same by way of the source, as it works with `anyhow::Error` and boxed errors:
/// fn has_missing_file(error: &(dyn Error + 'static)) -> bool {
///     let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
///     cause.is_some_and(|cause| cause.kind() == io::ErrorKind::NotFound)
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Settings contradict each other or can never work. The text names them.
    #[error("{0}")]
    Settings(String),
    /// A file cannot be read. The error itself is the `source()` as well.
    #[non_exhaustive]
    #[error("cannot read {}: {}", path.display(), kind_of(error))]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// A certificate, a key or another setting of TLS cannot be used.
    #[non_exhaustive]
    #[error("{subject}: {}", WithSources(&**cause))]
    Tls {
        /// The setting, with its file if it was read from one.
        subject: String,
        /// The cause: an error of `rustls` or of its PEM reader.
        cause: Box<dyn StdError + Send + Sync>,
    },
}

impl BuildError {
    pub(crate) fn settings(text: impl Into<String>) -> Self {
        Self::Settings(text.into())
    }
}

/// Names the kind of an I/O error. Its text is left to the `source()`.
pub(crate) fn kind_of(error: &io::Error) -> Cow<'static, str> {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        kind => kind.to_string().into(),
    }
}

/// Displays an error and its sources in one line, without sources that the line names already.
pub(crate) struct WithSources<'a>(pub(crate) &'a (dyn StdError + 'static));

impl fmt::Display for WithSources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.to_string();
        let mut next = self.0.source();
        while let Some(source) = next {
            let text = source.to_string();
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            next = source.source();
        }
        f.write_str(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_error_keeps_its_text_private_unless_details_are_wanted() {
        let error = CallError::from(Box::<dyn StdError + Send + Sync>::from("password is hunter2"));
        assert_eq!(*error.code(), ErrorCode::INTERNAL_ERROR);
        assert!(!error.sent_description(false).contains("hunter2"));
        assert!(!error.to_string().contains("hunter2"));
        assert!(error.sent_description(true).contains("hunter2"));
    }

    #[test]
    fn spellings_are_equal_and_kept() {
        for (old, new) in [
            ("FormationViolation", ErrorCode::FORMAT_VIOLATION),
            ("OccurenceConstraintViolation", ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION),
        ] {
            assert_eq!(ErrorCode::new(old), new);
            assert_eq!(ErrorCode::new(old), new.as_str());
            assert_eq!(new, *old);
            assert_eq!(*old, new);
            assert_eq!(serde_json::to_string(&ErrorCode::new(old)).expect("a string"), format!("{old:?}"));
            assert_eq!(ErrorCode::new(old).as_str(), old);
        }
        assert_ne!(ErrorCode::new("Teapot"), ErrorCode::GENERIC_ERROR);
        assert_ne!(ErrorCode::new("Teapot"), "teapot");
        assert_eq!(ErrorCode::new("Teapot".to_owned()).as_str(), "Teapot");
    }
}
