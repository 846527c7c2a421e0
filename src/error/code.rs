//! The code of a CALLERROR.

use std::{borrow::Cow, fmt, hash};

use crate::text::impl_text;

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

#[cfg(test)]
mod tests {
    use super::*;

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
