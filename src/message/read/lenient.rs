//! Parsing of messages that deviate from the standard.

use std::fmt;

use bytestring::ByteString;
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use crate::{
    error::{CallError, ErrorCode},
    message::{
        kinds::{CALL, CALL_ERROR, CALL_RESULT, CALL_RESULT_ERROR, Message, MessageError, SEND, UnreadableMessage},
        payload::{MessageId, Payload},
        tolerance::{Deviation, Deviations},
    },
};

/// The characters that an id has at most (OCPP-J 1.6 §4.1.4, OCPP 2.0.1 part 4 §4.1.4).
pub(super) const MAX_ID_LEN: usize = 36;

/// Parses any message that makes sense, and adds its deviations.
pub(super) fn parse_lenient(text: &ByteString, deviations: &mut Deviations) -> Result<Message, UnreadableMessage> {
    let json = match text.strip_prefix('\u{feff}') {
        Some(json) => {
            deviations.add(Deviation::ByteOrderMark);
            json
        }
        None => text,
    };
    let Elements { message_type, rest: [id, third, fourth, fifth], has_more } =
        serde_json::from_str(json).map_err(|error| {
            let error = if error.is_data() { MessageError::NotAnArray } else { MessageError::NotJson };
            UnreadableMessage::new(None, None, error)
        })?;
    let message_type: Option<u64> = message_type.and_then(|raw| raw.get().parse().ok());
    let id = id.and_then(|raw| message_id(text, raw, deviations));
    let (message_type, id) = match (message_type, id) {
        (Some(known @ CALL..=SEND), Some(id)) => (known, id),
        (message_type, id) => {
            let error = match message_type {
                Some(CALL..=SEND) => MessageError::NoMessageId,
                Some(_) => MessageError::UnknownMessageType,
                None => MessageError::NoMessageType,
            };
            return Err(UnreadableMessage::new(message_type, id, error));
        }
    };
    match message_type {
        CALL | SEND => {
            let fail = |id, error| Err(UnreadableMessage::new(Some(message_type), Some(id), error));
            let Some(action) = third.and_then(|raw| string(text, raw)) else { return fail(id, MessageError::NoAction) };
            let payload = payload(text, fourth, deviations);
            if fifth.is_some() || has_more {
                return fail(id, MessageError::TooManyElements);
            }
            if !payload.is_object() {
                return fail(id, MessageError::PayloadNotAnObject);
            }
            if message_type == CALL {
                Ok(Message::Call { id, action, payload })
            } else {
                Ok(Message::Send { id, action, payload })
            }
        }
        CALL_RESULT => {
            if fourth.is_some() {
                deviations.add(Deviation::ExtraElements);
            }
            Ok(Message::CallResult { id, payload: payload(text, third, deviations) })
        }
        _ => {
            if has_more {
                deviations.add(Deviation::ExtraElements);
            }
            let error = call_error(text, [third, fourth, fifth], deviations);
            if message_type == CALL_ERROR {
                Ok(Message::CallError { id, error })
            } else {
                Ok(Message::CallResultError { id, error })
            }
        }
    }
}

/// The unparsed elements of a message.
struct Elements<'a> {
    message_type: Option<&'a RawValue>,
    rest: [Option<&'a RawValue>; 4],
    has_more: bool,
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
                let message_type = seq.next_element()?;
                let mut rest = [None; 4];
                for element in &mut rest {
                    *element = seq.next_element()?;
                }
                let mut has_more = false;
                while seq.next_element::<de::IgnoredAny>()?.is_some() {
                    has_more = true;
                }
                Ok(Elements { message_type, rest, has_more })
            }
        }

        deserializer.deserialize_seq(Visitor)
    }
}

/// Returns the string in `raw`, as a slice of `text` if it has no escapes.
fn string(text: &ByteString, raw: &RawValue) -> Option<ByteString> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str::<String>(raw.get()).ok().map(ByteString::from)
    } else {
        Some(text.slice_ref(inner))
    }
}

fn message_id(text: &ByteString, raw: &RawValue, deviations: &mut Deviations) -> Option<MessageId> {
    if let Some(id) = string(text, raw) {
        if id.len() > MAX_ID_LEN && id.chars().count() > MAX_ID_LEN {
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
    let code = code.and_then(|raw| string(text, raw));
    let description = description.and_then(|raw| string(text, raw));
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

/// Parses the first elements of a message that is not JSON, from what could be repaired of it.
#[cold]
pub(super) fn parse_prefix(repaired: &ByteString) -> UnreadableMessage {
    let mut elements: [Option<&RawValue>; 3] = [None; 3];
    let mut rest = repaired.strip_prefix('[');
    for element in &mut elements {
        let Some(json) = rest else { break };
        let mut values = serde_json::Deserializer::from_str(json).into_iter();
        *element = values.next().and_then(Result::ok);
        rest = json[values.byte_offset()..].strip_prefix(',');
    }
    let [message_type, id, code] = elements;
    let message_type = message_type.and_then(|raw| raw.get().parse().ok());
    let id = id.and_then(|raw| message_id(repaired, raw, &mut Deviations::default()));
    let mut prefix = UnreadableMessage::new(message_type, id, MessageError::NotJson);
    if let Some(CALL_ERROR | CALL_RESULT_ERROR) = message_type {
        prefix.code = code.and_then(|raw| string(repaired, raw)).map(|code| ErrorCode::new(code.to_string()));
    }
    prefix
}
