//! The facts that events report.

use std::{
    any::Any,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use bytestring::ByteString;
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    close::info::CloseInfo,
    error::{CallError, Error, ErrorCode, Violation},
    event::{activity::Activity, refused::RefusedRequest},
    mask::Mask,
    message::{
        kinds::{Message, MessageError},
        payload::{MessageId, Payload},
        tolerance::Deviation,
    },
    text::impl_text,
    unix_time,
    validate::validator::PayloadKind,
};

/// An event, with its time and station.
///
/// It serializes to a flat JSON object, by `serde_json` only, as payloads stay unread:
///
/// ```json
/// {
///   "at": 1767225600000,
///   "session_id": 7,
///   "key": "CP-1",
///   "identity": "CP-1",
///   "remote_address": "192.0.2.1:50000",
///   "type": "call",
///   "direction": "in",
///   "id": "19223201",
///   "action": "Heartbeat",
///   "params": {}
/// }
/// ```
///
/// A [`Mask`] hides tokens and secrets in it. It hides nothing in the fields of an event, nor in its `Debug` output.
///
/// `at` is the Unix time in milliseconds. `type` is the name of the [`EventKind`] in snake case, and its fields follow.
/// The one value of `received` and `sent` is named `text`, that of `response_written`, `late_response` and
/// `unmatched_response` `id`, that of `pong` `seconds`, and that of `lagged` `events`. The `duration` of `call_ended` is
/// named `seconds`. A call error is an object of `code`, `description` and `details`; what is absent is `null`.
///
/// ```
/// use ocpp_rpc::event::{Event, EventKind};
///
/// fn log(event: &Event) {
///     if let EventKind::Closed(closed) = &event.kind {
///         println!("{:?} has left: {closed}", event.identity);
///     }
/// }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// The time of the event.
    pub at: SystemTime,
    /// The [id](crate::Session::id) of the session. `None` if the event belongs to none.
    pub session_id: Option<u64>,
    /// The [key](crate::Session::key) of the session. `None` if the event belongs to none.
    pub key: Option<Arc<str>>,
    /// The identity of the charging station. `None` if unknown.
    pub identity: Option<Arc<str>>,
    /// The address of the peer. `None` if unknown.
    pub remote_address: Option<SocketAddr>,
    /// The kind of event, with its data.
    pub kind: EventKind,
    /// Weak, so that unread events keep no session in memory, and that none ends under the locks of the event bus.
    pub(crate) session: Option<Weak<dyn Any + Send + Sync>>,
    /// Hides tokens and secrets in the serialized event.
    pub(crate) mask: Mask,
}

/// The origin of an event.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// The state of the session, which [`Event::session`] turns into a handle.
    pub(crate) session: Option<Weak<dyn Any + Send + Sync>>,
    pub(crate) session_id: Option<u64>,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) identity: Option<Arc<str>>,
    pub(crate) remote_address: Option<SocketAddr>,
}

impl Event {
    /// Creates an event of this moment.
    pub(crate) fn new(origin: Origin, kind: EventKind, mask: Mask) -> Self {
        let Origin { session, session_id, key, identity, remote_address } = origin;
        Self { at: SystemTime::now(), session_id, key, identity, remote_address, kind, session, mask }
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            #[serde(serialize_with = "unix_time::serialize")]
            at: &'a SystemTime,
            session_id: Option<u64>,
            key: Option<&'a str>,
            identity: Option<&'a str>,
            remote_address: Option<SocketAddr>,
            #[serde(flatten)]
            kind: &'a EventKind,
        }

        let (key, identity) = (self.key.as_deref(), self.identity.as_deref());
        let kind = &self.kind.clone().masked(&self.mask);
        let (at, session_id, remote_address) = (&self.at, self.session_id, self.remote_address);
        Flat { at, session_id, key, identity, remote_address, kind }.serialize(serializer)
    }
}

/// The kind of an event, with its data.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A client begins an attempt to connect.
    Connecting,
    /// A session was registered, or a client is connected. [`Event::session`] returns its handle.
    #[non_exhaustive]
    Opened {
        /// The negotiated subprotocol.
        #[serde(serialize_with = "shared_text")]
        protocol: Option<Arc<str>>,
    },
    /// An attempt of a client to connect failed. Another one follows, unless the client closes.
    #[non_exhaustive]
    ConnectFailed {
        /// The HTTP status of the response, if the server refused.
        status: Option<u16>,
        /// The text of the [`ConnectError`](crate::client::ConnectError).
        error: String,
    },
    /// A client lost its connection and will reconnect.
    Disconnected(CloseInfo),
    /// The application, or a newer connection of the same identity, began to close a session or client.
    Closing,
    /// A session or a client ended. A session that a newer one replaced has the cause
    /// [`Replaced`](crate::close::CloseCause::Replaced).
    Closed(CloseInfo),
    /// More than five sessions of one key were replaced within a minute: probably two stations share an identity.
    ///
    /// The event belongs to the newest session. It repeats at most once a minute.
    /// [`replacement_delay`](crate::server::RpcServerBuilder::replacement_delay) slows such stations down.
    IdentityConflict,
    /// A handshake was refused, or broke off.
    #[non_exhaustive]
    HandshakeRefused {
        /// The HTTP status of the response, if there was one: 101 for a client that offers no common subprotocol.
        status: Option<u16>,
        /// The reason, of at most 512 bytes.
        reason: String,
        /// The request. `None` if the server did not read its head, because the connection failed before.
        request: Option<Box<RefusedRequest>>,
    },
    /// A message was received. If it can be read, its content follows as an event of its own.
    #[serde(serialize_with = "text_field")]
    Received(Text),
    /// A message was queued to be written with the next flush. Its content follows as an event of its own.
    #[serde(serialize_with = "text_field")]
    Sent(Text),
    /// A CALL, from either end.
    #[non_exhaustive]
    Call {
        /// The direction of the message.
        direction: Direction,
        /// The id of the call.
        id: MessageId,
        /// The action of the call.
        action: Text,
        /// The parameters.
        params: Payload,
    },
    /// A CALLRESULT, from either end.
    #[non_exhaustive]
    CallResult {
        /// The direction of the message.
        direction: Direction,
        /// The id of the call.
        id: MessageId,
        /// The action of the call. `None` if no call with this id is pending.
        action: Option<Text>,
        /// The result.
        result: Payload,
    },
    /// A CALLERROR, from either end.
    #[non_exhaustive]
    CallError {
        /// The direction of the message.
        direction: Direction,
        /// The id of the call.
        id: MessageId,
        /// The action of the call. `None` if no call with this id is pending, or if the call cannot be read.
        action: Option<Text>,
        /// The error.
        error: CallError,
    },
    /// A CALLRESULTERROR, from either end: the caller cannot use the result (OCPP 2.1).
    #[non_exhaustive]
    CallResultError {
        /// The direction of the message.
        direction: Direction,
        /// The id of the call.
        id: MessageId,
        /// The action of the call. `None` if the message comes from the peer.
        action: Option<Text>,
        /// The fault of the result.
        error: CallError,
    },
    /// A SEND, from either end (OCPP 2.1).
    #[non_exhaustive]
    Send {
        /// The direction of the message.
        direction: Direction,
        /// The id of the message.
        id: MessageId,
        /// The action of the message.
        action: Text,
        /// The parameters.
        params: Payload,
    },
    /// A call ended, from either end, or a SEND.
    ///
    /// A bad message is no call, and a call that is repeated while it is being handled ends once.
    #[non_exhaustive]
    CallEnded {
        /// The direction of the call.
        direction: Direction,
        /// The id of the call.
        id: MessageId,
        /// The action of the call.
        action: Text,
        /// The outcome of the call.
        outcome: CallOutcome,
        /// The time that the call took: from the first poll of its future, or from the start of its handler.
        #[serde(rename = "seconds", serialize_with = "seconds")]
        duration: Duration,
    },
    /// The response to the call with this id was written to the transport.
    #[serde(serialize_with = "id_field")]
    ResponseWritten(MessageId),
    /// A message was received that cannot be served.
    #[non_exhaustive]
    BadMessage {
        /// The message.
        text: Text,
        /// The id of the message, if it can be read.
        id: Option<MessageId>,
        /// The error of the message.
        error: MessageError,
        /// The code of the CALLERROR that was sent, if one was sent.
        response: Option<ErrorCode>,
    },
    /// A response was received for a call of this connection that is not in flight: it timed out, was dropped, did not
    /// wait for its response, or has had one.
    #[serde(serialize_with = "id_field")]
    LateResponse(MessageId),
    /// A response was received for a call that this connection did not make.
    ///
    /// It gets no response and is no bad message: most such calls were made on an earlier connection.
    #[serde(serialize_with = "id_field")]
    UnmatchedResponse(MessageId),
    /// A deviation from the standards was [tolerated](crate::Tolerance).
    #[non_exhaustive]
    Deviation {
        /// The kind of deviation.
        deviation: Deviation,
        /// The message that deviates, if it is a message.
        text: Option<Text>,
    },
    /// A pong was received, this long after its ping.
    #[serde(serialize_with = "seconds_field")]
    Pong(Duration),
    /// A SEND was received that no handler takes: its action has none, or a limit rejected it.
    #[non_exhaustive]
    UnhandledSend {
        /// The id of the message.
        id: MessageId,
        /// The action.
        action: Text,
    },
    /// A payload did not pass [validation](crate::validate::Validation).
    #[non_exhaustive]
    ValidationFailed {
        /// The direction of the message.
        direction: Direction,
        /// The kind of payload: request or response.
        kind: PayloadKind,
        /// The action.
        action: Text,
        /// The id of the call.
        id: MessageId,
        /// The payload.
        payload: Payload,
        /// The violation.
        violation: Violation,
        /// True if the message was stopped, false if the violation was
        /// [only reported](crate::validate::Validation::report_only).
        enforced: bool,
    },
    /// The calls of a server that ended within a second, and its sessions. A mounted console emits it once a second.
    Activity(Box<Activity>),
    /// This many events before this one were lost, because they were not read in time.
    #[serde(serialize_with = "events_field")]
    Lagged(u64),
}

impl EventKind {
    /// Returns the name of the kind, the `type` of the serialized event, such as `call_ended`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::ConnectFailed { .. } => "connect_failed",
            Self::Opened { .. } => "opened",
            Self::Disconnected(_) => "disconnected",
            Self::Closing => "closing",
            Self::Closed(_) => "closed",
            Self::IdentityConflict => "identity_conflict",
            Self::HandshakeRefused { .. } => "handshake_refused",
            Self::Received(_) => "received",
            Self::Sent(_) => "sent",
            Self::Call { .. } => "call",
            Self::CallResult { .. } => "call_result",
            Self::CallError { .. } => "call_error",
            Self::CallResultError { .. } => "call_result_error",
            Self::Send { .. } => "send",
            Self::CallEnded { .. } => "call_ended",
            Self::ResponseWritten(_) => "response_written",
            Self::BadMessage { .. } => "bad_message",
            Self::LateResponse(_) => "late_response",
            Self::UnmatchedResponse(_) => "unmatched_response",
            Self::Deviation { .. } => "deviation",
            Self::Pong(_) => "pong",
            Self::UnhandledSend { .. } => "unhandled_send",
            Self::ValidationFailed { .. } => "validation_failed",
            Self::Activity(_) => "activity",
            Self::Lagged(_) => "lagged",
        }
    }

    /// Hides tokens and secrets in the messages and payloads of the event.
    fn masked(mut self, mask: &Mask) -> Self {
        match &mut self {
            Self::Received(text) | Self::Sent(text) | Self::BadMessage { text, .. } => text.0 = mask.apply_to(&text.0),
            Self::Deviation { text: Some(text), .. } => text.0 = mask.apply_to(&text.0),
            Self::Call { params: payload, .. }
            | Self::Send { params: payload, .. }
            | Self::CallResult { result: payload, .. }
            | Self::ValidationFailed { payload, .. } => payload.0 = mask.apply_to(&payload.0),
            Self::CallError { error, .. } | Self::CallResultError { error, .. } => {
                if let Some(details) = error.details() {
                    let details = Payload(mask.apply_to(&details.0));
                    *error = error.clone().with_raw_details(details);
                }
            }
            _ => {}
        }
        self
    }

    /// Returns the event for the content of a message. `call` is the action of the call that a response belongs to.
    pub(crate) fn of(message: Message, direction: Direction, call: Option<ByteString>) -> Self {
        let of_call = call.map(Text);
        match message {
            Message::Call { id, action, payload } => {
                Self::Call { direction, id, action: Text(action), params: payload }
            }
            Message::CallResult { id, payload } => Self::CallResult { direction, id, action: of_call, result: payload },
            Message::CallError { id, error } => Self::CallError { direction, id, action: of_call, error },
            Message::CallResultError { id, error } => Self::CallResultError { direction, id, action: of_call, error },
            Message::Send { id, action, payload } => {
                Self::Send { direction, id, action: Text(action), params: payload }
            }
        }
    }
}

fn shared_text<S: Serializer>(text: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_deref().serialize(serializer)
}

fn text_field<S: Serializer>(text: &Text, serializer: S) -> Result<S::Ok, S::Error> {
    one_field(serializer, "text", text)
}

fn id_field<S: Serializer>(id: &MessageId, serializer: S) -> Result<S::Ok, S::Error> {
    one_field(serializer, "id", id)
}

fn seconds_field<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    one_field(serializer, "seconds", &duration.as_secs_f64())
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn events_field<S: Serializer>(events: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    one_field(serializer, "events", events)
}

/// Serializes a lone value as an object, which can take the tag.
fn one_field<S: Serializer>(serializer: S, name: &'static str, value: &impl Serialize) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_struct("", 1)?;
    object.serialize_field(name, value)?;
    object.end()
}

/// The outcome of a call. It serializes to its text.
///
/// ```
/// use ocpp_rpc::event::{CallOutcome, EventKind};
///
/// /// Returns whether a call has failed without a response of the peer.
/// fn has_failed(event: &EventKind) -> bool {
///     matches!(event, EventKind::CallEnded { outcome: CallOutcome::Failed(_), .. })
/// }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CallOutcome {
    /// A result. As text `result`.
    Result,
    /// An error with this code: the peer or the handler rejected the call. As text the code.
    Rejected(ErrorCode),
    /// No response, because none was expected or the handler gave none. As text `no_response`.
    NoResponse,
    /// A response before the handler ended, through a [`Responder`](crate::extract::Responder). As text
    /// `responded_early`.
    RespondedEarly,
    /// A failure at this end. As text the name of its variant in snake case, such as `timeout` or `never_sent`.
    Failed(Error),
}

impl CallOutcome {
    /// Returns the outcome as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Result => "result",
            Self::Rejected(code) => code.as_str(),
            Self::NoResponse => "no_response",
            Self::RespondedEarly => "responded_early",
            Self::Failed(error) => error.name(),
        }
    }
}

impl std::fmt::Display for CallOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for CallOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the peer to this side.
    In,
    /// From this side to the peer.
    Out,
}

/// A text of a message: an action, or the whole message. Cheap to clone.
///
/// ```
/// use ocpp_rpc::event::{EventKind, Text};
///
/// /// Returns the action of a call that has ended.
/// fn ended(event: &EventKind) -> Option<&Text> {
///     match event {
///         EventKind::CallEnded { action, .. } => Some(action),
///         _ => None,
///     }
/// }
///
/// fn is_reset(event: &EventKind) -> bool {
///     ended(event).is_some_and(|action| action == "Reset")
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Text(pub(crate) ByteString);

impl Text {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl_text!(Text);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::close::info::CloseCause;

    fn event(kind: EventKind) -> Event {
        let origin = Origin {
            session: None,
            session_id: Some(7),
            key: Some("acme/CP-1".into()),
            identity: Some("CP-1".into()),
            remote_address: "192.0.2.1:50000".parse().ok(),
        };
        Event { at: SystemTime::UNIX_EPOCH + Duration::from_millis(1500), ..Event::new(origin, kind, Mask::new()) }
    }

    #[test]
    fn event_serializes_to_a_flat_object() {
        let (id, action) = (MessageId::new("7"), Text(ByteString::from_static("Echo")));
        let params = || Payload(ByteString::from_static(r#"{"a": 1.50}"#));
        let error = CallError::new(ErrorCode::NOT_SUPPORTED, "no").with_raw_details(params());
        let closed = CloseInfo { code: 1006, reason: String::new(), cause: CloseCause::PingTimeout };
        let direction = Direction::In;
        let text = || Text(ByteString::from_static("[]"));
        for (kind, expected) in [
            (EventKind::Connecting, json!({"type": "connecting"})),
            (
                EventKind::ConnectFailed { status: Some(401), error: "refused".to_owned() },
                json!({"type": "connect_failed", "status": 401, "error": "refused"}),
            ),
            (EventKind::Opened { protocol: None }, json!({"type": "opened", "protocol": null})),
            (EventKind::Closed(closed), json!({"type": "closed", "code": 1006, "reason": "", "cause": "ping_timeout"})),
            (EventKind::Received(text()), json!({"type": "received", "text": "[]"})),
            (
                EventKind::Call { direction, id: id.clone(), action: action.clone(), params: params() },
                json!({"type": "call", "direction": "in", "id": "7", "action": "Echo", "params": {"a": 1.5}}),
            ),
            (
                EventKind::CallError { direction: Direction::Out, id: id.clone(), action: Some(action.clone()), error },
                json!({
                    "type": "call_error", "direction": "out", "id": "7", "action": "Echo",
                    "error": {"code": "NotSupported", "description": "no", "details": {"a": 1.5}},
                }),
            ),
            (EventKind::ResponseWritten(id.clone()), json!({"type": "response_written", "id": "7"})),
            (
                EventKind::BadMessage { text: text(), id: None, error: MessageError::NoMessageType, response: None },
                json!({"type": "bad_message", "text": "[]", "id": null, "error": "no_message_type", "response": null}),
            ),
            (
                EventKind::CallEnded {
                    direction,
                    id: id.clone(),
                    action: action.clone(),
                    outcome: CallOutcome::Failed(Error::Timeout),
                    duration: Duration::from_millis(250),
                },
                json!({
                    "type": "call_ended", "direction": "in", "id": "7", "action": "Echo", "outcome": "timeout",
                    "seconds": 0.25,
                }),
            ),
            (
                EventKind::Deviation { deviation: Deviation::EmptyMessage, text: Some(text()) },
                json!({"type": "deviation", "deviation": "empty_message", "text": "[]"}),
            ),
            (EventKind::Pong(Duration::from_millis(250)), json!({"type": "pong", "seconds": 0.25})),
            (
                EventKind::ValidationFailed {
                    direction,
                    kind: PayloadKind::Request,
                    action,
                    id,
                    payload: params(),
                    violation: Violation::new(ErrorCode::FORMAT_VIOLATION, "/a", "is wrong"),
                    enforced: true,
                },
                json!({
                    "type": "validation_failed", "direction": "in", "kind": "request", "action": "Echo", "id": "7",
                    "payload": {"a": 1.5},
                    "violation": {"code": "FormatViolation", "pointer": "/a", "reason": "is wrong"}, "enforced": true,
                }),
            ),
            (
                EventKind::Activity(Box::default()),
                json!({
                    "type": "activity", "sessions": 0, "calls_in": vec![0; 19], "calls_out": vec![0; 19],
                    "untimed_in": 0, "untimed_out": 0, "errors": 0,
                }),
            ),
            (EventKind::Lagged(3), json!({"type": "lagged", "events": 3})),
        ] {
            let mut expected = expected;
            expected["at"] = json!(1500);
            expected["session_id"] = json!(7);
            expected["key"] = json!("acme/CP-1");
            expected["identity"] = json!("CP-1");
            expected["remote_address"] = json!("192.0.2.1:50000");
            assert_eq!(expected["type"], kind.name());
            let text = serde_json::to_string(&event(kind)).expect("JSON");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), expected);
            let has_payload =
                ["params", "details", "payload"].iter().any(|name| text.contains(&format!("\"{name}\":")));
            assert_eq!(text.contains(r#"{"a": 1.50}"#), has_payload, "payloads are written unchanged: {text}");
        }
    }
}
