//! Reading of messages: a fast path for plain messages, a lenient one that notes every deviation, and a repair of texts
//! that are not JSON.

mod lenient;
mod repair;

use bytestring::ByteString;
use serde_json::value::RawValue;

use crate::message::{
    kinds::{CALL, CALL_RESULT, Message, MessageError, UnreadableMessage},
    payload::{MessageId, Payload},
    read::{
        lenient::{MAX_ID_LEN, parse_lenient, parse_prefix},
        repair::repair,
    },
    tolerance::{Deviation, Deviations, Tolerance},
};

/// Reads a message and returns its deviations.
///
/// # Errors
///
/// Returns an error if the message cannot be read, or if it deviates more than `tolerance` allows.
pub(crate) fn read(text: &ByteString, tolerance: Tolerance) -> (Result<Message, UnreadableMessage>, Deviations) {
    match read_fast(text) {
        Some(message) => (Ok(message), Deviations::default()),
        None => read_slow(text, tolerance),
    }
}

/// Reads a plain call or result, which has no deviations and no escapes in its strings. Most messages are plain.
fn read_fast(text: &ByteString) -> Option<Message> {
    let is_plain = |id: &str, payload: &RawValue| id.len() <= MAX_ID_LEN && payload.get().starts_with('{');
    let payload_of = |raw: &RawValue| Payload(text.slice_ref(raw.get()));
    match text.as_bytes().get(1)? {
        b'2' => match serde_json::from_str::<(u64, &str, &str, &RawValue)>(text).ok()? {
            (CALL, id, action, payload) if is_plain(id, payload) => Some(Message::Call {
                id: MessageId::new(text.slice_ref(id)),
                action: text.slice_ref(action),
                payload: payload_of(payload),
            }),
            _ => None,
        },
        b'3' => match serde_json::from_str::<(u64, &str, &RawValue)>(text).ok()? {
            (CALL_RESULT, id, payload) if is_plain(id, payload) => {
                Some(Message::CallResult { id: MessageId::new(text.slice_ref(id)), payload: payload_of(payload) })
            }
            _ => None,
        },
        _ => None,
    }
}

/// Reads any message and applies `tolerance` to its deviations.
#[cold]
fn read_slow(text: &ByteString, tolerance: Tolerance) -> (Result<Message, UnreadableMessage>, Deviations) {
    let mut deviations = Deviations::default();
    let mut message = parse_lenient(text, &mut deviations);
    if let Err(UnreadableMessage { error: MessageError::NotJson, .. }) = message {
        let repaired = repair(text);
        message = if repaired.is_whole && tolerance == Tolerance::Permissive {
            deviations.extend(repaired.deviations);
            parse_lenient(&repaired.json, &mut deviations)
        } else {
            Err(parse_prefix(&repaired.json))
        };
    }
    if let (Ok(read), Some(deviation)) = (&message, deviations.first_rejected_by(tolerance)) {
        let error = match deviation {
            Deviation::NumericMessageId => MessageError::NoMessageId,
            deviation => MessageError::Deviation(deviation),
        };
        message = Err(UnreadableMessage::new(Some(read.message_type()), Some(read.id().clone()), error));
    }
    if let Err(unreadable) = &mut message
        && !Deviation::NumericMessageId.is_allowed_by(tolerance)
    {
        unreadable.id.take_if(|id| id.is_number());
    }
    (message, deviations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn read_lenient(json: &str) -> Result<Message, UnreadableMessage> {
        let text = json.into();
        if let Some(fast) = read_fast(&text) {
            let mut deviations = Deviations::default();
            let lenient = parse_lenient(&text, &mut deviations).expect(json);
            assert_eq!((format!("{lenient:?}"), deviations), (format!("{fast:?}"), Deviations::default()), "{json}");
        }
        read(&text, Tolerance::Lenient).0
    }

    #[test]
    fn plain_message_takes_the_fast_path_and_others_do_not() {
        for json in [r#"[2,"1","Heartbeat",{}]"#, r#"[3,"1",{"a":[1,"]"]}]"#, "[2 , \"\",\t\"A\", { } ]\n"] {
            assert!(read_fast(&json.into()).is_some(), "{json}");
            assert!(read_lenient(json).is_ok(), "{json}");
        }
        for json in [
            r#"[2,"a\"","A",{}]"#,
            r#"[2,"1","A"]"#,
            r#"[2,"1","A",{},1]"#,
            r#"[2,"1","A",[]]"#,
            r#"[2,1,"A",{}]"#,
            r#"[2.0,"1","A",{}]"#,
            r#"[20,"1","A",{}]"#,
            r#"[3,"1",null]"#,
            r#"[3,"1",{},1]"#,
            r#"[3,"1",{}]]"#,
            r#"[3,"1234567890123456789012345678901234567",{}]"#,
            r#"[4,"1","A","",{}]"#,
            r#""3"#,
        ] {
            assert!(read_fast(&json.into()).is_none(), "{json}");
        }
    }

    fn deviations(json: &str, tolerance: Tolerance) -> Vec<Deviation> {
        read(&json.into(), tolerance).1.iter().collect()
    }

    #[test]
    fn call_with_tolerated_deviations_is_read() {
        for (json, id, action, params) in [
            (r#"[2,"1","Heartbeat",{}]"#, "1", "Heartbeat", "{}"),
            ("\u{feff} [ 2 ,\n\"1\" , \"Heartbeat\" , { } ]\r\n", "1", "Heartbeat", "{ }"),
            (r#"[2,"1","Heartbeat"]"#, "1", "Heartbeat", "{}"),
            (r#"[2,"1","Heartbeat",null]"#, "1", "Heartbeat", "{}"),
            (r#"[2,"a\"b\u00e9","A\\",{"x":[1,"]"]}]"#, "a\"bé", "A\\", r#"{"x":[1,"]"]}"#),
            (r#"[2,"","",{}]"#, "", "", "{}"),
        ] {
            match read_lenient(json) {
                Ok(Message::Call { id: i, action: a, payload }) => {
                    assert_eq!((i.as_str(), &*a, payload.as_str()), (id, action, params), "{json}");
                }
                other => panic!("{json}: {other:?}"),
            }
        }
    }

    #[test]
    fn response_with_tolerated_deviations_is_read() {
        for (json, id, params) in [
            (r#"[3,"1",{"a":1}]"#, "1", r#"{"a":1}"#),
            (r#"[3,"1"]"#, "1", "{}"),
            (r#"[3,"1",null]"#, "1", "{}"),
            (r#"[3,"",{}]"#, "", "{}"),
            (r#"[3,"1",{},"more",{}]"#, "1", "{}"),
        ] {
            match read_lenient(json) {
                Ok(Message::CallResult { id: i, payload }) => {
                    assert_eq!((i.as_str(), payload.as_str()), (id, params), "{json}");
                }
                other => panic!("{json}: {other:?}"),
            }
        }
        for (json, code, description, details) in [
            (r#"[4,"1","NotSupported","no",{"a":1}]"#, "NotSupported", "no", Some(r#"{"a":1}"#)),
            (r#"[4,"1","NotSupported","no",{}]"#, "NotSupported", "no", None),
            (r#"[4,"1","NotSupported","no"]"#, "NotSupported", "no", None),
            (r#"[4,"1","Teapot","","a text"]"#, "Teapot", "", Some(r#""a text""#)),
            (r#"[4,"1","NotSupported"]"#, "NotSupported", "", None),
            (r#"[4,"1"]"#, "GenericError", "", None),
            (r#"[4,"1",null,null,null]"#, "GenericError", "", None),
        ] {
            match read_lenient(json) {
                Ok(Message::CallError { error, .. }) => {
                    let seen = (error.code().as_str(), error.description(), error.details().map(Payload::as_str));
                    assert_eq!(seen, (code, description, details), "{json}");
                }
                other => panic!("{json}: {other:?}"),
            }
        }
    }

    #[test]
    fn message_types_of_ocpp_2_1_are_read() {
        assert!(matches!(read_lenient(r#"[6,"1","NotifyPeriodicEventStream",{}]"#), Ok(Message::Send { .. })));
        assert!(matches!(read_lenient(r#"[5,"1","FormatViolation","",{}]"#), Ok(Message::CallResultError { .. })));
    }

    #[test]
    fn unreadable_message_keeps_its_type_id_and_error() {
        for (json, message_type, id, error) in [
            ("", None, None, MessageError::NotJson),
            ("hello", None, None, MessageError::NotJson),
            ("{}", None, None, MessageError::NotAnArray),
            ("null", None, None, MessageError::NotAnArray),
            ("2", None, None, MessageError::NotAnArray),
            ("[]", None, None, MessageError::NoMessageType),
            (r#"["2","1","A",{}]"#, None, Some("1"), MessageError::NoMessageType),
            (r#"[2.5,"1","A",{}]"#, None, Some("1"), MessageError::NoMessageType),
            (r#"[-2,"1","A",{}]"#, None, Some("1"), MessageError::NoMessageType),
            (r#"[7,"1","A",{}]"#, Some(7), Some("1"), MessageError::UnknownMessageType),
            (r#"[0]"#, Some(0), None, MessageError::UnknownMessageType),
            (r#"[2]"#, Some(2), None, MessageError::NoMessageId),
            (r#"[2,5,"A",{}]"#, Some(2), None, MessageError::NoMessageId),
            (r#"[3,null,{}]"#, Some(3), None, MessageError::NoMessageId),
            (r#"[2,"1"]"#, Some(2), Some("1"), MessageError::NoAction),
            (r#"[2,"1",{}]"#, Some(2), Some("1"), MessageError::NoAction),
            (r#"[2,"1","A",["m"]]"#, Some(2), Some("1"), MessageError::PayloadNotAnObject),
            (r#"[2,"1","A",{},1]"#, Some(2), Some("1"), MessageError::TooManyElements),
            (r#"[2,"1","A",{},1,2]"#, Some(2), Some("1"), MessageError::TooManyElements),
            (r#"[2,"1","A",{"cut":["#, Some(2), Some("1"), MessageError::NotJson),
            (r#"[3,"1",{"configurationKey":[]"#, Some(3), Some("1"), MessageError::NotJson),
            (r#"[4, "1" ,"X","say "no"",{}]"#, Some(4), Some("1"), MessageError::NotJson),
            (r#"[2,"1","A",{}]]"#, Some(2), Some("1"), MessageError::NotJson),
            ("[3", Some(3), None, MessageError::NotJson),
            ("[,,,", None, None, MessageError::NotJson),
        ] {
            let unreadable = read_lenient(json).expect_err(json);
            let id = id.map(MessageId::new);
            assert_eq!((unreadable.message_type, unreadable.id, unreadable.error), (message_type, id, error), "{json}");
        }
    }

    #[test]
    fn endless_nesting_does_not_overflow_the_stack() {
        let deep = format!(r#"[2,"1","A",{{"a":{}"#, "[".repeat(1_000_000));
        assert_eq!(read_lenient(&deep).expect_err("no end").error, MessageError::NotJson);
    }

    #[test]
    fn deviation_is_noted_if_lenient_and_an_error_if_strict() {
        for (json, deviation) in [
            ("\u{feff}[2,\"1\",\"A\",{}]", Deviation::ByteOrderMark),
            (r#"[2,"1","A"]"#, Deviation::MissingPayload),
            (r#"[3,"1",null]"#, Deviation::MissingPayload),
            (r#"[2,"1234567890123456789012345678901234567","A",{}]"#, Deviation::LongMessageId),
            (r#"[3,"1",{},{}]"#, Deviation::ExtraElements),
            (r#"[4,"1","A","b",{},1]"#, Deviation::ExtraElements),
            (r#"[4,"1","A","b"]"#, Deviation::IncompleteError),
            (r#"[4,"1","A",null,{}]"#, Deviation::IncompleteError),
            (r#"[4,"1","A","b","c"]"#, Deviation::DetailsNotAnObject),
        ] {
            assert_eq!(deviations(json, Tolerance::Lenient), [deviation], "{json}");
            assert!(read_lenient(json).is_ok(), "{json}");
            let unreadable = read(&json.into(), Tolerance::Strict).0.expect_err(json);
            assert_eq!(unreadable.error, MessageError::Deviation(deviation), "{json}");
            assert!(unreadable.message_type.is_some() && unreadable.id.is_some(), "{json}");
        }
        for sound in [" [ 2 ,\n\"1\" , \"A\" , { } ]\r\n", r#"[4,"1","A","",{}]"#, r#"[3,"",{}]"#] {
            assert_eq!(deviations(sound, Tolerance::Strict), [], "{sound}");
            assert!(read(&sound.into(), Tolerance::Strict).0.is_ok(), "{sound}");
        }
    }

    #[test]
    fn numeric_id_and_control_characters_are_read_if_permissive() {
        let read_permissive = |json: &str| read(&json.into(), Tolerance::Permissive);
        for (json, id, params, deviation) in [
            (r#"[2,17,"A",{}]"#, "17", "{}", Deviation::NumericMessageId),
            (r#"[2,-1.5,"A",{}]"#, "-1.5", "{}", Deviation::NumericMessageId),
            ("[2,\"1\",\"A\",{\"s\":\"a\0\"}]", "1", "{\"s\":\"a\\u0000\"}", Deviation::ControlCharacters),
            ("[2,\"1\",\"A\",{\"s\":\"\\\"\t\"}]\0", "1", "{\"s\":\"\\\"\\u0009\"}", Deviation::ControlCharacters),
            ("[2,\"1\",\0\"A\",{\"\n\":1}]", "1", "{\"\\u000a\":1}", Deviation::ControlCharacters),
        ] {
            let (message, deviations) = read_permissive(json);
            match message {
                Ok(Message::Call { id: i, payload, .. }) => {
                    assert_eq!((i.as_str(), payload.as_str()), (id, params), "{json}");
                }
                other => panic!("{json}: {other:?}"),
            }
            assert_eq!(deviations.iter().collect::<Vec<_>>(), [deviation], "{json}");
            assert!(read_lenient(json).is_err(), "{json}");
        }
        assert_ne!(MessageId::number("1"), MessageId::new("1"));
    }

    #[test]
    fn repaired_message_is_read_if_permissive() {
        use Deviation::*;
        for (json, params, expected) in [
            (r#"[2,"1","A",{"a":1,},]"#, r#"{"a":1}"#, &[StrayComma][..]),
            (r#"[,02,,"1","A",]"#, "{}", &[MissingPayload, StrayComma, MalformedNumber]),
            (
                r#"[2,"1","A",{"a":NaN,"b":[007,+5,.5,5.]}]"#,
                r#"{"a":null,"b":[7,5,0.5,5]}"#,
                &[NotANumber, MalformedNumber],
            ),
            (r#"[2,"1","A",{}][2,"2","B",{}]"#, "{}", &[TrailingData]),
            ("\u{feff}[2,\"1\",\"A\",{\"a\":\"\t\"}]", r#"{"a":"\u0009"}"#, &[ByteOrderMark, ControlCharacters]),
        ] {
            let (message, deviations) = read(&json.into(), Tolerance::Permissive);
            match message {
                Ok(Message::Call { id, action, payload }) => {
                    assert_eq!((id.as_str(), &*action, payload.as_str()), ("1", "A", params), "{json}");
                }
                other => panic!("{json}: {other:?}"),
            }
            assert_eq!(deviations.iter().collect::<Vec<_>>(), expected, "{json}");
            let unreadable = read_lenient(json).expect_err(json);
            let seen = (unreadable.message_type, unreadable.id, unreadable.error);
            assert_eq!(seen, (Some(2), Some(MessageId::new("1")), MessageError::NotJson), "{json}");
        }
    }

    #[test]
    fn message_that_stays_unreadable_keeps_its_id() {
        for (json, id, error) in [
            (r#"[,2,,"1","A",{"cut"#, MessageId::new("1"), MessageError::NotJson),
            ("\0[2,\"a\0\",'A']", MessageId::new("a\0"), MessageError::NotJson),
            (r#"[2,"a\"b",x]"#, MessageId::new("a\"b"), MessageError::NotJson),
            (r#"[2,"1",{},]"#, MessageId::new("1"), MessageError::NoAction),
            (r#"[2,"1","A",[007]]"#, MessageId::new("1"), MessageError::PayloadNotAnObject),
            (r#"[2,+007,"A",{"cut"#, MessageId::number("7"), MessageError::NotJson),
        ] {
            let unreadable = read(&json.into(), Tolerance::Permissive).0.expect_err(json);
            let seen = (unreadable.message_type, unreadable.id, unreadable.error);
            assert_eq!(seen, (Some(2), Some(id.clone()), error), "{json}");
            let unreadable = read_lenient(json).expect_err(json);
            let seen = (unreadable.message_type, unreadable.id, unreadable.error);
            assert_eq!(seen, (Some(2), Some(id).filter(|id| !id.is_number()), MessageError::NotJson), "{json}");
        }
    }

    #[test]
    fn call_error_cut_short_keeps_its_code() {
        let unreadable = read_lenient(r#"[4, "1" , "X" ,"say "no"",{}]"#).expect_err("quotes");
        assert_eq!(unreadable.code, Some(ErrorCode::new("X")));
        assert_eq!(read_lenient(r#"[3,"1","X""#).expect_err("cut short").code, None);
    }
}
