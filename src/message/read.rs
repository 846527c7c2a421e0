//! A message taken apart: tolerantly, and with every tolerance noted.

use std::fmt;

use bytestring::ByteString;
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use crate::{
    error::{CallError, ErrorCode},
    message::{
        frame::{CALL, CALL_ERROR, CALL_RESULT, CALL_RESULT_ERROR, Frame, MessageError, SEND, Unreadable},
        payload::{MessageId, Payload},
        tolerance::{Deviation, Deviations, Tolerance},
    },
};

/// Takes a message apart, and says in what it deviates.
///
/// One that deviates more than is put up with cannot be read.
pub(crate) fn read(text: &ByteString, tolerance: Tolerance) -> (Result<Frame, Unreadable>, Deviations) {
    match usual(text) {
        Some(frame) => (Ok(frame), Deviations::default()),
        None => judge(text, tolerance),
    }
}

/// A call or a result like most: nothing is to be said of it, and its strings have no escapes.
fn usual(text: &ByteString) -> Option<Frame> {
    let is_plain = |id: &str, payload: &RawValue| id.len() <= LONGEST_ID && payload.get().starts_with('{');
    let payload_of = |raw: &RawValue| Payload(text.slice_ref(raw.get()));
    match text.as_bytes().get(1)? {
        b'2' => match serde_json::from_str::<(u64, &str, &str, &RawValue)>(text).ok()? {
            (CALL, id, action, payload) if is_plain(id, payload) => Some(Frame::Call {
                id: MessageId::new(text.slice_ref(id)),
                action: text.slice_ref(action),
                payload: payload_of(payload),
            }),
            _ => None,
        },
        b'3' => match serde_json::from_str::<(u64, &str, &RawValue)>(text).ok()? {
            (CALL_RESULT, id, payload) if is_plain(id, payload) => {
                Some(Frame::CallResult { id: MessageId::new(text.slice_ref(id)), payload: payload_of(payload) })
            }
            _ => None,
        },
        _ => None,
    }
}

/// Reads any other message, tolerantly, and says what becomes of one that is not as it should be.
#[cold]
fn judge(text: &ByteString, tolerance: Tolerance) -> (Result<Frame, Unreadable>, Deviations) {
    let mut deviations = Deviations::default();
    let mut frame = take_apart(text, &mut deviations);
    if let Err(Unreadable { fault: MessageError::NotJson, .. }) = frame
        && tolerance == Tolerance::Permissive
        && let Some(escaped) = escape_controls(text)
    {
        let mut also = deviations;
        also.add(Deviation::ControlCharacters);
        if let Ok(salvaged) = take_apart(&escaped, &mut also) {
            (frame, deviations) = (Ok(salvaged), also);
        }
    }
    if let (Ok(read), Some(deviation)) = (&frame, deviations.beyond(tolerance)) {
        let (kind, id, code) = (Some(read.kind()), Some(read.id().clone()), None);
        let fault = match deviation {
            Deviation::NumericMessageId => MessageError::NoMessageId,
            deviation => MessageError::Deviation(deviation),
        };
        frame = Err(Unreadable { kind, id, code, fault });
    }
    if let Err(unreadable) = &mut frame
        && !Deviation::NumericMessageId.is_allowed_by(tolerance)
    {
        // An id that is no string is none.
        unreadable.id.take_if(|id| id.is_number());
    }
    (frame, deviations)
}

/// Puts up with anything that can be made sense of.
fn take_apart(text: &ByteString, deviations: &mut Deviations) -> Result<Frame, Unreadable> {
    let json = match text.strip_prefix('\u{feff}') {
        Some(json) => {
            deviations.add(Deviation::ByteOrderMark);
            json
        }
        None => text,
    };
    let Elements { kind, rest: [id, third, fourth, fifth], more } = serde_json::from_str(json).map_err(|error| {
        let fault = if error.is_data() { MessageError::NotAnArray } else { MessageError::NotJson };
        front(json, fault)
    })?;
    let kind: Option<u64> = kind.and_then(|raw| raw.get().parse().ok());
    let id = id.and_then(|raw| message_id(text, raw, deviations));
    let (kind, id) = match (kind, id) {
        (Some(kind @ CALL..=SEND), Some(id)) => (kind, id),
        (Some(CALL..=SEND), None) => return Err(Unreadable::new(kind, None, MessageError::NoMessageId)),
        (Some(_), id) => return Err(Unreadable::new(kind, id, MessageError::UnknownMessageType)),
        (None, id) => return Err(Unreadable::new(None, id, MessageError::NoMessageType)),
    };
    match kind {
        CALL | SEND => {
            let fail = |id, fault| Err(Unreadable::new(Some(kind), Some(id), fault));
            let Some(action) = third.and_then(|raw| slice(text, raw)) else { return fail(id, MessageError::NoAction) };
            let payload = payload(text, fourth, deviations);
            if fifth.is_some() || more {
                return fail(id, MessageError::TooManyElements);
            }
            if !payload.is_object() {
                return fail(id, MessageError::PayloadNotAnObject);
            }
            Ok(match kind {
                CALL => Frame::Call { id, action, payload },
                _ => Frame::Send { id, action, payload },
            })
        }
        CALL_RESULT => {
            if fourth.is_some() {
                deviations.add(Deviation::ExtraElements);
            }
            Ok(Frame::CallResult { id, payload: payload(text, third, deviations) })
        }
        _ => {
            if more {
                deviations.add(Deviation::ExtraElements);
            }
            let error = call_error(text, [third, fourth, fifth], deviations);
            Ok(match kind {
                CALL_ERROR => Frame::CallError { id, error },
                _ => Frame::CallResultError { id, error },
            })
        }
    }
}

/// The elements of a message, unread.
struct Elements<'a> {
    kind: Option<&'a RawValue>,
    rest: [Option<&'a RawValue>; 4],
    more: bool,
}

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Elements<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let kind = seq.next_element()?;
                let mut rest = [None; 4];
                for element in &mut rest {
                    *element = seq.next_element()?;
                }
                let mut more = false;
                while seq.next_element::<de::IgnoredAny>()?.is_some() {
                    more = true;
                }
                Ok(Elements { kind, rest, more })
            }
        }

        deserializer.deserialize_seq(Visitor)
    }
}

/// The string that `raw` is, as a slice of `text` where it has no escapes.
fn slice(text: &ByteString, raw: &RawValue) -> Option<ByteString> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    match inner.contains('\\') {
        true => serde_json::from_str::<String>(raw.get()).ok().map(ByteString::from),
        false => Some(text.slice_ref(inner)),
    }
}

/// Characters that an id has at most (OCPP-J 1.6 §4.1.4, OCPP 2.0.1 part 4 §4.1.4).
const LONGEST_ID: usize = 36;

fn message_id(text: &ByteString, raw: &RawValue, deviations: &mut Deviations) -> Option<MessageId> {
    if let Some(id) = slice(text, raw) {
        if id.len() > LONGEST_ID && id.chars().count() > LONGEST_ID {
            deviations.add(Deviation::LongMessageId);
        }
        return Some(MessageId::new(id));
    }
    let is_number = raw.get().starts_with(|first: char| first == '-' || first.is_ascii_digit());
    is_number.then(|| {
        deviations.add(Deviation::NumericMessageId);
        MessageId::number(text.slice_ref(raw.get()))
    })
}

fn payload(text: &ByteString, raw: Option<&RawValue>, deviations: &mut Deviations) -> Payload {
    match raw.map(RawValue::get) {
        None | Some("null") => {
            deviations.add(Deviation::MissingPayload);
            Payload::default()
        }
        Some(raw) => Payload(text.slice_ref(raw)),
    }
}

fn call_error(text: &ByteString, elements: [Option<&RawValue>; 3], deviations: &mut Deviations) -> CallError {
    let [code, description, details] = elements;
    let code = code.and_then(|raw| slice(text, raw));
    let description = description.and_then(|raw| slice(text, raw));
    if code.is_none() || description.is_none() || details.is_none() {
        deviations.add(Deviation::IncompleteError);
    }
    let code = code.map_or(ErrorCode::GENERIC_ERROR, |code| ErrorCode::new(code.to_string()));
    let mut error = CallError::new(code, description.map_or(String::new(), String::from));
    if let Some(details) = details.filter(|raw| raw.get() != "{}") {
        if !details.get().starts_with('{') {
            deviations.add(Deviation::DetailsNotAnObject);
        }
        if details.get() != "null" {
            error = error.with_raw_details(Payload(text.slice_ref(details.get())));
        }
    }
    error
}

/// What the first elements say of a message that goes wrong further on, such as one that was cut short.
#[cold]
fn front(json: &str, fault: MessageError) -> Unreadable {
    let mut front = Unreadable::new(None, None, fault);
    let Some(elements) = json.trim_start().strip_prefix('[') else { return front };
    let Some((kind, rest)) = elements.split_once(',') else {
        front.kind = elements.trim_end_matches([']', ' ']).trim().parse().ok();
        return front;
    };
    front.kind = kind.trim().parse().ok();
    let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
    let id = strings.next().and_then(Result::ok);
    let rest = &rest[strings.byte_offset()..];
    front.id = front.kind.and(id).map(MessageId::new);
    if let (Some(CALL_ERROR | CALL_RESULT_ERROR), Some(rest)) = (front.kind, rest.trim_start().strip_prefix(',')) {
        let code = serde_json::Deserializer::from_str(rest).into_iter::<String>().next().and_then(Result::ok);
        front.code = code.map(ErrorCode::new);
    }
    front
}

/// The text with its control characters escaped where they are in strings, and blank where they are not; none if it
/// has none.
fn escape_controls(text: &ByteString) -> Option<ByteString> {
    use std::fmt::Write;

    if !text.bytes().any(|byte| byte < b' ') {
        return None;
    }
    let mut escaped = String::with_capacity(text.len() + 64);
    let (mut in_string, mut after_backslash) = (false, false);
    for character in text.chars() {
        match character {
            '\0'..'\x20' if in_string => _ = write!(escaped, "\\u{:04x}", u32::from(character)),
            '\0'..'\x20' => escaped.push(' '),
            _ => escaped.push(character),
        }
        in_string ^= character == '"' && !after_backslash;
        after_backslash = in_string && character == '\\' && !after_backslash;
    }
    Some(escaped.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_tolerantly(json: &str) -> Result<Frame, Unreadable> {
        let text = json.into();
        if let Some(usual) = usual(&text) {
            let mut deviations = Deviations::default();
            let frame = take_apart(&text, &mut deviations).expect(json);
            assert_eq!((format!("{frame:?}"), deviations), (format!("{usual:?}"), Deviations::default()), "{json}");
        }
        read(&text, Tolerance::Lenient).0
    }

    #[test]
    fn usual_messages_are_read_at_once_and_others_are_looked_at() {
        for json in [r#"[2,"1","Heartbeat",{}]"#, r#"[3,"1",{"a":[1,"]"]}]"#, "[2 , \"\",\t\"A\", { } ]\n"] {
            assert!(usual(&json.into()).is_some(), "{json}");
            assert!(read_tolerantly(json).is_ok(), "{json}");
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
            assert!(usual(&json.into()).is_none(), "{json}");
        }
    }

    fn deviations(json: &str, tolerance: Tolerance) -> Vec<Deviation> {
        read(&json.into(), tolerance).1.iter().collect()
    }

    #[test]
    fn calls_are_read_with_tolerance() {
        for (json, id, action, params) in [
            (r#"[2,"1","Heartbeat",{}]"#, "1", "Heartbeat", "{}"),
            ("\u{feff} [ 2 ,\n\"1\" , \"Heartbeat\" , { } ]\r\n", "1", "Heartbeat", "{ }"),
            (r#"[2,"1","Heartbeat"]"#, "1", "Heartbeat", "{}"),
            (r#"[2,"1","Heartbeat",null]"#, "1", "Heartbeat", "{}"),
            (r#"[2,"a\"b\u00e9","A\\",{"x":[1,"]"]}]"#, "a\"bé", "A\\", r#"{"x":[1,"]"]}"#),
            (r#"[2,"","",{}]"#, "", "", "{}"),
        ] {
            match read_tolerantly(json) {
                Ok(Frame::Call { id: i, action: a, payload }) => {
                    assert_eq!((i.as_str(), &*a, payload.as_str()), (id, action, params), "{json}");
                }
                other => panic!("{json}: {other:?}"),
            }
        }
    }

    #[test]
    fn answers_are_read_with_tolerance() {
        for (json, id, params) in [
            (r#"[3,"1",{"a":1}]"#, "1", r#"{"a":1}"#),
            (r#"[3,"1"]"#, "1", "{}"),
            (r#"[3,"1",null]"#, "1", "{}"),
            (r#"[3,"",{}]"#, "", "{}"),
            (r#"[3,"1",{},"more",{}]"#, "1", "{}"),
        ] {
            match read_tolerantly(json) {
                Ok(Frame::CallResult { id: i, payload }) => {
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
            match read_tolerantly(json) {
                Ok(Frame::CallError { error, .. }) => {
                    let seen = (error.code().as_str(), error.description(), error.details().map(Payload::as_str));
                    assert_eq!(seen, (code, description, details), "{json}");
                }
                other => panic!("{json}: {other:?}"),
            }
        }
    }

    #[test]
    fn types_of_ocpp_2_1_are_read() {
        assert!(matches!(read_tolerantly(r#"[6,"1","NotifyPeriodicEventStream",{}]"#), Ok(Frame::Send { .. })));
        assert!(matches!(read_tolerantly(r#"[5,"1","FormatViolation","",{}]"#), Ok(Frame::CallResultError { .. })));
    }

    #[test]
    fn what_cannot_be_read_says_why_and_whose_it_is() {
        for (json, kind, id, fault) in [
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
            let unreadable = read_tolerantly(json).expect_err(json);
            let id = id.map(MessageId::new);
            assert_eq!((unreadable.kind, unreadable.id, unreadable.fault), (kind, id, fault), "{json}");
        }
    }

    #[test]
    fn nesting_without_end_does_not_overflow_the_stack() {
        let deep = format!(r#"[2,"1","A",{{"a":{}"#, "[".repeat(1_000_000));
        assert_eq!(read_tolerantly(&deep).expect_err("no end").fault, MessageError::NotJson);
    }

    #[test]
    fn what_is_put_up_with_is_noted_and_goes_too_far_for_the_strict() {
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
            assert!(read_tolerantly(json).is_ok(), "{json}");
            let unreadable = read(&json.into(), Tolerance::Strict).0.expect_err(json);
            assert_eq!(unreadable.fault, MessageError::Deviation(deviation), "{json}");
            assert!(unreadable.kind.is_some() && unreadable.id.is_some(), "{json}");
        }
        for sound in [" [ 2 ,\n\"1\" , \"A\" , { } ]\r\n", r#"[4,"1","A","",{}]"#, r#"[3,"",{}]"#] {
            assert_eq!(deviations(sound, Tolerance::Strict), [], "{sound}");
            assert!(read(&sound.into(), Tolerance::Strict).0.is_ok(), "{sound}");
        }
    }

    #[test]
    fn numbers_and_control_characters_are_salvaged() {
        let salvage = |json: &str| read(&json.into(), Tolerance::Permissive);
        for (json, id, params, deviation) in [
            (r#"[2,17,"A",{}]"#, "17", "{}", Deviation::NumericMessageId),
            (r#"[2,-1.5,"A",{}]"#, "-1.5", "{}", Deviation::NumericMessageId),
            ("[2,\"1\",\"A\",{\"s\":\"a\0\"}]", "1", "{\"s\":\"a\\u0000\"}", Deviation::ControlCharacters),
            ("[2,\"1\",\"A\",{\"s\":\"\\\"\t\"}]\0", "1", "{\"s\":\"\\\"\\u0009\"}", Deviation::ControlCharacters),
            ("[2,\"1\",\0\"A\",{\"\n\":1}]", "1", "{\"\\u000a\":1}", Deviation::ControlCharacters),
        ] {
            let (frame, deviations) = salvage(json);
            match frame {
                Ok(Frame::Call { id: i, payload, .. }) => {
                    assert_eq!((i.as_str(), payload.as_str()), (id, params), "{json}");
                }
                other => panic!("{json}: {other:?}"),
            }
            assert_eq!(deviations.iter().collect::<Vec<_>>(), [deviation], "{json}");
            assert!(read_tolerantly(json).is_err(), "{json}");
        }
        assert_ne!(MessageId::number("1"), MessageId::new("1"));
    }

    #[test]
    fn an_error_that_goes_wrong_further_on_has_still_its_code() {
        let unreadable = read_tolerantly(r#"[4, "1" , "X" ,"say "no"",{}]"#).expect_err("quotes");
        assert_eq!(unreadable.code, Some(ErrorCode::new("X")));
        assert_eq!(read_tolerantly(r#"[3,"1","X""#).expect_err("cut short").code, None);
    }
}
