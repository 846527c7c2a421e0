//! The rules of calling and answering, without a clock or a socket: who waits, who is in flight, whose id is taken.
//!
//! It outlives connections: a client keeps its exchange while it reconnects. `T` is whatever the caller wants back
//! when a call ends; every call that is submitted ends exactly once, by [`Exchange::cancel`] or by giving its `T`
//! back.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use bytestring::ByteString;
use serde::de::Error as _;

use super::Inbound;
use crate::{
    dialect::Dialect,
    error::{CallError, Error, ErrorCode},
    options::Options,
    payload::{MessageId, Payload},
    wire::{self, Fault, Frame, SEND, Unreadable},
};

/// Names a call among those of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallKey(pub(crate) u64);

/// A call on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing<T> {
    pub(crate) key: CallKey,
    pub(crate) id: MessageId,
    pub(crate) text: String,
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

/// What came of a message.
#[derive(Debug)]
pub(crate) enum Received<T> {
    /// A call that may be worked on now.
    Call(Inbound),
    /// A call that waits in line for a handler.
    InLine,
    /// The outcome of one of our calls.
    Outcome(T, Result<Payload, Error>),
    /// An answer to a call that timed out or was dropped.
    Late(MessageId),
    /// A call to be refused at once, through no fault of its own.
    Refused(Inbound, CallError),
    /// Something that cannot be served, and what it is to be answered with.
    Bad { fault: Fault, id: Option<MessageId>, answer: Option<CallError>, unbearable: bool },
    /// The peer could not read an answer of ours (OCPP 2.1).
    ResultError(MessageId, CallError),
    /// An empty message.
    Nothing,
}

#[derive(Debug)]
struct InFlight<T> {
    key: CallKey,
    id: MessageId,
    expires: Option<Instant>,
    ticket: T,
}

#[derive(Debug)]
pub(crate) struct Exchange<T> {
    dialect: Dialect,
    options: Options,
    waiting: VecDeque<Outgoing<T>>,
    sends: VecDeque<Outgoing<T>>,
    in_flight: Vec<InFlight<T>>,
    /// The ids of the latest calls that ended without their answer.
    abandoned: VecDeque<MessageId>,
    /// Calls of the peer that wait for a handler.
    line: VecDeque<Inbound>,
    /// The ids of the peer's calls that are being worked on or wait in line.
    taken: HashSet<MessageId>,
    running: usize,
    bad_in_a_row: u32,
    /// No call expires earlier than this.
    earliest: Option<Instant>,
}

/// How many abandoned ids are remembered, to tell a late answer from a wrong one.
const ABANDONED: usize = 16;

/// How many bytes may wait in line for a handler, in messages of the largest size.
const LINE_BYTES: usize = 4;

impl<T> Exchange<T> {
    pub(crate) fn new(dialect: Dialect, options: Options) -> Self {
        Self {
            dialect,
            options,
            waiting: VecDeque::new(),
            sends: VecDeque::new(),
            in_flight: Vec::new(),
            abandoned: VecDeque::new(),
            line: VecDeque::new(),
            taken: HashSet::new(),
            running: 0,
            bad_in_a_row: 0,
            earliest: None,
        }
    }

    pub(crate) fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    pub(crate) fn set_dialect(&mut self, dialect: Dialect) {
        self.dialect = dialect;
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    // Calls out.

    pub(crate) fn submit(&mut self, call: Outgoing<T>) {
        self.expect(call.deadline);
        match call.kind {
            Kind::Send => self.sends.push_back(call),
            Kind::Call | Kind::Forgotten => self.waiting.push_back(call),
        }
    }

    /// Forgets a call, wherever it stands. One that was not written leaves no trace.
    pub(crate) fn cancel(&mut self, key: CallKey) {
        self.waiting.retain(|call| call.key != key);
        self.sends.retain(|call| call.key != key);
        if let Some(at) = self.in_flight.iter().position(|call| call.key == key) {
            let call = self.in_flight.swap_remove(at);
            self.abandon(call.id);
        }
    }

    /// How many calls have not been written yet.
    pub(crate) fn unwritten(&self) -> usize {
        self.waiting.len() + self.sends.len()
    }

    /// The next message to write, if one may be written, and who wants to know that it was.
    pub(crate) fn next_write(&mut self, now: Instant) -> Option<(String, Option<T>)> {
        if let Some(send) = self.sends.pop_front() {
            return Some((send.text, Some(send.ticket)));
        }
        if self.in_flight.len() >= self.options.call_concurrency {
            return None;
        }
        let Outgoing { key, id, text, kind, timeout, deadline, ticket } = self.waiting.pop_front()?;
        if kind == Kind::Forgotten {
            self.abandon(id);
            return Some((text, Some(ticket)));
        }
        let timeout = match timeout {
            Timeout::Default => self.options.call_timeout,
            Timeout::After(timeout) => Some(timeout),
            Timeout::Never => None,
        };
        let answer_by = timeout.map(|timeout| now + timeout);
        let expires = answer_by.into_iter().chain(deadline).min();
        self.expect(expires);
        self.in_flight.push(InFlight { key, id, expires, ticket });
        Some((text, None))
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
        if let Some(at) = self.in_flight.iter().position(|call| over(call.expires)) {
            let call = self.in_flight.swap_remove(at);
            self.abandon(call.id);
            return Some((call.ticket, Error::Timeout));
        }
        for queue in [&mut self.waiting, &mut self.sends] {
            if let Some(at) = queue.iter().position(|call| over(call.deadline)) {
                return queue.remove(at).map(|call| (call.ticket, Error::NeverSent));
            }
        }
        let queued = self.waiting.iter().chain(&self.sends).filter_map(|call| call.deadline);
        self.earliest = self.in_flight.iter().filter_map(|call| call.expires).chain(queued).min();
        None
    }

    /// Ends the calls that were written, which nobody can answer any more.
    pub(crate) fn fail_written(&mut self) -> impl Iterator<Item = (T, Error)> {
        let lost = std::mem::take(&mut self.in_flight);
        lost.into_iter().map(|call| (call.ticket, Error::Disconnected { maybe_delivered: true }))
    }

    /// Ends the calls that were not written, where there will be no other connection.
    pub(crate) fn fail_unwritten(&mut self) -> impl Iterator<Item = (T, Error)> {
        let unwritten = std::mem::take(&mut self.waiting).into_iter().chain(std::mem::take(&mut self.sends));
        unwritten.map(|call| (call.ticket, Error::Disconnected { maybe_delivered: false }))
    }

    // Calls in.

    /// Takes a message apart and says what is to be done about it.
    pub(crate) fn receive(&mut self, text: &ByteString) -> Received<T> {
        if text.is_empty() {
            return Received::Nothing;
        }
        let received = match wire::read(text) {
            Ok(Frame::Call { id, action, payload }) => {
                self.admit(Inbound { id, action, payload, wants_answer: true, generation: 0 })
            }
            Ok(Frame::Send { id, action, payload }) if self.dialect.has_send() => {
                self.admit(Inbound { id, action, payload, wants_answer: false, generation: 0 })
            }
            Ok(Frame::Send { id, .. }) => {
                Err(Unreadable { kind: Some(SEND), id: Some(id), fault: Fault::UnknownMessageType })
            }
            Ok(Frame::CallResult { id, payload }) => {
                let outcome = match payload.is_object() {
                    true => Ok(payload),
                    false => Err(serde_json::Error::custom(Fault::PayloadNotAnObject).into()),
                };
                self.settle(id, 3, outcome)
            }
            Ok(Frame::CallError { id, error }) => self.settle(id, 4, Err(Error::Rejected(error))),
            Ok(Frame::CallResultError { id, error }) if self.dialect.has_call_result_error() => {
                Ok(Received::ResultError(id, error))
            }
            Ok(Frame::CallResultError { id, .. }) => {
                Err(Unreadable { kind: Some(5), id: Some(id), fault: Fault::UnknownMessageType })
            }
            Err(unreadable) => Err(unreadable),
        };
        match received {
            Ok(received) => {
                self.bad_in_a_row = 0;
                received
            }
            Err(Unreadable { kind, id, fault }) => {
                self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
                let code = match fault {
                    Fault::DuplicateMessageId => Some(self.dialect.duplicate()),
                    _ => self.dialect.answer_to(&Unreadable { kind, id: id.clone(), fault }),
                };
                Received::Bad {
                    fault,
                    id,
                    answer: code.map(|code| CallError::new(code, fault.to_string())),
                    unbearable: self.options.max_bad_messages.is_some_and(|max| self.bad_in_a_row > max),
                }
            }
        }
    }

    fn admit(&mut self, call: Inbound) -> Result<Received<T>, Unreadable> {
        if call.wants_answer && self.taken.contains(&call.id) {
            return Err(Unreadable { kind: Some(2), id: Some(call.id), fault: Fault::DuplicateMessageId });
        }
        if self.running < self.options.handler_concurrency && self.line.is_empty() {
            return Ok(Received::Call(call));
        }
        let bytes: usize = self.line.iter().chain([&call]).map(|call| call.payload.as_str().len()).sum();
        let most_bytes = self.options.max_message_size.saturating_mul(LINE_BYTES);
        if self.line.len() < self.options.handler_queue && bytes <= most_bytes {
            self.take(&call.id, call.wants_answer);
            self.line.push_back(call);
            return Ok(Received::InLine);
        }
        let busy = CallError::new(ErrorCode::GENERIC_ERROR, "too many calls are waiting to be handled");
        Ok(Received::Refused(call, busy))
    }

    fn settle(&mut self, id: MessageId, kind: u64, outcome: Result<Payload, Error>) -> Result<Received<T>, Unreadable> {
        if let Some(at) = self.in_flight.iter().position(|call| call.id == id) {
            return Ok(Received::Outcome(self.in_flight.swap_remove(at).ticket, outcome));
        }
        match self.abandoned.iter().position(|abandoned| *abandoned == id) {
            Some(at) => {
                self.abandoned.remove(at);
                Ok(Received::Late(id))
            }
            None => Err(Unreadable { kind: Some(kind), id: Some(id), fault: Fault::UnknownMessageId }),
        }
    }

    /// A call is being worked on and was not done at once.
    pub(crate) fn started(&mut self, id: &MessageId, wants_answer: bool) {
        self.running += 1;
        self.take(id, wants_answer);
    }

    /// A call that had [`started`](Self::started) is done.
    pub(crate) fn finished(&mut self, id: &MessageId, wants_answer: bool) {
        self.running -= 1;
        self.leave(id, wants_answer);
    }

    /// A call was answered while its handler goes on: its id is free.
    pub(crate) fn answered_early(&mut self, id: &MessageId) {
        self.taken.remove(id);
    }

    /// The next call in line that may be worked on now.
    pub(crate) fn next_in_line(&mut self) -> Option<Inbound> {
        if self.running >= self.options.handler_concurrency {
            return None;
        }
        let call = self.line.pop_front()?;
        self.leave(&call.id, call.wants_answer);
        Some(call)
    }

    /// Forgets the peer's calls, whose answers nobody can receive any more.
    pub(crate) fn forget_inbound(&mut self) {
        self.line.clear();
        self.taken.clear();
        self.running = 0;
    }

    /// Whether nothing is under way in either direction.
    pub(crate) fn is_settled(&self) -> bool {
        self.unwritten() == 0
            && self.in_flight.is_empty()
            && self.running == 0
            && self.line.is_empty()
            && self.taken.is_empty()
    }

    fn take(&mut self, id: &MessageId, wants_answer: bool) {
        if wants_answer {
            self.taken.insert(id.clone());
        }
    }

    /// A SEND has taken no id, and shall not free that of a call.
    fn leave(&mut self, id: &MessageId, wants_answer: bool) {
        if wants_answer {
            self.taken.remove(id);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn exchange(options: Options) -> Exchange<u64> {
        Exchange::new(Dialect::OCPP_1_6, options)
    }

    fn call(n: u64) -> Outgoing<u64> {
        let id = MessageId::random();
        let text = wire::call(&id, &format!("Call{n}"), &Payload::encode(&()).expect("an object"));
        let (kind, timeout) = (Kind::Call, Timeout::Default);
        Outgoing { key: CallKey(n), id, text, kind, timeout, deadline: None, ticket: n }
    }

    /// The number of the call that is written next.
    fn written(exchange: &mut Exchange<u64>, now: Instant) -> Option<u64> {
        let (text, _) = exchange.next_write(now)?;
        let action = text.split('"').nth(3).expect("an action");
        Some(action.strip_prefix("Call").expect("ours").parse().expect("a number"))
    }

    fn answer(exchange: &mut Exchange<u64>, id: &MessageId) -> Received<u64> {
        exchange.receive(&format!(r#"[3,"{id}",{{}}]"#).into())
    }

    #[test]
    fn calls_go_out_in_order_and_one_at_a_time() {
        let now = Instant::now();
        let mut exchange = exchange(Options::server());
        let calls = [call(1), call(2), call(3)];
        let ids = calls.each_ref().map(|call| call.id.clone());
        calls.into_iter().for_each(|call| exchange.submit(call));
        for (n, id) in (1..).zip(&ids) {
            assert_eq!(written(&mut exchange, now), Some(n));
            assert_eq!(written(&mut exchange, now), None, "one is in flight");
            assert!(matches!(answer(&mut exchange, id), Received::Outcome(ticket, Ok(_)) if ticket == n));
        }
        assert!(exchange.is_settled());
    }

    #[test]
    fn concurrency_lets_more_out() {
        let now = Instant::now();
        let mut exchange = exchange(Options::server().call_concurrency(2));
        (1..=3).for_each(|n| exchange.submit(call(n)));
        assert_eq!([1, 2, 3].map(|_| written(&mut exchange, now)), [Some(1), Some(2), None]);
    }

    #[test]
    fn a_cancelled_call_leaves_no_trace_or_a_late_answer() {
        let now = Instant::now();
        let mut exchange = exchange(Options::server());
        let calls = [call(1), call(2), call(3)];
        let first = calls[0].id.clone();
        calls.into_iter().for_each(|call| exchange.submit(call));
        assert_eq!(written(&mut exchange, now), Some(1));
        exchange.cancel(CallKey(2));
        exchange.cancel(CallKey(1));
        assert_eq!(written(&mut exchange, now), Some(3));
        assert!(matches!(answer(&mut exchange, &first), Received::Late(_)));
        assert!(matches!(answer(&mut exchange, &first), Received::Bad { fault: Fault::UnknownMessageId, .. }));
    }

    #[test]
    fn the_timeout_starts_when_a_call_leaves_the_queue() {
        let start = Instant::now();
        let mut exchange = exchange(Options::server().call_timeout(10 * SECOND));
        exchange.submit(call(1));
        exchange.submit(Outgoing { deadline: Some(start + 15 * SECOND), ..call(2) });
        exchange.submit(Outgoing { deadline: Some(start + 11 * SECOND), ..call(3) });
        written(&mut exchange, start);
        assert!(exchange.expired(start + 9 * SECOND).is_none());
        let at = start + 10 * SECOND;
        assert!(matches!(exchange.expired(at), Some((1, Error::Timeout))));
        assert!(exchange.expired(at).is_none());
        assert_eq!(written(&mut exchange, at), Some(2));
        assert_eq!(exchange.next_deadline(), Some(start + 11 * SECOND));
        assert!(matches!(exchange.expired(start + 11 * SECOND), Some((3, Error::NeverSent))));
        assert!(exchange.expired(start + 11 * SECOND).is_none());
        assert_eq!(exchange.next_deadline(), Some(start + 15 * SECOND));
        assert!(matches!(exchange.expired(start + 15 * SECOND), Some((2, Error::Timeout))));
    }

    #[test]
    fn a_call_can_wait_for_ever() {
        let now = Instant::now();
        let mut exchange = exchange(Options::server());
        exchange.submit(Outgoing { timeout: Timeout::Never, ..call(1) });
        written(&mut exchange, now);
        assert_eq!(exchange.next_deadline(), None);
    }

    #[test]
    fn a_lost_connection_says_what_may_have_been_delivered() {
        let mut exchange = exchange(Options::server());
        (1..=2).for_each(|n| exchange.submit(call(n)));
        written(&mut exchange, Instant::now());
        let failed: Vec<_> = exchange.fail_written().collect();
        assert!(matches!(failed[..], [(1, Error::Disconnected { maybe_delivered: true })]));
        let failed: Vec<_> = exchange.fail_unwritten().collect();
        assert!(matches!(failed[..], [(2, Error::Disconnected { maybe_delivered: false })]));
    }

    #[test]
    fn a_send_waits_for_nobody() {
        let now = Instant::now();
        let mut exchange = exchange(Options::server());
        (1..=2).for_each(|n| exchange.submit(call(n)));
        assert_eq!(written(&mut exchange, now), Some(1));
        exchange.submit(Outgoing { kind: Kind::Send, ..call(3) });
        assert!(matches!(exchange.next_write(now), Some((_, Some(3)))));
        assert!(exchange.next_write(now).is_none());
    }

    #[test]
    fn a_forgotten_call_is_done_when_written_and_answered_late() {
        let mut exchange = exchange(Options::server());
        let forgotten = Outgoing { kind: Kind::Forgotten, ..call(1) };
        let id = forgotten.id.clone();
        exchange.submit(forgotten);
        assert!(matches!(exchange.next_write(Instant::now()), Some((_, Some(1)))));
        assert!(matches!(answer(&mut exchange, &id), Received::Late(_)));
    }

    #[test]
    fn only_an_id_that_is_still_being_worked_on_is_a_duplicate() {
        let mut exchange = exchange(Options::server());
        let text = ByteString::from(r#"[2,"1","A",{}]"#);
        let Received::Call(first) = exchange.receive(&text) else { panic!("a call") };
        exchange.started(&first.id, true);
        match exchange.receive(&text) {
            Received::Bad { fault: Fault::DuplicateMessageId, answer: Some(error), .. } => {
                assert_eq!(*error.code(), ErrorCode::GENERIC_ERROR);
            }
            other => panic!("{other:?}"),
        }
        exchange.finished(&first.id, true);
        assert!(matches!(exchange.receive(&text), Received::Call(_)));
    }

    #[test]
    fn calls_wait_in_line_and_a_full_line_refuses() {
        let mut exchange = exchange(Options::server().handler_concurrency(1).handler_queue(1));
        let text = |n| ByteString::from(format!(r#"[2,"{n}","A",{{}}]"#));
        let Received::Call(first) = exchange.receive(&text(1)) else { panic!("a call") };
        exchange.started(&first.id, true);
        assert!(matches!(exchange.receive(&text(2)), Received::InLine));
        assert!(matches!(exchange.receive(&text(3)), Received::Refused(..)));
        assert!(matches!(exchange.receive(&text(2)), Received::Bad { fault: Fault::DuplicateMessageId, .. }));
        assert!(exchange.next_in_line().is_none());
        exchange.finished(&first.id, true);
        assert_eq!(exchange.next_in_line().expect("the second").id.as_str(), "2");
        assert!(exchange.is_settled());
    }

    #[test]
    fn bad_messages_count_in_a_row() {
        let mut exchange = exchange(Options::server().max_bad_messages(1));
        let unbearable = |received| matches!(received, Received::Bad { unbearable: true, .. });
        let (bad, good) = (ByteString::from("bad"), ByteString::from(r#"[2,"1","A",{}]"#));
        assert!(!unbearable(exchange.receive(&bad)));
        exchange.receive(&good);
        assert!(!unbearable(exchange.receive(&bad)));
        assert!(matches!(exchange.receive(&ByteString::new()), Received::Nothing));
        assert!(unbearable(exchange.receive(&bad)), "an empty message is neither good nor bad");
    }

    #[test]
    fn a_result_that_is_no_object_fails_its_call() {
        let mut exchange = exchange(Options::server());
        let first = call(1);
        let id = first.id.clone();
        exchange.submit(first);
        exchange.next_write(Instant::now());
        let received = exchange.receive(&format!(r#"[3,"{id}",["m"]]"#).into());
        assert!(matches!(received, Received::Outcome(1, Err(Error::Decode(_)))));
    }

    #[test]
    fn types_5_and_6_are_a_matter_of_dialect() {
        let (send, error) = (ByteString::from(r#"[6,"1","A",{}]"#), ByteString::from(r#"[5,"1","X","",{}]"#));
        let mut old = exchange(Options::server());
        assert!(matches!(old.receive(&send), Received::Bad { answer: None, .. }));
        assert!(matches!(old.receive(&error), Received::Bad { answer: None, .. }));
        let mut new = Exchange::<u64>::new(Dialect::OCPP_2_1, Options::server());
        assert!(matches!(new.receive(&send), Received::Call(Inbound { wants_answer: false, .. })));
        assert!(matches!(new.receive(&error), Received::ResultError(..)));
    }
}
