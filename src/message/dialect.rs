//! Differences between the versions of OCPP-J: spellings of codes, message types, and responses to unreadable messages.

use crate::{
    error::ErrorCode,
    message::kinds::{CALL, CALL_ERROR, CALL_RESULT, CALL_RESULT_ERROR, MessageError, SEND, UnreadableMessage},
};

/// The rules that are specific to a subprotocol.
///
/// An unknown subprotocol, or none, has the rules of OCPP 2.0.1. A private protocol starts from one of the constants:
///
/// ```
/// use ocpp_rpc::message::Dialect;
///
/// let mine = Dialect::OCPP_1_6.with_send().with_call_result_error();
/// assert_ne!(mine, Dialect::for_protocol(Some("ocpp1.6")));
/// ```
///
/// | Rule | 1.6 and older | 2.0.1 (2.0) | 2.1 |
/// |---|---|---|---|
/// | *syntactically wrong* | `FormationViolation` | `FormatViolation` | `FormatViolation` |
/// | cardinality | `OccurenceConstraintViolation` | `OccurrenceConstraintViolation` | same |
/// | unknown message type | ignored (§4.1.3) | `MessageTypeNotSupported` (§4.4) | ignored (§4.4) |
/// | unreadable call with an id | `FormationViolation` | `RpcFrameworkError` | `RpcFrameworkError` |
/// | any other unreadable message | no response | `RpcFrameworkError` to id `"-1"` | same |
/// | id of a call in progress | `GenericError` | `RpcFrameworkError` | same |
/// | message types 5 and 6 | no | no | yes |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    has_framework_errors: bool,
    rejects_unknown_types: bool,
    send: bool,
    call_result_error: bool,
}

impl Dialect {
    /// OCPP 1.6, and 1.2 and 1.5 over JSON.
    pub const OCPP_1_6: Self =
        Self { has_framework_errors: false, rejects_unknown_types: false, send: false, call_result_error: false };

    /// OCPP 2.0.1 and 2.0, and every unknown protocol.
    pub const OCPP_2_0_1: Self = Self { has_framework_errors: true, rejects_unknown_types: true, ..Self::OCPP_1_6 };

    /// OCPP 2.1.
    pub const OCPP_2_1: Self =
        Self { has_framework_errors: true, rejects_unknown_types: false, send: true, call_result_error: true };

    /// Returns the rules of a subprotocol.
    pub fn for_protocol(protocol: Option<&str>) -> Self {
        match protocol {
            Some("ocpp1.2" | "ocpp1.5" | "ocpp1.6") => Self::OCPP_1_6,
            Some("ocpp2.1") => Self::OCPP_2_1,
            _ => Self::OCPP_2_0_1,
        }
    }

    /// Enables message type 6, SEND.
    #[must_use]
    pub const fn with_send(self) -> Self {
        Self { send: true, ..self }
    }

    /// Enables message type 5, CALLRESULTERROR.
    #[must_use]
    pub const fn with_call_result_error(self) -> Self {
        Self { call_result_error: true, ..self }
    }

    /// Returns `true` if message type 6, SEND, is enabled.
    pub const fn has_send(&self) -> bool {
        self.send
    }

    /// Returns `true` if message type 5, CALLRESULTERROR, is enabled.
    pub const fn has_call_result_error(&self) -> bool {
        self.call_result_error
    }

    /// Returns the code in the spelling of this dialect.
    pub(crate) fn code_name<'a>(&self, code: &'a ErrorCode) -> &'a str {
        match code.canonical() {
            "FormatViolation" if !self.has_framework_errors => "FormationViolation",
            "OccurrenceConstraintViolation" if !self.has_framework_errors => "OccurenceConstraintViolation",
            canonical => canonical,
        }
    }

    /// Returns the code of the response to an unreadable message, or `None` if the message must not get a response.
    pub(crate) fn response_code(&self, message: &UnreadableMessage) -> Option<ErrorCode> {
        let UnreadableMessage { message_type, id, error, .. } = message;
        match (*message_type, error) {
            // A response or a SEND never gets a response, whatever its error is.
            (Some(CALL_RESULT | CALL_ERROR | CALL_RESULT_ERROR), _) => None,
            (Some(SEND), _) if self.send => None,
            (Some(SEND), _) | (_, MessageError::UnknownMessageType) => {
                self.rejects_unknown_types.then_some(ErrorCode::MESSAGE_TYPE_NOT_SUPPORTED)
            }
            (_, MessageError::PayloadNotAnObject) if id.is_some() => Some(ErrorCode::FORMAT_VIOLATION),
            _ if self.has_framework_errors => Some(ErrorCode::RPC_FRAMEWORK_ERROR),
            (Some(CALL), _) if id.is_some() => Some(ErrorCode::FORMAT_VIOLATION),
            _ => None,
        }
    }

    /// Returns the code of the response to a call with the id of a call in progress.
    pub(crate) fn duplicate_id_code(&self) -> ErrorCode {
        if self.has_framework_errors { ErrorCode::RPC_FRAMEWORK_ERROR } else { ErrorCode::GENERIC_ERROR }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tolerance::Tolerance;

    #[test]
    fn unreadable_message_gets_the_response_of_its_dialect() {
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
                let code = dialect.response_code(&message);
                assert_eq!(code.as_ref().map(|code| dialect.code_name(code)), expected, "{json} {dialect:?}");
            }
        }
    }

    #[test]
    fn protocol_has_its_dialect() {
        for (protocol, dialect) in [
            (Some("ocpp1.5"), Dialect::OCPP_1_6),
            (Some("ocpp1.6"), Dialect::OCPP_1_6),
            (Some("ocpp2.0"), Dialect::OCPP_2_0_1),
            (Some("ocpp2.0.1"), Dialect::OCPP_2_0_1),
            (Some("ocpp2.1"), Dialect::OCPP_2_1),
            (Some("acme7"), Dialect::OCPP_2_0_1),
            (None, Dialect::OCPP_2_0_1),
        ] {
            assert_eq!(Dialect::for_protocol(protocol), dialect, "{protocol:?}");
        }
    }

    #[test]
    fn code_is_written_in_the_spelling_of_the_dialect() {
        for (code, v16, v2) in [
            ("FormatViolation", "FormationViolation", "FormatViolation"),
            ("FormationViolation", "FormationViolation", "FormatViolation"),
            ("OccurrenceConstraintViolation", "OccurenceConstraintViolation", "OccurrenceConstraintViolation"),
            ("NotImplemented", "NotImplemented", "NotImplemented"),
            ("Teapot", "Teapot", "Teapot"),
        ] {
            let code = ErrorCode::new(code);
            assert_eq!(Dialect::OCPP_1_6.code_name(&code), v16);
            assert_eq!(Dialect::OCPP_2_1.code_name(&code), v2);
        }
    }
}
