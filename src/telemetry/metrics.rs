//! Counters and histograms, through the `metrics` facade.
//!
//! [`Metrics`] keeps handles for the metrics of each message and call, because a look-up by name costs more. Rare
//! metrics are looked up.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, gauge, histogram};

use crate::{
    close::info::CloseInfo,
    error::Error,
    event::kind::{Direction, EventKind},
    response::Response,
    telemetry::descriptions,
};

/// The metric handles of one server, or of one client.
#[derive(Debug)]
pub(super) struct Metrics {
    received: Messages,
    sent: Messages,
    handled: Handled,
    called: Called,
}

/// The messages of one direction.
#[derive(Debug)]
struct Messages {
    count: Counter,
    bytes: Counter,
    uncompressed_bytes: Counter,
    compressed_bytes: Counter,
}

/// The calls of the peer, by their response.
#[derive(Debug)]
struct Handled {
    result: Counter,
    rejected: Counter,
    nothing: Counter,
    given: Counter,
    seconds: Histogram,
}

/// The calls to the peer. Outcomes other than a result are rare and have no handle.
#[derive(Debug)]
struct Called {
    result: Counter,
    seconds: Histogram,
}

const MESSAGES: &str = "ocpp_rpc_messages_total";
const BYTES: &str = "ocpp_rpc_message_bytes_total";
const UNCOMPRESSED_BYTES: &str = "ocpp_rpc_uncompressed_bytes_total";
const COMPRESSED_BYTES: &str = "ocpp_rpc_compressed_bytes_total";
const CALLS: &str = "ocpp_rpc_calls_total";
const SECONDS: &str = "ocpp_rpc_call_seconds";

impl Metrics {
    /// Creates the handles in the recorder that is installed now, and describes all metrics to it.
    pub(super) fn new() -> Self {
        descriptions::describe();
        let messages = |direction: &'static str| Messages {
            count: counter!(MESSAGES, "direction" => direction),
            bytes: counter!(BYTES, "direction" => direction),
            uncompressed_bytes: counter!(UNCOMPRESSED_BYTES, "direction" => direction),
            compressed_bytes: counter!(COMPRESSED_BYTES, "direction" => direction),
        };
        let handled = |outcome: &'static str| counter!(CALLS, "direction" => "in", "outcome" => outcome);
        Self {
            received: messages("in"),
            sent: messages("out"),
            handled: Handled {
                result: handled("result"),
                rejected: handled("rejected"),
                nothing: handled("no_response"),
                given: handled("responded_early"),
                seconds: histogram!(SECONDS, "direction" => "in"),
            },
            called: Called {
                result: counter!(CALLS, "direction" => "out", "outcome" => "result"),
                seconds: histogram!(SECONDS, "direction" => "out"),
            },
        }
    }

    /// Counts a message, its bytes, and the bytes before and after compression.
    pub(super) fn message(&self, direction: Direction, text_len: usize, compressed_len: Option<usize>) {
        let messages = match direction {
            Direction::In => &self.received,
            Direction::Out => &self.sent,
        };
        messages.count.increment(1);
        messages.bytes.increment(text_len as u64);
        if let Some(compressed_len) = compressed_len {
            messages.uncompressed_bytes.increment(text_len as u64);
            messages.compressed_bytes.increment(compressed_len as u64);
        }
    }

    /// Counts a call of the peer.
    pub(super) fn handled(&self, response: &Response, time: Duration) {
        let Handled { result, rejected, nothing, given, seconds } = &self.handled;
        let calls = match response {
            Response::Result(_) => result,
            Response::Error(_) => rejected,
            Response::Nothing => nothing,
            Response::Given => given,
        };
        calls.increment(1);
        seconds.record(time);
    }

    /// Counts a call of the peer that is rejected without a handler.
    pub(super) fn unhandled(&self) {
        self.handled.rejected.increment(1);
    }

    /// Counts a call to the peer.
    pub(super) fn called(&self, error: Option<&Error>, time: Duration) {
        match error {
            None => self.called.result.increment(1),
            Some(error) => counter!(CALLS, "direction" => "out", "outcome" => error.name()).increment(1),
        }
        self.called.seconds.record(time);
    }
}

/// Counts a connection that opens.
pub(super) fn connection_opened() {
    counter!("ocpp_rpc_connections_opened_total").increment(1);
    gauge!("ocpp_rpc_connections").increment(1);
}

/// Counts a connection that closes, by its cause.
pub(super) fn connection_closed(closed: &CloseInfo) {
    counter!("ocpp_rpc_connections_closed_total", "cause" => closed.cause.to_string()).increment(1);
}

/// Counts a connection as no longer open.
pub(super) fn connection_dropped() {
    gauge!("ocpp_rpc_connections").decrement(1);
}

/// Counts an event if it has a metric.
pub(super) fn event(kind: &EventKind) {
    match kind {
        EventKind::HandshakeRefused { status, .. } => {
            let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
            counter!("ocpp_rpc_handshakes_refused_total", "status" => status).increment(1);
        }
        EventKind::IdentityConflict => counter!("ocpp_rpc_identity_conflicts_total").increment(1),
        EventKind::Pong(time) => histogram!("ocpp_rpc_ping_seconds").record(*time),
        EventKind::BadMessage { .. } => counter!("ocpp_rpc_bad_messages_total").increment(1),
        EventKind::LateResponse(_) => counter!("ocpp_rpc_late_responses_total").increment(1),
        EventKind::UnmatchedResponse(_) => counter!("ocpp_rpc_unmatched_responses_total").increment(1),
        EventKind::Deviation { deviation, .. } => {
            counter!("ocpp_rpc_deviations_total", "deviation" => deviation.name()).increment(1);
        }
        EventKind::ValidationFailed { direction, .. } => {
            let direction = match direction {
                Direction::In => "in",
                Direction::Out => "out",
            };
            counter!("ocpp_rpc_violations_total", "direction" => direction).increment(1);
        }
        _ => {}
    }
}
