//! The text of messages, as the standard defines it.

use std::borrow::Cow;

use crate::message::{
    kinds::{CALL, CALL_ERROR, CALL_RESULT, CALL_RESULT_ERROR, SEND},
    payload::{MessageId, Payload},
};

/// Returns the text of a CALL.
pub(crate) fn call(id: &MessageId, action: &str, params: &Payload) -> String {
    write(CALL, id, &[Element::Text(action), Element::Json(params.as_str())])
}

/// Returns the text of a SEND (OCPP 2.1).
pub(crate) fn send(id: &MessageId, action: &str, params: &Payload) -> String {
    write(SEND, id, &[Element::Text(action), Element::Json(params.as_str())])
}

/// Returns the text of a CALLRESULT.
pub(crate) fn call_result(id: &MessageId, payload: &Payload) -> String {
    write(CALL_RESULT, id, &[Element::Json(payload.as_str())])
}

/// Returns the text of a CALLERROR. Without an id, the CALLERROR has the id `"-1"` (OCPP 2.0.1 part 4 §4.2.3).
pub(crate) fn call_error(id: Option<&MessageId>, code: &str, description: &str, details: Option<&Payload>) -> String {
    write_error(CALL_ERROR, id.unwrap_or(&MessageId::UNKNOWN), code, description, details)
}

/// Returns the text of a CALLRESULTERROR (OCPP 2.1).
pub(crate) fn call_result_error(id: &MessageId, code: &str, description: &str, details: Option<&Payload>) -> String {
    write_error(CALL_RESULT_ERROR, id, code, description, details)
}

fn write_error(message_type: u64, id: &MessageId, code: &str, description: &str, details: Option<&Payload>) -> String {
    let description = truncate_description(description);
    let details = details.filter(|details| details.is_object()).map_or("{}", Payload::as_str);
    write(message_type, id, &[Element::Text(code), Element::Text(description), Element::Json(details)])
}

/// Cuts a description to 255 characters, the limit of errorDescription in OCPP 2.x.
fn truncate_description(description: &str) -> &str {
    description.char_indices().nth(255).map_or(description, |(end, _)| &description[..end])
}

/// The longest head of a WebSocket frame, in bytes.
const MAX_HEAD: usize = 14;

enum Element<'a> {
    Text(&'a str),
    Json(&'a str),
}

fn write(message_type: u64, id: &MessageId, elements: &[Element<'_>]) -> String {
    // The text is sent from this memory, with the head of a frame before it. Few texts must be escaped and need more.
    let length = |element: &Element<'_>| match element {
        Element::Text(text) => ",\"\"".len() + text.len(),
        Element::Json(json) => ",".len() + json.len(),
    };
    let quotes = if id.is_number() { 0 } else { 2 };
    let prefix = "[3,".len() + quotes + id.as_str().len();
    let mut out = String::with_capacity(prefix + elements.iter().map(length).sum::<usize>() + "]".len() + MAX_HEAD);
    out.push('[');
    out.push(char::from(b'0' + message_type as u8));
    out.push(',');
    if id.is_number() {
        out.push_str(id.as_str());
    } else {
        push_quoted(&mut out, id.as_str());
    }
    for element in elements {
        out.push(',');
        match element {
            Element::Text(text) => push_quoted(&mut out, text),
            Element::Json(json) => out.push_str(json),
        }
    }
    out.push(']');
    out
}

/// Appends `text` as a JSON string. Few texts must be escaped.
fn push_quoted(out: &mut String, text: &str) {
    // Without an early return, the compiler checks several bytes at once.
    let must_escape = text.bytes().fold(false, |found, b| found | (b < b' ') | (b == b'"') | (b == b'\\'));
    if must_escape {
        let text = serde_json::to_string(text).map_or(Cow::Borrowed("\"\""), Cow::Owned);
        out.push_str(&text);
    } else {
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use bytestring::ByteString;

    use super::*;

    #[test]
    fn messages_are_written_as_the_standard_defines() {
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
    fn description_too_long_is_cut_between_characters() {
        let message = call_error(None, "Code", &"é".repeat(300), None);
        assert_eq!(message.matches('é').count(), 255);
    }
}
