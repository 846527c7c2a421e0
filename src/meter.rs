//! Counts and times, through the `metrics` facade: whoever has installed a recorder gets them.
//!
//! No label is taken from what a peer sends, so that their number is small and known. What happens at every message is
//! counted by handles that a [`Meter`] keeps; what is rare is looked up by name.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::{Counter, Histogram, counter, gauge, histogram};

use crate::{
    close::Closed,
    connection::Reply,
    error::Error,
    event::{Direction, EventKind},
};

/// Counts messages and calls, for the recorder that there was when it was made. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Meter(Arc<Handles>);

#[derive(Debug)]
struct Handles {
    received: Messages,
    sent: Messages,
    handled: Handled,
    called: Called,
}

#[derive(Debug)]
struct Messages {
    count: Counter,
    bytes: Counter,
}

/// Calls of the peer's, by what they were answered with.
#[derive(Debug)]
struct Handled {
    result: Counter,
    error: Counter,
    nothing: Counter,
    given: Counter,
    seconds: Histogram,
}

/// Calls of ours; whatever else becomes of them is rare.
#[derive(Debug)]
struct Called {
    result: Counter,
    seconds: Histogram,
}

const MESSAGES: &str = "ocpp_rpc_messages_total";
const BYTES: &str = "ocpp_rpc_message_bytes_total";
const CALLS: &str = "ocpp_rpc_calls_total";
const SECONDS: &str = "ocpp_rpc_call_seconds";

impl Meter {
    pub(crate) fn new() -> Self {
        let messages = |way: &'static str| Messages {
            count: counter!(MESSAGES, "direction" => way),
            bytes: counter!(BYTES, "direction" => way),
        };
        let handled = |outcome: &'static str| counter!(CALLS, "direction" => "in", "outcome" => outcome);
        Self(Arc::new(Handles {
            received: messages("in"),
            sent: messages("out"),
            handled: Handled {
                result: handled("result"),
                error: handled("error"),
                nothing: handled("no reply"),
                given: handled("given early"),
                seconds: histogram!(SECONDS, "direction" => "in"),
            },
            called: Called {
                result: counter!(CALLS, "direction" => "out", "outcome" => "result"),
                seconds: histogram!(SECONDS, "direction" => "out"),
            },
        }))
    }

    pub(crate) fn message(&self, direction: Direction, length: usize) {
        let Messages { count, bytes } = match direction {
            Direction::In => &self.0.received,
            Direction::Out => &self.0.sent,
        };
        count.increment(1);
        bytes.increment(length as u64);
    }

    /// A call begins.
    pub(crate) fn call(&self) -> Stopwatch {
        Stopwatch { start: Instant::now(), meter: self.clone() }
    }
}

/// Times a call.
#[derive(Debug, Clone)]
pub(crate) struct Stopwatch {
    start: Instant,
    meter: Meter,
}

impl Stopwatch {
    /// A call of the peer's was answered, or not.
    pub(crate) fn handled(&self, reply: &Reply) {
        let Handled { result, error, nothing, given, seconds } = &self.meter.0.handled;
        let calls = match reply {
            Reply::Result(_) => result,
            Reply::Error(_) => error,
            Reply::Nothing => nothing,
            Reply::Given => given,
        };
        calls.increment(1);
        seconds.record(self.start.elapsed());
    }

    /// A call of ours has ended.
    pub(crate) fn called<T>(&self, outcome: &Result<T, Error>) {
        let Called { result, seconds } = &self.meter.0.called;
        match outcome {
            Ok(_) => result.increment(1),
            Err(error) => counter!(CALLS, "direction" => "out", "outcome" => error.name()).increment(1),
        }
        seconds.record(self.start.elapsed());
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

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}
