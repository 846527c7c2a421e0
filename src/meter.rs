//! Counts and times, through the `metrics` facade: whoever installs a recorder gets them.
//!
//! No label is taken from what a peer sends, so that their number is small and known.

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
    counter!("ocpp_rpc_messages_total", "direction" => way(direction)).increment(1);
    counter!("ocpp_rpc_message_bytes_total", "direction" => way(direction)).increment(bytes as u64);
}

/// A call of the peer's was answered, or not.
pub(crate) fn handled(reply: &Reply, since: Stopwatch) {
    let outcome = match reply {
        Reply::Result(_) => "result",
        Reply::Error(_) => "error",
        Reply::Nothing => "no reply",
        Reply::Given => "given early",
    };
    call(Direction::In, outcome, since);
}

/// A call of ours has ended.
pub(crate) fn called<T>(outcome: &Result<T, Error>, since: Stopwatch) {
    call(Direction::Out, outcome.as_ref().err().map_or("result", Error::name), since);
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}

fn call(direction: Direction, outcome: &'static str, since: Stopwatch) {
    counter!("ocpp_rpc_calls_total", "direction" => way(direction), "outcome" => outcome).increment(1);
    histogram!("ocpp_rpc_call_seconds", "direction" => way(direction)).record(since.0.elapsed());
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
