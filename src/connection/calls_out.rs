//! Our calls: who waits for its turn, who is in flight, and whose answer would come too late.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytestring::ByteString;

use crate::{
    error::Error,
    message::{
        frame,
        payload::{MessageId, Payload},
    },
    options::Options,
};

/// Names a call among those of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallKey(pub(crate) u64);

/// A call on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing<T> {
    pub(crate) key: CallKey,
    pub(crate) id: MessageId,
    pub(crate) action: ByteString,
    pub(crate) params: Payload,
    pub(crate) kind: Kind,
    pub(crate) timeout: Timeout,
    /// The end of all waiting, in the queue and for the answer.
    pub(crate) deadline: Option<Instant>,
    pub(crate) ticket: T,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Waits for its turn and for its answer.
    Call,
    /// Waits for its answer, and for nobody's turn.
    OutOfTurn,
    /// Done when written, in its turn; the answer comes late, as it were.
    Forgotten,
    /// Done when written, in nobody's turn.
    Send,
}

/// How long an answer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// What the connection's options say.
    Default,
    After(Duration),
    Never,
}

/// A call that was written and waits for its answer.
#[derive(Debug)]
struct InFlight<T> {
    call: Box<Outgoing<T>>,
    expires: Option<Instant>,
}

/// Whose answer it is that came in.
#[derive(Debug)]
pub(super) enum Addressee<T> {
    Call(Box<Outgoing<T>>),
    /// A call that timed out or was dropped.
    Abandoned,
    Nobody,
}

#[derive(Debug)]
pub(crate) struct CallsOut<T> {
    // Boxed, so that a connection keeps little room for calls that are over.
    waiting: VecDeque<Box<Outgoing<T>>>,
    /// Those that wait for nobody's turn.
    urgent: VecDeque<Box<Outgoing<T>>>,
    in_flight: Vec<InFlight<T>>,
    /// The ids of the latest calls that ended without their answer.
    abandoned: VecDeque<MessageId>,
    /// No call expires earlier than this.
    earliest: Option<Instant>,
}

/// How many abandoned ids are remembered, to tell a late answer from a wrong one.
const ABANDONED: usize = 16;

impl<T> CallsOut<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            urgent: VecDeque::new(),
            in_flight: Vec::new(),
            abandoned: VecDeque::new(),
            earliest: None,
        }
    }

    pub(super) fn submit(&mut self, call: Box<Outgoing<T>>) {
        self.expect(call.deadline);
        match call.kind {
            Kind::Send | Kind::OutOfTurn => self.urgent.push_back(call),
            Kind::Call | Kind::Forgotten => self.waiting.push_back(call),
        }
    }

    /// Forgets a call, wherever it stands. One that was not written leaves no trace.
    pub(crate) fn cancel(&mut self, key: CallKey) {
        self.waiting.retain(|call| call.key != key);
        self.urgent.retain(|call| call.key != key);
        if let Some(at) = self.in_flight.iter().position(|flight| flight.call.key == key) {
            let flight = self.in_flight.swap_remove(at);
            self.abandon(flight.call.id);
        }
    }

    /// How many calls have not been written yet.
    pub(crate) fn unwritten(&self) -> usize {
        self.waiting.len() + self.urgent.len()
    }

    /// The calls that were not written, to be put in line again.
    pub(super) fn take_unwritten(&mut self) -> impl Iterator<Item = Box<Outgoing<T>>> + use<T> {
        std::mem::take(&mut self.waiting).into_iter().chain(std::mem::take(&mut self.urgent))
    }

    /// The next message to write, if one may be written, and who wants to know that it was.
    pub(super) fn next_write(&mut self, now: Instant, options: &Options) -> Option<(String, Option<T>)> {
        let mut call = match self.urgent.pop_front() {
            Some(urgent) => urgent,
            None if self.in_flight.len() >= options.call_concurrency => return None,
            None => self.waiting.pop_front()?,
        };
        // What was written is not needed any more.
        let params = std::mem::take(&mut call.params);
        if call.kind == Kind::Send {
            return Some((frame::send(&call.id, &call.action, &params), Some(call.ticket)));
        }
        let text = frame::call(&call.id, &call.action, &params);
        if call.kind == Kind::Forgotten {
            self.abandon(call.id);
            return Some((text, Some(call.ticket)));
        }
        let timeout = match call.timeout {
            Timeout::Default => options.call_timeout,
            Timeout::After(timeout) => Some(timeout),
            Timeout::Never => None,
        };
        let answer_by = timeout.map(|timeout| now + timeout);
        let expires = answer_by.into_iter().chain(call.deadline).min();
        self.expect(expires);
        self.in_flight.push(InFlight { call, expires });
        Some((text, None))
    }

    /// Whose answer carries this id; whoever it is does not wait for it any longer.
    pub(super) fn answered(&mut self, id: &MessageId) -> Addressee<T> {
        if let Some(at) = self.in_flight.iter().position(|flight| flight.call.id == *id) {
            return Addressee::Call(self.in_flight.swap_remove(at).call);
        }
        match self.abandoned.iter().position(|abandoned| abandoned == id) {
            Some(at) => {
                self.abandoned.remove(at);
                Addressee::Abandoned
            }
            None => Addressee::Nobody,
        }
    }

    /// Whether somebody waits for the answer with this id.
    pub(super) fn awaits(&self, id: &MessageId) -> bool {
        self.in_flight.iter().any(|flight| flight.call.id == *id)
    }

    /// Whether an answer is to come.
    pub(crate) fn awaits_any(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Not before this moment does a call run out of time.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// A call that has run out of time; ask until there is none.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<(T, Error)> {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return None;
        }
        let over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if let Some(at) = self.in_flight.iter().position(|flight| over(flight.expires)) {
            let call = self.in_flight.swap_remove(at).call;
            self.abandon(call.id);
            return Some((call.ticket, Error::Timeout));
        }
        for queue in [&mut self.waiting, &mut self.urgent] {
            if let Some(at) = queue.iter().position(|call| over(call.deadline)) {
                return queue.remove(at).map(|call| (call.ticket, Error::NeverSent));
            }
        }
        let queued = self.waiting.iter().chain(&self.urgent).filter_map(|call| call.deadline);
        self.earliest = self.in_flight.iter().filter_map(|flight| flight.expires).chain(queued).min();
        None
    }

    /// Ends the calls that were written, which nobody can answer any more.
    pub(crate) fn fail_written(&mut self) -> impl Iterator<Item = (T, Error)> + use<T> {
        let lost = std::mem::take(&mut self.in_flight);
        lost.into_iter().map(|flight| (flight.call.ticket, Error::Disconnected { maybe_delivered: true }))
    }

    /// Ends the calls that were not written, where there will be no other connection.
    pub(crate) fn fail_unwritten(&mut self) -> impl Iterator<Item = (T, Error)> + use<T> {
        self.take_unwritten().map(|call| (call.ticket, Error::Disconnected { maybe_delivered: false }))
    }

    pub(super) fn is_settled(&self) -> bool {
        self.unwritten() == 0 && self.in_flight.is_empty()
    }

    fn abandon(&mut self, id: MessageId) {
        if self.abandoned.len() == ABANDONED {
            self.abandoned.pop_front();
        }
        self.abandoned.push_back(id);
    }

    fn expect(&mut self, deadline: Option<Instant>) {
        self.earliest = self.earliest.into_iter().chain(deadline).min();
    }
}
