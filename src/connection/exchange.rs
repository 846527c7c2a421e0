//! The rules of calling and answering, without a clock or a socket: what a message means, what may be written, and
//! what there is to tell.
//!
//! It outlives connections: a client keeps its exchange while it reconnects. `T` is whatever the caller wants back
//! when a call ends; every call that is submitted ends exactly once, by [`CallsOut::cancel`] or by giving its `T`
//! back.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use bytestring::ByteString;
use serde::de::Error as _;

use crate::{
    connection::{
        calls_in::CallsIn,
        calls_out::{Addressee, CallsOut, Outgoing},
        info::Agreed,
        request::Inbound,
        result::Answered,
    },
    error::{CallError, Error, ErrorCode, Violation},
    event::{Direction, EventKind, Text},
    message::{
        dialect::Dialect,
        frame::{self, CALL_ERROR, CALL_RESULT, Frame, MessageError, Unreadable},
        payload::{EncodeError, MessageId, Payload},
        read,
        tolerance::Deviation,
    },
    options::Options,
    validate::validator::{PayloadContext, PayloadKind, Valid},
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
    options: Arc<Options>,
    pub(crate) calls_out: CallsOut<T>,
    pub(crate) calls_in: CallsIn,
    bad_in_a_row: u32,
    news: Vec<EventKind>,
}

impl<T> Exchange<T> {
    pub(crate) fn new(agreed: Option<Agreed>, options: Arc<Options>) -> Self {
        let (calls_out, calls_in) = (CallsOut::new(), CallsIn::default());
        Self { agreed, options, calls_out, calls_in, bad_in_a_row: 0, news: Vec::new() }
    }

    /// The protocol is settled; gives back calls that it does not allow.
    pub(crate) fn agree(&mut self, agreed: Agreed) -> Vec<(T, Error)> {
        if self.agreed.replace(agreed).is_some() {
            // The protocol is fixed from the first connection on, and what waits was checked then.
            return Vec::new();
        }
        let unwritten = self.calls_out.take_unwritten();
        unwritten.filter_map(|call| self.submit(call)).collect()
    }

    fn dialect(&self) -> Dialect {
        self.agreed.as_ref().map_or(Dialect::of(None), |agreed| agreed.dialect)
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Other times and limits; what is borne with and what is valid was decided at the beginning.
    pub(crate) fn set_options(&mut self, mut options: Options) {
        options.validation = self.options.validation.clone();
        options.tolerance = self.options.tolerance;
        self.options = Arc::new(options);
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.news.is_empty()
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
    pub(crate) fn submit(&mut self, call: Box<Outgoing<T>>) -> Option<(T, Error)> {
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

    /// The answer to a call that went well. A result that is not allowed is replaced by an error, and said to be.
    pub(crate) fn result(
        &mut self,
        action: &ByteString,
        id: &MessageId,
        payload: &Payload,
    ) -> (String, Result<(), Error>) {
        let error = match self.check(Direction::Out, PayloadKind::Response, action, id, payload) {
            Ok(_) if payload.is_object() => return (frame::call_result(id, payload), Ok(())),
            Ok(_) => Error::from(EncodeError::NotAnObject),
            Err(violation) => violation.into(),
        };
        (self.refusal(Some(id), &CallError::from(error.clone())), Err(error))
    }

    /// The answer to a call that did not.
    #[cold]
    pub(crate) fn refusal(&self, id: Option<&MessageId>, error: &CallError) -> String {
        let code = self.dialect().spell(error.code());
        frame::call_error(id, code, &error.told(self.options.detailed_errors), error.details())
    }

    /// What is said of a result that we cannot use, in a dialect that has words for it (OCPP 2.1).
    pub(crate) fn complaint(&self, id: &MessageId, error: &CallError) -> Option<String> {
        let dialect = self.dialect();
        let complaint =
            || frame::call_result_error(id, dialect.spell(error.code()), error.description(), error.details());
        dialect.has_call_result_error().then(complaint)
    }

    /// Takes a message apart and says what is to be done about it.
    pub(crate) fn receive(&mut self, text: &ByteString, now: Instant) -> Received<T> {
        if text.is_empty() && Deviation::EmptyMessage.is_allowed_by(self.options.tolerance) {
            self.deviates(Deviation::EmptyMessage, text);
            return Received::Nothing;
        }
        let (frame, deviations) = read::read(text, self.options.tolerance);
        let received = frame.and_then(|frame| {
            for deviation in deviations.iter() {
                self.deviates(deviation, text);
            }
            self.serve(frame, text.len(), now)
        });
        match received {
            Ok(received) => {
                self.bad_in_a_row = 0;
                received
            }
            Err(unreadable) => self.endure(unreadable, text),
        }
    }

    fn serve(&mut self, frame: Frame, weight: usize, now: Instant) -> Result<Received<T>, Unreadable> {
        let dialect = self.dialect();
        let fault = match &frame {
            Frame::Call { id, .. } if self.calls_in.is_taken(id) => Some(MessageError::DuplicateMessageId),
            Frame::Send { .. } if !dialect.has_send() => Some(MessageError::UnknownMessageType),
            Frame::CallResultError { .. } if !dialect.has_call_result_error() => Some(MessageError::UnknownMessageType),
            _ => None,
        };
        if let Some(fault) = fault {
            return Err(Unreadable::new(Some(frame.kind()), Some(frame.id().clone()), fault));
        }
        match frame {
            Frame::Call { id, action, payload } => Ok(self.admit(Inbound::new(id, action, payload, true, weight), now)),
            Frame::Send { id, action, payload } => {
                Ok(self.admit(Inbound::new(id, action, payload, false, weight), now))
            }
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
            Err(error) if call.expects_response => Received::Refused(self.refusal(Some(&call.id), &error)),
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
                self.news.push(EventKind::LateResponse(id));
                return Ok(Received::Nothing);
            }
            Addressee::Nobody => {
                return Err(Unreadable::new(Some(kind), Some(id), MessageError::UnknownMessageId));
            }
        };
        let payload = match outcome {
            Ok(payload) => payload,
            Err(error) => return Ok(Received::Outcome(call.ticket, Err(error), None)),
        };
        if !payload.is_object() {
            let fault = MessageError::PayloadNotAnObject;
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

    /// What comes of a message that cannot be read.
    #[cold]
    fn endure(&mut self, unreadable: Unreadable, text: &ByteString) -> Received<T> {
        self.salvage(unreadable, text).unwrap_or_else(|unreadable| self.bad(unreadable, text))
    }

    /// The end of a call whose answer has come and cannot be read, where that is wanted.
    fn salvage(&mut self, unreadable: Unreadable, text: &ByteString) -> Result<Received<T>, Unreadable> {
        let is_wanted = Deviation::UnreadableResponse.is_allowed_by(self.options.tolerance);
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
        self.deviates(Deviation::UnreadableResponse, text);
        self.settle(CALL_ERROR, id.clone(), Err(outcome))
    }

    fn bad(&mut self, unreadable: Unreadable, text: &ByteString) -> Received<T> {
        let dialect = self.dialect();
        let code = match unreadable.fault {
            MessageError::DuplicateMessageId => Some(dialect.duplicate()),
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
    #[cold]
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
        let subject = PayloadContext::new(protocol, action, kind, payload);
        let checked = catch_unwind(AssertUnwindSafe(|| validation.validator.validate(&subject)));
        let broken = |_| Err(Violation::new(ErrorCode::INTERNAL_ERROR, "", "the validator panicked"));
        checked.unwrap_or_else(broken).or_else(|violation| {
            let enforced = !validation.report_only;
            let (action, id) = (Text(action.clone()), id.clone());
            self.news.push(EventKind::ValidationFailed {
                direction,
                kind,
                action,
                id,
                violation: violation.clone(),
                enforced,
            });
            if enforced { Err(violation) } else { Ok(Valid::default()) }
        })
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
