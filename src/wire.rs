//! Frames to text and back: OCPP-J's JSON arrays, read with tolerance and written to the letter.
//!
//! A frame is taken apart once. What it carries stays a slice of the received text until somebody asks for a type.
//! Whether a frame is *allowed* depends on the [dialect](crate::dialect), and whether it *fits* on the exchange:
//! neither is known here.

use std::{borrow::Cow, fmt};

use bytestring::ByteString;
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use crate::{
    error::{CallError, ErrorCode},
    payload::{MessageId, Payload},
};

/// One message, taken apart.
#[derive(Debug, Clone)]
pub(crate) enum Frame {
    /// `[2, id, action, payload]`
    Call { id: MessageId, action: ByteString, payload: Payload },
    /// `[3, id, payload]`
    CallResult { id: MessageId, payload: Payload },
    /// `[4, id, code, description, details]`
    CallError { id: MessageId, error: CallError },
    /// `[5, id, code, description, details]`; the id is that of a CALLRESULT (OCPP 2.1).
    CallResultError { id: MessageId, error: CallError },
    /// `[6, id, action, payload]` (OCPP 2.1)
    Send { id: MessageId, action: ByteString, payload: Payload },
}

/// A message that is no frame, and what can be said of it all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// The first element, where it is a number.
    pub(crate) kind: Option<u64>,
    pub(crate) id: Option<MessageId>,
    pub(crate) fault: Fault,
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It is not JSON.
    NotJson,
    /// It is JSON, but not an array.
    NotAnArray,
    /// Its first element is not a whole number.
    NoMessageType,
    /// Its message type number is not one that the protocol has.
    UnknownMessageType,
    /// Its second element is not a string.
    NoMessageId,
    /// Its third element is not a string.
    NoAction,
    /// Its payload is not an object.
    PayloadNotAnObject,
    /// It has more elements than a call has.
    TooManyElements,
    /// It answers no call of ours.
    UnknownMessageId,
    /// It is a call whose id is that of a call still being worked on.
    DuplicateMessageId,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotJson => "the message is not JSON",
            Self::NotAnArray => "the message is not a JSON array",
            Self::NoMessageType => "the message type is not a number",
            Self::UnknownMessageType => "the message type is unknown",
            Self::NoMessageId => "the message id is not a string",
            Self::NoAction => "the action is not a string",
            Self::PayloadNotAnObject => "the payload is not an object",
            Self::TooManyElements => "the message has too many elements",
            Self::UnknownMessageId => "no call with this message id is under way",
            Self::DuplicateMessageId => "a call with this message id is still being worked on",
        })
    }
}

const CALL: u64 = 2;
const CALL_RESULT: u64 = 3;
const CALL_ERROR: u64 = 4;
pub(crate) const SEND: u64 = 6;

/// Takes a message apart.
///
/// Tolerated: a byte order mark, white space, payloads that are `null` or absent, errors without description or
/// details, and answers with further elements.
pub(crate) fn read(text: &ByteString) -> Result<Frame, Unreadable> {
    let json = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Elements { kind, rest: [id, third, fourth, fifth], more } = serde_json::from_str(json).map_err(|error| {
        let fault = if error.is_data() { Fault::NotAnArray } else { Fault::NotJson };
        let (kind, id) = front(json);
        Unreadable { kind, id, fault }
    })?;
    let kind: Option<u64> = kind.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let id = id.and_then(|raw| slice(text, raw)).map(MessageId);
    let fail = |fault| Unreadable { kind, id: id.clone(), fault };

    let known = |kind| (CALL..=SEND).contains(&kind);
    let kind = kind.ok_or_else(|| fail(Fault::NoMessageType))?;
    if !known(kind) {
        return Err(fail(Fault::UnknownMessageType));
    }
    let id = id.clone().ok_or_else(|| fail(Fault::NoMessageId))?;
    match kind {
        CALL | SEND => {
            let action = third.and_then(|raw| slice(text, raw)).ok_or_else(|| fail(Fault::NoAction))?;
            let payload = payload(text, fourth);
            if fifth.is_some() || more {
                return Err(fail(Fault::TooManyElements));
            }
            if !payload.is_object() {
                return Err(fail(Fault::PayloadNotAnObject));
            }
            Ok(match kind {
                CALL => Frame::Call { id, action, payload },
                _ => Frame::Send { id, action, payload },
            })
        }
        CALL_RESULT => Ok(Frame::CallResult { id, payload: payload(text, third) }),
        _ => {
            let code = third.and_then(|raw| slice(text, raw));
            let code = code.map_or(ErrorCode::GENERIC_ERROR, |code| ErrorCode::new(code.to_string()));
            let description = fourth.and_then(|raw| slice(text, raw));
            let mut error = CallError::new(code, description.map_or(String::new(), String::from));
            if let Some(details) = fifth.filter(|raw| !matches!(raw.get(), "{}" | "null")) {
                error = error.with_raw_details(payload(text, Some(details)));
            }
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

fn payload(text: &ByteString, raw: Option<&RawValue>) -> Payload {
    match raw.map(RawValue::get) {
        None | Some("null") => Payload::default(),
        Some(raw) => Payload(text.slice_ref(raw)),
    }
}

/// Message type and id of a message that goes wrong further on, such as one that was cut short.
fn front(json: &str) -> (Option<u64>, Option<MessageId>) {
    let Some(elements) = json.trim_start().strip_prefix('[') else { return (None, None) };
    let Some((kind, rest)) = elements.split_once(',') else {
        return (elements.trim_end_matches([']', ' ']).trim().parse().ok(), None);
    };
    let kind = kind.trim().parse().ok();
    let id = serde_json::Deserializer::from_str(rest).into_iter::<String>().next().and_then(Result::ok);
    (kind, kind.and(id).map(|id| MessageId(id.into())))
}

/// The text of a CALL.
pub(crate) fn call(id: &MessageId, action: &str, params: &Payload) -> String {
    write(CALL, id.as_str(), &[Element::Text(action), Element::Json(params.as_str())])
}

/// The text of a SEND (OCPP 2.1).
pub(crate) fn send(id: &MessageId, action: &str, params: &Payload) -> String {
    write(SEND, id.as_str(), &[Element::Text(action), Element::Json(params.as_str())])
}

/// The text of a CALLRESULT.
pub(crate) fn call_result(id: &MessageId, payload: &Payload) -> String {
    write(CALL_RESULT, id.as_str(), &[Element::Json(payload.as_str())])
}

/// The text of a CALLERROR; without an id it carries `"-1"` (OCPP 2.0.1 part 4 §4.2.3).
pub(crate) fn call_error(id: Option<&MessageId>, code: &str, description: &str, details: Option<&Payload>) -> String {
    let details = details.filter(|details| details.is_object()).map_or("{}", Payload::as_str);
    let id = id.map_or("-1", MessageId::as_str);
    write(CALL_ERROR, id, &[Element::Text(code), Element::Text(cut(description)), Element::Json(details)])
}

/// At most 255 characters, which is all that an errorDescription may have in OCPP 2.x.
fn cut(description: &str) -> &str {
    description.char_indices().nth(255).map_or(description, |(end, _)| &description[..end])
}

enum Element<'a> {
    Text(&'a str),
    Json(&'a str),
}

fn write(kind: u64, id: &str, elements: &[Element<'_>]) -> String {
    let length = |element: &Element<'_>| match element {
        Element::Text(text) | Element::Json(text) => text.len() + 3,
    };
    let mut out = String::with_capacity(8 + id.len() + elements.iter().map(length).sum::<usize>());
    out.push('[');
    out.push(char::from(b'0' + kind as u8));
    out.push(',');
    quote(&mut out, id);
    for element in elements {
        out.push(',');
        match element {
            Element::Text(text) => quote(&mut out, text),
            Element::Json(json) => out.push_str(json),
        }
    }
    out.push(']');
    out
}

/// Appends `text` as a JSON string. Most have nothing to escape.
fn quote(out: &mut String, text: &str) {
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        let text = serde_json::to_string(text).map_or(Cow::Borrowed("\"\""), Cow::Owned);
        out.push_str(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> ByteString {
        ByteString::from(json)
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
            match read(&text(json)) {
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
            match read(&text(json)) {
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
            match read(&text(json)) {
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
        assert!(matches!(read(&text(r#"[6,"1","NotifyPeriodicEventStream",{}]"#)), Ok(Frame::Send { .. })));
        assert!(matches!(read(&text(r#"[5,"1","FormatViolation","",{}]"#)), Ok(Frame::CallResultError { .. })));
    }

    #[test]
    fn what_cannot_be_read_says_why_and_whose_it_is() {
        for (json, kind, id, fault) in [
            ("", None, None, Fault::NotJson),
            ("hello", None, None, Fault::NotJson),
            ("{}", None, None, Fault::NotAnArray),
            ("null", None, None, Fault::NotAnArray),
            ("2", None, None, Fault::NotAnArray),
            ("[]", None, None, Fault::NoMessageType),
            (r#"["2","1","A",{}]"#, None, Some("1"), Fault::NoMessageType),
            (r#"[2.5,"1","A",{}]"#, None, Some("1"), Fault::NoMessageType),
            (r#"[-2,"1","A",{}]"#, None, Some("1"), Fault::NoMessageType),
            (r#"[7,"1","A",{}]"#, Some(7), Some("1"), Fault::UnknownMessageType),
            (r#"[0]"#, Some(0), None, Fault::UnknownMessageType),
            (r#"[2]"#, Some(2), None, Fault::NoMessageId),
            (r#"[2,5,"A",{}]"#, Some(2), None, Fault::NoMessageId),
            (r#"[3,null,{}]"#, Some(3), None, Fault::NoMessageId),
            (r#"[2,"1"]"#, Some(2), Some("1"), Fault::NoAction),
            (r#"[2,"1",{}]"#, Some(2), Some("1"), Fault::NoAction),
            (r#"[2,"1","A",["m"]]"#, Some(2), Some("1"), Fault::PayloadNotAnObject),
            (r#"[2,"1","A",{},1]"#, Some(2), Some("1"), Fault::TooManyElements),
            (r#"[2,"1","A",{},1,2]"#, Some(2), Some("1"), Fault::TooManyElements),
            (r#"[2,"1","A",{"cut":["#, Some(2), Some("1"), Fault::NotJson),
            (r#"[3,"1",{"configurationKey":[]"#, Some(3), Some("1"), Fault::NotJson),
            (r#"[4, "1" ,"X","say "no"",{}]"#, Some(4), Some("1"), Fault::NotJson),
            (r#"[2,"1","A",{}]]"#, Some(2), Some("1"), Fault::NotJson),
            ("[3", Some(3), None, Fault::NotJson),
            ("[,,,", None, None, Fault::NotJson),
        ] {
            let expected = Unreadable { kind, id: id.map(|id| MessageId(id.into())), fault };
            assert_eq!(read(&text(json)).expect_err(json), expected, "{json}");
        }
    }

    #[test]
    fn nesting_without_end_does_not_overflow_the_stack() {
        let deep = format!(r#"[2,"1","A",{{"a":{}"#, "[".repeat(1_000_000));
        assert_eq!(read(&text(&deep)).expect_err("no end").fault, Fault::NotJson);
    }

    #[test]
    fn frames_are_written_to_the_letter() {
        let id = MessageId("a\"1".into());
        let params = Payload::encode(&serde_json::json!({"a": "é\n"})).expect("an object");
        assert_eq!(call(&id, "Do\tIt", &params), r#"[2,"a\"1","Do\tIt",{"a":"é\n"}]"#);
        assert_eq!(send(&id, "DoIt", &Payload::default()), r#"[6,"a\"1","DoIt",{}]"#);
        assert_eq!(call_result(&id, &params), r#"[3,"a\"1",{"a":"é\n"}]"#);
        assert_eq!(call_error(None, "Code", "why", Some(&params)), r#"[4,"-1","Code","why",{"a":"é\n"}]"#);
        let details = Payload(ByteString::from_static("\"text\""));
        assert_eq!(call_error(Some(&id), "Code", "", Some(&details)), r#"[4,"a\"1","Code","",{}]"#);
    }

    #[test]
    fn a_description_is_cut_between_characters() {
        let frame = call_error(None, "Code", &"é".repeat(300), None);
        assert_eq!(frame.matches('é').count(), 255);
    }
}
