//! The records of a station: its messages, and the other facts that belong into their sequence.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    error::Error,
    event::kind::{CallOutcome, Direction, EventKind},
    mask::Mask,
};

/// The bytes of an id, an action, a code or a description that are kept.
const MAX_TEXT: usize = 1024;

/// The kind of a record. It serializes as its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecordKind {
    Call,
    Result,
    Error,
    ResultError,
    Send,
    /// A bad message.
    Bad,
    Deviation,
    Violation,
    Opened,
    Closed,
    /// A call of the server that ended without a response.
    Failed,
}

/// The content of a record, before it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Content<'a> {
    pub(crate) kind: RecordKind,
    pub(crate) direction: Option<Direction>,
    pub(crate) id: Option<&'a str>,
    pub(crate) action: Option<&'a str>,
    pub(crate) body: Body<'a>,
    pub(crate) code: Option<Cow<'a, str>>,
    pub(crate) description: Option<Cow<'a, str>>,
    /// The time that a call took, or a response.
    pub(crate) seconds: Option<f64>,
    /// Set if the description may repeat a value of a message.
    pub(crate) is_quoting: bool,
}

/// The long text of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Body<'a> {
    None,
    /// JSON.
    Payload(&'a str),
    /// A message that is not valid as one.
    Text(&'a str),
}

impl<'a> Content<'a> {
    pub(crate) fn new(kind: RecordKind) -> Self {
        Self {
            kind,
            direction: None,
            id: None,
            action: None,
            body: Body::None,
            code: None,
            description: None,
            seconds: None,
            is_quoting: false,
        }
    }

    /// Returns the direction of the call that this content is about, if it responds to one or reports a fault of one.
    pub(crate) fn call_direction(&self) -> Option<Direction> {
        let direction = self.direction?;
        match (self.kind, direction) {
            (RecordKind::ResultError | RecordKind::Failed | RecordKind::Violation, _) => Some(direction),
            (RecordKind::Result | RecordKind::Error, Direction::In) => Some(Direction::Out),
            (RecordKind::Result | RecordKind::Error, Direction::Out) => Some(Direction::In),
            _ => None,
        }
    }

    /// Returns true if the description of this content may be about a record of this kind.
    pub(crate) fn is_about(&self, kind: RecordKind) -> bool {
        match self.kind {
            RecordKind::Error => matches!(kind, RecordKind::Call | RecordKind::Bad),
            RecordKind::ResultError | RecordKind::Failed => matches!(kind, RecordKind::Result | RecordKind::Violation),
            _ => false,
        }
    }

    /// Returns the content for an event. `None` if the event is not part of the sequence of a station.
    pub(crate) fn of(event: &'a EventKind) -> Option<Self> {
        let of = |kind, direction: Direction, id: &'a str, action: Option<&'a str>, body| Self {
            direction: Some(direction),
            id: Some(id),
            action,
            body,
            ..Self::new(kind)
        };
        Some(match event {
            EventKind::Call { direction, id, action, params } => {
                of(RecordKind::Call, *direction, id, Some(action), Body::Payload(params.as_str()))
            }
            EventKind::Send { direction, id, action, params } => {
                of(RecordKind::Send, *direction, id, Some(action), Body::Payload(params.as_str()))
            }
            EventKind::CallResult { direction, id, action, result } => {
                of(RecordKind::Result, *direction, id, action.as_deref(), Body::Payload(result.as_str()))
            }
            EventKind::CallError { direction, id, action, error }
            | EventKind::CallResultError { direction, id, action, error } => {
                let is_error = matches!(event, EventKind::CallError { .. });
                let kind = if is_error { RecordKind::Error } else { RecordKind::ResultError };
                let details = error.details().map_or(Body::None, |details| Body::Payload(details.as_str()));
                Self {
                    code: Some(error.code().as_str().into()),
                    description: Some(error.description().into()),
                    is_quoting: true,
                    ..of(kind, *direction, id, action.as_deref(), details)
                }
            }
            EventKind::BadMessage { text, id, error, response } => Self {
                direction: Some(Direction::In),
                id: id.as_deref(),
                body: Body::Text(text),
                code: response.as_ref().map(|code| code.as_str().into()),
                description: Some(error.to_string().into()),
                ..Self::new(RecordKind::Bad)
            },
            EventKind::Deviation { deviation, text } => Self {
                direction: text.as_ref().map(|_| Direction::In),
                body: text.as_deref().map_or(Body::None, Body::Text),
                code: Some(name(deviation).into()),
                description: Some(deviation.to_string().into()),
                ..Self::new(RecordKind::Deviation)
            },
            EventKind::ValidationFailed { direction, action, id, payload, violation, .. } => Self {
                code: Some(violation.code().as_str().into()),
                description: Some(violation.to_string().into()),
                is_quoting: true,
                ..of(RecordKind::Violation, *direction, id, Some(action), Body::Payload(payload.as_str()))
            },
            EventKind::Opened { protocol } => {
                Self { description: protocol.as_deref().map(Into::into), ..Self::new(RecordKind::Opened) }
            }
            EventKind::Closed(info) => Self {
                code: Some(info.code.to_string().into()),
                description: Some(match &*info.reason {
                    "" => name(&info.cause).into(),
                    reason => format!("{}: {reason}", name(&info.cause)).into(),
                }),
                ..Self::new(RecordKind::Closed)
            },
            // A call that was rejected has its CALLERROR in the sequence. A failed call of the peer is not ours.
            EventKind::CallEnded {
                direction: Direction::Out,
                id,
                action,
                outcome: CallOutcome::Failed(error),
                duration,
            } => Self {
                description: Some(error.to_string().into()),
                is_quoting: matches!(error, Error::Decode(_) | Error::Invalid(_) | Error::Encode(_)),
                seconds: Some(duration.as_secs_f64()),
                ..of(RecordKind::Failed, Direction::Out, id, Some(action), Body::None)
            },
            _ => return None,
        })
    }
}

/// A stored record. Its texts share one allocation.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// The number of the record, one higher than that of the record before it.
    pub(crate) seq: u64,
    /// The Unix time in microseconds.
    pub(crate) at: u64,
    seconds: Option<f64>,
    pub(crate) kind: RecordKind,
    direction: Option<Direction>,
    body_kind: BodyKind,
    /// The bits of the texts that exist.
    existing: u8,
    ends: [u32; TEXTS],
    texts: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    None,
    Payload,
    Text,
    /// The body is too large to record.
    LeftOut,
}

const TEXTS: usize = 5;
const ID: usize = 0;
const ACTION: usize = 1;
const CODE: usize = 2;
const DESCRIPTION: usize = 3;
const BODY: usize = 4;

impl Record {
    /// Creates a record. A body of more than `max_body` bytes is left out, and the record says so.
    pub(crate) fn new(seq: u64, at: u64, content: &Content<'_>, max_body: usize) -> Self {
        let (body_kind, body) = match content.body {
            Body::None => (BodyKind::None, None),
            Body::Payload(text) => (BodyKind::Payload, Some(text)),
            Body::Text(text) => (BodyKind::Text, Some(text)),
        };
        let mut description = content.description.as_deref().map(|text| Cow::Borrowed(cut(text)));
        let is_too_large = body.is_some_and(|body| body.len() > max_body);
        if let (true, Some(body)) = (is_too_large, body) {
            let note = format!("{} bytes, too many to record", body.len());
            description = Some(match description {
                Some(description) => format!("{description}; {note}").into(),
                None => note.into(),
            });
        }
        let (body_kind, body) = if is_too_large { (BodyKind::LeftOut, None) } else { (body_kind, body) };
        let all: [Option<&str>; TEXTS] = [
            content.id.map(cut),
            content.action.map(cut),
            content.code.as_deref().map(cut),
            description.as_deref(),
            body,
        ];
        let mut texts = String::with_capacity(all.iter().flatten().map(|text| text.len()).sum());
        let (mut existing, mut ends) = (0, [0; TEXTS]);
        for (place, text) in all.into_iter().enumerate() {
            if let Some(text) = text {
                existing |= 1 << place;
                texts.push_str(text);
            }
            ends[place] = u32::try_from(texts.len()).unwrap_or(u32::MAX);
        }
        let (kind, direction, seconds) = (content.kind, content.direction, content.seconds);
        Self { seq, at, seconds, kind, direction, body_kind, existing, ends, texts: texts.into() }
    }

    /// Returns the bytes that the record takes, in addition to its own size.
    pub(crate) fn heap_size(&self) -> usize {
        allocated(self.texts.len())
    }

    pub(crate) fn action(&self) -> Option<&str> {
        self.text(ACTION)
    }

    pub(crate) fn body(&self) -> Option<&str> {
        self.text(BODY)
    }

    /// Returns true if the record has had a body that was too large.
    pub(crate) fn is_body_left_out(&self) -> bool {
        self.body_kind == BodyKind::LeftOut
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.text(ID)
    }

    /// Returns true if this is a record of this kind, and of a message in this direction.
    pub(crate) fn is(&self, kind: RecordKind, direction: Direction) -> bool {
        self.kind == kind && self.direction == Some(direction)
    }

    fn text(&self, place: usize) -> Option<&str> {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        let is_there = self.existing & (1 << place) != 0;
        is_there.then(|| self.texts.get(start as usize..self.ends[place] as usize))?
    }

    /// Returns the record as one line of JSON, without tokens and secrets.
    pub(crate) fn to_json(&self, mask: &Mask) -> Result<String, serde_json::Error> {
        let masked = self.body().map(|body| mask.apply(body));
        let (payload, text) = match (self.body_kind, &masked) {
            // JSON that the mask or a peer has broken is shown as text.
            (BodyKind::Payload, Some(masked)) => match serde_json::from_str::<&RawValue>(masked) {
                Ok(payload) => (Some(payload), None),
                Err(_) => (None, Some(&**masked)),
            },
            (BodyKind::Text, Some(masked)) => (None, Some(&**masked)),
            _ => (None, None),
        };
        let json = serde_json::to_string(&Json {
            seq: self.seq,
            at: self.at / 1000,
            kind: self.kind,
            direction: self.direction,
            id: self.text(ID),
            action: self.action(),
            payload,
            text,
            code: self.text(CODE),
            description: self.text(DESCRIPTION),
            seconds: self.seconds,
        })?;
        // Line breaks between the tokens of a payload.
        Ok(if json.contains(['\n', '\r']) { json.replace(['\n', '\r'], " ") } else { json })
    }
}

#[derive(Serialize)]
struct Json<'a> {
    seq: u64,
    at: u64,
    #[serde(rename = "type")]
    kind: RecordKind,
    direction: Option<Direction>,
    id: Option<&'a str>,
    action: Option<&'a str>,
    payload: Option<&'a RawValue>,
    text: Option<&'a str>,
    code: Option<&'a str>,
    description: Option<&'a str>,
    seconds: Option<f64>,
}

/// Returns the bytes that an allocation of this length takes, with the overhead of common allocators.
pub(crate) fn allocated(len: usize) -> usize {
    if len == 0 { 0 } else { (len + 8).next_multiple_of(16).max(32) }
}

/// Returns the name that a value serializes to.
pub(crate) fn name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::info::{CloseCause, CloseInfo};

    #[test]
    fn causes_of_closes_have_the_names_of_the_api() {
        let closed =
            EventKind::Closed(CloseInfo { reason: "bye".into(), ..CloseInfo::abnormal(CloseCause::PingTimeout) });
        let content = Content::of(&closed).expect("a record");
        assert_eq!(
            (content.code.as_deref(), content.description.as_deref()),
            (Some("1006"), Some("ping_timeout: bye"))
        );
    }
}
