//! Counts and times, through the `metrics` facade: whoever installs a recorder gets them.
//!
//! No label is taken from what a peer sends, so that their number is small and known. Labels of what happens at every
//! message are literals: such a key is made once, and for no other label is it without cost.

use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};

use crate::{
    close::Closed,
    connection::Reply,
    error::Error,
    event::{Direction, EventKind},
};

/// When something began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

/// A connection that is open until this is dropped.
#[derive(Debug)]
pub(crate) struct Connection;

impl Connection {
    pub(crate) fn opened() -> Self {
        counter!("ocpp_rpc_connections_opened_total").increment(1);
        gauge!("ocpp_rpc_connections").increment(1);
        Self
    }

    pub(crate) fn closed(self, closed: &Closed) {
        counter!("ocpp_rpc_connections_closed_total", "cause" => closed.cause.name()).increment(1);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        gauge!("ocpp_rpc_connections").decrement(1);
    }
}

pub(crate) fn refused(status: Option<u16>) {
    let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
    counter!("ocpp_rpc_handshakes_refused_total", "status" => status).increment(1);
}

pub(crate) fn message(direction: Direction, bytes: usize) {
    let (messages, total) = match direction {
        Direction::In => (
            counter!("ocpp_rpc_messages_total", "direction" => "in"),
            counter!("ocpp_rpc_message_bytes_total", "direction" => "in"),
        ),
        Direction::Out => (
            counter!("ocpp_rpc_messages_total", "direction" => "out"),
            counter!("ocpp_rpc_message_bytes_total", "direction" => "out"),
        ),
    };
    messages.increment(1);
    total.increment(bytes as u64);
}

/// A call of the peer's was answered, or not.
pub(crate) fn handled(reply: &Reply, since: Stopwatch) {
    match reply {
        Reply::Result(_) => counter!("ocpp_rpc_calls_total", "direction" => "in", "outcome" => "result"),
        Reply::Error(_) => counter!("ocpp_rpc_calls_total", "direction" => "in", "outcome" => "error"),
        Reply::Nothing => counter!("ocpp_rpc_calls_total", "direction" => "in", "outcome" => "no reply"),
        Reply::Given => counter!("ocpp_rpc_calls_total", "direction" => "in", "outcome" => "given early"),
    }
    .increment(1);
    histogram!("ocpp_rpc_call_seconds", "direction" => "in").record(since.0.elapsed());
}

/// A call of ours has ended.
pub(crate) fn called<T>(outcome: &Result<T, Error>, since: Stopwatch) {
    match outcome {
        Ok(_) => counter!("ocpp_rpc_calls_total", "direction" => "out", "outcome" => "result"),
        Err(error) => counter!("ocpp_rpc_calls_total", "direction" => "out", "outcome" => error.name()),
    }
    .increment(1);
    histogram!("ocpp_rpc_call_seconds", "direction" => "out").record(since.0.elapsed());
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}

pub(crate) fn pong(time: Duration) {
    histogram!("ocpp_rpc_ping_seconds").record(time);
}

/// Something that is out of the ordinary.
pub(crate) fn news(news: &EventKind) {
    match news {
        EventKind::BadMessage { .. } => counter!("ocpp_rpc_bad_messages_total").increment(1),
        EventKind::LateAnswer(_) => counter!("ocpp_rpc_late_answers_total").increment(1),
        EventKind::Deviation { deviation, .. } => {
            counter!("ocpp_rpc_deviations_total", "deviation" => deviation.to_string()).increment(1);
        }
        EventKind::Invalid { direction, .. } => {
            counter!("ocpp_rpc_violations_total", "direction" => way(*direction)).increment(1);
        }
        _ => {}
    }
}
