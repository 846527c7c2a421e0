//! The rules of calling and answering, without a clock or a socket: what a message means, what may be written, and
//! what there is to tell.
//!
//! It outlives connections: a client keeps its exchange while it reconnects. `T` is whatever the caller wants back
//! when a call ends; every call that is submitted ends exactly once, by [`CallsOut::cancel`] or by giving its `T`
//! back.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use bytestring::ByteString;
use serde::de::Error as _;

use super::{
    Agreed, Answered, Inbound,
    calls_in::CallsIn,
    calls_out::{Addressee, CallsOut, Outgoing},
};
use crate::{
    dialect::Dialect,
    error::{CallError, Error, ErrorCode},
    event::{Direction, EventKind, Text},
    options::Options,
    payload::{MessageId, Payload},
    tolerance::Deviation,
    validate::{PayloadKind, Subject, Valid, Violation},
    wire::{self, CALL_ERROR, CALL_RESULT, Fault, Frame, Unreadable},
};

/// What came of a message.
#[derive(Debug)]
pub(crate) enum Received<T> {
    /// A call that may be worked on now.
    Call(Inbound),
    /// The outcome of one of our calls, and what its answer is to be answered with, if anything (OCPP 2.1).
    Outcome(T, Result<Answered, Error>, Option<String>),
    /// Something that is not served, and the answer to it.
    Refused(String),
    /// One bad message too many, and the answer to it, if it has one.
    Unbearable(Option<String>),
    /// Nothing to be done now.
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Exchange<T> {
    agreed: Option<Agreed>,
    options: Options,
    pub(crate) calls_out: CallsOut<T>,
    pub(crate) calls_in: CallsIn,
    bad_in_a_row: u32,
    news: Vec<EventKind>,
}

impl<T> Exchange<T> {
    pub(crate) fn new(agreed: Option<Agreed>, options: Options) -> Self {
        let (calls_out, calls_in) = (CallsOut::new(), CallsIn::default());
        Self { agreed, options, calls_out, calls_in, bad_in_a_row: 0, news: Vec::new() }
    }

    /// The protocol is settled; gives back calls that it does not allow.
    pub(crate) fn agree(&mut self, agreed: Agreed) -> Vec<(T, Error)> {
        self.agreed = Some(agreed);
        let waiting = self.calls_out.take_waiting();
        waiting.into_iter().filter_map(|call| self.submit(call)).collect()
    }

    fn dialect(&self) -> Dialect {
        self.agreed.as_ref().map_or(Dialect::of(None), |agreed| agreed.dialect)
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// What there is to tell since this was last asked.
    pub(crate) fn news(&mut self) -> Vec<EventKind> {
        std::mem::take(&mut self.news)
    }

    /// Whether nothing is under way in either direction.
    pub(crate) fn is_settled(&self) -> bool {
        self.calls_out.is_settled() && self.calls_in.is_settled()
    }

    /// Puts a call of ours in line; gives it back where the protocol is known and does not allow it.
    pub(crate) fn submit(&mut self, call: Outgoing<T>) -> Option<(T, Error)> {
        match self.check(Direction::Out, PayloadKind::Request, &call.action, &call.id, &call.params) {
            Ok(_) => {
                self.calls_out.submit(call);
                None
            }
            Err(violation) => Some((call.ticket, violation.into())),
        }
    }

    /// The next call of ours to write, if one may be written, and who wants to know that it was.
    pub(crate) fn next_write(&mut self, now: Instant) -> Option<(String, Option<T>)> {
        self.calls_out.next_write(now, &self.options)
    }

    /// The next call of the peer's that waited in line and may be worked on now.
    pub(crate) fn next_in_line(&mut self) -> Option<Inbound> {
        self.calls_in.next(&self.options)
    }

    /// The answer to a call that went well.
    pub(crate) fn result(&mut self, action: &ByteString, id: &MessageId, payload: &Payload) -> String {
        match self.check(Direction::Out, PayloadKind::Response, action, id, payload) {
            Ok(_) => wire::call_result(id, payload),
            Err(violation) => self.refusal(Some(id), &CallError::internal(violation)),
        }
    }

    /// The answer to a call that did not.
    pub(crate) fn refusal(&self, id: Option<&MessageId>, error: &CallError) -> String {
        let code = self.dialect().spell(error.code());
        wire::call_error(id, code, &error.told(self.options.detailed_errors), error.details())
    }

    /// What is said of a result that we cannot use, in a dialect that has words for it (OCPP 2.1).
    pub(crate) fn complaint(&self, id: &MessageId, error: &CallError) -> Option<String> {
        let dialect = self.dialect();
        let complaint =
            || wire::call_result_error(id, dialect.spell(error.code()), error.description(), error.details());
        dialect.has_call_result_error().then(complaint)
    }

    /// Takes a message apart and says what is to be done about it.
    pub(crate) fn receive(&mut self, text: &ByteString, now: Instant) -> Received<T> {
        if text.is_empty() && Deviation::EmptyMessage.is_borne_by(self.options.tolerance) {
            self.deviates(Deviation::EmptyMessage, text);
            return Received::Nothing;
        }
        let (frame, deviations) = wire::read(text, self.options.tolerance);
        let received = frame.and_then(|frame| {
            for deviation in deviations.iter() {
                self.deviates(deviation, text);
            }
            self.serve(frame, now)
        });
        match received {
            Ok(received) => {
                self.bad_in_a_row = 0;
                received
            }
            Err(unreadable) => self.salvage(unreadable, text).unwrap_or_else(|unreadable| self.bad(unreadable, text)),
        }
    }

    fn serve(&mut self, frame: Frame, now: Instant) -> Result<Received<T>, Unreadable> {
        let dialect = self.dialect();
        let fault = match &frame {
            Frame::Call { id, .. } if self.calls_in.is_taken(id) => Some(Fault::DuplicateMessageId),
            Frame::Send { .. } if !dialect.has_send() => Some(Fault::UnknownMessageType),
            Frame::CallResultError { .. } if !dialect.has_call_result_error() => Some(Fault::UnknownMessageType),
            _ => None,
        };
        if let Some(fault) = fault {
            return Err(Unreadable { kind: Some(frame.kind()), id: Some(frame.id().clone()), code: None, fault });
        }
        match frame {
            Frame::Call { id, action, payload } => Ok(self.admit(Inbound::new(id, action, payload, true), now)),
            Frame::Send { id, action, payload } => Ok(self.admit(Inbound::new(id, action, payload, false), now)),
            Frame::CallResult { id, payload } => self.settle(CALL_RESULT, id, Ok(payload)),
            Frame::CallError { id, error } => self.settle(CALL_ERROR, id, Err(Error::Rejected(error))),
            // Told as every message is; nobody waits for it.
            Frame::CallResultError { .. } => Ok(Received::Nothing),
        }
    }

    fn admit(&mut self, mut call: Inbound, now: Instant) -> Received<T> {
        let admitted = self.calls_in.admit(&call, now, &self.options).and_then(|()| {
            let valid = self.check(Direction::In, PayloadKind::Request, &call.action, &call.id, &call.payload);
            valid.map_err(CallError::from)
        });
        match admitted {
            Ok(valid) => {
                call.valid = valid;
                self.calls_in.line_up(call, &self.options).map_or(Received::Nothing, Received::Call)
            }
            Err(error) if call.wants_answer => Received::Refused(self.refusal(Some(&call.id), &error)),
            Err(_) => {
                self.news.push(EventKind::UnhandledSend { action: Text(call.action) });
                Received::Nothing
            }
        }
    }

    fn settle(&mut self, kind: u64, id: MessageId, outcome: Result<Payload, Error>) -> Result<Received<T>, Unreadable> {
        let call = match self.calls_out.answered(&id) {
            Addressee::Call(call) => call,
            Addressee::Abandoned => {
                self.news.push(EventKind::LateAnswer(id));
                return Ok(Received::Nothing);
            }
            Addressee::Nobody => {
                return Err(Unreadable { kind: Some(kind), id: Some(id), code: None, fault: Fault::UnknownMessageId });
            }
        };
        let payload = match outcome {
            Ok(payload) => payload,
            Err(error) => return Ok(Received::Outcome(call.ticket, Err(error), None)),
        };
        if !payload.is_object() {
            let fault = Fault::PayloadNotAnObject;
            let complaint = self.complaint(&id, &CallError::new(ErrorCode::FORMAT_VIOLATION, fault.to_string()));
            let error = serde_json::Error::custom(fault).into();
            return Ok(Received::Outcome(call.ticket, Err(error), complaint));
        }
        Ok(match self.check(Direction::In, PayloadKind::Response, &call.action, &id, &payload) {
            Ok(valid) => Received::Outcome(call.ticket, Ok(Answered { id, payload, valid }), None),
            Err(violation) => {
                let complaint = self.complaint(&id, &violation.clone().into());
                Received::Outcome(call.ticket, Err(violation.into()), complaint)
            }
        })
    }

    /// The end of a call whose answer has come and cannot be read, where that is wanted.
    fn salvage(&mut self, unreadable: Unreadable, text: &ByteString) -> Result<Received<T>, Unreadable> {
        let is_wanted = Deviation::UnreadableAnswer.is_borne_by(self.options.tolerance);
        let (outcome, id) = match &unreadable {
            Unreadable { kind: Some(CALL_RESULT), id: Some(id), fault, .. } if is_wanted => {
                (serde_json::Error::custom(*fault).into(), id)
            }
            Unreadable { kind: Some(CALL_ERROR), id: Some(id), code, .. } if is_wanted => {
                let code = code.clone().unwrap_or(ErrorCode::GENERIC_ERROR);
                (Error::Rejected(CallError::new(code, "the rest of the error cannot be read")), id)
            }
            _ => return Err(unreadable),
        };
        if !self.calls_out.awaits(id) {
            return Err(unreadable);
        }
        self.deviates(Deviation::UnreadableAnswer, text);
        self.settle(CALL_ERROR, id.clone(), Err(outcome))
    }

    fn bad(&mut self, unreadable: Unreadable, text: &ByteString) -> Received<T> {
        let dialect = self.dialect();
        let code = match unreadable.fault {
            Fault::DuplicateMessageId => Some(dialect.duplicate()),
            _ => dialect.answer_to(&unreadable),
        };
        let Unreadable { id, fault, .. } = unreadable;
        let answer = code.clone().map(|code| self.refusal(id.as_ref(), &CallError::new(code, fault.to_string())));
        self.news.push(EventKind::BadMessage { text: Text(text.clone()), fault, answer: code });
        self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
        match (self.options.max_bad_messages, answer) {
            (Some(max), answer) if self.bad_in_a_row > max => Received::Unbearable(answer),
            (_, Some(answer)) => Received::Refused(answer),
            (_, None) => Received::Nothing,
        }
    }

    /// Something that is put up with.
    pub(crate) fn deviates(&mut self, deviation: Deviation, text: &ByteString) {
        self.news.push(EventKind::Deviation { deviation, text: Some(Text(text.clone())) });
    }

    /// Checks a payload, where that is wanted.
    fn check(
        &mut self,
        direction: Direction,
        kind: PayloadKind,
        action: &ByteString,
        id: &MessageId,
        payload: &Payload,
    ) -> Result<Valid, Violation> {
        let protocol = self.agreed.as_ref().and_then(|agreed| agreed.protocol.as_deref());
        let (Some(validation), Some(protocol)) = (&self.options.validation, protocol) else {
            return Ok(Valid::default());
        };
        if !validation.applies_to(protocol) {
            return Ok(Valid::default());
        }
        let subject = Subject::new(protocol, action, kind, payload);
        let checked = catch_unwind(AssertUnwindSafe(|| validation.validator.validate(&subject)));
        let broken = |_| Err(Violation::new(ErrorCode::INTERNAL_ERROR, "", "the validator panicked"));
        checked.unwrap_or_else(broken).or_else(|violation| {
            let enforced = !validation.report_only;
            let (action, id) = (Text(action.clone()), id.clone());
            self.news.push(EventKind::Invalid { direction, kind, action, id, violation: violation.clone(), enforced });
            if enforced { Err(violation) } else { Ok(Valid::default()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        connection::calls_out::{CallKey, Kind, Timeout},
        tolerance::Tolerance,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn exchange(options: Options) -> Exchange<u64> {
        speaking("ocpp1.6", options)
    }

    fn speaking(protocol: &str, options: Options) -> Exchange<u64> {
        let agreed = Agreed { protocol: Some(protocol.into()), dialect: Dialect::of(Some(protocol)) };
        Exchange::new(Some(agreed), options)
    }

    fn call(n: u64) -> Outgoing<u64> {
        let (action, params) = (format!("Call{n}").into(), Payload::default());
        let (kind, timeout) = (Kind::Call, Timeout::Default);
        Outgoing { key: CallKey(n), id: MessageId::random(), action, params, kind, timeout, deadline: None, ticket: n }
    }

    /// The number of the call that is written next.
    fn written(exchange: &mut Exchange<u64>, now: Instant) -> Option<u64> {
        let (text, _) = exchange.next_write(now)?;
        let action = text.split('"').nth(3).expect("an action");
        Some(action.strip_prefix("Call").expect("ours").parse().expect("a number"))
    }

    fn answer(exchange: &mut Exchange<u64>, id: &MessageId) -> Received<u64> {
        receive(exchange, &format!(r#"[3,"{id}",{{}}]"#))
    }

    fn receive(exchange: &mut Exchange<u64>, text: &str) -> Received<u64> {
        exchange.receive(&text.into(), Instant::now())
    }

    /// The only thing there is to tell.
    fn only_news(exchange: &mut Exchange<u64>) -> EventKind {
        let mut news = exchange.news();
        assert_eq!(news.len(), 1, "{news:?}");
        news.remove(0)
    }

    #[test]
    fn calls_go_out_in_order_and_one_at_a_time() {
        let now = Instant::now();
        let mut exchange = exchange(Options::server());
        let calls = [call(1), call(2), call(3)];
        let ids = calls.each_ref().map(|call| call.id.clone());
        calls.into_iter().for_each(|call| assert!(exchange.submit(call).is_none()));
        for (n, id) in (1..).zip(&ids) {
            assert_eq!(written(&mut exchange, now), Some(n));
            assert_eq!(written(&mut exchange, now), None, "one is in flight");
            assert!(matches!(answer(&mut exchange, id), Received::Outcome(ticket, Ok(_), None) if ticket == n));
        }
        assert!(exchange.is_settled());
    }

    #[test]
    fn concurrency_lets_more_out() {
        let now = Instant::now();
        let mut exchange = exchange(Options::server().call_concurrency(2));
        (1..=3).for_each(|n| assert!(exchange.submit(call(n)).is_none()));
        assert_eq!([1, 2, 3].map(|_| written(&mut exchange, now)), [Some(1), Some(2), None]);
    }

    #[test]
    fn a_cancelled_call_leaves_no_trace_or_a_late_answer() {
        let now = Instant::now();
        let mut exchange = exchange(Options::server());
        let calls = [call(1), call(2), call(3)];
        let first = calls[0].id.clone();
        calls.into_iter().for_each(|call| assert!(exchange.submit(call).is_none()));
        assert_eq!(written(&mut exchange, now), Some(1));
        exchange.calls_out.cancel(CallKey(2));
        exchange.calls_out.cancel(CallKey(1));
        assert_eq!(written(&mut exchange, now), Some(3));
        answer(&mut exchange, &first);
        assert!(matches!(only_news(&mut exchange), EventKind::LateAnswer(id) if id == first));
        answer(&mut exchange, &first);
        let news = only_news(&mut exchange);
        assert!(matches!(news, EventKind::BadMessage { fault: Fault::UnknownMessageId, answer: None, .. }));
    }

    #[test]
    fn the_timeout_starts_when_a_call_leaves_the_queue() {
        let start = Instant::now();
        let mut exchange = exchange(Options::server().call_timeout(10 * SECOND));
        exchange.submit(call(1));
        exchange.submit(Outgoing { deadline: Some(start + 15 * SECOND), ..call(2) });
        exchange.submit(Outgoing { deadline: Some(start + 11 * SECOND), ..call(3) });
        written(&mut exchange, start);
        assert!(exchange.calls_out.expired(start + 9 * SECOND).is_none());
        let at = start + 10 * SECOND;
        assert!(matches!(exchange.calls_out.expired(at), Some((1, Error::Timeout))));
        assert!(exchange.calls_out.expired(at).is_none());
        assert_eq!(written(&mut exchange, at), Some(2));
        assert_eq!(exchange.calls_out.next_deadline(), Some(start + 11 * SECOND));
        assert!(matches!(exchange.calls_out.expired(start + 11 * SECOND), Some((3, Error::NeverSent))));
        assert!(exchange.calls_out.expired(start + 11 * SECOND).is_none());
        assert_eq!(exchange.calls_out.next_deadline(), Some(start + 15 * SECOND));
        assert!(matches!(exchange.calls_out.expired(start + 15 * SECOND), Some((2, Error::Timeout))));
    }

    #[test]
    fn a_call_can_wait_for_ever() {
        let now = Instant::now();
        let mut exchange = exchange(Options::server());
        exchange.submit(Outgoing { timeout: Timeout::Never, ..call(1) });
        written(&mut exchange, now);
        assert_eq!(exchange.calls_out.next_deadline(), None);
    }

    #[test]
    fn a_lost_connection_says_what_may_have_been_delivered() {
        let mut exchange = exchange(Options::server());
        (1..=2).for_each(|n| assert!(exchange.submit(call(n)).is_none()));
        written(&mut exchange, Instant::now());
        let failed: Vec<_> = exchange.calls_out.fail_written().collect();
        assert!(matches!(failed[..], [(1, Error::Disconnected { maybe_delivered: true })]));
        let failed: Vec<_> = exchange.calls_out.fail_unwritten().collect();
        assert!(matches!(failed[..], [(2, Error::Disconnected { maybe_delivered: false })]));
    }

    #[test]
    fn a_send_waits_for_nobody() {
        let now = Instant::now();
        let mut exchange = exchange(Options::server());
        (1..=2).for_each(|n| assert!(exchange.submit(call(n)).is_none()));
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
        answer(&mut exchange, &id);
        assert!(matches!(only_news(&mut exchange), EventKind::LateAnswer(late) if late == id));
    }

    #[test]
    fn only_an_id_that_is_still_being_worked_on_is_a_duplicate() {
        let mut exchange = exchange(Options::server());
        let text = r#"[2,"1","A",{}]"#;
        let Received::Call(first) = receive(&mut exchange, text) else { panic!("a call") };
        exchange.calls_in.started(&first.id, true);
        match receive(&mut exchange, text) {
            Received::Refused(answer) => assert!(answer.starts_with(r#"[4,"1","GenericError","#), "{answer}"),
            other => panic!("{other:?}"),
        }
        exchange.calls_in.finished(&first.id, true);
        assert!(matches!(receive(&mut exchange, text), Received::Call(_)));
    }

    #[test]
    fn calls_wait_in_line_and_a_full_line_refuses() {
        let mut exchange = exchange(Options::server().handler_concurrency(1).handler_queue(1));
        let text = |n| format!(r#"[2,"{n}","A",{{}}]"#);
        let Received::Call(first) = receive(&mut exchange, &text(1)) else { panic!("a call") };
        exchange.calls_in.started(&first.id, true);
        assert!(matches!(receive(&mut exchange, &text(2)), Received::Nothing));
        assert!(matches!(receive(&mut exchange, &text(3)), Received::Refused(_)));
        assert!(exchange.news().is_empty(), "neither is a bad message");
        receive(&mut exchange, &text(2));
        assert!(matches!(only_news(&mut exchange), EventKind::BadMessage { fault: Fault::DuplicateMessageId, .. }));
        assert!(exchange.next_in_line().is_none());
        exchange.calls_in.finished(&first.id, true);
        assert_eq!(exchange.next_in_line().expect("the second").id.as_str(), "2");
        assert!(exchange.is_settled());
    }

    #[test]
    fn calls_beyond_the_rate_are_refused_until_time_has_passed() {
        let start = Instant::now();
        let mut exchange = exchange(Options::server().call_rate(2, 10 * SECOND));
        let mut calls_at = |seconds| match exchange.receive(&r#"[2,"1","A",{}]"#.into(), start + seconds * SECOND) {
            Received::Call(_) => true,
            Received::Refused(answer) => !answer.contains(r#""GenericError","more than 2 calls in 10s""#),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            [0, 0, 0, 4, 5, 5, 30, 30, 30].map(&mut calls_at),
            [true, true, false, false, true, false, true, true, false]
        );
    }

    #[test]
    fn bad_messages_count_in_a_row() {
        let mut exchange = exchange(Options::server().max_bad_messages(1));
        let mut unbearable = |text| matches!(receive(&mut exchange, text), Received::Unbearable(_));
        assert!(!unbearable("bad"));
        assert!(!unbearable(r#"[2,"1","A",{}]"#));
        assert!(!unbearable("bad"));
        assert!(!unbearable(""), "an empty message is neither good nor bad");
        assert!(unbearable("bad"));
    }

    #[test]
    fn a_result_that_is_no_object_fails_its_call_and_is_complained_of_where_that_can_be() {
        for (protocol, complaint) in [("ocpp1.6", None), ("ocpp2.1", Some("FormatViolation"))] {
            let mut exchange = speaking(protocol, Options::server());
            let first = call(1);
            let id = first.id.clone();
            exchange.submit(first);
            exchange.next_write(Instant::now());
            match receive(&mut exchange, &format!(r#"[3,"{id}",["m"]]"#)) {
                Received::Outcome(1, Err(Error::Decode(_)), told) => {
                    let expected =
                        complaint.map(|code| format!(r#"[5,"{id}","{code}","the payload is not an object",{{}}]"#));
                    assert_eq!(told, expected);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn types_5_and_6_are_a_matter_of_dialect() {
        let (send, error) = (r#"[6,"1","A",{}]"#, r#"[5,"1","X","",{}]"#);
        let mut old = exchange(Options::server());
        for text in [send, error] {
            receive(&mut old, text);
            let news = only_news(&mut old);
            assert!(matches!(news, EventKind::BadMessage { fault: Fault::UnknownMessageType, answer: None, .. }));
        }
        let mut new = speaking("ocpp2.1", Options::server());
        assert!(matches!(receive(&mut new, send), Received::Call(Inbound { wants_answer: false, .. })));
        assert!(matches!(receive(&mut new, error), Received::Nothing));
        assert!(new.news().is_empty());
    }

    #[test]
    fn an_answer_that_cannot_be_read_ends_its_call_where_that_is_wanted() {
        for (tolerance, ends) in [(Tolerance::Tolerant, false), (Tolerance::Salvage, true)] {
            let mut exchange = exchange(Options::server().tolerance(tolerance).call_concurrency(2));
            let calls = [call(1), call(2)];
            let [first, second] = calls.each_ref().map(|call| call.id.clone());
            for call in calls {
                exchange.submit(call);
                exchange.next_write(Instant::now());
            }
            let outcome = receive(&mut exchange, &format!(r#"[3,"{first}",{{"configurationKey":[]"#));
            assert_eq!(matches!(outcome, Received::Outcome(1, Err(Error::Decode(_)), None)), ends);
            let outcome = receive(&mut exchange, &format!(r#"[4,"{second}","NotSupported","say "no"",{{}}]"#));
            assert_eq!(
                matches!(&outcome, Received::Outcome(2, Err(Error::Rejected(error)), None)
                if *error.code() == ErrorCode::NOT_SUPPORTED),
                ends
            );
            receive(&mut exchange, r#"[3,"nobody",{"cut":["#);
            let deviations = exchange.news().iter().filter(|news| matches!(news, EventKind::Deviation { .. })).count();
            assert_eq!(deviations, if ends { 2 } else { 0 });
        }
    }
}
