//! The messages between nodes, as JSON.
//!
//! Readers ignore fields that they do not know, so that nodes of two releases work together. Durations are milliseconds.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use crate::{
    close::{
        info::CloseInfo,
        intent::{Close, CloseMode},
    },
    cluster::{
        epoch::{Epoch, NodeId},
        filter::EventFilter,
    },
    connection::calls_out::{Kind, Timeout},
    error::{CallError, Error, ErrorCode, Violation},
    info::StationInfo,
    message::payload::Payload,
    route::RemoteCall,
    unix_time,
};

/// A request to a station, or to the node that it is connected to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) key: Box<str>,
    pub(crate) mode: Mode,
    /// The time of the caller's clock after which the request must not be carried out, in milliseconds since the Unix
    /// epoch.
    pub(crate) expires: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) action: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) params: Option<Payload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// The time that the response may take. Absent as the options of the session say, `null` without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub(crate) timeout: Option<Option<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) total_timeout: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) close: Option<CloseRequest>,
    /// The request that the caller looks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    Call,
    BypassQueue,
    FireAndForget,
    BypassAndForget,
    Send,
    Info,
    /// Asks if an earlier request has arrived. If not, the response is that the station is not connected.
    Look,
    Close,
    /// Asks for the recorded messages of the station. The query is in `params`.
    Recorded,
}

/// A request to close a session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CloseRequest {
    code: u16,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drain: Option<u64>,
    #[serde(default)]
    forced: bool,
}

/// The answer to a request.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Response {
    /// The node that has begun to carry out the request, if that takes long. Another response follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) taken: Option<NodeId>,
    /// The result of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Payload>,
    /// The node that takes a CALLRESULTERROR for the result, if the protocol has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rejectable_at: Option<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<WireError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) info: Option<StationInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) closed: Option<CloseInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) page: Option<Page>,
    /// The recorded messages of a station. Absent if the node records none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recorded: Option<Payload>,
}

/// A part of the list of a node's stations, in the order of their keys.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) node: NodeId,
    pub(crate) name: Box<str>,
    pub(crate) stations: Vec<StationInfo>,
    /// Whether there are stations behind the last one.
    pub(crate) more: bool,
}

/// A message to one node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Control {
    /// The caller no longer waits for this request.
    Cancel { from: NodeId, request: u64 },
    /// Asks for an [`Alive`](Self::Alive).
    Probe { from: NodeId, probe: u64, requests: Vec<u64> },
    /// The node is alive, as the answer to the probe of this number. It does not carry out `unknown`, of the requests that
    /// the probe named.
    Alive { from: NodeId, probe: u64, unknown: Vec<u64> },
    /// The CALLRESULTERROR for the result of this request, which the caller cannot use.
    CallResultError { from: NodeId, request: u64, error: WireError },
    /// Asks for the stations behind this key whose keys begin with `prefix`.
    List {
        from: NodeId,
        request: u64,
        after: Box<str>,
        #[serde(default, skip_serializing_if = "str::is_empty")]
        prefix: Box<str>,
    },
    /// The answer to [`Introduce`](Broadcast::Introduce).
    Here(Introduction),
    /// Asks for the sessions behind this number, because an announcement is missing.
    Announce { from: NodeId, after: u64 },
    /// The first part of them. The receiver asks for the next one.
    Open(Announcement),
}

/// A message to all nodes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Broadcast {
    /// Sessions that have opened, or that take precedence over those of other nodes.
    Open(Announcement),
    /// Asks each node for an introduction.
    Introduce {
        from: NodeId,
    },
    /// A node is alive.
    Here(Introduction),
    Leaving {
        from: NodeId,
    },
    /// Asks each node for the first page of its stations whose keys begin with `prefix`.
    List {
        from: NodeId,
        request: u64,
        #[serde(default, skip_serializing_if = "str::is_empty")]
        prefix: Box<str>,
    },
    /// Asks for events for this many milliseconds.
    Watch {
        from: NodeId,
        watch: u64,
        filter: EventFilter,
        lease: u64,
    },
    /// The caller no longer waits for this request, and does not know the node that carries it out.
    Cancel {
        from: NodeId,
        request: u64,
    },
}

impl Control {
    /// Returns `true` for the messages of a caller and the responses to them. Any process that may call one station may
    /// send them.
    pub(crate) fn may_be_about_a_station(&self) -> bool {
        matches!(self, Self::Cancel { .. } | Self::Probe { .. } | Self::Alive { .. } | Self::CallResultError { .. })
    }
}

impl Broadcast {
    /// Returns `true` for the messages that any process may send that may call the station with this key.
    pub(crate) fn may_be_about(&self, key: &str) -> bool {
        match self {
            Self::Cancel { .. } => true,
            Self::Watch { filter, .. } => filter.only_key() == Some(key),
            _ => false,
        }
    }
}

/// A sign of life of a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Introduction {
    pub(crate) from: NodeId,
    pub(crate) name: Box<str>,
    /// The time of the node, in milliseconds since the Unix epoch.
    pub(crate) at: u64,
    /// The highest epoch that the node knows.
    pub(crate) clock: Epoch,
    /// The number up to which the node has announced its sessions.
    pub(crate) announced: u64,
}

/// The sessions of a node with the numbers behind `after` up to `until`, in order. Those that have closed are left out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Announcement {
    pub(crate) from: NodeId,
    pub(crate) after: u64,
    pub(crate) until: u64,
    pub(crate) sessions: Vec<Announced>,
}

/// A session that a node announces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Announced {
    pub(crate) key: Box<str>,
    pub(crate) epoch: Epoch,
    /// The session of another node that this one takes precedence over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) over: Option<Epoch>,
}

/// An [`Error`] on its way to the caller.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct WireError {
    kind: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// The description of a call error, or the text of another error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Payload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maybe_delivered: Option<bool>,
}

/// Serializes a message. No message between nodes can fail to serialize; an empty one would be unreadable.
pub(crate) fn encode(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message).unwrap_or_default().into()
}

/// Reads a message of another node.
pub(crate) fn decode<T: DeserializeOwned>(message: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(message)
}

/// Returns the whole milliseconds of a duration, rounded up.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Tells a field that is `null` from one that is absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Request {
    /// Creates a request that is not a call.
    pub(crate) fn new(key: &str, mode: Mode, expires: SystemTime) -> Self {
        Self {
            key: key.into(),
            mode,
            expires: unix_time::millis(expires),
            action: None,
            params: None,
            id: None,
            timeout: None,
            total_timeout: None,
            close: None,
            request: None,
        }
    }

    /// Creates the request that looks for an earlier one.
    pub(crate) fn look(key: &str, request: u64, expires: SystemTime) -> Self {
        Self { request: Some(request), ..Self::new(key, Mode::Look, expires) }
    }

    /// Creates the request of a call.
    pub(crate) fn call(call: RemoteCall, expires: SystemTime) -> Self {
        let mode = match call.kind {
            Kind::Call | Kind::Raw => Mode::Call,
            Kind::Immediate => Mode::BypassQueue,
            Kind::FireAndForget => Mode::FireAndForget,
            Kind::ImmediateAndForget => Mode::BypassAndForget,
            Kind::Send => Mode::Send,
        };
        Self {
            action: Some(call.action),
            params: Some(call.params),
            id: call.id,
            timeout: match call.timeout {
                Timeout::Default => None,
                Timeout::After(timeout) => Some(Some(millis(timeout))),
                Timeout::Never => Some(None),
            },
            total_timeout: call.total_timeout.map(millis),
            ..Self::new(&call.key, mode, expires)
        }
    }

    /// Returns the kind of the call. `None` if the request is not a call.
    pub(crate) fn kind(&self) -> Option<Kind> {
        Some(match self.mode {
            Mode::Call => Kind::Call,
            Mode::BypassQueue => Kind::Immediate,
            Mode::FireAndForget => Kind::FireAndForget,
            Mode::BypassAndForget => Kind::ImmediateAndForget,
            Mode::Send => Kind::Send,
            Mode::Info | Mode::Look | Mode::Close | Mode::Recorded => return None,
        })
    }
}

impl From<&Close> for CloseRequest {
    fn from(close: &Close) -> Self {
        let drain = match close.mode() {
            CloseMode::Drain(timeout) => Some(millis(timeout)),
            CloseMode::Immediate | CloseMode::Forced => None,
        };
        let forced = close.mode() == CloseMode::Forced;
        Self { code: close.code(), reason: close.reason_text().to_owned(), drain, forced }
    }
}

impl From<CloseRequest> for Close {
    fn from(request: CloseRequest) -> Self {
        let close = if request.forced { Self::forced() } else { Self::new(request.code).reason(request.reason) };
        match request.drain {
            Some(drain) => close.drain(Duration::from_millis(drain)),
            None => close,
        }
    }
}

/// Writes the response with the result of a call. Faster than serde, which would read the payload once more.
pub(crate) fn encode_result(payload: &Payload, rejectable_at: Option<NodeId>) -> Bytes {
    let rejectable = rejectable_at.map_or(String::new(), |node| format!(",\"rejectable_at\":\"{node}\""));
    format!("{{\"result\":{}{rejectable}}}", payload.as_str()).into()
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        let kind = |kind: &'static str| Self { kind: kind.into(), ..Self::default() };
        match error {
            Error::Rejected(error) => Self {
                code: Some(error.code().as_str().to_owned()),
                text: Some(error.description().to_owned()),
                details: error.details().cloned(),
                ..kind("rejected")
            },
            Error::Disconnected { maybe_delivered } => {
                Self { maybe_delivered: Some(*maybe_delivered), ..kind("disconnected") }
            }
            Error::TooLarge { maybe_delivered } => {
                Self { maybe_delivered: Some(*maybe_delivered), ..kind("too_large") }
            }
            Error::Invalid(violation) => Self {
                code: Some(violation.code().as_str().to_owned()),
                pointer: Some(violation.pointer().to_owned()),
                text: Some(violation.reason().to_owned()),
                ..kind("invalid")
            },
            Error::InvalidMessageId { reason } => {
                Self { text: Some((*reason).to_owned()), ..kind("invalid_message_id") }
            }
            Error::Decode(error) => Self { text: Some(error.to_string()), ..kind("decode") },
            Error::Encode(error) => Self { text: Some(error.to_string()), ..kind("encode") },
            Error::Timeout => kind("timeout"),
            Error::NeverSent => kind("never_sent"),
            Error::NotConnected => kind("not_connected"),
            Error::Closing => kind("closing"),
            Error::Closed => kind("closed"),
            Error::Cancelled => kind("cancelled"),
            Error::QueueFull => kind("queue_full"),
            Error::SendNotSupported => kind("send_not_supported"),
            Error::Unreachable => kind("unreachable"),
            // Calls of other nodes pass no layers here.
            Error::Layer(_) => Self { maybe_delivered: Some(true), ..kind("layer") },
        }
    }
}

impl From<WireError> for Error {
    /// A kind that this release does not know becomes a disconnect after which the call may have been carried out.
    fn from(error: WireError) -> Self {
        let text = error.text.unwrap_or_default();
        let code = ErrorCode::new(error.code.unwrap_or_default());
        let maybe_delivered = error.maybe_delivered.unwrap_or(true);
        match &*error.kind {
            "rejected" => {
                let rejected = CallError::new(code, text);
                Self::Rejected(match error.details {
                    Some(details) => rejected.with_raw_details(details),
                    None => rejected,
                })
            }
            "too_large" => Self::TooLarge { maybe_delivered },
            "invalid" => Violation::new(code, error.pointer.unwrap_or_default(), text).into(),
            "invalid_message_id" => Self::InvalidMessageId { reason: ANOTHER_HAS_IT },
            "decode" => <serde_json::Error as serde::de::Error>::custom(text).into(),
            "timeout" => Self::Timeout,
            "never_sent" => Self::NeverSent,
            "not_connected" => Self::NotConnected,
            "closing" => Self::Closing,
            "closed" => Self::Closed,
            "cancelled" => Self::Cancelled,
            "queue_full" => Self::QueueFull,
            "send_not_supported" => Self::SendNotSupported,
            "unreachable" => Self::Unreachable,
            _ => Self::Disconnected { maybe_delivered },
        }
    }
}

/// The reason of an invalid message id that only the owner of the session can find. The caller has checked its length.
const ANOTHER_HAS_IT: &str = "another pending call has it";

impl From<CallError> for WireError {
    fn from(error: CallError) -> Self {
        Self::from(&Error::Rejected(error))
    }
}

#[cfg(test)]
mod tests;
