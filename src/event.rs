//! Events: what happens on connections, for logs, dashboards and audits.
//!
//! Events cost nothing while no reader exists: they are not even created. A slow reader loses the oldest ones, learns
//! how many, and never slows a connection.
//!
//! An [`Event`] serializes to JSON, and [`Events`] is a [`Stream`]: together they make server-sent events, or lines of a
//! log.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use bytestring::ByteString;
use futures_core::Stream;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::ReusableBoxFuture;

use crate::{
    close::info::CloseInfo,
    error::{CallError, ErrorCode, Violation},
    message::{
        kinds::{Message, MessageError},
        payload::{MessageId, Payload},
        tolerance::Deviation,
    },
    text::impl_text,
    validate::validator::PayloadKind,
};

/// An event, with its time and station.
///
/// It serializes to a flat JSON object, by `serde_json` only, as payloads stay unread:
///
/// ```json
/// {
///   "at": 1767225600000,
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
/// `at` is the Unix time in milliseconds. `type` is the name of the [`EventKind`] in snake case, and its fields follow.
/// The one value of `received` and `sent` is named `text`, that of `response_written` and `late_response` `id`, that of
/// `pong` `seconds`, and that of `lagged` `events`. A call error is an object of `code`, `description` and `details`;
/// what is absent is `null`.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// The time of the event.
    #[serde(serialize_with = "unix_milliseconds")]
    pub at: SystemTime,
    /// The identity of the charging station. `None` if unknown.
    #[serde(serialize_with = "shared_text")]
    pub identity: Option<Arc<str>>,
    /// The address of the peer. `None` if unknown.
    pub remote_address: Option<SocketAddr>,
    /// The kind of event, with its data.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kind of an event, with its data.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A client begins an attempt to connect.
    Connecting,
    /// A session was registered, or a client is connected.
    #[non_exhaustive]
    Opened {
        /// The negotiated subprotocol.
        #[serde(serialize_with = "shared_text")]
        protocol: Option<Arc<str>>,
    },
    /// A client lost its connection and will reconnect.
    Disconnected(CloseInfo),
    /// The application, or a newer connection of the same identity, began to close a session or client.
    Closing,
    /// A session or a client ended. A session that a newer one replaced has the cause
    /// [`Replaced`](crate::close::CloseCause::Replaced).
    Closed(CloseInfo),
    /// A handshake was refused, or broke off.
    #[non_exhaustive]
    HandshakeRefused {
        /// The HTTP status of the response, if there was one: 101 for a client that offers no common subprotocol.
        status: Option<u16>,
        /// The reason.
        reason: String,
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
    /// The response to the call with this id was written to the transport.
    #[serde(serialize_with = "id_field")]
    ResponseWritten(MessageId),
    /// A message was received that cannot be served.
    #[non_exhaustive]
    BadMessage {
        /// The message.
        text: Text,
        /// The error of the message.
        error: MessageError,
        /// The code of the CALLERROR that was sent, if one was sent.
        response: Option<ErrorCode>,
    },
    /// A response was received for a call that timed out or was dropped.
    #[serde(serialize_with = "id_field")]
    LateResponse(MessageId),
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
        /// The violation.
        violation: Violation,
        /// True if the message was stopped, false if the violation was
        /// [only reported](crate::validate::Validation::report_only).
        enforced: bool,
    },
    /// This many events before this one were lost, because they were not read in time.
    #[serde(serialize_with = "events_field")]
    Lagged(u64),
}

impl EventKind {
    /// Returns the event for the content of a message.
    pub(crate) fn of(message: Message, direction: Direction) -> Self {
        match message {
            Message::Call { id, action, payload } => {
                Self::Call { direction, id, action: Text(action), params: payload }
            }
            Message::CallResult { id, payload } => Self::CallResult { direction, id, result: payload },
            Message::CallError { id, error } => Self::CallError { direction, id, error },
            Message::CallResultError { id, error } => Self::CallResultError { direction, id, error },
            Message::Send { id, action, payload } => {
                Self::Send { direction, id, action: Text(action), params: payload }
            }
        }
    }
}

fn unix_milliseconds<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
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

fn events_field<S: Serializer>(events: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    one_field(serializer, "events", events)
}

/// Serializes a lone value as an object, which can take the tag.
fn one_field<S: Serializer>(serializer: S, name: &'static str, value: &impl Serialize) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_struct("", 1)?;
    object.serialize_field(name, value)?;
    object.end()
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

/// A reader of events, from its creation on.
///
/// It is a [`Stream`] of [`Event`]s. [`next`](Self::next) reads without any trait; it takes precedence over the method of
/// the same name in `StreamExt` and does the same.
///
/// A reader holds the latest [`CAPACITY`](Self::CAPACITY) events with their messages. One that reads too slowly gets
/// [`EventKind::Lagged`].
#[derive(Debug)]
pub struct Events {
    /// The next event, and the receiver that it came from. A broadcast has no poll.
    receiving: ReusableBoxFuture<'static, Received>,
    bus: Arc<EventBus>,
}

type Received = (Result<Event, RecvError>, broadcast::Receiver<Event>);

async fn receive(mut receiver: broadcast::Receiver<Event>) -> Received {
    let received = receiver.recv().await;
    (received, receiver)
}

impl Events {
    /// The number of events that a reader holds.
    pub const CAPACITY: usize = 4096;

    /// Waits for the next event; `None` if there will be no more, because the server or client is gone.
    ///
    /// # Cancel safety
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let (received, receiver) = ready!(self.receiving.poll(cx));
        self.receiving.set(receive(receiver));
        Poll::Ready(match received {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(events)) => Some(Event {
                at: SystemTime::now(),
                identity: None,
                remote_address: None,
                kind: EventKind::Lagged(events),
            }),
            Err(RecvError::Closed) => None,
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.bus.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The channel from many connections to the readers of their events.
#[derive(Debug, Default)]
pub(crate) struct EventBus {
    readers: AtomicUsize,
    sender: Mutex<Sender>,
}

#[derive(Debug, Default)]
enum Sender {
    #[default]
    Unused,
    /// Created for the first reader.
    Used(broadcast::Sender<Event>),
    Ended,
}

impl EventBus {
    pub(crate) fn subscribe(self: &Arc<Self>) -> Events {
        let mut sender = self.sender();
        if let Sender::Unused = *sender {
            *sender = Sender::Used(broadcast::Sender::new(Events::CAPACITY));
        }
        let receiver = match &*sender {
            Sender::Used(sender) => sender.subscribe(),
            Sender::Unused | Sender::Ended => broadcast::channel(1).1,
        };
        self.readers.fetch_add(1, Ordering::Relaxed);
        Events { receiving: ReusableBoxFuture::new(receive(receiver)), bus: self.clone() }
    }

    /// Returns true if there is a reader.
    pub(crate) fn is_read(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Sends an event to the readers. Without a reader it is not created.
    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        if !self.is_read() {
            return;
        }
        if let Sender::Used(sender) = &*self.sender() {
            // The last reader may have been dropped in this moment.
            let _ = sender.send(event());
        }
    }

    /// Ends the streams of all readers.
    pub(crate) fn end(&self) {
        *self.sender() = Sender::Ended;
    }

    fn sender(&self) -> MutexGuard<'_, Sender> {
        // No code that runs under the lock can panic half-way.
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::close::info::CloseCause;

    fn pong() -> Event {
        event(EventKind::Pong(Duration::ZERO))
    }

    fn event(kind: EventKind) -> Event {
        Event { at: SystemTime::UNIX_EPOCH + Duration::from_millis(1500), identity: None, remote_address: None, kind }
    }

    #[test]
    fn event_without_a_reader_is_not_created() {
        let bus = Arc::new(EventBus::default());
        bus.emit(|| unreachable!());
        drop(bus.subscribe());
        bus.emit(|| unreachable!());
    }

    #[tokio::test]
    async fn slow_reader_learns_how_many_events_it_lost() {
        let bus = Arc::new(EventBus::default());
        let mut events = bus.subscribe();
        for _ in 0..Events::CAPACITY + 3 {
            bus.emit(pong);
        }
        assert!(matches!(events.next().await, Some(Event { kind: EventKind::Lagged(3), .. })));
        assert!(matches!(events.next().await, Some(Event { kind: EventKind::Pong(_), .. })));
    }

    #[tokio::test]
    async fn events_are_a_stream_that_ends_and_loses_none_to_a_dropped_future() {
        use futures_util::{FutureExt, StreamExt};

        let bus = Arc::new(EventBus::default());
        let mut events = bus.subscribe();
        assert!(events.next().now_or_never().is_none());
        bus.emit(pong);
        bus.emit(|| event(EventKind::Connecting));
        assert!(matches!(StreamExt::next(&mut events).await, Some(Event { kind: EventKind::Pong(_), .. })));
        bus.end();
        assert!(matches!(events.next().await, Some(Event { kind: EventKind::Connecting, .. })));
        assert!(events.next().await.is_none() && StreamExt::next(&mut events).await.is_none());
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
            (EventKind::Opened { protocol: None }, json!({"type": "opened", "protocol": null})),
            (EventKind::Closed(closed), json!({"type": "closed", "code": 1006, "reason": "", "cause": "ping_timeout"})),
            (EventKind::Received(text()), json!({"type": "received", "text": "[]"})),
            (
                EventKind::Call { direction, id: id.clone(), action: action.clone(), params: params() },
                json!({"type": "call", "direction": "in", "id": "7", "action": "Echo", "params": {"a": 1.5}}),
            ),
            (
                EventKind::CallError { direction: Direction::Out, id: id.clone(), error },
                json!({
                    "type": "call_error", "direction": "out", "id": "7",
                    "error": {"code": "NotSupported", "description": "no", "details": {"a": 1.5}},
                }),
            ),
            (EventKind::ResponseWritten(id.clone()), json!({"type": "response_written", "id": "7"})),
            (
                EventKind::BadMessage { text: text(), error: MessageError::NoMessageType, response: None },
                json!({"type": "bad_message", "text": "[]", "error": "no_message_type", "response": null}),
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
                    violation: Violation::new(ErrorCode::FORMAT_VIOLATION, "/a", "is wrong"),
                    enforced: true,
                },
                json!({
                    "type": "validation_failed", "direction": "in", "kind": "request", "action": "Echo", "id": "7",
                    "violation": {"code": "FormatViolation", "pointer": "/a", "reason": "is wrong"}, "enforced": true,
                }),
            ),
            (EventKind::Lagged(3), json!({"type": "lagged", "events": 3})),
        ] {
            let mut expected = expected;
            expected["at"] = json!(1500);
            expected["identity"] = json!("CP-1");
            expected["remote_address"] = json!("192.0.2.1:50000");
            let event =
                Event { identity: Some("CP-1".into()), remote_address: "192.0.2.1:50000".parse().ok(), ..event(kind) };
            let text = serde_json::to_string(&event).expect("JSON");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), expected);
            let has_payload = text.contains(r#""params":"#) || text.contains(r#""details":"#);
            assert_eq!(text.contains(r#"{"a": 1.50}"#), has_payload, "payloads are written unchanged: {text}");
        }
    }
}
