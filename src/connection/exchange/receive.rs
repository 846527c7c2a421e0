//! The meaning of messages from the peer.

use std::time::Instant;

use bytestring::ByteString;
use serde::de::Error as _;

use crate::{
    connection::{
        call_result::CallResult,
        calls_out::ResponseMatch,
        exchange::Exchange,
        outbound::{Outbound, Unhandled},
        request::{self, IncomingRequest, RequestHead},
    },
    error::{CallError, Error, ErrorCode},
    event::kind::{Direction, EventKind, Text},
    message::{
        kinds::{CALL_ERROR, CALL_RESULT, Message, MessageError, UnreadableMessage},
        payload::{MessageId, Payload},
        read,
        tolerance::Deviation,
    },
    validate::validator::PayloadKind,
};

/// The meaning of a message.
#[derive(Debug)]
pub(crate) enum Received<T> {
    /// A request that a handler may start on now.
    Request(IncomingRequest),
    /// The outcome of a call to the peer, and the message to the peer if its result cannot be used (OCPP 2.1).
    Response(T, Result<CallResult, Error>, Option<Outbound>),
    /// A request on which no handler starts.
    Unhandled(Unhandled),
    /// A bad message, and the call error for it.
    Rejected(Outbound),
    /// One bad message too many, and the call error for it, if it gets one.
    TooManyBadMessages(Option<Outbound>),
    /// Nothing to do now.
    Nothing,
}

impl<T> Exchange<T> {
    /// Reads a message.
    pub(crate) fn receive(&mut self, text: &ByteString, now: Instant) -> Received<T> {
        if self.calls_in.is_raw() {
            return self.receive_raw(text);
        }
        if text.is_empty() && Deviation::EmptyMessage.is_allowed_by(self.options.tolerance) {
            self.tolerate(Deviation::EmptyMessage, text);
            return Received::Nothing;
        }
        let (message, deviations) = read::read(text, self.options.tolerance);
        let received = message.and_then(|message| {
            if self.is_observed {
                let call = self.action_of_response(&message);
                self.events.push(EventKind::of(message.clone(), Direction::In, call));
            }
            for deviation in deviations.iter() {
                self.tolerate(deviation, text);
            }
            self.serve(message, text, now)
        });
        received.unwrap_or_else(|unreadable| self.on_unreadable(unreadable, text))
    }

    /// Gives a message to the handler of raw messages, unless it is the response to a call of this end.
    #[cold]
    fn receive_raw(&mut self, text: &ByteString) -> Received<T> {
        if let (Ok(message), _) = read::read(text, self.options.tolerance) {
            if self.is_observed {
                let call = self.action_of_response(&message);
                self.events.push(EventKind::of(message.clone(), Direction::In, call));
            }
            if let Message::CallError { .. } | Message::CallResultError { .. } = message {
                self.count_error();
            }
            match message {
                Message::CallResult { id, payload } if self.calls_out.is_own(&id) => {
                    return self.complete(id, Ok(payload));
                }
                Message::CallError { id, error } if self.calls_out.is_own(&id) => {
                    return self.complete(id, Err(Error::Rejected(error)));
                }
                _ => {}
            }
        }
        self.start_or_queue(IncomingRequest::raw(text.clone()))
    }

    /// Begins to count bad messages anew, after a message that is served. Repeated requests and responses to no call
    /// neither count nor end the count.
    fn on_good_message(&mut self) {
        self.bad_messages = 0;
    }

    /// Returns the action of the call that a message responds to.
    fn action_of_response(&self, message: &Message) -> Option<ByteString> {
        match message {
            Message::CallResult { id, .. } => self.calls_out.action(id).cloned(),
            Message::CallError { id, .. } if *id == MessageId::UNKNOWN => {
                self.calls_out.action(id).or_else(|| self.calls_out.only_action()).cloned()
            }
            Message::CallError { id, .. } => self.calls_out.action(id).cloned(),
            _ => None,
        }
    }

    fn serve(&mut self, message: Message, text: &ByteString, now: Instant) -> Result<Received<T>, UnreadableMessage> {
        let message_len = text.len();
        let dialect = self.dialect();
        let active = if let Message::Call { id, .. } = &message { self.calls_in.active(id) } else { None };
        let error = match &message {
            Message::Call { action, payload, .. }
                if active.is_some_and(|active| active == request::fingerprint(action, payload)) =>
            {
                // The station repeats itself. The one response serves both messages.
                self.tolerate(Deviation::RepeatedCall, text);
                return Ok(Received::Nothing);
            }
            Message::Call { .. } if active.is_some() => Some(MessageError::DuplicateMessageId),
            Message::Send { .. } if !dialect.has_send() => Some(MessageError::UnknownMessageType),
            Message::CallResultError { .. } if !dialect.has_call_result_error() => {
                Some(MessageError::UnknownMessageType)
            }
            _ => None,
        };
        if let Some(error) = error {
            return Err(UnreadableMessage::new(Some(message.message_type()), Some(message.id().clone()), error));
        }
        match message {
            Message::Call { id, action, payload } => {
                Ok(self.admit(IncomingRequest::new(id, action, payload, true, message_len), now))
            }
            Message::Send { id, action, payload } => {
                Ok(self.admit(IncomingRequest::new(id, action, payload, false, message_len), now))
            }
            Message::CallResult { id, payload } => Ok(self.complete(id, Ok(payload))),
            Message::CallError { id, error } => {
                self.count_error();
                Ok(self.complete(id, Err(Error::Rejected(error))))
            }
            // An event like every message. No caller waits for it.
            Message::CallResultError { .. } => {
                self.count_error();
                self.on_good_message();
                Ok(Received::Nothing)
            }
        }
    }

    fn admit(&mut self, mut request: IncomingRequest, now: Instant) -> Received<T> {
        self.on_good_message();
        let admitted = self.calls_in.admit(&request, now, &self.options).and_then(|()| {
            let RequestHead { id, action, .. } = &request.head;
            let valid = self.check(Direction::In, PayloadKind::Request, action, id, &request.payload);
            valid.map_err(CallError::from)
        });
        match admitted {
            Ok(valid) => {
                request.valid = valid;
                self.start_or_queue(request)
            }
            Err(error) => Received::Unhandled(self.reject(request.head, &error)),
        }
    }

    /// Returns a request that a handler may start on now, or queues it.
    fn start_or_queue(&mut self, mut request: IncomingRequest) -> Received<T> {
        if !self.calls_in.has_free_handler(&self.options) {
            self.calls_in.queue(request);
            return Received::Nothing;
        }
        request.head.key = self.responses.next_key();
        Received::Request(request)
    }

    /// Gives a response to its call. No response is a bad message because of its id.
    fn complete(&mut self, id: MessageId, outcome: Result<Payload, Error>) -> Received<T> {
        let mut matched = self.calls_out.take_match(&id);
        if matches!(matched, ResponseMatch::Unknown) && outcome.is_err() && id == MessageId::UNKNOWN {
            matched = self.calls_out.take_only();
        }
        let call = match matched {
            ResponseMatch::InFlight(call) => call,
            ResponseMatch::Late => {
                self.events.push(EventKind::LateResponse(id));
                return Received::Nothing;
            }
            ResponseMatch::Unknown => {
                self.events.push(EventKind::UnmatchedResponse(id));
                return Received::Nothing;
            }
        };
        self.on_good_message();
        let payload = match outcome {
            Ok(payload) => payload,
            Err(error) => return Received::Response(call.sender, Err(error), None),
        };
        if !payload.is_object() {
            let error = MessageError::PayloadNotAnObject;
            let reason = CallError::new(ErrorCode::FORMAT_VIOLATION, error.to_string());
            let to_peer = self.call_result_error(&id, &call.action, &reason);
            let error = serde_json::Error::custom(error).into();
            return Received::Response(call.sender, Err(error), to_peer);
        }
        match self.check(Direction::In, PayloadKind::Response, &call.action, &id, &payload) {
            Ok(valid) => {
                let result = CallResult { id, action: call.action, payload, valid };
                Received::Response(call.sender, Ok(result), None)
            }
            Err(violation) => {
                let to_peer = self.call_result_error(&id, &call.action, &violation.clone().into());
                Received::Response(call.sender, Err(violation.into()), to_peer)
            }
        }
    }

    #[cold]
    fn on_unreadable(&mut self, unreadable: UnreadableMessage, text: &ByteString) -> Received<T> {
        let completed = self.complete_unreadable(unreadable, text);
        completed.unwrap_or_else(|unreadable| self.reject_malformed(unreadable, text))
    }

    /// Ends a call after an unreadable response, if the id is readable and the tolerance allows it.
    fn complete_unreadable(
        &mut self,
        unreadable: UnreadableMessage,
        text: &ByteString,
    ) -> Result<Received<T>, UnreadableMessage> {
        let is_allowed = Deviation::UnreadableResponse.is_allowed_by(self.options.tolerance);
        let (outcome, id) = match &unreadable {
            UnreadableMessage { message_type: Some(CALL_RESULT), id: Some(id), error, .. } if is_allowed => {
                (serde_json::Error::custom(*error).into(), id)
            }
            UnreadableMessage { message_type: Some(CALL_ERROR), id: Some(id), code, .. } if is_allowed => {
                let code = code.clone().unwrap_or(ErrorCode::GENERIC_ERROR);
                (Error::Rejected(CallError::new(code, "the rest of the error cannot be read")), id)
            }
            _ => return Err(unreadable),
        };
        if !self.calls_out.is_in_flight(id) {
            return Err(unreadable);
        }
        self.count_error();
        self.tolerate(Deviation::UnreadableResponse, text);
        Ok(self.complete(id.clone(), Err(outcome)))
    }

    fn reject_malformed(&mut self, unreadable: UnreadableMessage, text: &ByteString) -> Received<T> {
        let dialect = self.dialect();
        let code = match unreadable.error {
            MessageError::DuplicateMessageId => Some(dialect.duplicate_id_code()),
            _ => dialect.response_code(&unreadable),
        };
        let UnreadableMessage { id, error, .. } = unreadable;
        // The call error counts for its message.
        if code.is_none() {
            self.count_error();
        }
        let response =
            code.clone().map(|code| self.call_error(id.as_ref(), None, &CallError::new(code, error.to_string())));
        self.events.push(EventKind::BadMessage { text: Text(text.clone()), id, error, response: code });
        self.bad_messages = self.bad_messages.saturating_add(1);
        match (self.options.max_bad_messages, response) {
            (Some(max), response) if self.bad_messages > max => Received::TooManyBadMessages(response),
            (_, Some(response)) => Received::Rejected(response),
            (_, None) => Received::Nothing,
        }
    }
}
