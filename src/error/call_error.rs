//! The error that a CALLERROR carries.

use std::{
    borrow::Cow,
    error::Error as StdError,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use serde::Serialize;

use crate::{
    error::{code::ErrorCode, violation::Violation},
    message::payload::Payload,
};

/// The code, description and details of a CALLERROR.
///
/// A handler returns a call error to reject a call; [`Error::Rejected`](crate::Error::Rejected) carries the call error that the peer sent.
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

        let error = Self::new(violation.code().clone(), violation.to_string());
        error.with_details(&Details { pointer: violation.pointer() })
    }

    /// Returns the description to send. With `detailed`, it includes the text of the source.
    pub(crate) fn sent_description(&self, detailed: bool) -> Cow<'_, str> {
        match detailed.then(|| self.source_text()).flatten() {
            Some(source) => Cow::Owned(format!("{}: {source}", self.description)),
            None => Cow::Borrowed(&self.description),
        }
    }

    /// Returns the text of the source.
    pub(crate) fn source_text(&self) -> Option<String> {
        let source = self.source.as_ref()?;
        // It is code of the application.
        let text = catch_unwind(AssertUnwindSafe(|| source.to_string()));
        Some(text.unwrap_or_else(|_| "the error panicked when it was formatted".to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_error_keeps_its_text_private_unless_detailed() {
        let error = CallError::from(Box::<dyn StdError + Send + Sync>::from("password is hunter2"));
        assert_eq!(*error.code(), ErrorCode::INTERNAL_ERROR);
        assert!(!error.sent_description(false).contains("hunter2"));
        assert!(!error.to_string().contains("hunter2"));
        assert!(error.sent_description(true).contains("hunter2"));
    }
}
