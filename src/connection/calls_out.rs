//! The calls to the peer: which wait for their turn, which are in flight, and which have ended without a response.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytestring::ByteString;

use crate::{
    connection::outbound::Outbound,
    error::Error,
    event::kind::{Direction, EventKind, Text},
    message::{
        payload::{MessageId, Payload},
        write,
    },
    options::Options,
};

/// Identifies a call among all calls of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallKey(pub(crate) u64);

/// A call to the peer. `T` gives the outcome to the caller.
#[derive(Debug)]
pub(crate) struct Outgoing<T> {
    pub(crate) key: CallKey,
    pub(crate) id: MessageId,
    pub(crate) action: ByteString,
    pub(crate) params: Payload,
    pub(crate) kind: Kind,
    pub(crate) timeout: Timeout,
    /// The moment at which the call ends, in the queue or in flight.
    pub(crate) deadline: Option<Instant>,
    pub(crate) sender: T,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Waits for its turn and for its response.
    Call,
    /// Waits for its response, but not for its turn.
    Immediate,
    /// Waits for its turn. It has ended when it is written, and its response counts as late.
    FireAndForget,
    /// Has ended when it is written, and does not wait for its turn.
    Send,
}

/// The time that a response may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// As the options of the connection say.
    Default,
    After(Duration),
    Never,
}

/// A call that is written and waits for its response.
#[derive(Debug)]
struct InFlight<T> {
    call: Box<Outgoing<T>>,
    expires: Option<Instant>,
}

/// The call that a response belongs to.
#[derive(Debug)]
pub(super) enum ResponseMatch<T> {
    InFlight(Box<Outgoing<T>>),
    /// A call that timed out, was dropped, or did not wait for its response.
    Late,
    Unknown,
}

#[derive(Debug)]
pub(crate) struct CallsOut<T> {
    // Boxed, so that an idle connection keeps little room for calls that have ended.
    queue: VecDeque<Box<Outgoing<T>>>,
    /// The calls that do not wait for their turn.
    immediate: VecDeque<Box<Outgoing<T>>>,
    in_flight: Vec<InFlight<T>>,
    /// The ids of the latest calls that ended without their response.
    abandoned: Vec<MessageId>,
    /// No call expires before this moment.
    earliest: Option<Instant>,
}

/// The number of abandoned ids that are remembered. A response to one of them is late; any other id is unknown.
const MAX_ABANDONED: usize = 16;

impl<T> CallsOut<T> {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            immediate: VecDeque::new(),
            in_flight: Vec::new(),
            abandoned: Vec::new(),
            earliest: None,
        }
    }

    pub(super) fn submit(&mut self, call: Box<Outgoing<T>>) {
        self.track_deadline(call.deadline);
        match call.kind {
            Kind::Send | Kind::Immediate => self.immediate.push_back(call),
            Kind::Call | Kind::FireAndForget => self.queue.push_back(call),
        }
    }

    /// Removes a call, queued or in flight. If it was not written, nothing of it reaches the wire.
    pub(crate) fn cancel(&mut self, key: CallKey) {
        self.queue.retain(|call| call.key != key);
        self.immediate.retain(|call| call.key != key);
        if let Some(at) = self.in_flight.iter().position(|flight| flight.call.key == key) {
            let flight = self.in_flight.swap_remove(at);
            self.abandon(flight.call.id);
        }
    }

    /// Returns the number of calls that are not written yet.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len() + self.immediate.len()
    }

    /// Takes the calls that are not written yet.
    pub(super) fn take_queued(&mut self) -> impl Iterator<Item = Box<Outgoing<T>>> + use<T> {
        std::mem::take(&mut self.queue).into_iter().chain(std::mem::take(&mut self.immediate))
    }

    /// Returns the next message to write, if one may be written. A sender comes with it if the call ends when it is written.
    pub(super) fn next_write(
        &mut self,
        now: Instant,
        options: &Options,
        describe: bool,
    ) -> Option<(Outbound, Option<T>)> {
        let mut call = if let Some(immediate) = self.immediate.pop_front() {
            immediate
        } else if self.in_flight.len() < options.call_concurrency {
            self.queue.pop_front()?
        } else {
            return None;
        };
        // A call in flight keeps no parameters.
        let params = std::mem::take(&mut call.params);
        let text = match call.kind {
            Kind::Send => write::send(&call.id, &call.action, &params),
            _ => write::call(&call.id, &call.action, &params),
        };
        let event = describe.then(|| Box::new(describe_call(&call, params)));
        let message = Outbound { text, event };
        match call.kind {
            Kind::Send => return Some((message, Some(call.sender))),
            Kind::FireAndForget => {
                self.abandon(call.id);
                return Some((message, Some(call.sender)));
            }
            Kind::Call | Kind::Immediate => {}
        }
        let timeout = match call.timeout {
            Timeout::Default => options.call_timeout,
            Timeout::After(timeout) => Some(timeout),
            Timeout::Never => None,
        };
        let expires = timeout.map(|timeout| now + timeout).into_iter().chain(call.deadline).min();
        self.track_deadline(expires);
        self.in_flight.push(InFlight { call, expires });
        Some((message, None))
    }

    /// Removes and returns the call that a response with this id belongs to.
    pub(super) fn take_match(&mut self, id: &MessageId) -> ResponseMatch<T> {
        if let Some(at) = self.in_flight.iter().position(|flight| flight.call.id == *id) {
            return ResponseMatch::InFlight(self.in_flight.swap_remove(at).call);
        }
        match self.abandoned.iter().position(|abandoned| abandoned == id) {
            Some(at) => {
                self.abandoned.remove(at);
                ResponseMatch::Late
            }
            None => ResponseMatch::Unknown,
        }
    }

    /// Removes and returns the call in flight if there is exactly one.
    pub(super) fn take_only(&mut self) -> ResponseMatch<T> {
        if self.in_flight.len() > 1 {
            return ResponseMatch::Unknown;
        }
        self.in_flight.pop().map_or(ResponseMatch::Unknown, |flight| ResponseMatch::InFlight(flight.call))
    }

    /// Returns whether the call with this id waits for its response.
    pub(super) fn is_in_flight(&self, id: &MessageId) -> bool {
        self.in_flight.iter().any(|flight| flight.call.id == *id)
    }

    /// Returns a moment before which no call expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Returns a call that has expired. Call it until it returns `None`.
    pub(crate) fn next_expired(&mut self, now: Instant) -> Option<(T, Error)> {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return None;
        }
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if let Some(at) = self.in_flight.iter().position(|flight| is_over(flight.expires)) {
            let call = self.in_flight.swap_remove(at).call;
            self.abandon(call.id);
            return Some((call.sender, Error::Timeout));
        }
        for queue in [&mut self.queue, &mut self.immediate] {
            if let Some(at) = queue.iter().position(|call| is_over(call.deadline)) {
                return queue.remove(at).map(|call| (call.sender, Error::NeverSent));
            }
        }
        let queued = self.queue.iter().chain(&self.immediate).filter_map(|call| call.deadline);
        self.earliest = self.in_flight.iter().filter_map(|flight| flight.expires).chain(queued).min();
        None
    }

    /// Ends the calls in flight, because their connection is lost.
    pub(super) fn fail_in_flight(&mut self) -> impl Iterator<Item = (T, Error)> + use<T> {
        let lost = std::mem::take(&mut self.in_flight);
        lost.into_iter().map(|flight| (flight.call.sender, Error::Disconnected { maybe_delivered: true }))
    }

    /// Ends the calls that are not written yet, because no other connection follows.
    pub(super) fn fail_queued(&mut self) -> impl Iterator<Item = (T, Error)> + use<T> {
        self.take_queued().map(|call| (call.sender, Error::Disconnected { maybe_delivered: false }))
    }

    pub(super) fn is_settled(&self) -> bool {
        self.queued() == 0 && self.in_flight.is_empty()
    }

    fn abandon(&mut self, id: MessageId) {
        if self.abandoned.len() == MAX_ABANDONED {
            self.abandoned.remove(0);
        }
        self.abandoned.push(id);
    }

    fn track_deadline(&mut self, deadline: Option<Instant>) {
        self.earliest = self.earliest.into_iter().chain(deadline).min();
    }
}

#[cold]
fn describe_call<T>(call: &Outgoing<T>, params: Payload) -> EventKind {
    let (direction, id, action) = (Direction::Out, call.id.clone(), Text(call.action.clone()));
    match call.kind {
        Kind::Send => EventKind::Send { direction, id, action, params },
        _ => EventKind::Call { direction, id, action, params },
    }
}
