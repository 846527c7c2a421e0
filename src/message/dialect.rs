//! What differs between the versions of OCPP-J: spellings, and what becomes of messages that cannot be served.

use crate::{
    error::ErrorCode,
    message::frame::{MessageError, SEND, Unreadable},
};

/// The rules that a subprotocol has of its own.
///
/// Known subprotocols have theirs; an unknown one, or none, is served by the rules of OCPP 2.0.1. A private
/// protocol starts from one of the constants:
///
/// ```
/// use ocpp_rpc::message::Dialect;
///
/// let mine = Dialect::OCPP_1_6.with_send().with_call_result_error();
/// assert_ne!(mine, Dialect::of(Some("ocpp1.6")));
/// ```
///
/// | Rule | 1.6 and older | 2.0.1 (2.0) | 2.1 |
/// |---|---|---|---|
/// | *syntactically wrong* | `FormationViolation` | `FormatViolation` | `FormatViolation` |
/// | cardinality | `OccurenceConstraintViolation` | `OccurrenceConstraintViolation` | same |
/// | unknown message type | ignored (§4.1.3) | `MessageTypeNotSupported` (§4.4) | ignored (§4.4) |
/// | a call that cannot be read, with an id | `FormationViolation` | `RpcFrameworkError` | `RpcFrameworkError` |
/// | anything else that cannot be read | not answered | `RpcFrameworkError` to id `"-1"` | same |
/// | id of a call still being worked on | `GenericError` | `RpcFrameworkError` | same |
/// | message types 5 and 6 | no | no | yes |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    framework_errors: bool,
    answers_unknown_types: bool,
    send: bool,
    call_result_error: bool,
}

impl Dialect {
    /// OCPP 1.6, and 1.2 and 1.5 over JSON.
    pub const OCPP_1_6: Self =
        Self { framework_errors: false, answers_unknown_types: false, send: false, call_result_error: false };

    /// OCPP 2.0.1, 2.0, and every protocol that is not known.
    pub const OCPP_2_0_1: Self = Self { framework_errors: true, answers_unknown_types: true, ..Self::OCPP_1_6 };

    /// OCPP 2.1.
    pub const OCPP_2_1: Self =
        Self { framework_errors: true, answers_unknown_types: false, send: true, call_result_error: true };

    /// The rules of a subprotocol.
    pub fn of(protocol: Option<&str>) -> Self {
        match protocol {
            Some("ocpp1.2" | "ocpp1.5" | "ocpp1.6") => Self::OCPP_1_6,
            Some("ocpp2.1") => Self::OCPP_2_1,
            _ => Self::OCPP_2_0_1,
        }
    }

    /// Switches message type 6, SEND, on.
    #[must_use]
    pub const fn with_send(self) -> Self {
        Self { send: true, ..self }
    }

    /// Switches message type 5, CALLRESULTERROR, on.
    #[must_use]
    pub const fn with_call_result_error(self) -> Self {
        Self { call_result_error: true, ..self }
    }

    /// Whether message type 6, SEND, exists.
    pub const fn has_send(&self) -> bool {
        self.send
    }

    /// Whether message type 5, CALLRESULTERROR, exists.
    pub const fn has_call_result_error(&self) -> bool {
        self.call_result_error
    }

    /// The code as this dialect writes it.
    pub(crate) fn spell<'a>(&self, code: &'a ErrorCode) -> &'a str {
        match (code.canonical(), self.framework_errors) {
            ("FormatViolation", false) => "FormationViolation",
            ("OccurrenceConstraintViolation", false) => "OccurenceConstraintViolation",
            (canonical, _) => canonical,
        }
    }

    /// What a message that cannot be read is answered with, if it is answered at all.
    pub(crate) fn answer_to(&self, message: &Unreadable) -> Option<ErrorCode> {
        // What reads as an answer, or as a SEND, is never answered, whatever else is wrong with it.
        if matches!(message.kind, Some(3..=5)) || (message.kind == Some(SEND) && self.send) {
            return None;
        }
        match message.fault {
            _ if message.kind == Some(SEND) => {
                self.answers_unknown_types.then_some(ErrorCode::MESSAGE_TYPE_NOT_SUPPORTED)
            }
            MessageError::UnknownMessageType => {
                self.answers_unknown_types.then_some(ErrorCode::MESSAGE_TYPE_NOT_SUPPORTED)
            }
            MessageError::PayloadNotAnObject if message.id.is_some() => Some(ErrorCode::FORMAT_VIOLATION),
            _ if self.framework_errors => Some(ErrorCode::RPC_FRAMEWORK_ERROR),
            _ => (message.kind == Some(2) && message.id.is_some()).then_some(ErrorCode::FORMAT_VIOLATION),
        }
    }

    /// What a call is answered with whose id is that of a call still being worked on.
    pub(crate) fn duplicate(&self) -> ErrorCode {
        match self.framework_errors {
            true => ErrorCode::RPC_FRAMEWORK_ERROR,
            false => ErrorCode::GENERIC_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tolerance::Tolerance;

    #[test]
    fn unreadable_messages_get_the_answer_of_their_dialect() {
        let rpc = Some("RpcFrameworkError");
        let formation = Some("FormationViolation");
        // message, 1.6, 2.0.1, 2.1
        for (json, v16, v201, v21) in [
            ("garbage", None, rpc, rpc),
            ("{}", None, rpc, rpc),
            ("[]", None, rpc, rpc),
            (r#"["2","1","A",{}]"#, None, rpc, rpc),
            (r#"[2]"#, None, rpc, rpc),
            (r#"[2,7,"A",{}]"#, None, rpc, rpc),
            (r#"[2,"1"]"#, formation, rpc, rpc),
            (r#"[2,"1",{},{}]"#, formation, rpc, rpc),
            (r#"[2,"1","A",{"#, formation, rpc, rpc),
            (r#"[2,"1","A",{},{}]"#, formation, rpc, rpc),
            (r#"[2,"1","A",["m"]]"#, formation, Some("FormatViolation"), Some("FormatViolation")),
            (r#"[9,"1","A",{}]"#, None, Some("MessageTypeNotSupported"), None),
            (r#"[3,"1",{"#, None, None, None),
            (r#"[3,1,{}]"#, None, None, None),
            (r#"[4]"#, None, None, None),
            (r#"[5]"#, None, None, None),
            (r#"[6]"#, None, Some("MessageTypeNotSupported"), None),
            (r#"[6,"1",1,{}]"#, None, Some("MessageTypeNotSupported"), None),
            (r#"[6,"1","A",["m"]]"#, None, Some("MessageTypeNotSupported"), None),
        ] {
            let message = crate::message::read::read(&json.into(), Tolerance::Lenient).0.expect_err(json);
            for (dialect, expected) in [(Dialect::OCPP_1_6, v16), (Dialect::OCPP_2_0_1, v201), (Dialect::OCPP_2_1, v21)]
            {
                let code = dialect.answer_to(&message);
                assert_eq!(code.as_ref().map(|code| dialect.spell(code)), expected, "{json} {dialect:?}");
            }
        }
    }

    #[test]
    fn protocols_have_their_dialects() {
        for (protocol, dialect) in [
            (Some("ocpp1.5"), Dialect::OCPP_1_6),
            (Some("ocpp1.6"), Dialect::OCPP_1_6),
            (Some("ocpp2.0"), Dialect::OCPP_2_0_1),
            (Some("ocpp2.0.1"), Dialect::OCPP_2_0_1),
            (Some("ocpp2.1"), Dialect::OCPP_2_1),
            (Some("acme7"), Dialect::OCPP_2_0_1),
            (None, Dialect::OCPP_2_0_1),
        ] {
            assert_eq!(Dialect::of(protocol), dialect, "{protocol:?}");
        }
    }

    #[test]
    fn codes_are_spelled_as_the_dialect_does_and_unknown_ones_kept() {
        for (code, v16, v2) in [
            ("FormatViolation", "FormationViolation", "FormatViolation"),
            ("FormationViolation", "FormationViolation", "FormatViolation"),
            ("OccurrenceConstraintViolation", "OccurenceConstraintViolation", "OccurrenceConstraintViolation"),
            ("NotImplemented", "NotImplemented", "NotImplemented"),
            ("Teapot", "Teapot", "Teapot"),
        ] {
            let code = ErrorCode::new(code);
            assert_eq!(Dialect::OCPP_1_6.spell(&code), v16);
            assert_eq!(Dialect::OCPP_2_1.spell(&code), v2);
        }
    }
}
