//! Frames to text and back: OCPP-J's JSON arrays, read with tolerance and written to the letter.
//!
//! A frame is taken apart once. What it carries stays a slice of the received text until somebody asks for a type.
//! Whether a frame is *allowed* depends on the [dialect](crate::dialect), and whether it *fits* on the exchange:
//! neither is known here.

use std::borrow::Cow;

use bytestring::ByteString;
use serde::Serialize;

use crate::{
    error::{CallError, ErrorCode},
    message::{
        payload::{MessageId, Payload},
        tolerance::Deviation,
    },
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
    /// The third element of what reads as a CALLERROR, where it is a string.
    pub(crate) code: Option<ErrorCode>,
    pub(crate) fault: MessageError,
}

impl Unreadable {
    #[cold]
    pub(crate) fn new(kind: Option<u64>, id: Option<MessageId>, fault: MessageError) -> Self {
        Self { kind, id, code: None, fault }
    }
}

/// The fault of a message that cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MessageError {
    /// The message is not JSON.
    #[error("the message is not JSON")]
    NotJson,
    /// The message is JSON, but not an array.
    #[error("the message is not a JSON array")]
    NotAnArray,
    /// The first element is not a whole number.
    #[error("the message type is not a number")]
    NoMessageType,
    /// The protocol has no such message type number.
    #[error("the message type is unknown")]
    UnknownMessageType,
    /// The second element is not a string.
    #[error("the message id is not a string")]
    NoMessageId,
    /// The third element is not a string.
    #[error("the action is not a string")]
    NoAction,
    /// The payload is not an object.
    #[error("the payload is not an object")]
    PayloadNotAnObject,
    /// The message has more elements than a call has.
    #[error("the message has too many elements")]
    TooManyElements,
    /// The response belongs to no pending call.
    #[error("no pending call has this message id")]
    UnknownMessageId,
    /// The call has the id of another that is still pending.
    #[error("a call with this message id is still pending")]
    DuplicateMessageId,
    /// The message deviates from the standard in a way that the connection does not [tolerate](crate::Tolerance).
    #[error("the message has {0}")]
    Deviation(Deviation),
}

impl Frame {
    pub(crate) fn kind(&self) -> u64 {
        match self {
            Self::Call { .. } => CALL,
            Self::CallResult { .. } => CALL_RESULT,
            Self::CallError { .. } => CALL_ERROR,
            Self::CallResultError { .. } => CALL_RESULT_ERROR,
            Self::Send { .. } => SEND,
        }
    }

    pub(crate) fn id(&self) -> &MessageId {
        match self {
            Self::Call { id, .. }
            | Self::CallResult { id, .. }
            | Self::CallError { id, .. }
            | Self::CallResultError { id, .. }
            | Self::Send { id, .. } => id,
        }
    }
}

pub(super) const CALL: u64 = 2;
pub(crate) const CALL_RESULT: u64 = 3;
pub(crate) const CALL_ERROR: u64 = 4;
pub(super) const CALL_RESULT_ERROR: u64 = 5;
pub(crate) const SEND: u64 = 6;

/// The text of a CALL.
pub(crate) fn call(id: &MessageId, action: &str, params: &Payload) -> String {
    write(CALL, id, &[Element::Text(action), Element::Json(params.as_str())])
}

/// The text of a SEND (OCPP 2.1).
pub(crate) fn send(id: &MessageId, action: &str, params: &Payload) -> String {
    write(SEND, id, &[Element::Text(action), Element::Json(params.as_str())])
}

/// The text of a CALLRESULT.
pub(crate) fn call_result(id: &MessageId, payload: &Payload) -> String {
    write(CALL_RESULT, id, &[Element::Json(payload.as_str())])
}

/// The text of a CALLERROR; without an id it carries `"-1"` (OCPP 2.0.1 part 4 §4.2.3).
pub(crate) fn call_error(id: Option<&MessageId>, code: &str, description: &str, details: Option<&Payload>) -> String {
    static UNKNOWN: MessageId = MessageId::from_static("-1");
    error(CALL_ERROR, id.unwrap_or(&UNKNOWN), code, description, details)
}

/// The text of a CALLRESULTERROR (OCPP 2.1).
pub(crate) fn call_result_error(id: &MessageId, code: &str, description: &str, details: Option<&Payload>) -> String {
    error(CALL_RESULT_ERROR, id, code, description, details)
}

fn error(kind: u64, id: &MessageId, code: &str, description: &str, details: Option<&Payload>) -> String {
    let details = details.filter(|details| details.is_object()).map_or("{}", Payload::as_str);
    write(kind, id, &[Element::Text(code), Element::Text(cut(description)), Element::Json(details)])
}

/// At most 255 characters, which is all that an errorDescription may have in OCPP 2.x.
fn cut(description: &str) -> &str {
    description.char_indices().nth(255).map_or(description, |(end, _)| &description[..end])
}

enum Element<'a> {
    Text(&'a str),
    Json(&'a str),
}

fn write(kind: u64, id: &MessageId, elements: &[Element<'_>]) -> String {
    // Exact where nothing has to be escaped, so that the text is sent as it is and not moved again.
    let length = |element: &Element<'_>| match element {
        Element::Text(text) => ",\"\"".len() + text.len(),
        Element::Json(json) => ",".len() + json.len(),
    };
    let quotes = if id.is_number() { 0 } else { 2 };
    let front = "[3,".len() + quotes + id.as_str().len();
    let mut out = String::with_capacity(front + elements.iter().map(length).sum::<usize>() + "]".len());
    out.push('[');
    out.push(char::from(b'0' + kind as u8));
    out.push(',');
    match id.is_number() {
        true => out.push_str(id.as_str()),
        false => quote(&mut out, id.as_str()),
    }
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
    // All of it is looked at, several bytes at once.
    let wants_escape = text.bytes().fold(false, |found, b| found | (b < b' ') | (b == b'"') | (b == b'\\'));
    if !wants_escape {
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

    #[test]
    fn frames_are_written_to_the_letter() {
        let id = MessageId::new("a\"1");
        let params = Payload::encode(&serde_json::json!({"a": "é\n"})).expect("an object");
        assert_eq!(call(&id, "Do\tIt", &params), r#"[2,"a\"1","Do\tIt",{"a":"é\n"}]"#);
        assert_eq!(send(&id, "DoIt", &Payload::default()), r#"[6,"a\"1","DoIt",{}]"#);
        assert_eq!(call_result(&id, &params), r#"[3,"a\"1",{"a":"é\n"}]"#);
        assert_eq!(call_error(None, "Code", "why", Some(&params)), r#"[4,"-1","Code","why",{"a":"é\n"}]"#);
        let details = Payload(ByteString::from_static("\"text\""));
        assert_eq!(call_error(Some(&id), "Code", "", Some(&details)), r#"[4,"a\"1","Code","",{}]"#);
        assert_eq!(call_result_error(&id, "Code", "", None), r#"[5,"a\"1","Code","",{}]"#);
        assert_eq!(call_result(&MessageId::number("17"), &Payload::default()), "[3,17,{}]");
    }

    #[test]
    fn a_description_is_cut_between_characters() {
        let frame = call_error(None, "Code", &"é".repeat(300), None);
        assert_eq!(frame.matches('é').count(), 255);
    }
}
